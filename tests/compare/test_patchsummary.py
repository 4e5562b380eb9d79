"""Shares, chance and intervals of readers whose skill is known, and the file of results."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lens.compare import patchsummary
from lens.compare.patchitems import COLOURS, KINDS, Item, draw_items
from lens.compare.patchsummary import (
    FACTORS,
    PatchBench,
    Rate,
    Reading,
    bench_for,
    chance_hits,
    keep,
    labels_of,
    rates,
    read_bench,
    share_interval,
    shipped,
    to_text,
)
from lens.errors import BenchUnreadable
from tests.compare.test_patchitems import grid_of

ITEMS = draw_items(grid_of(12, 12, 32), 600)


def read_by(
    says: Callable[[Item], dict[str, int]], reader: str = "embedding", condition: str = "patch"
) -> list[Reading]:
    layer = None if reader == "answer" else 0
    return [Reading(item.number, condition, reader, layer, labels_of(says(item))) for item in ITEMS]


def rate_of(found: tuple[Rate, ...], **wanted: object) -> Rate:
    wanted = {"factor": "", "kind": "all", **wanted}
    (rate,) = (rate for rate in found if all(getattr(rate, key) == value for key, value in wanted.items()))
    return rate


def test_who_always_knows_is_always_right_and_chance_is_that_of_a_guess():
    found = rates(ITEMS, read_by(lambda item: {item.name: 1, item.colour: 2}))
    for kind, names in KINDS.items():
        rate = rate_of(found, question="identity", kind=kind, top=1)
        assert (rate.share, rate.high, rate.items) == (1, 1, 10 * len(names)) and 0.95 < rate.low < 1
        own = [item for item in ITEMS if item.kind == kind]
        strata, pairs = Counter(i.background for i in own), Counter((i.background, i.name) for i in own)
        guess = sum(n * n / strata[background] for (background, _), n in pairs.items()) / len(own)
        assert rate.chance == pytest.approx(guess, abs=0.01) and rate.chance >= 1 / len(names)
        assert rate.chance_low <= rate.chance <= rate.chance_high
    assert rate_of(found, question="colour", top=1).share == 0, "the colour is only the second word"
    assert rate_of(found, question="colour", top=5).share == 1


def test_who_always_says_the_same_is_at_chance():
    found = rates(ITEMS, read_by(lambda item: {"A": 1, "cat": 2, "7": 3, "red": 4, "white": 5}))
    for rate in found:
        if not rate.factor:
            assert rate.share == pytest.approx(rate.chance, abs=1e-12), rate
    assert rate_of(found, question="identity", kind="letter", top=5).share == pytest.approx(1 / 26)
    assert rate_of(found, question="identity", kind="letter", top=1).share == pytest.approx(1 / 26)
    assert rate_of(found, question="identity", kind="digit", top=1).share == 0


def test_who_names_the_background_gains_nothing():
    """Unstratified, the colour white would look *worse* than chance: it never lies on white."""
    found = rates(ITEMS, read_by(lambda item: {item.background: 1} if item.background in COLOURS else {}))
    rate = rate_of(found, question="colour", top=1)
    assert (rate.share, rate.chance) == (0, 0)


def test_shuffles_stay_within_their_stratum():
    """Two strata, each with one label: shuffling within them changes nothing."""
    labels = np.array([0] * 5 + [1] * 5)
    hits = np.zeros((10, 2), bool)
    hits[:5, 0] = hits[5:, 1] = True
    assert chance_hits(hits, labels, labels.tolist()).all()
    shares = chance_hits(hits, labels, [0] * 10).mean(1)
    assert shares.mean() == pytest.approx(0.5, abs=0.03) and shares.std() > 0.1


def test_skill_on_half_of_the_items_has_its_interval():
    found = rates(ITEMS, read_by(lambda item: {item.name: 1} if item.number % 2 else {}))
    rate = rate_of(found, question="identity", top=1)
    assert (
        rate.share == 0.5 and rate.low == pytest.approx(0.46, abs=0.01) and rate.high == pytest.approx(0.54, abs=0.01)
    )


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662), (1, 148, 0.0012, 0.0373)],
)
def test_intervals_are_wilsons(right: int, total: int, low: float, high: float):
    """Values of Newcombe 1998, table I, method 3."""
    assert share_interval(right, total) == pytest.approx((low, high), abs=1e-4)


def test_levels_of_a_factor_divide_the_items():
    found = rates(ITEMS, read_by(lambda item: {item.name: 1} if item.colour == "red" else {}))
    for factor in FACTORS:
        levels = [rate for rate in found if rate.factor == factor and rate.question == "identity"]
        assert sum(rate.items for rate in levels) == len(ITEMS) and {rate.top for rate in levels} == {5}
    assert rate_of(found, factor="colour", level="red", question="identity").share == 1
    assert rate_of(found, factor="colour", level="blue", question="identity").share == 0
    named = rates(ITEMS, read_by(lambda item: {item.colour: 1}))
    red = rate_of(named, factor="colour", level="red", question="colour")
    assert red.share == 1 and red.chance < 0.3, "labels come from items of every colour"
    assert [r.level for r in found if r.factor == "colour" and r.question == "identity"] == list(COLOURS)


def test_an_answer_has_one_text_and_no_five_words():
    found = rates(ITEMS, read_by(lambda item: {item.name: 1}, "answer"))
    assert {rate.top for rate in found} == {1} and {rate.layer for rate in found} == {None}


def test_only_items_in_a_patch_are_divided_by_factor():
    found = rates(ITEMS, read_by(lambda item: {}, condition="large"))
    assert {rate.factor for rate in found} == {""}


@pytest.fixture
def bench() -> PatchBench:
    found = rates(ITEMS, read_by(lambda item: {item.name: 1}))
    questions = {"identity": "What is this?", "colour": "What colour is this?"}
    answers = (("red A on noise", "patch", "identity", 'A "star"\n'),)
    return PatchBench("m", "f" * 64, None, 600, 0, 0, (0,), 384, 32, (12, 12), questions, found, answers)


def test_a_file_gives_back_what_was_written(bench: PatchBench, tmp_path: Path):
    path = tmp_path / "bench.json"
    path.write_text(to_text(bench), encoding="utf-8")
    back = read_bench(path)
    assert replace(back, rates=()) == replace(bench, rates=())
    for rate, again in zip(bench.rates, back.rates, strict=True):
        assert replace(again, share=0, low=0, high=0, chance=0, chance_low=0, chance_high=0) == replace(
            rate, share=0, low=0, high=0, chance=0, chance_low=0, chance_high=0
        )
        assert again.chance == pytest.approx(rate.chance, abs=6e-4)
    assert to_text(back) == to_text(bench)
    assert json.loads(to_text(bench))["rates"]["columns"][0] == "condition"


@pytest.mark.parametrize(
    "change", ["{", "[]", '{"format": 2}', '{"format": 1, "rates": {"columns": [], "rows": [[1]]}}', "null"]
)
def test_other_files_are_refused_in_one_sentence(change: str, tmp_path: Path):
    path = tmp_path / "bench.json"
    path.write_text(change, encoding="utf-8")
    with pytest.raises(BenchUnreadable, match=r"bench.json holds no result .*patch-bench MODEL"):
        read_bench(path)
    with pytest.raises(BenchUnreadable):
        read_bench(tmp_path / "missing.json")


def test_a_shipped_result_is_found_by_its_models_weights(
    bench: PatchBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(patchsummary, "SHIPPED", tmp_path)
    assert shipped(bench.fingerprint) is None
    (tmp_path / "patchbench-m.json").write_text(to_text(bench), encoding="utf-8")
    found = shipped(bench.fingerprint)
    assert found is not None and found.model == "m" and shipped("0" * 64) is None


def test_a_result_made_here_goes_before_the_shipped_one(
    bench: PatchBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(patchsummary, "SHIPPED", tmp_path)
    (tmp_path / "patchbench-m.json").write_text(to_text(bench), encoding="utf-8")
    for items in (60, 120):
        keep(replace(bench, items=items))
        found = bench_for(bench.fingerprint)
        assert found is not None and found.items == items
    assert bench_for("0" * 64) is None


def test_what_is_shipped_can_be_read():
    for path in patchsummary.SHIPPED.glob("patchbench-*.json"):
        bench = read_bench(path)
        assert bench.of(kind="all", condition="patch") and bench.items >= 1000
