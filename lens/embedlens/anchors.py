"""Anchors: the vocabulary entries that mark a model's sink and dead visual tokens, and the files that keep them.

Invariant: anchors are only ever used with the model that they were found on. A vocabulary id says nothing about another
model, so a file carries the fingerprint of all weights and the tokenizer's hash, and both are checked when it is read.
Published anchors, whose authors give ids without a fingerprint, name a hub id, and hold the token that each id must be.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from lens.backend.loading import LoadedModel
from lens.errors import AnchorsMismatch, AnchorsUnreadable
from lens.home import home

FORMAT = 2
"""Version of the file's form."""

KINDS = ("sink", "dead")
ORIGINS = ("vision", "language", "unknown")
SOURCES = ("discovered", "published")
SHIPPED = Path(__file__).with_name("shipped")
_BLANKS = "▁Ġ "


@dataclass(frozen=True)
class Anchor:
    """One vocabulary entry that many visual tokens of every image are nearest to.

    Attributes:
        id: the token's id.
        token: the token as the tokenizer decodes it.
        kind: ``"sink"`` or ``"dead"``.
        origin: where a sink comes from: ``"vision"``, ``"language"`` or ``"unknown"``; empty for ``"dead"``.
        share: of the images, those in which it is among the three best of some visual token (0..1).
        cosine: mean cosine between visual tokens of different images that it wins (is the best entry of).
        count: mean number of visual tokens per image that it wins.

    Published anchors come without the last three: they are NaN.
    """

    id: int
    token: str
    kind: str
    origin: str
    share: float
    cosine: float
    count: float


@dataclass(frozen=True)
class Candidate:
    """One vocabulary entry that visual tokens of many images are near, with all that decides whether it is an anchor.

    Attributes:
        id, token, share, cosine, count: as for :class:`Anchor`; all are known.
        letters: letters of the token where it is a word, else 0 (:func:`lens.embedlens.judging.letters_of`).
        win_share: of the images, those in which it is the best entry of some visual token.
        outliers: of the tokens it wins, the share whose norm in the vision encoder is an outlier.
        jump: mean rise of the cosine with the first token at the MLP of block 2.
    """

    id: int
    token: str
    letters: int
    share: float
    win_share: float
    cosine: float
    count: float
    outliers: float
    jump: float


@dataclass(frozen=True)
class Anchors:
    """All anchors of one model, possibly none.

    Attributes:
        model: the model's catalog name, or for published anchors its hub id.
        fingerprint, tokenizer_hash: of the :class:`LoadedModel` they were found on; empty for published anchors.
        images: how many different images they were found in; 0 where that was not published.
        thresholds: every number that the rule used, by name (:data:`lens.embedlens.judging.DEFAULTS`).
        candidates: what the anchors were chosen from, by how many visual tokens they win; none for published anchors.
        found: the anchors, sinks first, then by how many visual tokens they win.
        source: ``"discovered"`` or ``"published"``.
        note: one or two sentences for a reader: what was found and what was not.
    """

    model: str
    fingerprint: str
    tokenizer_hash: str
    images: int
    thresholds: dict[str, float]
    candidates: tuple[Candidate, ...]
    found: tuple[Anchor, ...]
    source: str
    note: str

    def of(self, kind: str) -> tuple[Anchor, ...]:
        """The anchors of one kind, ``"sink"`` or ``"dead"``."""
        return tuple(anchor for anchor in self.found if anchor.kind == kind)


def anchors_for(loaded: LoadedModel) -> Anchors | None:
    """The model's anchors: those found on this machine, else those shipped; ``None`` where it has neither."""
    own = own_file(loaded)
    if own.is_file():
        return read_anchors(own, loaded)
    shipped = (_parsed(path) for path in sorted(SHIPPED.glob("*.json")))
    return next((anchors for anchors in shipped if _mismatch(anchors, loaded) is None), None)


def own_file(loaded: LoadedModel) -> Path:
    """Where anchors found on this machine are kept."""
    return home() / "anchors" / f"{loaded.fingerprint[:16]}.json"


