"""Folders of result files with a manifest: what an index and a feature graph have in common on disk.

``manifest.json`` is written last, so a folder with one is complete (:mod:`lens.backend.building` makes them). It carries a
checksum of itself, and the size and SHA-256 of every other file: a manifest that was altered, or whose form is not exactly
the expected one, is refused as damaged, and no file is parsed before it was found right.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from lens.backend.corpus import Corpus
from lens.backend.files import sha256, write_json
from lens.backend.loading import LoadedModel
from lens.errors import LensError
from lens.home import home, project_root

MANIFEST = "manifest.json"
WORK = "building"
"""The folder of a build's working files, while it runs."""
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Kind:
    """One kind of folder, in the words and with the errors of its room.

    Attributes:
        noun, article: as in "an index".
        place: where such folders lie by name, in the cache folder and in the project's.
        version: of the format that is written and read.
    """

    noun: str
    article: str
    place: str
    version: int
    missing: type[LensError]
    unfinished: type[LensError]
    damaged: type[LensError]
    mismatch: type[LensError]

    @property
    def one(self) -> str:
        return f"{self.article} {self.noun}"


@dataclass(frozen=True)
class FileRecord:
    """SHA-256 (hex) and size of a file; none is empty."""

    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        require(re.fullmatch(r"[0-9a-f]{64}", self.sha256) and self.bytes > 0, "a file's record is none")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """From what the files were made.

    Attributes:
        language_fingerprint, tokenizer_hash: of the model they belong to (:class:`lens.backend.loading.LoadedModel`).
        dtype: of the model when its states were computed.
        corpus_digest: SHA-256 of the sentences, see :class:`lens.backend.corpus.Corpus`.
    """

    model: str
    language_fingerprint: str
    tokenizer_hash: str
    dtype: str
    corpus: str
    corpus_digest: str
    corpus_licence: str

    def identity(self) -> dict[str, Any]:
        """All of it on which the contents depend, under the names that a reader is told."""
        return {
            "model": self.language_fingerprint,
            "tokenizer": self.tokenizer_hash,
            "dtype": self.dtype,
            "corpus": self.corpus_digest,
        }


@dataclass(frozen=True, kw_only=True)
class Manifest(Origin):
    """What every manifest holds.

    Attributes:
        files: by name, all files of the folder but the manifest.
    """

    format_version: int
    files: dict[str, FileRecord]
    created: str
    software: dict[str, str]


M = TypeVar("M", bound=Manifest)
T = TypeVar("T")


def origin(loaded: LoadedModel, corpus: Corpus) -> Origin:
    return Origin(
        model=loaded.name,
        language_fingerprint=loaded.language_fingerprint,
        tokenizer_hash=loaded.tokenizer_hash,
        dtype=str(loaded.dtype).removeprefix("torch."),
        corpus=corpus.name,
        corpus_digest=corpus.digest,
        corpus_licence=corpus.licence,
    )


def file_records(folder: Path, names: Iterable[str]) -> dict[str, FileRecord]:
    return {name: FileRecord(sha256(folder / name, afresh=False), (folder / name).stat().st_size) for name in names}


def known_folders(kind: Kind) -> dict[str, Path]:
    """Finished folders by name: in the user's cache folder, then those shipped with the project."""
    found: dict[str, Path] = {}
    for root in (home(), project_root()):
        for path in sorted((root / kind.place).glob(f"*/{MANIFEST}")):
            found.setdefault(path.parent.name, path.parent)
    return found


