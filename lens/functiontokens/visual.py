"""The same features on the visual tokens of a picture: what each patch fires, and which of it words fire too.

The bases offered here come from text. So the first thing to know is how well an autoencoder rebuilds visual tokens at all:
the fraction of their variance that it leaves unexplained (FVU; 0 is perfect, 1 no better than their mean), beside that of
the words. Words are read by themselves, as raw text without the picture: in the prompt they would have looked at it.

Two controls, seeded. *Turned states*: what differs among the patches is turned to random directions, everything else being
kept (mean, norms of the differences, angles between patches); how many firings are shared with words then? *Shuffled
patches*: does a feature fire at neighbouring patches more often than at patches dealt out at random?
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lens.backend.encoding import Encoded, visual_grid
from lens.backend.loading import LoadedModel
from lens.backend.tracing import Trace, trace
from lens.errors import PromptUnusable
from lens.functiontokens.ablation import raw_text
from lens.functiontokens.basis import Features
from lens.statistics import p_value

LEAD = "This is what can be seen:"
"""Stands before the words, and isn't counted: the first positions of any text are loud and fire nothing that means
anything (:data:`~lens.functiontokens.basis.FIRST`)."""
MAX_WORDS = 256


@dataclass(frozen=True)
class Rebuilt:
    """How well an autoencoder rebuilds a set of states.

    Attributes:
        fvu: sum of squared errors over the sum of squared distances from the set's mean.
        cosine: mean between state and reconstruction.
        active: mean number of features that fire in a state.
    """

    fvu: float
    cosine: float
    active: float


@dataclass(frozen=True)
class VisualFeature:
    """One feature that fires at patches.

    Attributes:
        patches: at how many. strongest: its largest magnitude there. words: the words (places in ``words``) that fire it.
        neighbours: share of the neighbouring pairs of patches with one of its patches that have two; p: how often its
            patches, shuffled, have as many. ``None`` at a single patch or at all.
    """

    feature: int
    patches: int
    strongest: float
    words: tuple[int, ...]
    neighbours: float | None
    p: float | None


@dataclass(frozen=True, eq=False)
class VisualFeatures:
    """What a picture's patches fire.

    Attributes:
        positions: the sequence position of each patch.
        words: the tokens of the text that is compared, and word_features: what each fires.
        features: all that fire at a patch: shared with words first, then by the number of patches.
        shared: share of the patches' firings whose feature a word fires too; turned: the same of turned states, one entry
            each; p: how often these share at least as much.
        patches_rebuilt, words_rebuilt: ``None`` for neurons, which rebuild nothing of their site, and for a single word.
        note: one sentence that says how far to trust all this.
        rows, ids, values: everything that fires, as sparse triples by patch in reading order: patch, feature, value.
    """

    model: str
    basis: str
    layer: int
    fires: str
    positions: Int[np.ndarray, "rows cols"]
    words: tuple[str, ...]
    word_features: tuple[tuple[int, ...], ...]
    features: tuple[VisualFeature, ...]
    shared: float
    turned: Float[np.ndarray, " controls"]
    p: float
    seed: int
    patches_rebuilt: Rebuilt | None
    words_rebuilt: Rebuilt | None
    note: str
    rows: Int[np.ndarray, " fired"]
    ids: Int[np.ndarray, " fired"]
    values: Float[np.ndarray, " fired"]

    def top(self, row: int, col: int, count: int = 8) -> tuple[tuple[int, float], ...]:
        """The strongest features of one patch with their values, by magnitude."""
        mine = self.rows == row * self.positions.shape[1] + col
        order = np.argsort(-np.abs(self.values[mine]), kind="stable")[:count]
        return tuple(zip(self.ids[mine][order].tolist(), self.values[mine][order].tolist(), strict=True))

    def over_patches(self, feature: int) -> Float[np.ndarray, "rows cols"]:
        """The values of one feature at every patch, 0 where it is silent."""
        found = np.zeros(self.positions.size)
        mine = self.ids == feature
        found[self.rows[mine]] = self.values[mine]
        return found.reshape(self.positions.shape)

    def as_json(self) -> dict[str, Any]:
        """Everything but the sparse triples, which become the five strongest features of each patch."""
        plain = {
            name: getattr(self, name) for name in ("model", "basis", "layer", "fires", "shared", "p", "seed", "note")
        }
        rebuilt = {name: getattr(self, name) for name in ("patches_rebuilt", "words_rebuilt")}
        top = [[self.top(r, c, 5) for c in range(self.positions.shape[1])] for r in range(self.positions.shape[0])]
        return {
            **plain,
            **{name: None if value is None else asdict(value) for name, value in rebuilt.items()},
            "words": [{"word": w, "features": list(f)} for w, f in zip(self.words, self.word_features, strict=True)],
            "features": [asdict(feature) for feature in self.features],
            "turned": self.turned.tolist(),
            "patches": top,
        }


def visual_features(
    loaded: LoadedModel,
    encoded: Encoded,
    features: Features,
    text: str,
    *,
    controls: int = 20,
    shuffles: int = 200,
    seed: int = 0,
    held: Trace | None = None,
) -> VisualFeatures:
    """Compare what a picture's patches fire with what the words of ``text`` (a caption, the model's answer) fire.

    Args:
        held: a trace of ``encoded`` with ``features.site``, if the caller has one.

    Raises:
        CapabilityMissing: an input without a picture.
        PromptUnusable: a text without a word.
    """
    grid = visual_grid(encoded.token_map)
    held = held or trace(loaded, encoded, [features.site])
    states = held.site(features.site)[grid.positions.reshape(-1)].float()
    words, word_states = _words(loaded, features, text)
    rows, ids, values = features.active(states)
    word_rows, word_ids, _values = features.active(word_states)
    per_word = tuple(tuple(word_ids[word_rows == w].tolist()) for w in range(len(words)))
    known = np.unique(word_ids)
    shared = _share(ids, known)
    turned = np.array([_share(features.active(one)[1], known) for one in turned_states(states, controls, seed)])
    patches_rebuilt, words_rebuilt = _rebuilt(features, states), _rebuilt(features, word_states)
    return VisualFeatures(
        model=loaded.name,
        basis=features.name,
        layer=features.layer,
        fires=features.fires,
        positions=grid.positions,
        words=words,
        word_features=per_word,
        features=_listed(rows, ids, values, per_word, grid.positions.shape, shuffles, seed),
        shared=shared,
        turned=turned,
        p=p_value(shared, turned, two_sided=False),
        seed=seed,
        patches_rebuilt=patches_rebuilt,
        words_rebuilt=words_rebuilt,
        note=_note(patches_rebuilt, words_rebuilt),
        rows=rows,
        ids=ids,
        values=values,
    )


def turned_states(states: Float[Tensor, "n d"], count: int, seed: int) -> list[Float[Tensor, "n d"]]:
    """The states with their differences from the mean in random directions: same mean, same norms and angles of the
    differences."""
    mean = states.mean(0)
    inner, sizes, _axes = torch.linalg.svd((states - mean).double(), full_matrices=False)
    generator, turned = np.random.default_rng(seed), []
    for _ in range(count):
        drawn = torch.from_numpy(generator.standard_normal((states.shape[1], len(sizes)))).to(states.device)
        axes = torch.linalg.qr(drawn).Q.T
        turned.append((mean + (inner * sizes) @ axes).to(states.dtype))
    return turned


def neighbour_share(fires: Bool[np.ndarray, "... rows cols"]) -> Float[np.ndarray, ...]:
    """Of the pairs of patches side by side or one above the other of which one fires, the share of which both do; 0
    where there are none."""
    pairs = ((fires[..., 1:, :], fires[..., :-1, :]), (fires[..., :, 1:], fires[..., :, :-1]))
    both = sum((a & b).sum((-2, -1)) for a, b in pairs)
    either = sum((a | b).sum((-2, -1)) for a, b in pairs)
    return both / np.maximum(either, 1)


def _words(loaded: LoadedModel, features: Features, text: str) -> tuple[tuple[str, ...], Float[Tensor, "words d"]]:
    """The tokens of ``text`` and their states, read after :data:`LEAD`."""
    if not text.strip():
        raise PromptUnusable("The text to compare with holds no word; give a caption, or a few words.")
    encoded = raw_text(loaded, f"{LEAD} {text.strip()}", MAX_WORDS)
    lead = len(raw_text(loaded, LEAD, MAX_WORDS).token_map)
    states = trace(loaded, encoded, [features.site]).site(features.site)
    return encoded.token_map.texts[lead:], states[lead:].float()


def _share(ids: np.ndarray, known: np.ndarray) -> float:
    return float(np.isin(ids, known).mean()) if len(ids) else 0.0


def _rebuilt(features: Features, states: Float[Tensor, "n d"]) -> Rebuilt | None:
    """``None`` for neurons, and for a single state, which has no variance."""
    if features.kind != "sae" or len(states) < 2:
        return None
    values = features.encode(states)
    rebuilt = features.decode(values).to(states.device)
    error, spread = (states - rebuilt).square().sum(), (states - states.mean(0)).square().sum()
    cosine = torch.nn.functional.cosine_similarity(states, rebuilt, dim=-1).mean()
    return Rebuilt(float(error / spread.clamp_min(1e-12)), float(cosine), float((values != 0).sum(-1).float().mean()))


def _listed(
    rows: np.ndarray,
    ids: np.ndarray,
    values: np.ndarray,
    per_word: tuple[tuple[int, ...], ...],
    shape: tuple[int, ...],
    shuffles: int,
    seed: int,
) -> tuple[VisualFeature, ...]:
    """Every feature with its patches, words and how close together these patches lie."""
    generator, cells = np.random.default_rng(seed), int(np.prod(shape))
    orders = np.array([generator.permutation(cells) for _ in range(shuffles)], np.int64).reshape(shuffles, cells)
    nulls: dict[int, np.ndarray] = {}  # it depends on the number of patches alone
    words_of: dict[int, list[int]] = {}
    for word, fired in enumerate(per_word):
        for feature in fired:
            words_of.setdefault(feature, []).append(word)
    order = np.argsort(ids, kind="stable")
    starts = np.flatnonzero(np.diff(ids[order], prepend=-1))
    found = []
    for mine in np.split(order, starts[1:]) if len(order) else []:
        feature, count = int(ids[mine[0]]), len(mine)
        near = p = None
        if 1 < count < cells and shuffles:
            fires = np.zeros(cells, bool)
            fires[rows[mine]] = True
            near = float(neighbour_share(fires.reshape(shape)))
            null = nulls.setdefault(count, neighbour_share((orders < count).reshape(shuffles, *shape)))
            p = p_value(near, null, two_sided=False)
        strongest = float(np.abs(values[mine]).max())
        found.append(VisualFeature(feature, count, strongest, tuple(words_of.get(feature, ())), near, p))
    return tuple(sorted(found, key=lambda one: (not one.words, -one.patches, one.feature)))


def _note(patches: Rebuilt | None, words: Rebuilt | None) -> str:
    if patches is None:
        return "These are the model's own neurons: which of them a patch drives is exact, but they rebuild no states."
    quality = f"It leaves {patches.fvu:.0%} of the variance among the patches unexplained"
    if words is not None:
        quality += f", {words.fvu:.0%} among the words"
    if patches.fvu >= 1:
        return f"{quality}: it rebuilds visual tokens no better than their mean does, so what fires there means little."
    if words is not None and patches.fvu <= 2 * words.fvu:
        return f"{quality}, so that it serves visual tokens about as well as text."
    return f"{quality}: it was trained on text, so read what fires at patches with care."
