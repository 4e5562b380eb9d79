"""The checks at load: run once for a model, kept on disk, and read by what needs them."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from lens.backend import selfcheck
from lens.backend.catalog import find
from lens.backend.checking import Check, Report, check
from lens.backend.files import write_json
from lens.backend.loading import LoadedModel, load
from lens.backend.selfcheck import PATCHES, STATES, checked, keep, known, needs, sentence
from lens.demo.provision import NAMES
from lens.demo.seg_provision import NAME as SEG_NAME
from lens.errors import CapabilityMissing

OFFLINE = (*NAMES, SEG_NAME)
FAILED = Check("patches", False, "The grid lies elsewhere.", "everything that shows patches in the picture")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENLENS_HOME", str(tmp_path))
    selfcheck._HELD.clear()
    return tmp_path


@pytest.fixture
def counted(monkeypatch):
    runs = []

    def count(loaded, *args, **kwargs):
        runs.append(loaded.name)
        return original(loaded, *args, **kwargs)

    original = selfcheck.check
    monkeypatch.setattr(selfcheck, "check", count)
    return runs


def test_a_model_is_checked_once_even_by_another_process(llama: LoadedModel, counted):
    assert known(llama) is None
    first = checked(llama)
    selfcheck._HELD.clear()  # as a process that starts anew has it
    assert checked(llama) == first == known(llama) and first.passed
    assert counted == ["tiny-llama"]


def test_another_tokenizer_or_dtype_is_another_model(llama: LoadedModel):
    checked(llama)
    assert known(replace(llama, tokenizer_hash="other")) is None


@pytest.mark.model
@pytest.mark.parametrize("name", OFFLINE)
def test_the_offline_models_come_with_what_a_check_finds(name: str, demo_home: Path):
    loaded = load(replace(find(name), source=str(demo_home / "models" / name)))
    shipped = known(loaded)
    assert shipped is not None, f"run `python -m lens check {name}` and copy its report into {selfcheck.SHIPPED.name}/"
    now = check(loaded)
    assert [(one.name, one.passed) for one in now.checks] == [(one.name, True) for one in shipped.checks]


def test_no_report_is_shipped_that_nothing_reads():
    assert len(list(selfcheck.SHIPPED.glob("*.json"))) == len(OFFLINE)


def test_a_report_made_here_goes_before_the_shipped_one(llama: LoadedModel, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(selfcheck, "SHIPPED", tmp_path / "shipped")
    (tmp_path / "shipped").mkdir()
    theirs = Report("m", "Llama-like", "llama", (FAILED,))
    write_json(tmp_path / "shipped" / selfcheck._path(llama).name, asdict(theirs))
    assert known(llama).off == theirs.off
    keep(llama, Report("m", "Llama-like", "llama", (Check("places", True, "Seen here."),)))
    assert known(llama).passed


def test_a_damaged_report_is_made_anew(llama: LoadedModel, counted):
    checked(llama)
    selfcheck._path(llama).write_text("{", encoding="utf-8")
    selfcheck._HELD.clear()
    assert checked(llama).passed and len(counted) == 2
    assert json.loads(selfcheck._path(llama).read_text(encoding="utf-8"))["family"] == "Llama-like"


def test_checks_that_break_off_are_a_failed_check(llama: LoadedModel, monkeypatch):
    def broken(*_args, **_kwargs):
        raise RuntimeError("no kernel")

    monkeypatch.setattr(selfcheck, "check", broken)
    found = checked(llama)
    assert found.off == ("everything",) and "RuntimeError: no kernel" in found.checks[0].why
    with pytest.raises(CapabilityMissing, match="no kernel"):
        needs(found, "What reads features", *STATES)
    assert known(llama) is None  # the cause may be gone next time


def test_what_needs_a_failed_check_is_off_and_the_rest_on(llama: LoadedModel):
    report = Report("m", "LLaVA", "llava", (Check("places", True, ""), Check("layers", True, ""), FAILED))
    keep(llama, report)
    needs(checked(llama), "What reads features", *STATES)
    with pytest.raises(
        CapabilityMissing, match=r"^Maps is off for .*fails the check 'patches' \(The grid lies elsewhere"
    ):
        needs(checked(llama), "Maps", *PATCHES)
    assert "1 of 3 checks fail (patches), so off is: everything that shows patches" in sentence(checked(llama))


def test_what_was_not_asked_is_said_and_stops_nothing():
    report = Report("m", "BLIP-2", "blip-2", (Check("places", True, ""), Check("patches", None, "There is no grid.")))
    needs(report, "Maps", *PATCHES)
    assert sentence(report) == "Checked against itself: all 1 checks pass. There is no grid."
