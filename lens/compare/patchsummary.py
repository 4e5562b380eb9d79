"""How often each lens and the model's answer name an item's identity and colour, against chance; and the file of it.

Chance is what the same words give for other items' labels: labels are shuffled among the items of one type on one
background, so that a reader that always says "white", or names the background, gains nothing by it. Intervals of the share
are Wilson's, since a bootstrap of nothing but misses would be a point, those of chance are the middle 95 % of the shuffles.
Both speak of this set of drawings: another font, or other silhouettes, would be other items.

Nothing here imports torch, so that a page can read a file of results.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from lens.compare.naming import QUESTIONS
from lens.compare.patchitems import BACKGROUNDS, COLOURS, KINDS, OFFSETS, Item
from lens.errors import BenchUnreadable
from lens.export import write_atomically
from lens.home import home

FORMAT = 1
SHIPPED = Path(__file__).with_name("shipped")
TOPS = (1, 5)
CONDITIONS = {
    "patch": "in one patch",
    "large": "over the whole picture",
    "empty": "not drawn",
}
"""``empty`` is the picture without the item, read at the same patch and held against the item's labels: what it names is
chance, or the background. ``large`` tells a weak model from a weak patch."""
SHUFFLES = 400
FACTORS: dict[str, Callable[[Item], str]] = {
    "colour": lambda item: item.colour,
    "background": lambda item: item.background,
    "offset": lambda item: item.offset,
    "patch": lambda item: f"{item.row},{item.col}",
}
_ORDER = {"colour": tuple(COLOURS), "background": tuple(BACKGROUNDS), "offset": tuple(OFFSETS)}


@dataclass(frozen=True)
class Reading:
    """What one reader says of one item in one condition.

    Attributes:
        reader: ``"embedding"``, ``"logit"`` or ``"latent"`` (lenses), or ``"answer"``.
        layer: of the state that was read; ``None`` for answers.
        names: by question, what was named → its rank among the words, from 1. An answer is one text: all ranks are 1.
    """

    item: int
    condition: str
    reader: str
    layer: int | None
    names: dict[str, dict[str, int]]


@dataclass(frozen=True)
class Rate:
    """How often one reader is right.

    Attributes:
        question: ``"identity"`` or ``"colour"``.
        kind: type of the items, or ``"all"``.
        factor, level: the items are those at this level of one factor; both empty for all items. By factor there is only
            the larger ``top``.
        top: among so many of the best words; an answer is one text and has only 1.
        share, low, high: of the items, and its 95 % interval.
        chance, chance_low, chance_high: mean and middle 95 % over shuffled labels.
    """

    condition: str
    reader: str
    layer: int | None
    question: str
    kind: str
    factor: str
    level: str
    top: int
    items: int
    share: float
    low: float
    high: float
    chance: float
    chance_low: float
    chance_high: float


@dataclass(frozen=True)
class PatchBench:
    """The benchmark's result for one model.

    Attributes:
        model, fingerprint: of the model it holds for, see :class:`lens.backend.loading.LoadedModel`.
        index: name of the corpus index that LatentLens searched; ``None`` where it didn't take part.
        items: how many were read by the lenses; ``asked``: of how many the model was asked, and which were drawn large.
        canvas, patch: side of the pictures and of one patch, in pixels. ``grid``: rows and columns of patches.
        questions: by question, the prompt.
        rates: over all items, and by level of each factor.
        answers: a sample of (item in words, condition, question, answer).
    """

    model: str
    fingerprint: str
    index: str | None
    items: int
    asked: int
    seed: int
    layers: tuple[int, ...]
    canvas: int
    patch: int
    grid: tuple[int, int]
    questions: dict[str, str]
    rates: tuple[Rate, ...]
    answers: tuple[tuple[str, str, str, str], ...]

    def of(self, **wanted: object) -> tuple[Rate, ...]:
        """The rates with these values; without ``factor`` only those over all levels."""
        wanted = {"factor": "", **wanted}
        return tuple(rate for rate in self.rates if all(getattr(rate, key) == value for key, value in wanted.items()))


def rates(items: Sequence[Item], readings: Iterable[Reading], seed: int = 0) -> tuple[Rate, ...]:
    """Shares of right readings over all items and by type; of items in one patch also by level of each factor.

    Chance at a level is that of the level's readings against labels of items of every level. So a reader that only ever says
    "red" is above chance at the level "red" and below it at other colours: colours are to be read together.
    """
    series: dict[tuple[str, str, int | None], dict[int, Reading]] = {}
    for reading in readings:
        series.setdefault((reading.condition, reading.reader, reading.layer), {})[reading.item] = reading
    found: list[Rate] = []
    for key, by_item in series.items():
        own = [items[number] for number in sorted(by_item)]
        condition = dict(zip(("condition", "reader", "layer"), key, strict=True))
        groups = list(_groups(own, factors=key[0] == "patch"))
        for question in QUESTIONS:
            truth = [item.name if question == "identity" else item.colour for item in own]
            names = list(dict.fromkeys(truth))
            labels = np.array([names.index(name) for name in truth])
            said = [by_item[item.number].names[question] for item in own]
            ranks = np.array([[named.get(name, 99) for name in names] for named in said])
            tops = TOPS[:1] if key[1] == "answer" else TOPS
            for top in tops:
                hits = ranks <= top
                right = hits[np.arange(len(labels)), labels]
                null = chance_hits(hits, labels, [(item.kind, item.background) for item in own], seed)
                for kind, factor, level, chosen in groups:
                    if not factor or top == tops[-1]:
                        place = {"question": question, "kind": kind, "factor": factor, "level": level, "top": top}
                        found.append(_rate(right[chosen], null[:, chosen], **condition, **place))
    return tuple(found)


def _groups(items: Sequence[Item], factors: bool) -> Iterator[tuple[str, str, str, Int[np.ndarray, " chosen"]]]:
    """Type, factor, level, and which items: by type, all, and with ``factors`` by level of each."""
    for kind in KINDS:
        chosen = np.flatnonzero([item.kind == kind for item in items])
        if len(chosen):
            yield kind, "", "", chosen
    yield "all", "", "", np.arange(len(items))
    for factor, level_of in FACTORS.items() if factors else ():
        for level in _levels(factor, items):
            yield "all", factor, level, np.flatnonzero([level_of(item) == level for item in items])


def _rate(right: Bool[np.ndarray, " n"], null: Bool[np.ndarray, "shuffles n"], **place: Any) -> Rate:
    shares = null.mean(1)
    low, high = share_interval(int(right.sum()), len(right))
    chance_low, chance_high = map(float, np.quantile(shares, (0.025, 0.975)))
    return Rate(
        **place,
        items=len(right),
        share=float(right.mean()),
        low=low,
        high=high,
        chance=float(shares.mean()),
        chance_low=chance_low,
        chance_high=chance_high,
    )


def chance_hits(
    hits: Bool[np.ndarray, "items labels"], labels: Int[np.ndarray, " items"], strata: Sequence[object], seed: int = 0
) -> Bool[np.ndarray, "shuffles items"]:
    """Which items are hits when their labels are shuffled within each stratum, for each of many shuffles."""
    return hits[np.arange(len(labels)), _shuffled(tuple(labels.tolist()), tuple(strata), seed)]


def share_interval(right: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """The score interval of a share (Wilson 1927), by default of 95 %; within 0..1, and never a point."""
    centre, spread = right + z * z / 2, z * (right * (total - right) / total + z * z / 4) ** 0.5
    low, high = (centre - spread) / (total + z * z), (centre + spread) / (total + z * z)
    return (0.0 if right == 0 else low), (1.0 if right == total else high)


@lru_cache(maxsize=8)
def _shuffled(labels: tuple[int, ...], strata: tuple[object, ...], seed: int) -> Int[np.ndarray, "shuffles items"]:
    """The labels in many orders; kept, since every reader and layer is held against the same."""
    generator = np.random.default_rng(seed)
    given = np.array(labels, dtype=np.int16)
    found = np.empty((SHUFFLES, len(given)), dtype=np.int16)
    for stratum in dict.fromkeys(strata):
        members = np.flatnonzero([stratum == other for other in strata])
        found[:, members] = given[members][generator.random((SHUFFLES, len(members))).argsort(axis=1)]
    return found


def _levels(factor: str, items: Sequence[Item]) -> list[str]:
    """The levels that occur, in the order in which they are listed, patches in reading order."""
    if factor == "patch":
        return [f"{row},{col}" for row, col in sorted({(item.row, item.col) for item in items})]
    there = {FACTORS[factor](item) for item in items}
    return [level for level in _ORDER[factor] if level in there]


def labels_of(named: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """By question, those of the names that answer it."""
    return {
        "identity": {name: rank for name, rank in named.items() if name not in COLOURS},
        "colour": {name: rank for name, rank in named.items() if name in COLOURS},
    }


def as_json(bench: PatchBench) -> dict[str, Any]:
    """The result as it is written to a file: rates as a table with one heading, shares to three places."""
    columns = [field.name for field in fields(Rate)]
    table = [[_rounded(getattr(rate, column)) for column in columns] for rate in bench.rates]
    return {"format": FORMAT, **asdict(bench), "rates": {"columns": columns, "rows": table}}


def to_text(bench: PatchBench) -> str:
    """:func:`as_json` as text, a rate a line."""
    table = as_json(bench)
    rows = ",\n  ".join(
        json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in table["rates"].pop("rows")
    )
    text = json.dumps(table, ensure_ascii=False, indent=1)
    return text.replace('"rates": {\n', f'"rates": {{\n  "rows": [\n  {rows}],\n', 1)


def read_bench(path: Path | str) -> PatchBench:
    """A result from its file.

    Raises:
        BenchUnreadable: no such file, or one that wasn't written here.
    """
    path = Path(path)
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        if table.pop("format") != FORMAT:
            raise ValueError("its format version is unknown")
        columns = table["rates"]["columns"]
        rows = tuple(Rate(**dict(zip(columns, row, strict=True))) for row in table.pop("rates")["rows"])
        tuples = {key: tuple(table[key]) for key in ("layers", "grid")}
        return PatchBench(**{**table, **tuples, "rates": rows, "answers": tuple(map(tuple, table["answers"]))})
    except (OSError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise BenchUnreadable(
            f"{path.name} holds no result of the patch-compression benchmark ({str(error)[:120]}); write one with "
            "`python -m lens embedlens patch-bench MODEL --json FILE`."
        ) from error


def own_file(fingerprint: str) -> Path:
    """Where a result made on this machine is kept, for the page."""
    return home() / "patchbench" / f"{fingerprint[:16]}.json"


def keep(bench: PatchBench) -> None:
    """Keep a result for the page; a former one of the same model is replaced."""
    path = own_file(bench.fingerprint)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, to_text(bench) + "\n")


def bench_for(fingerprint: str) -> PatchBench | None:
    """The result for the model of that fingerprint: this machine's own, else the shipped one, else ``None``."""
    own = own_file(fingerprint)
    return read_bench(own) if own.is_file() else shipped(fingerprint)


def shipped(fingerprint: str) -> PatchBench | None:
    """The result that comes with the project for the model of that fingerprint; ``None`` where there is none."""
    found = (read_bench(path) for path in sorted(SHIPPED.glob("patchbench-*.json")))
    return next((bench for bench in found if bench.fingerprint == fingerprint), None)


def _rounded(value: object) -> object:
    return round(value, 3) if isinstance(value, float) else value
