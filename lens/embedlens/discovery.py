"""A census of the vocabulary entries that visual tokens are nearest to, over many images: the candidates for anchors.

Which of them are sink or dead anchors is decided by :mod:`lens.embedlens.judging`. Images stream: one is held at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lens.backend.encoding import visual_grid
from lens.backend.images import Picture
from lens.backend.loading import LoadedModel
from lens.backend.tracing import Trace
from lens.embedlens.anchors import Anchors, Candidate
from lens.embedlens.folder import traced
from lens.embedlens.judging import DEFAULTS, KEPT_SHARE, judged, letters_of
from lens.embedlens.probe import probe, unit_rows
from lens.errors import ImagesMissing
from lens.progress import Report, silent

ALIGNER = 2
"""The block, counted from 1, whose MLP turns the language model's sinks to the first token (arXiv 2603.00510)."""


@dataclass
class _Group:
    """Sums over the visual tokens that one entry wins; ``total`` and ``squares`` give the mean cross-image cosine."""

    total: Float[np.ndarray, " d"]
    tokens: int = 0
    images: int = 0
    token_pairs: int = 0
    squares: float = 0.0
    outliers: float = 0.0
    jump: float = 0.0

    def add(self, units: Float[np.ndarray, "n d"], outliers: np.ndarray, jumps: np.ndarray) -> None:
        """The tokens of one more image."""
        summed = units.sum(0, dtype=np.float64)
        self.total += summed
        self.squares += float(summed @ summed)
        self.token_pairs += len(units) ** 2
        self.tokens += len(units)
        self.images += 1
        self.outliers += float(outliers.sum())
        self.jump += float(jumps.sum())

    @property
    def cosine(self) -> float:
        """Mean over all pairs of tokens from different images; NaN when all are from one.

        The sum over all pairs is |S|², of which the pairs within each image are |S_i|².
        """
        pairs = self.tokens**2 - self.token_pairs
        total = self.total.astype(np.float64)
        return (float(total @ total) - self.squares) / pairs if pairs else float("nan")


@dataclass
class _Census:
    """What was counted so far. Memory: at most one vector per vocabulary entry, however many images."""

    images: int = 0
    present: Counter[int] = field(default_factory=Counter)
    groups: dict[int, _Group] = field(default_factory=dict)

    def add(self, ids: Int[np.ndarray, "n k"], units: Tensor, outliers: np.ndarray, jumps: np.ndarray) -> None:
        """One more image: the best entries of its visual tokens, and the tokens at length one."""
        self.images += 1
        self.present.update(np.unique(ids).tolist())
        vectors = units.numpy()
        for winner in np.unique(ids[:, 0]).tolist():
            won = ids[:, 0] == winner
            group = self.groups.setdefault(winner, _Group(np.zeros(vectors.shape[1], np.float32)))
            group.add(vectors[won], outliers[won], jumps[won])


def discover(
    loaded: LoadedModel,
    pictures: Iterable[Picture],
    prompt: str,
    *,
    thresholds: Mapping[str, float] = DEFAULTS,
    report: Report = silent,
) -> Anchors:
    """Find the model's anchors in ``pictures`` (say, a :class:`lens.embedlens.folder.PictureFolder`), one at a time.

    Thresholds that are not given keep their default. Raising :class:`Cancelled` in ``report`` stops the work.

    Raises:
        CapabilityMissing: the model takes no pictures.
        ImagesMissing: no picture could be read, or only one, so that nothing can be compared across images.
    """
    rule = {**DEFAULTS, **thresholds}
    loaded.anatomy.require("connector")
    census = _Census()
    for each in traced(loaded, pictures, prompt, _sites(loaded), report):
        _count(loaded, each.held, census, rule)
    if census.images < 2:
        raise ImagesMissing(
            f"Readable images given: {census.images}; but anchors are what different images share, so give at least 2, "
            f"better {int(rule['enough_images'])}."
        )
    return _anchors(loaded, census, rule)


