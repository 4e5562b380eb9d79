"""The report on hubs: contexts that are among the nearest of many patches, of many pictures.

In many dimensions some points are near to everything (Radovanović, Nanopoulos and Ivanović 2010). A neighbour that most
patches of other pictures have as well says little about this one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from lens.latentlens.index import Index
from lens.latentlens.nulls import Null
from lens.latentlens.search import Neighbour, neighbours


@dataclass(frozen=True)
class Hub:
    """One context.

    Attributes:
        context: as a neighbour; its similarity is the share of the patches.
        share: of the other pictures' patches, those that have it among their nearest.
        pictures: of how many pictures these patches are.
    """

    context: Neighbour
    share: float
    pictures: int


@dataclass(frozen=True, eq=False)
class HubReport:
    """The hubs at one layer of the visual tokens.

    Attributes:
        hubs: most frequent first.
        patches, pictures: how many were looked at. k: nearest contexts of each.
        skewness: third standardised moment of how often a context is a neighbour, over those that are found at all
            (Radovanović et al. take all contexts; most are never found, which would make any index look full of hubs).
        different: contexts found, of ``patches * k`` possible.
        sinks: share of all found neighbours that are first tokens of their text.
    """

    hubs: tuple[Hub, ...]
    patches: int
    pictures: int
    k: int
    skewness: float
    different: int
    sinks: float


def hub_report(
    null: Null, index: Index, layer: int, similarity: str = "raw", without: str | None = None, most: int = 12
) -> HubReport | None:
    """Count over the patches that the null was measured with, but those of the picture ``without``; ``None`` where that
    layer or similarity wasn't measured."""
    if similarity not in null.hubs or layer not in null.measured:
        return None
    own = null.digests.index(without) if without in null.digests else -1
    kept = np.flatnonzero(null.picture != own)
    at = null.measured.index(layer)
    rows, layers = null.hubs[similarity].rows[at, kept], null.hubs[similarity].layers[at, kept]
    picture = np.broadcast_to(null.picture[kept][:, None], rows.shape)
    inside = rows >= 0
    keys, places, counts = occurrences(rows[inside], layers[inside])
    order = np.argsort(-counts, kind="stable")[:most]
    top = neighbours(index, keys[order, :1], counts[order, None] / len(kept), keys[order, 1:]).rows
    hubs = tuple(
        Hub(found[0], float(counts[one] / len(kept)), len(set(picture[inside][places == one].tolist())))
        for one, found in zip(order, top, strict=True)
    )
    centred = counts - counts.mean()
    spread = float(np.sqrt((centred**2).mean()))
    first = index.contexts.column("position").to_numpy() == 0
    return HubReport(
        hubs, len(kept), len(set(null.picture[kept].tolist())), rows.shape[1],
        float((centred**3).mean() / spread**3) if spread else 0.0, len(keys), float(first[rows[inside]].mean()),
    )  # fmt: skip


def hub_shares(
    null: Null, layer: int, similarity: str = "raw", without: str | None = None
) -> dict[tuple[int, int], float]:
    """By context (row, text layer): the share of the other pictures' patches that have it among their nearest."""
    if similarity not in null.hubs or layer not in null.measured:
        return {}
    own = null.digests.index(without) if without in null.digests else -1
    kept = np.flatnonzero(null.picture != own)
    at = null.measured.index(layer)
    found = null.hubs[similarity]
    keys, _places, counts = occurrences(found.rows[at, kept].reshape(-1), found.layers[at, kept].reshape(-1))
    return {(int(row), int(where)): float(n / len(kept)) for (row, where), n in zip(keys, counts, strict=True)}


def occurrences(
    rows: Int[np.ndarray, " n"], layers: Int[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, "m 2"], Int[np.ndarray, " n"], Int[np.ndarray, " m"]]:
    """The different (row, layer) pairs, which of them each is, and how often each occurs."""
    pairs = np.stack([np.asarray(rows, np.int64), np.asarray(layers, np.int64)], axis=1)
    keys, places, counts = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
    return keys, places.reshape(-1), counts
