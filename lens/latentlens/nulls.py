"""What a lens finds where nothing is to be found: the same search for states without this picture's content.

There is always a nearest neighbour, and its similarity alone says little: how high is it for

* ``random``: Gaussian directions, with the norms of visual tokens;
* ``shaped``: Gaussian, with the mean and the spread that visual tokens have in each dimension, which tells what the place of
  their cloud alone does;
* ``pictures``: visual tokens of other pictures at the same layer?

A *band* reaches from the 5th to the 95th percentile of the best scores of such states. A neighbour *clears* the band when
it is above it; of the null's own states one in twenty does. Against other pictures, clearing means that this patch lies
nearer to text than nearly any patch of theirs: their patches show things, too.

Everything is measured once for a model and an index, at every layer (:func:`measure`), and kept in one small file
(:mod:`lens.latentlens.nullfile`), with the contexts that were nearest to the other pictures' patches, for
:mod:`lens.latentlens.hubs`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens.backend.encoding import DEFAULT_PROMPT, encode, visual_grid
from lens.backend.images import Picture
from lens.backend.loading import LoadedModel
from lens.backend.readouts import embedding_lens, logit_lens
from lens.backend.tracing import hidden_sites, trace
from lens.errors import ImagesMissing
from lens.latentlens.csls import CANDIDATES, corrected
from lens.latentlens.index import Index, check_model
from lens.latentlens.search import SIMILARITIES, search_rows, unit_vectors
from lens.latentlens.spaces import spread
from lens.progress import Report, part, silent

KINDS = {"random": "random directions", "shaped": "random, shaped like visual tokens", "pictures": "other pictures"}
RANDOM, SHAPED, PER_PICTURE = 24, 80, 12
"""States of each kind; of the last, patches of each picture."""
TAIL = 0.05
HUB_K = 5
"""Nearest contexts of each patch that the hub report counts."""


@dataclass(frozen=True, eq=False)
class Reference:
    """Visual tokens of some pictures at every layer.

    Attributes:
        states: [tokens, layers 0..N, d].
        picture: of each token, its picture's number in ``digests``.
    """

    states: Float[Tensor, "tokens layers d"]
    picture: Int[np.ndarray, " tokens"]
    digests: tuple[str, ...]

    def at(self, layer: int, without: str | None = None) -> Float[np.ndarray, "some d"]:
        """The tokens at one layer, but those of the picture with the digest ``without``."""
        return self.states[torch.from_numpy(self.others(without)), layer].float().numpy()

    def others(self, without: str | None) -> Int[np.ndarray, " some"]:
        """The numbers of the tokens that aren't of the picture ``without``."""
        own = self.digests.index(without) if without in self.digests else -1
        return np.flatnonzero(self.picture != own)


@dataclass(frozen=True, eq=False)
class Hubs:
    """The contexts nearest to each reference token: ``rows[layer, token, rank]``, and the text layer of each."""

    rows: Int[np.ndarray, "layers tokens k"]
    layers: Int[np.ndarray, "layers tokens k"]


@dataclass(frozen=True, eq=False)
class Null:
    """What a model's lenses find for states without content.

    Attributes:
        model, index: fingerprint of the model, digest of the index (empty without one).
        measured: the layers of the visual tokens that were measured.
        best: by lens (``"latent/raw"``, ``"latent/csls"``, ..., ``"logit"``, ``"embedding"``) and kind, the best scores.
        picture, digests: as in :class:`Reference`, of the ``"pictures"`` columns.
        hubs: by similarity.
    """

    model: str
    index: str
    measured: tuple[int, ...]
    best: dict[str, dict[str, Float[np.ndarray, "layers n"]]]
    picture: Int[np.ndarray, " tokens"]
    digests: tuple[str, ...]
    hubs: dict[str, Hubs]

    def scores(self, lens: str, kind: str, layer: int, without: str | None = None) -> Float[np.ndarray, " n"]:
        """The best score of each state of one kind; empty where that wasn't measured. ``without``: the digest of a picture
        that is no other picture."""
        if layer not in self.measured or kind not in self.best.get(lens, {}):
            return np.empty(0)
        found = self.best[lens][kind][self.measured.index(layer)].astype(np.float64)
        if kind == "pictures" and without in self.digests:
            found = found[self.picture != self.digests.index(without)]
        return found

    def band(self, lens: str, kind: str, layer: int, without: str | None = None) -> tuple[float, float] | None:
        """5th to 95th percentile of :meth:`scores`; ``None`` where there are none."""
        found = self.scores(lens, kind, layer, without)
        return (float(np.quantile(found, TAIL)), float(np.quantile(found, 1 - TAIL))) if len(found) else None

    def bands(self, lens: str, layer: int, without: str | None = None) -> dict[str, tuple[float, float]]:
        """The band of every kind that there is."""
        found = {kind: self.band(lens, kind, layer, without) for kind in KINDS}
        return {kind: band for kind, band in found.items() if band is not None}


def lens_key(lens: str, similarity: str = "raw") -> str:
    """The name of a lens in :attr:`Null.best`."""
    return f"latent/{similarity}" if lens == "latent" else lens


