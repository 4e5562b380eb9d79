"""LISA, SESAME, READ and Sa2VA as their authors publish them → a folder that loads like any other model.

Each shard is read with ``torch.load(weights_only=True)``, memory-mapped, or as safetensors, and written once as safetensors,
tensors in their own type; none of the authors' code is run. A :class:`Layout` knows where each tensor goes
(:mod:`lens.segmaps.checkpointllava`, :mod:`lens.segmaps.checkpointinternvl`).

Invariants: the folder appears whole, by a rename; until then the work lies beside it and goes on after the last whole shard;
every tensor of a checkpoint has a place or is named as left out, and every tensor of the model comes from the checkpoint or
is named as added. Fetching, and whole checkpoints of 14 GB, have not been tried here; tiny ones have.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout
from torch import Tensor
from transformers.utils import logging as transformers_logging

from lens.backend.files import write_json
from lens.errors import ConversionFailed
from lens.home import home
from lens.progress import Report, silent
from lens.segmaps.checkpointfiles import Checkpoint, fetched, open_checkpoint, save, short, tensors_of
from lens.segmaps.checkpointinternvl import InternvlLayout
from lens.segmaps.checkpointllava import LlavaLayout
from lens.segmaps.checkpointrows import PUBLISHED

RECIPE = 1
"""Raised whenever the conversion changes what it writes."""
RECORD = "conversion.json"
"""What a folder was made from; in the working folder also which shards are done."""


class Layout(Protocol):
    """How one kind of checkpoint becomes a model; made from a checkpoint and the name of a vision tower, if there is one."""

    checkpoint: Checkpoint
    vision: str

    def placed(self, name: str, tensor: Tensor) -> Iterable[tuple[str, str, Tensor]]:
        """Where a tensor goes: file (``{}`` is the shard's number), name there, and what is written; nothing for what isn't
        needed."""
        ...

    def finish(self, work: Path) -> None:
        """Write everything else into the folder of the shards, and check that no tensor is missing."""
        ...


LAYOUTS: dict[str, Callable[[Checkpoint, str | None], Layout]] = {"llava": LlavaLayout, "internvl": InternvlLayout}


def provide(name: str, report: Report = silent) -> Path:
    """The folder of a catalog's row in :data:`PUBLISHED`, fetched and converted when it is missing."""
    target = home() / "models" / name
    published = PUBLISHED[name]
    return target if _finished(target) else convert(published.source, target, published.vision, report)


def convert(source: str, out: Path, vision: str | None = None, report: Report = silent) -> Path:
    """Convert a checkpoint into the folder ``out``; one that was interrupted goes on.

    Args:
        source: a folder, or a hub id, which is fetched.
        vision: folder or hub id of the CLIP tower, for a layout that stores none; without it the one that ``config.json``
            names.

    Raises:
        ConversionFailed: not such a checkpoint, a shard missing or damaged, anything but tensors in a pickle, a tower of
            another width, no room, ``out`` in use.
    """
    if _finished(out):
        return out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConversionFailed(f"{out} already holds other files; give a new folder with --out.")
    transformers_logging.disable_progress_bar()
    report(0, 1, "Looking at the checkpoint")
    checkpoint = open_checkpoint(fetched(source, report))
    layout = LAYOUTS[checkpoint.row.layout](checkpoint, vision)
    work = out.with_name(f".converting-{out.name}")
    with _told(out), _alone(out):
        done = _begin(work, layout)
        _check_room(work, [shard for shard in checkpoint.shards if shard.name not in done])
        for number, shard in enumerate(checkpoint.shards):
            report(number, len(checkpoint.shards) + 1, f"Converting {shard.name}")
            if shard.name not in done:
                _convert_shard(layout, shard, number, work)
                done.append(shard.name)
                write_json(work / RECORD, _record(layout) | {"done": done})
        report(len(checkpoint.shards), len(checkpoint.shards) + 1, "Putting it together")
        layout.finish(work)
        write_json(work / RECORD, _record(layout))
        if out.exists():
            out.rmdir()
        work.rename(out)
    report(1, 1, "Done")
    return out


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    out.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out.with_name(f".converting-{out.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise ConversionFailed(
            f"Another process is converting into {out}; wait for it, or give another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def _finished(folder: Path) -> bool:
    return (folder / RECORD).is_file() and (folder / "config.json").is_file()


def _record(layout: Layout) -> dict[str, Any]:
    """All on which the result depends."""
    shards = {shard.name: [shard.stat().st_size, shard.stat().st_mtime_ns] for shard in layout.checkpoint.shards}
    return {"recipe": RECIPE, "original": layout.checkpoint.row.name, "shards": shards, "vision": layout.vision}


def _begin(work: Path, layout: Layout) -> list[str]:
    """The shards that an interrupted conversion of the same checkpoint has done; what is left of another one is removed."""
    record = _record(layout)
    try:
        begun = json.loads((work / RECORD).read_text(encoding="utf-8"))
        done = begun.pop("done")
    except (OSError, ValueError, KeyError, AttributeError):
        begun, done = None, []
    if begun != record:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        done = []
    return list(done)


def _check_room(work: Path, shards: list[Path]) -> None:
    needed, free = sum(shard.stat().st_size for shard in shards), shutil.disk_usage(work).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free")


def _convert_shard(layout: Layout, shard: Path, number: int, work: Path) -> None:
    """One shard into a file for each part of it; each appears whole."""
    files: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors_of(shard):
        for file, new, placed in layout.placed(name, tensor):
            files.setdefault(file.format(number + 1), {})[new] = placed.contiguous()
    for file, tensors in files.items():
        save(tensors, work / file)


@contextmanager
def _told(out: Path) -> Iterator[None]:
    """Turn a full or unwritable disk into one sentence; what was done stays."""
    try:
        yield
    except ConversionFailed:
        raise
    except Exception as error:  # safetensors tells a full disk by an error of its own
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        if full or "No space left" in str(error):
            raise ConversionFailed(
                f"The disk of {out} is full ({short(error)}); make room and convert again, which goes on after the last "
                "whole shard, or give a folder on another disk."
            ) from error
        if isinstance(error, OSError):
            raise ConversionFailed(f"{out} can't be written ({short(error)}); give another folder.") from error
        raise
