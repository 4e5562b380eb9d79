"""Similarities other than the raw cosine: centred and z-scored, from the mean and the spread of an index's vectors.

Language models' states lie in a narrow cone, so that raw cosines are high for everything (Ethayarajh 2019, arXiv
1909.00512). *Centred*: the cosine after the mean of the layer's contexts was taken off both sides; *z-scored*: each
dimension also divided by its standard deviation. Both sides are unit vectors before that, so that nothing depends on the
scale of a state, and a few rows of enormous norm (the first token of a text is an attention sink: a norm of 24,000 at layer
16 of the offline model) don't make the statistics. Rows at position 0 are left out of mean and spread altogether, and are
never neighbours in these spaces: far from the mean and all alike, they were 98 % of the five nearest of the offline model's
visual tokens at layer 8 by the centred cosine, whatever the pictures showed.

The statistics are computed from the stored vectors in one streamed pass, and kept beside the index in
``similarity.safetensors``, which names the index it is of: ``mean.l``, ``deviation.l`` [d] and, for each similarity,
``<similarity>.l`` [rows], the norm of every row in its space.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lens.backend.cache import BoundedCache
from lens.backend.files import replacing
from lens.latentlens.index import Index
from lens.latentlens.rotation import rotate, unrotate
from lens.progress import Report, silent

SPACES = ("centred", "z-scored")
FILE = "similarity.safetensors"
CHUNK = 1 << 24
"""Values decoded at once: 67 MB."""
HELD = 512 << 20
"""Bytes of decoded rows that are held between searches; a larger index is decoded anew for each."""
FLOOR = 1e-6
"""Least standard deviation that is divided by, and least norm: for dimensions and rows that don't vary."""

_decoded: BoundedCache[np.ndarray] = BoundedCache(HELD, lambda rows: rows.nbytes)


@dataclass(frozen=True, eq=False)
class Spread:
    """Where the vectors of an index lie, by layer, in the model's own basis.

    Attributes:
        mean, deviation: of the unit vectors, per dimension; rows at position 0 left out.
        norms: by similarity and layer, of every row, in that similarity's space.
    """

    mean: dict[int, Float[np.ndarray, " d"]]
    deviation: dict[int, Float[np.ndarray, " d"]]
    norms: dict[str, dict[int, Float[np.ndarray, " rows"]]]

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes for part in (self.mean, self.deviation, *self.norms.values()) for a in part.values())

    def scale(self, similarity: str, layer: int) -> Float[np.ndarray, " d"]:
        """What each dimension is divided by."""
        deviation = self.deviation[layer]
        return deviation if similarity == "z-scored" else np.ones_like(deviation)

    def place(self, unit: Float[np.ndarray, "n d"], similarity: str, layer: int) -> Float[np.ndarray, "n d"]:
        """Unit vectors in the space of a similarity, as unit vectors again: their inner product is that similarity."""
        moved = (unit - self.mean[layer]) / self.scale(similarity, layer)
        return moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), FLOOR)