def reference_of(
    loaded: LoadedModel,
    pictures: Iterable[Picture],
    per_picture: int = PER_PICTURE,
    prompt: str = DEFAULT_PROMPT,
    report: Report = silent,
) -> Reference:
    """Trace each picture once and keep ``per_picture`` of its visual tokens, evenly spread, at every layer.

    Raises:
        ImagesMissing: there is no picture.
    """
    kept, numbers, digests = [], [], []
    some = list(pictures)
    for number, picture in enumerate(some):
        report(number, len(some), f"Other pictures: {picture.name}")
        held = trace(loaded, encode(loaded, prompt, picture), hidden_sites(loaded.anatomy.depth))
        positions = visual_grid(held.token_map).positions.reshape(-1)
        # Half a step into each part, so that no picture is known by its corner alone.
        steps = (np.arange(min(per_picture, len(positions))) + 0.5) * len(positions) / min(per_picture, len(positions))
        chosen = torch.from_numpy(positions[steps.astype(np.int64)])
        kept.append(torch.stack([held.hidden(layer)[chosen] for layer in range(held.depth + 1)], dim=1))
        numbers += [number] * len(chosen)
        digests.append(picture.digest)
    if not kept:
        raise ImagesMissing("The null needs other pictures, and there is none; give a folder with some.")
    return Reference(torch.cat(kept).float(), np.array(numbers, np.int16), tuple(digests))


def measure(
    loaded: LoadedModel,
    index: Index | None,
    reference: Reference,
    *,
    layers: Sequence[int] | None = None,
    similarities: Sequence[str] = tuple(SIMILARITIES),
    seed: int = 0,
    report: Report = silent,
) -> Null:
    """Search for :data:`RANDOM` + :data:`SHAPED` random states and for all of the reference at each of ``layers`` (by
    default all), by every lens; without an index by the two lenses of the vocabulary. CSLS of a reference token takes only
    *other* pictures' tokens for its reference.

    Raises:
        IndexMismatch: the index belongs to another language model.
    """
    if index is not None:
        check_model(index.name, index.manifest, loaded)
    wanted = tuple(range(loaded.anatomy.depth + 1)) if layers is None else tuple(layers)
    names = [lens_key("latent", name) for name in similarities] if index is not None else []
    best: dict[str, dict[str, list[np.ndarray]]] = {
        name: {kind: [] for kind in KINDS} for name in (*names, "logit", "embedding")
    }
    near: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in similarities}
    if index is not None and {"centred", "z-scored"} & set(similarities):
        spread(index, part(report, 0.0, 0.1))
    for done, layer in enumerate(wanted):
        report(0.1 + 0.9 * done / len(wanted), 1.0, f"The null at layer {layer}")
        states = reference.states[:, layer]
        drawn = torch.cat([*random_states(states, RANDOM, SHAPED, seed), states])
        cuts = [RANDOM, RANDOM + SHAPED]
        queries = (drawn.numpy(), states.numpy(), reference.picture)
        found = _nearest(index, *queries, similarities) if index is not None else {}
        for name, (values, rows, at) in found.items():
            _note(best[lens_key("latent", name)], np.split(values, cuts))
            near[name].append((rows[cuts[-1] :], at[cuts[-1] :]))
        _note(best["logit"], np.split(logit_lens(loaded, drawn, layer, 1).scores[:, 0], cuts))
        _note(best["embedding"], np.split(embedding_lens(loaded, drawn, 1).scores[:, 0], cuts))
    return Null(
        loaded.fingerprint,
        index.digest if index is not None else "",
        wanted,
        {name: {kind: np.stack(rows) for kind, rows in kinds.items()} for name, kinds in best.items()},
        reference.picture,
        reference.digests,
        {
            name: Hubs(np.stack([r for r, _ in found]), np.stack([a for _, a in found]))
            for name, found in near.items()
            if found
        },
    )


def random_states(
    like: Float[Tensor, "n d"], plain: int, shaped: int, seed: int = 0
) -> tuple[Float[Tensor, "plain d"], Float[Tensor, "shaped d"]]:
    """Gaussian directions with the mean norm of ``like``; and Gaussian states with its mean and spread per dimension."""
    generator = torch.Generator().manual_seed(seed)
    flat = torch.randn(plain, like.shape[1], generator=generator)
    cloud = torch.randn(shaped, like.shape[1], generator=generator)
    flat = flat / flat.norm(dim=1, keepdim=True) * like.norm(dim=1).mean()
    return flat, like.mean(0) + cloud * like.std(0, correction=0)


def clearing(values: Float[np.ndarray, " n"], band: tuple[float, float]) -> float:
    """The share of best scores above a band."""
    return float((np.asarray(values) > band[1]).mean())


def _note(held: dict[str, list[np.ndarray]], parts: Sequence[np.ndarray]) -> None:
    for kind, values in zip(KINDS, parts, strict=True):
        held[kind].append(np.asarray(values, np.float32))


def _nearest(
    index: Index, queries: np.ndarray, reference: np.ndarray, picture: np.ndarray, similarities: Sequence[str]
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """By similarity: best score, and the :data:`HUB_K` nearest rows with their layers, of each state. The reference's own
    tokens are the last of ``queries``."""
    out = {}
    raw = search_rows(index, queries, CANDIDATES) if {"raw", "csls"} & set(similarities) else None
    for name in similarities:
        if name == "csls":
            assert raw is not None
            groups = np.concatenate([np.full(len(queries) - len(picture), -1), picture])
            unit = unit_vectors(index, reference)
            found = corrected(index, unit, HUB_K, *raw, groups=(groups, picture))
        elif name == "raw":
            assert raw is not None
            found = tuple(part[:, :HUB_K] for part in raw)
        else:
            found = search_rows(index, queries, HUB_K, None, name)
        rows, values, at = found
        out[name] = (values[:, 0], rows, at)
    return out