def fitting_folders(kind: Kind, loaded: LoadedModel) -> dict[str, Path]:
    """Those of :func:`known_folders` whose manifest names a model's language model and tokenizer, by which alone they are
    told: no other file is read. Unreadable ones are left out."""
    wanted = (loaded.language_fingerprint, loaded.tokenizer_hash)
    fitting = {}
    for name, folder in known_folders(kind).items():
        try:
            content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            if (content["language_fingerprint"], content["tokenizer_hash"]) == wanted:
                fitting[name] = folder
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
    return fitting


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the fields of a manifest with their checksum."""
    write_json(folder / MANIFEST, {**content, "checksum": _checksum(content)}, indent=2)


def read_manifest(kind: Kind, folder: Path, form: type[M], parts: Callable[[dict[str, Any]], dict[str, Any]]) -> M:
    """The manifest in ``folder`` as a ``form``.

    Args:
        parts: gives those fields of the raw content that aren't plain JSON in ``form``, or raises ValueError, KeyError,
            TypeError or AttributeError where they don't fit each other.

    Raises:
        ``kind.missing``, ``kind.unfinished``: nothing there, or half of it.
        ``kind.damaged``: it isn't JSON, has another format version, was altered, or is of another form.
    """
    _check_finished(kind, folder)
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        version = content["format_version"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(kind, folder, "can't be read as JSON with a format_version") from error
    if type(version) is not int or version != kind.version:
        raise kind.damaged(
            f"The {kind.noun} {folder.name} has format version {str(version)[:20]!r}, but this TokenLens reads version "
            f"{kind.version}; update TokenLens or build the {kind.noun} again."
        )
    if content.pop("checksum", None) != _checksum(content):
        raise _damaged(kind, folder, "was altered after it was written")
    try:
        if not all(_PLAIN_NAME.fullmatch(name) for name in content["files"]):
            raise ValueError("a file name is no plain name")
        files = {name: from_fields(FileRecord, record) for name, record in content["files"].items()}
        return from_fields(form, {**content, **parts(content), "files": files})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(kind, folder, f"is not of the expected form ({str(error)[:80]})") from error


def from_fields(form: type[T], content: Mapping[str, Any]) -> T:
    """The dataclass ``form`` from its fields; TypeError where one lacks, ValueError where one is unknown or of another
    type."""
    types = get_type_hints(form)
    for name, value in content.items():
        if name not in types:
            raise ValueError(f"unknown key {name!r}")
        expected = types[name]
        if get_origin(expected) is Literal:
            require(value in get_args(expected), f"{name} is {str(value)[:20]!r}")
            continue
        kinds = expected if isinstance(expected, type | UnionType) else get_origin(expected)
        plain = not isinstance(value, bool) or kinds is bool
        if not plain or not isinstance(value, kinds) or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"{name} is {str(value)[:20]!r}")
    return form(**content)


def require(holds: Any, what: str) -> None:
    """ValueError unless what a manifest says can be."""
    if not holds:
        raise ValueError(what)


def check_files(kind: Kind, folder: Path, files: Mapping[str, FileRecord], afresh: bool = False) -> None:
    """Compare every file with its record; one that this process has found right isn't read again while it lies still,
    unless ``afresh``. Raises ``kind.damaged``."""
    for name, record in files.items():
        try:
            _check_file(kind, folder, name, record, afresh)
        except (OSError, RuntimeError) as error:
            raise kind.damaged(
                f"{name} of the {kind.noun} {folder.name} can't be read ({getattr(error, 'strerror', None) or error}); "
                f"restore it or build the {kind.noun} again."
            ) from error


def _check_file(kind: Kind, folder: Path, name: str, record: FileRecord, afresh: bool) -> None:
    path = (folder / name).resolve()
    if not path.is_file():
        raise kind.damaged(
            f"The {kind.noun} {folder.name} lacks its file {name}; restore it or build the {kind.noun} again."
        )
    size = path.stat().st_size
    if size != record.bytes:
        raise kind.damaged(
            f"{name} of the {kind.noun} {folder.name} has {size:,} bytes instead of {record.bytes:,}; restore "
            f"it or build the {kind.noun} again."
        )
    if sha256(path, afresh) != record.sha256:
        raise kind.damaged(
            f"{name} of the {kind.noun} {folder.name} was altered (its SHA-256 isn't the manifest's); restore it or "
            f"build the {kind.noun} again."
        )


def check_model(
    kind: Kind, name: str, manifest: Manifest, loaded: LoadedModel, sizes: Mapping[str, tuple[int, int]] | None = None
) -> None:
    """Refuse, by ``kind.mismatch``, a model whose tokens or states don't belong to the files, naming what differs.

    ``sizes``: further things to compare, by name: (in the files, in the model).
    """
    compared = {
        **(sizes or {}),
        "language model's weights": (manifest.language_fingerprint[:12], loaded.language_fingerprint[:12]),
        "tokenizer": (manifest.tokenizer_hash[:12], loaded.tokenizer_hash[:12]),
    }
    different = [
        f"{what} ({theirs} in the {kind.noun}, {here} here)"
        for what, (theirs, here) in compared.items()
        if theirs != here
    ]
    if different:
        raise kind.mismatch(
            f"The {kind.noun} {name} was built from {manifest.model}, not from {loaded.name}: they differ in "
            f"{' and '.join(different)}; choose {kind.one} of this model or build one."
        )


def _check_finished(kind: Kind, folder: Path) -> None:
    if (folder / MANIFEST).is_file():
        return
    if (folder / WORK).is_dir():
        raise kind.unfinished(
            f"The {kind.noun} in {folder.name} is half built; give the command that began it again, or choose another."
        )
    raise kind.missing(
        f"There is no {kind.noun} in {folder}: it has no {MANIFEST}; build one or choose another folder."
    )


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _damaged(kind: Kind, folder: Path, what: str) -> LensError:
    return kind.damaged(
        f"{MANIFEST} of the {kind.noun} {folder.name} {what}; build the {kind.noun} again or restore the file."
    )
