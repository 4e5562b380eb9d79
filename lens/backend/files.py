"""Files written so that a kill at any moment leaves either the old file, or the new one, never half of one."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_known: dict[Path, tuple[tuple[int, int, int], str]] = {}
"""Files that this process has read: path → (size, time of change, inode), SHA-256."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to; when the block ends well, what was written is flushed and takes the name ``path``."""
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    yield part
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(path)


def write_json(path: Path, content: Any, indent: int | None = None) -> None:
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=indent) + "\n", encoding="utf-8")


def sha256(path: Path, afresh: bool = True) -> str:
    """SHA-256 (hex) of a file; unless ``afresh``, one that this process has read isn't read again while it lies still (the
    same size, time of change and inode)."""
    place, stat = path.resolve(), path.stat()
    state = (stat.st_size, stat.st_mtime_ns, stat.st_ino)
    known = _known.get(place)
    if not afresh and known is not None and known[0] == state:
        return known[1]
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    _known[place] = (state, found)
    return found