def vision_norms(loaded: LoadedModel, held: Trace) -> Float[np.ndarray, " visual"] | None:
    """Norm of each visual token in the vision encoder, at the block that the connector reads; ``None`` where the encoder
    has no cell for each token. The trace must hold :func:`vision_site`."""
    site = vision_site(loaded)
    if site is None:
        return None
    cells = held.site(site)
    grid = visual_grid(held.token_map)
    spare = len(cells) - grid.rows * grid.cols
    if spare not in (0, 1) or len(held.token_map.grids) > 1:
        return None
    return cells[spare:].float().norm(dim=-1).numpy()  # a class token goes first


def vision_site(loaded: LoadedModel) -> str | None:
    """The site of the vision block that the connector reads, ``vision.j``; ``None`` where that is no single block."""
    layer = getattr(loaded.model.config, "vision_feature_layer", -1)
    depth = len(loaded.anatomy.vision_blocks)
    if not isinstance(layer, int) or not depth:
        return None
    # As in ``hidden_states``: 0 is before the first block, -1 after the last.
    block = depth + 1 + layer if layer < 0 else layer
    return f"vision.{block}" if 1 <= block <= depth else None


def _sites(loaded: LoadedModel) -> list[str]:
    vision = vision_site(loaded)
    aligner = [f"block.{ALIGNER}", f"mlp.{ALIGNER}"] if loaded.anatomy.depth >= ALIGNER else []
    return ["hidden.0", *([vision] if vision else []), *aligner]


def _count(loaded: LoadedModel, held: Trace, census: _Census, rule: Mapping[str, float]) -> None:
    positions = visual_grid(held.token_map).positions.reshape(-1)
    states = held.hidden(0)[positions]
    norms = vision_norms(loaded, held)
    nothing: Bool[np.ndarray, " visual"] = np.zeros(len(positions), dtype=bool)
    outliers = nothing if norms is None else norms > rule["norm_ratio"] * np.median(norms)
    census.add(probe(loaded, states, int(rule["top"])).ids, unit_rows(states), outliers, first_jumps(held, positions))


def first_jumps(held: Trace, positions: Int[np.ndarray, " visual"]) -> Float[np.ndarray, " visual"]:
    """By how much block 2's MLP raises each visual token's cosine with the first token; zeros where the sequence begins
    with a visual token or the trace doesn't reach that block."""
    after, added = (held.states.get(f"{part}.{ALIGNER}") for part in ("block", "mlp"))
    if after is None or added is None or positions[0] == 0:
        return np.zeros(len(positions))
    before = after.float() - added.float()
    cosines = [unit_rows(states[positions]) @ unit_rows(states[:1])[0] for states in (before, after)]
    return (cosines[1] - cosines[0]).numpy()


def _anchors(loaded: LoadedModel, census: _Census, rule: dict[str, float]) -> Anchors:
    kept = [
        _candidate(loaded, i, census)
        for i, group in census.groups.items()
        if census.present[i] >= KEPT_SHARE * census.images and group.images > 1
    ]
    found = Anchors(
        model=loaded.name,
        fingerprint=loaded.fingerprint,
        tokenizer_hash=loaded.tokenizer_hash,
        images=census.images,
        thresholds=rule,
        candidates=tuple(sorted(kept, key=lambda c: (-c.count, c.id))),
        found=(),
        source="discovered",
        note="",
    )
    return judged(found, {})


def _candidate(loaded: LoadedModel, token_id: int, census: _Census) -> Candidate:
    group = census.groups[token_id]
    return Candidate(
        id=token_id,
        token=loaded.tokenizer.decode([token_id]),
        letters=letters_of(str(loaded.tokenizer.convert_ids_to_tokens(token_id))),
        share=census.present[token_id] / census.images,
        win_share=group.images / census.images,
        cosine=group.cosine,
        count=group.tokens / census.images,
        outliers=group.outliers / group.tokens,
        jump=group.jump / group.tokens,
    )
