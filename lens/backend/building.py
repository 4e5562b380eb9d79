"""Building a folder of result files: alone, in steps that can be resumed, with a manifest at the end.

While a build runs, its working files lie in ``building``, among them ``build.json``: what is being built, and a
:class:`Ledger` of the files that are done. The manifest is written last, then ``building`` is removed. A build that was
killed is resumed by the same one alone.
"""

from __future__ import annotations

import datetime
import json
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import AcquireReturnProxy, FileLock, Timeout

from lens.backend.files import sha256
from lens.backend.folders import MANIFEST, WORK, Kind

BEGUN = "build.json"
"""In the working folder: the identity of the build that was begun."""
_LOCK = "building.lock"


class Ledger:
    """The files of a build that are done, each with its SHA-256: a list in the working folder that only grows.

    A file that isn't as it was noted isn't done, and whoever asks makes it anew. The last note of a file counts.
    """

    def __init__(self, folder: Path) -> None:
        """Of the build in ``folder``; every file must lie in it."""
        self._folder, self._list = folder, folder / WORK / "done.txt"
        self._noted: dict[str, str] = {}
        if self._list.is_file():
            for line in self._list.read_bytes().decode(errors="replace").splitlines():
                sha, _, name = line.partition("  ")
                self._noted[name] = sha

    def has(self, *paths: Path) -> bool:
        """Whether all these files are there as they were noted."""
        return all(path.is_file() and self._noted.get(self._name(path)) == sha256(path, afresh=False) for path in paths)

    def add(self, *paths: Path) -> None:
        """Note files that are complete."""
        noted = {self._name(path): sha256(path, afresh=False) for path in paths}
        lines = "".join(f"{sha}  {name}\n" for name, sha in noted.items())
        with self._list.open("ab") as file:
            file.write(f"\n{lines}".encode())  # the first line break ends a line that a kill has cut short
        self._noted |= noted

    def _name(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()


@contextmanager
def building(
    kind: Kind, folder: Path, identity: dict[str, Any], finished: Callable[[], dict[str, Any]], resume: bool | None
) -> Iterator[bool]:
    """Hold ``folder`` for a build, and tidy up when it ends well; whether what is asked is there already.

    Args:
        identity: all on which the results depend, by the names that a reader is told; JSON.
        finished: what the manifest that is there tells of its build's identity.
        resume: go on with what was begun, or take what is done; ``False``: the folder must be new or empty; ``None``: go on
            with what was begun, but refuse what is done.

    Raises:
        ``kind.unfinished``: the folder is in use, is being built by another process, holds another build than the one to
            be resumed, or can't be written to (a full disk); in the last case the build can be resumed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(kind, folder):
            yield _done(kind, folder, identity, finished, resume)
            shutil.rmtree(folder / WORK, ignore_errors=True)
        (folder / _LOCK).unlink(missing_ok=True)
    except OSError as error:
        raise kind.unfinished(
            f"The {kind.noun} {folder.name} can't be written ({error.strerror or error}); make room or choose another "
            "folder, then resume the build."
        ) from error


def made_now(*packages: str) -> dict[str, Any]:
    """The fields of a :class:`~lens.backend.folders.Manifest` that say when and with which software."""
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "software": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }


def _alone(kind: Kind, folder: Path) -> AcquireReturnProxy:
    try:
        return FileLock(folder / _LOCK).acquire(blocking=False)
    except Timeout as error:
        raise kind.unfinished(
            f"Another process is building in {folder.name}; wait for it or choose another folder."
        ) from error


def _done(
    kind: Kind, folder: Path, identity: dict[str, Any], finished: Callable[[], dict[str, Any]], resume: bool | None
) -> bool:
    """Check the folder's state against what is asked; whether that is there already."""
    present = {path.name for path in folder.iterdir()} - {_LOCK}
    if not present:
        return False
    if resume is False or (resume is None and MANIFEST in present):
        state = kind.one if MANIFEST in present else "an unfinished build" if WORK in present else "other files"
        hint = ", or resume it" if WORK in present else ""
        raise kind.unfinished(f"The folder {folder.name} already holds {state}; give an empty or new one{hint}.")
    if MANIFEST in present:
        _compare(kind, folder, identity, {**identity, **finished()})
        return True
    if WORK not in present:
        raise kind.unfinished(
            f"The folder {folder.name} holds other files and no build to resume; give an empty or new one."
        )
    if (folder / WORK / BEGUN).exists():
        _compare(kind, folder, identity, _begun(kind, folder))
    return False


def _begun(kind: Kind, folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / WORK / BEGUN).read_text(encoding="utf-8")))
    except (ValueError, RecursionError, TypeError) as error:
        raise kind.unfinished(
            f"{BEGUN} of the build in {folder.name} is damaged, so that it can't be resumed; build in another folder."
        ) from error


def _compare(kind: Kind, folder: Path, identity: dict[str, Any], begun: dict[str, Any]) -> None:
    different = [key for key in {**identity, **begun} if begun.get(key) != identity.get(key)]
    if different:
        raise kind.unfinished(
            f"The build in {folder.name} was begun with another {' and '.join(different)}; resume it with the same, or "
            "build in another folder."
        )