def read_anchors(path: Path | str, loaded: LoadedModel) -> Anchors:
    """The anchors in a file, checked to be this model's.

    Raises:
        AnchorsUnreadable: no such file, or one that :func:`write_anchors` didn't write.
        AnchorsMismatch: they were found on another model.
    """
    anchors = _parsed(Path(path))
    reason = _mismatch(anchors, loaded)
    if reason:
        raise AnchorsMismatch(
            f"The anchors in {Path(path).name} are those of {anchors.model[:80]!r} ({reason}), and ids mean nothing to "
            f"another model; find this model's own with `python -m lens embedlens anchors {loaded.name} IMAGES_FOLDER`."
        )
    return anchors


def write_anchors(anchors: Anchors, path: Path | str) -> None:
    """Write JSON that :func:`read_anchors` reads; a reader finds the old file or the new one, never half of one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {
        "candidates": [asdict(candidate) for candidate in anchors.candidates],
        "found": [{key: _null(value) for key, value in asdict(anchor).items()} for anchor in anchors.found],
    }
    text = json.dumps({"format": FORMAT, **asdict(anchors), **rows}, ensure_ascii=False, indent=2, allow_nan=False)
    part = path.with_name(path.name + ".part")
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(path)


def _mismatch(anchors: Anchors, loaded: LoadedModel) -> str | None:
    """Why these are not the model's anchors; ``None`` if they are."""
    strange = next((anchor.id for anchor in anchors.found if anchor.id >= loaded.anatomy.vocab_size), None)
    if strange is not None:
        return f"its id {strange} has no embedding in {loaded.name!r}"
    if anchors.source == "discovered":
        same = (anchors.fingerprint, anchors.tokenizer_hash) == (loaded.fingerprint, loaded.tokenizer_hash)
        return None if same else f"its weights or its tokenizer are not those of {loaded.name!r}"
    if loaded.spec.source != anchors.model:
        return f"not those of {loaded.spec.source[:80]!r}"
    for anchor in anchors.found:
        known = anchor.id < len(loaded.tokenizer)
        token = str(loaded.tokenizer.convert_ids_to_tokens(anchor.id)) if known else ""
        if token.strip(_BLANKS) != anchor.token.strip(_BLANKS):
            return f"id {anchor.id} should be {anchor.token!r} but is {token!r}"
    return None


def _parsed(path: Path) -> Anchors:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        found = "is not there" if isinstance(error, FileNotFoundError) else "can't be read as JSON"
        raise AnchorsUnreadable(
            f"The anchors file {path.name} {found}; write one with `python -m lens embedlens anchors MODEL IMAGES_FOLDER`."
        ) from error
    try:
        if table.pop("format") != FORMAT:
            raise ValueError("its format version is unknown")
        candidates, found = (tuple(map(read, table.pop(name))) for name, read in _ROWS.items())
        return _checked(Anchors(**table, candidates=candidates, found=found))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise AnchorsUnreadable(
            f"The anchors file {path.name} is not of the form that TokenLens writes ({str(error)[:120]}); write it anew "
            "with `python -m lens embedlens anchors MODEL IMAGES_FOLDER`."
        ) from error


def _anchor(row: dict[str, Any]) -> Anchor:
    given: dict[str, Any] = {key: math.nan if value is None else value for key, value in row.items()}
    anchor = Anchor(**given)
    origins = ORIGINS if anchor.kind == "sink" else ("",)
    if anchor.kind not in KINDS or anchor.origin not in origins or type(anchor.id) is not int or anchor.id < 0:
        raise ValueError(f"anchor {row!r}")
    _check_kinds(anchor)
    return anchor


def _candidate(row: dict[str, Any]) -> Candidate:
    candidate = Candidate(**row)
    _check_kinds(candidate)
    return candidate


_ROWS: dict[str, Callable[[dict[str, Any]], Any]] = {"candidates": _candidate, "found": _anchor}


def _checked(anchors: Anchors) -> Anchors:
    _check_kinds(anchors)
    if anchors.source not in SOURCES:
        raise ValueError(f"source {anchors.source!r}")
    return anchors


def _check_kinds(record: Anchor | Candidate | Anchors) -> None:
    """Every text is a text and every number a number, since the file may have come from anywhere."""
    kinds = {"str": str, "int": int, "float": (int, float), "dict[str, float]": dict}
    for field in fields(record):
        if not isinstance(getattr(record, field.name), kinds.get(str(field.type), tuple)):
            raise ValueError(f"{field.name} {getattr(record, field.name)!r}")


def _null(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
