"""Files of a conversion: original checkpoints, from a folder or the hub, and the safetensors that they become.

Pickles are read with ``torch.load(weights_only=True)`` alone, memory-mapped; what is no plain dictionary of tensors is
refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lens.backend.files import replacing, write_json
from lens.errors import ConversionFailed
from lens.progress import Report
from lens.segmaps.checkpointrows import PUBLISHED, Original, original

INDEXES = ("pytorch_model.bin.index.json", "model.safetensors.index.json")
SINGLES = ("pytorch_model.bin", "model.safetensors")
FETCHED = ("*.json", "*.bin", "*.safetensors", "tokenizer.model", "merges.txt")
WEIGHTS = "model.safetensors.index.json"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """An original checkpoint, looked at but not read.

    Attributes:
        config: its ``config.json``. row: the family that it is of.
        shards: its weight files, all there.
    """

    folder: Path
    config: dict[str, Any]
    row: Original
    shards: tuple[Path, ...]


def fetched(source: str, report: Report) -> Path:
    """The folder of a checkpoint: ``source`` itself, or what the hub has under that id."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise ConversionFailed(
            f"There is no folder {source[:120]!r}, and it is no hub id; give one of them, or a name of "
            f"{', '.join(PUBLISHED)}."
        )
    from huggingface_hub import snapshot_download

    report(0, 1, f"Fetching {source} from the hub")
    try:
        return Path(snapshot_download(source, allow_patterns=list(FETCHED)))
    except Exception as error:  # offline, gated, unknown: each its own kind
        raise ConversionFailed(
            f"The checkpoint {source!r} is neither on this machine nor to be had from the hub ({short(error)}); fetch it "
            "where there is a network and give its folder to `python -m lens convert`."
        ) from error


def open_checkpoint(folder: Path) -> Checkpoint:
    """Look at a folder: settings, family, that no shard is missing. No weight is read."""
    config = _json(folder / "config.json", "the settings of a checkpoint")
    row = original(config)
    names: list[str] = next(([name] for name in SINGLES if (folder / name).is_file()), [])
    index = next((folder / name for name in INDEXES if (folder / name).is_file()), None)
    if index is not None:
        names = sorted({str(name) for name in _json(index, "an index of shards").get("weight_map", {}).values()})
    if not names or any(Path(name).name != name for name in names):
        raise ConversionFailed(
            f"{folder} has no weights in it ({' or '.join(SINGLES)}, or shards with an index); give the folder that a "
            "checkpoint was fetched to."
        )
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ConversionFailed(
            f"{folder} lacks {missing[0]} ({len(missing)} of {len(names)} shards are missing); fetch the checkpoint again."
        )
    return Checkpoint(folder, config, row, tuple(folder / name for name in names))


def tensors_of(shard: Path) -> Iterator[tuple[str, Tensor]]:
    """What a shard holds, memory-mapped."""
    try:
        if shard.suffix == ".safetensors":
            content = load_file(shard)
        else:
            content = torch.load(shard, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # zip reader, unpickler and safetensors each raise their own kinds
        kind = "holds something other than tensors" if "Weights only" in str(error) else "can't be read"
        raise ConversionFailed(f"{shard.name} {kind} ({short(error)}); fetch it again from its authors.") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ConversionFailed(f"{shard.name} holds something other than tensors; fetch it again from its authors.")
    yield from content.items()


def _json(path: Path, what: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConversionFailed(
            f"{path} can't be read as {what} ({short(error)}); give the folder that a checkpoint was fetched to."
        ) from error
    if not isinstance(content, dict):
        raise ConversionFailed(f"{path} isn't {what}; give the folder that a checkpoint was fetched to.")
    return content


def check_complete(wanted: Mapping[str, Tensor], found: Mapping[str, tuple[int, ...]]) -> None:
    """Every tensor of a model is there and of its shape, and none besides."""
    for name in sorted({*wanted, *found}):
        if name not in found:
            raise ConversionFailed(f"No shard holds {name}, so that the checkpoint is incomplete; fetch it again.")
        if name not in wanted or tuple(wanted[name].shape) != found[name]:
            expected = tuple(wanted[name].shape) if name in wanted else "no such tensor"
            raise ConversionFailed(
                f"{name} has the shape {found[name]}, but the checkpoint's settings ask for {expected}; fetch it again."
            )


def shapes_in(folder: Path, pattern: str = "model-*.safetensors") -> dict[str, tuple[int, ...]]:
    """All tensors of a folder's files, by their headers."""
    return {name: shape for _, name, shape in _headers(folder, pattern)}


def _headers(folder: Path, pattern: str) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    for path in sorted(folder.glob(pattern)):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                yield path.name, name, tuple(file.get_slice(name).get_shape())


def write_index(folder: Path) -> None:
    """Which file holds which tensor, as transformers reads it."""
    pattern = "model-*.safetensors"
    where = {name: file for file, name, _ in _headers(folder, pattern)}
    total = sum(path.stat().st_size for path in folder.glob(pattern))
    write_json(folder / WEIGHTS, {"metadata": {"total_size": total}, "weight_map": where})


def save(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write one file, which appears whole."""
    with replacing(path) as part:
        save_file(dict(tensors), part, {"format": "pt"})


def short(error: BaseException) -> str:
    """An error's text on one line, cut."""
    return " ".join(str(error).split())[:160]