_spreads: BoundedCache[Spread] = BoundedCache(HELD // 4, lambda spread: spread.nbytes)


def spread(index: Index, report: Report = silent) -> Spread:
    """The statistics of ``index``: from memory, from its file, or measured now and kept in it where that can be written."""

    def make() -> Spread:
        found = _stored(index)
        if found is None:
            found = measure_spread(index, report)
            _store(index, found)
        return found

    return _spreads.get(index.digest, make)


def has_spread(index: Index) -> bool:
    """Whether :func:`spread` is quick."""
    return index.digest in _spreads or _stored(index) is not None


def measure_spread(index: Index, report: Report = silent) -> Spread:
    """Passes over the stored vectors of each layer, in chunks: mean and spread (Chan, Golub, LeVeque 1979), then norms."""
    inside = inner_rows(index)
    mean, deviation = {}, {}
    norms: dict[str, dict[int, np.ndarray]] = {name: {} for name in SPACES}
    exact = np.float32 if index.manifest.factory == "Flat" else np.float16  # coarser vectors deserve no more
    for done, layer in enumerate(index.layers):
        report(done, len(index.layers), f"Spread of layer {layer}")
        count, middle, squares = 0, np.zeros(index.width), np.zeros(index.width)
        for start, rows in stored_rows(index, layer):
            some = unrotate(rows)[inside[start : start + len(rows)]].astype(np.float64)
            if len(some):
                shift, total = some.mean(0) - middle, count + len(some)
                squares += some.var(0) * len(some) + shift**2 * count * len(some) / total
                middle += shift * len(some) / total
                count = total
        mean[layer] = middle.astype(np.float32)
        deviation[layer] = np.maximum(np.sqrt(squares / count), FLOOR).astype(np.float32)
        for name in SPACES:
            scale = deviation[layer] if name == "z-scored" else 1.0
            parts = [
                np.linalg.norm((unrotate(r) - mean[layer]) / scale, axis=1) for _at, r in stored_rows(index, layer)
            ]
            norms[name][layer] = np.maximum(np.concatenate(parts), FLOOR).astype(exact)
    return Spread(mean, deviation, norms)


def inner_rows(index: Index) -> Bool[np.ndarray, " rows"]:
    """Which contexts aren't the first token of their sequence; all of them, where there is no other."""
    first = index.contexts.column("position").to_numpy() == 0
    return np.ones_like(first) if first.all() else ~first


def stored_rows(index: Index, layer: int) -> Iterator[tuple[int, Float[np.ndarray, "some d"]]]:
    """A layer's vectors as stored (rotated), decoded in chunks, each with the number of its first row. They are held while
    all layers fit :data:`HELD`."""
    flat = index.faiss[index.check_layer(layer)]
    if 4 * index.rows * index.width * len(index.layers) <= HELD:
        yield 0, _decoded.get((index.digest, layer), lambda: flat.reconstruct_n(0, index.rows))
        return
    step = max(1, CHUNK // index.width)
    for start in range(0, index.rows, step):
        yield start, flat.reconstruct_n(start, min(step, index.rows - start))


def search_space(
    index: Index, unit: Float[np.ndarray, "n d"], layer: int, k: int, similarity: str
) -> tuple[Float[np.ndarray, "n k"], np.ndarray]:
    """The ``k`` best rows of one layer and their similarities, by a pass over all its rows: exact for the stored vectors."""
    found = spread(index)
    scale, mean = found.scale(similarity, layer), found.mean[layer]
    moved = (unit - mean) / scale
    moved = moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), FLOOR)
    query = moved / scale
    turned, offset = rotate(query), (query @ mean)[:, None]
    norms = found.norms[similarity][layer].astype(np.float32)
    sinks = ~inner_rows(index)
    values, rows = np.empty((len(unit), 0), np.float32), np.empty((len(unit), 0), np.int64)
    for start, chunk in stored_rows(index, layer):
        some = (turned @ chunk.T - offset) / norms[start : start + len(chunk)]
        some[:, sinks[start : start + len(chunk)]] = -np.inf
        best = np.argpartition(-some, min(k, some.shape[1]) - 1, axis=1)[:, :k]
        values = np.concatenate([values, np.take_along_axis(some, best, 1)], axis=1)
        rows = np.concatenate([rows, best + start], axis=1)
    order = np.argsort(-values, axis=1, kind="stable")[:, :k]
    values, rows = np.take_along_axis(values, order, 1), np.take_along_axis(rows, order, 1)
    return values, np.where(np.isfinite(values), rows, -1)


def _stored(index: Index) -> Spread | None:
    """The statistics kept beside the index, if they are of this very index and whole."""
    try:
        with safe_open(index.path / FILE, "np") as file:
            if (file.metadata() or {}).get("index") != index.digest:
                return None
            parts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            if (file.metadata() or {}).get("sha256") != checksum(parts):
                return None
    except (OSError, SafetensorError):
        return None
    taken = {
        kind: {layer: parts[f"{kind}.{layer}"] for layer in index.layers} for kind in ("mean", "deviation", *SPACES)
    }
    return Spread(taken["mean"], taken["deviation"], {name: taken[name] for name in SPACES})


def _store(index: Index, found: Spread) -> None:
    kinds = {"mean": found.mean, "deviation": found.deviation, **found.norms}
    tensors = {f"{kind}.{layer}": values for kind, by in kinds.items() for layer, values in by.items()}
    try:
        with replacing(index.path / FILE) as part:
            part.write_bytes(save(tensors, {"index": index.digest, "sha256": checksum(tensors)}))
    except OSError:  # a folder that can't be written to: measured again the next time
        return


def checksum(tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names and bytes of arrays: a flipped byte in a file makes it none."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + b"\0" + np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()
