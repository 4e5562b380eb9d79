"""Encoding: the planned sentences through the language model, their kept states to shards on disk.

A shard is a safetensors file that holds, for each layer l, ``rows.l`` (float16 unit vectors [rows, d]) and ``norms.l``
(float32 norms before normalisation). It appears under its name only when complete, so those that are there after a kill
are done. Shards in order give the rows in the order of the plan. Float16 keeps a unit vector's cosines to about 1e-5.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.numpy import save

from lens.backend.batches import pad
from lens.backend.building import Ledger
from lens.backend.files import replacing
from lens.backend.loading import LoadedModel
from lens.backend.tracing import text_states
from lens.errors import StatesUnusable
from lens.latentlens.plan import Plan
from lens.latentlens.rotation import rotate
from lens.progress import Estimate, Report, duration


def encode(
    loaded: LoadedModel,
    plan: Plan,
    layers: Sequence[int],
    shards: list[list[tuple[int, int]]],
    folder: Path,
    ledger: Ledger,
    report: Report,
) -> None:
    """Write every shard that isn't done yet.

    Raises:
        StatesUnusable: the model gave NaN, infinities or zeros.
    """
    lengths, estimate = plan.lengths(), Estimate()
    total, done = int(lengths.sum()), 0
    for number, batches in enumerate(shards):
        path = shard_path(folder, number)
        if ledger.has(path):
            done += int(lengths[batches[0][0] : batches[-1][1]].sum())
            continue
        parts = []
        for start, stop in batches:
            left = estimate.left(done, total)
            ending = "" if left is None else f", {duration(left)} left"
            report(done, total, f"Encoding: {done:,} of {total:,} tokens{ending}")
            parts.append(_states(loaded, plan, layers, start, stop))
            done += int(lengths[start:stop].sum())
        tensors = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        with replacing(path) as part:
            part.write_bytes(save(tensors))
        ledger.add(path)


def _states(loaded: LoadedModel, plan: Plan, layers: Sequence[int], start: int, stop: int) -> dict[str, np.ndarray]:
    """The kept states of the sentences ``start:stop``: one right-padded batch."""
    ids, mask = pad(plan.ids[start:stop].to_pylist())
    first, last = plan.rows_of(start, stop)
    row = torch.from_numpy(plan.sentence[first:last] - start).long()
    position = torch.from_numpy(plan.position[first:last].copy()).long()
    out = {}
    for layer, states in text_states(loaded, ids, mask, layers).items():
        kept = states[row.to(states.device), position.to(states.device)].float().cpu().numpy()
        norms = np.linalg.norm(kept, axis=1)
        if not np.isfinite(norms).all() or not norms.all():
            raise StatesUnusable(
                f"At layer {layer} the model gives NaN, infinities or zeros for some text in {str(loaded.dtype)[6:]}; "
                "load it in float32 or bfloat16."
            )
        out[f"rows.{layer}"] = (kept / norms[:, None]).astype(np.float16)
        out[f"norms.{layer}"] = norms.astype(np.float32)
    return out


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.safetensors"


class LayerRows:
    """The unit vectors of one layer, read from the shards piece by piece: as an index stores them, or, unless
    ``rotated``, in the model's own basis (see :mod:`lens.latentlens.rotation`)."""

    def __init__(self, paths: Sequence[Path], layer: int, rotated: bool = True) -> None:
        self.paths, self.layer, self.rotated = list(paths), layer, rotated
        self.norms: Float[np.ndarray, " rows"] = np.concatenate([self._read(path, "norms") for path in self.paths])
        counts = []
        for path in self.paths:
            with safe_open(path, "np") as file:
                counts.append(file.get_slice(f"rows.{layer}").get_shape())
        self.width = counts[0][1]
        self.starts = np.concatenate([[0], np.cumsum([count for count, _ in counts])])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def chunks(self) -> Iterator[Float[np.ndarray, "some d"]]:
        """All rows in order, as float32 of norm 1."""
        for path in self.paths:
            yield self._unit(self._read(path, "rows"))

    def take(self, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n d"]:
        """Chosen rows, in the order asked for."""
        out = np.empty((len(rows), self.width), np.float32)
        shard = np.searchsorted(self.starts, rows, side="right") - 1
        for number in np.unique(shard):
            wanted = shard == number
            out[wanted] = self._unit(self._read(self.paths[number], "rows")[rows[wanted] - self.starts[number]])
        return out

    def _read(self, path: Path, kind: str) -> np.ndarray:
        with safe_open(path, "np") as file:
            return file.get_tensor(f"{kind}.{self.layer}")

    def _unit(self, rows: np.ndarray) -> Float[np.ndarray, "n d"]:
        rows = rows.astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rotate(rows) if self.rotated else rows
