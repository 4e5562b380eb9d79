"""How often each lens names what a labelled patch shows, beside its controls; and the file of it.

Every share is over patches, pooled over pictures. Its interval is the middle 95 % over resamples of whole *pictures*
(:func:`lens.statistics.bootstrap_interval`), since patches of one picture depend on each other. The controls:

- ``background``: patches that no shape touches, held against the labels of their own picture;
- ``shuffled``: labelled patches held against labels of other pictures, weighted by how many shapes bear them, those that
  their own picture has left out: every other label is tried, so that nothing is drawn at random;
- ``random``: random directions of the same length, held against the labels as often as those occur. Their interval is over
  the vectors.

Nothing here imports torch, so that a page can read a file of results.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from lens.errors import BenchUnreadable
from lens.home import home
from lens.statistics import bootstrap_interval

FORMAT = 1
TOPS = (1, 5)
CONDITIONS = {
    "labelled": "labelled patches",
    "background": "background patches",
    "shuffled": "shuffled labels",
    "random": "random vectors",
}
FILE_BYTES = 1 << 26
"""Largest file of results that is read."""


@dataclass(frozen=True)
class Rate:
    """How often one lens at one layer names the label among its ``top`` best words; ``None`` where nothing was to be counted
    (no background, no other label)."""

    lens: str
    layer: int
    top: int
    condition: str
    share: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Name:
    """One label.

    Attributes:
        shapes: how many shapes bear it; ``patches``: how many patches show it.
        words: all that counts as naming it.
        shares: by ``lens@layer``, the shares of its patches that are named by the first and among five words.
    """

    name: str
    shapes: int
    patches: int
    words: tuple[str, ...]
    shares: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class LabelEval:
    """The result for one model and one set of labelled pictures.

    Attributes:
        labels: the labels' file; ``labels_digest``: SHA-256 of them.
        index: name of the corpus index; ``None`` where LatentLens didn't take part.
        shapes: labelled shapes; ``unseen``: those that hold the better half of no patch, or lie under smaller ones.
        patches, background: how many patches were counted.
        vectors: random vectors a layer.
    """

    model: str
    fingerprint: str
    index: str | None
    labels: str
    labels_digest: str
    prompt: str
    pictures: int
    shapes: int
    unseen: int
    patches: int
    background: int
    vectors: int
    layers: tuple[int, ...]
    lenses: tuple[str, ...]
    names: tuple[Name, ...]
    rates: tuple[Rate, ...]

    def of(self, **wanted: object) -> tuple[Rate, ...]:
        """The rates with these values."""
        return tuple(rate for rate in self.rates if all(getattr(rate, key) == value for key, value in wanted.items()))


@dataclass(frozen=True)
class PictureCounts:
    """What is kept of one picture.

    Attributes:
        patches: by label, its labelled patches.
        named: by ``lens@layer`` and label, how many of these are named by the first and among five words.
        background: its background patches; ``background_named`` by ``lens@layer``, how many name a label of the picture.
        shuffled: by ``lens@layer``, the expected number of labelled patches that name another picture's label; empty where
            there is no other label.
        norms: by layer, the mean norm of all its visual tokens.
        unseen: shapes without a patch.
    """

    patches: dict[str, int]
    named: dict[str, dict[str, tuple[int, int]]]
    background: int
    background_named: dict[str, tuple[int, int]]
    shuffled: dict[str, tuple[float, float]]
    norms: dict[str, float]
    unseen: int

    @property
    def labelled(self) -> int:
        return sum(self.patches.values())

    def hits(self, key: str) -> tuple[int, int]:
        """Named patches of all labels at one ``lens@layer``."""
        own = self.named[key].values()
        return sum(first for first, _ in own), sum(five for _, five in own)


def rates(
    pictures: Sequence[PictureCounts],
    lenses: Sequence[str],
    layers: Sequence[int],
    random: Mapping[str, np.ndarray],
) -> tuple[Rate, ...]:
    """Shares and intervals; ``random`` has by ``lens@layer`` [vectors, 2], how much of the labels each vector names."""
    return tuple(_rates(pictures, lenses, layers, random))


def _rates(
    pictures: Sequence[PictureCounts], lenses: Sequence[str], layers: Sequence[int], random: Mapping[str, np.ndarray]
) -> Iterator[Rate]:
    labelled = np.array([picture.labelled for picture in pictures], float)
    background = np.array([picture.background for picture in pictures], float)
    for lens in lenses:
        for layer in layers:
            key = f"{lens}@{layer}"
            counted = {
                "labelled": ([picture.hits(key) for picture in pictures], labelled),
                "background": ([picture.background_named[key] for picture in pictures], background),
                "shuffled": (
                    [picture.shuffled.get(key, (0, 0)) for picture in pictures],
                    np.where([bool(picture.shuffled) for picture in pictures], labelled, 0),
                ),
            }
            for place, top in enumerate(TOPS):
                for condition, (hits, of) in counted.items():
                    yield Rate(lens, layer, top, condition, *pooled(np.array(hits, float)[:, place], of))
                own = random[key][:, place]
                yield Rate(lens, layer, top, "random", float(own.mean()), *bootstrap_interval(own))


def pooled(hits: np.ndarray, of: np.ndarray) -> tuple[float, float, float] | tuple[None, None, None]:
    """Sum of hits by sum of what they are of, with the interval over resampled pictures; pictures without any left out."""
    there = of > 0
    if not there.any():
        return None, None, None
    hits, of = hits[there], of[there]

    def ratio(drawn: np.ndarray, axis: int) -> np.ndarray:
        chosen = drawn.astype(np.int64)
        return hits[chosen].sum(axis) / of[chosen].sum(axis)

    low, high = bootstrap_interval(np.arange(len(of)), ratio)
    return float(hits.sum() / of.sum()), low, high


def to_text(found: LabelEval) -> str:
    """The result as it is written to a file: JSON, a rate a line."""
    table = asdict(found)
    columns = [field.name for field in fields(Rate)]
    rows = [[_rounded(rate[column]) for column in columns] for rate in table.pop("rates")]
    for name in table["names"]:
        name["shares"] = {key: [_rounded(share) for share in pair] for key, pair in name["shares"].items()}
    lines = ",\n ".join(json.dumps(row) for row in rows)
    head = json.dumps({"format": FORMAT, **table}, ensure_ascii=False, indent=1)
    return f'{head[:-2]},\n "columns": {json.dumps(columns)},\n "rates": [\n {lines}\n ]\n}}\n'


def read_eval(source: Path | bytes) -> LabelEval:
    """A result from its file or its bytes.

    Raises:
        BenchUnreadable: no such file, or one that wasn't written here.
    """
    name = "The file" if isinstance(source, bytes) else source.name
    try:
        if not isinstance(source, bytes) and source.stat().st_size > FILE_BYTES:
            raise ValueError("it is too large")
        table = json.loads(source if isinstance(source, bytes) else source.read_bytes())
        if table.pop("format") != FORMAT:
            raise ValueError("its format version is unknown")
        columns = table.pop("columns")
        found = tuple(_rate(dict(zip(columns, row, strict=True))) for row in table.pop("rates"))
        names = tuple(
            Name(
                **{
                    **each,
                    "words": tuple(each["words"]),
                    "shares": {k: (v[0], v[1]) for k, v in each["shares"].items()},
                }
            )
            for each in table.pop("names")
        )
        layers, lenses = tuple(map(int, table.pop("layers"))), tuple(map(str, table.pop("lenses")))
        return LabelEval(**table, layers=layers, lenses=lenses, names=names, rates=found)
    except (OSError, AttributeError, KeyError, IndexError, TypeError, ValueError, RecursionError) as error:
        raise BenchUnreadable(
            f"{name} holds no evaluation of labelled patches ({str(error)[:120]}); write one with "
            "`python -m lens latentlens-eval FOLDER --labels FILE --json FILE`."
        ) from error


def _rate(row: dict[str, Any]) -> Rate:
    rate = Rate(**row)
    numbers = (rate.share, rate.low, rate.high)
    if rate.condition not in CONDITIONS or not all(n is None or 0 <= n <= 1 for n in numbers):
        raise ValueError("a rate is out of range")
    return rate


def kept_folder() -> Path:
    """Where this machine's results are kept, for the page."""
    return home() / "labelled"


def keep(found: LabelEval) -> Path:
    """Keep a result for the page; one of the same model, index and labels is replaced."""
    from lens.export import file_name, write_atomically

    stem = file_name(found.model, found.index or "no-index", Path(found.labels).stem, found.labels_digest[:8])
    path = kept_folder() / f"{stem}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, to_text(found))
    return path


def kept() -> dict[str, Path]:
    """The results kept on this machine, by name, newest first."""
    found = sorted(kept_folder().glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    return {path.stem: path for path in found}


def _rounded(value: object) -> object:
    return round(value, 4) if isinstance(value, float) else value
