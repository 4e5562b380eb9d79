"""Which vocabulary entries are a model's sink and dead anchors, found from its own pictures.

The portable rule, a reconstruction of how arXiv 2603.00510 found its classes on LLaVA-1.5-7B, at layer 0:

1. Count, over all images, in how many of them each vocabulary entry is among the three best of some visual token. Candidates
   are those in at least ``image_share`` of the images that also *win* (are the best of) a token in ``win_share`` of them; an
   entry that wins nowhere is only the neighbour of one that does.
2. For each candidate, take the mean cosine between the tokens that it wins in different images. Above ``sink_cosine``: a
   sink. Otherwise at least ``dead_cosine`` and no word: dead. What is left is alive: no anchor.
3. A sink is the vision encoder's where most of its tokens have a norm there above ``norm_ratio`` times the image's median;
   else the language model's where the cosine of its tokens with the first token of the sequence jumps by ``first_jump``
   at the MLP of block 2; else of unknown origin. Either test is left out where the model or the input has no such thing.

Every number is a threshold that is stored with the result. Nothing is forced: a model may have no anchors at all.

A *word* here begins with a blank and consists of ``word_letters`` letters or more; so sub-words without a blank, single
letters, marks and punctuation are none. A rare sub-word with a blank counts as a word, and scripts that write no blanks have
fewer words than they should.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lens.backend.encoding import encode, visual_grid
from lens.backend.images import Picture
from lens.backend.loading import LoadedModel
from lens.backend.tracing import Trace, trace
from lens.embedlens.anchors import Anchor, Anchors
from lens.embedlens.probe import probe, unit_rows
from lens.errors import ImagesMissing
from lens.progress import Report, silent

DEFAULTS: Mapping[str, float] = {
    "top": 3,
    "image_share": 0.95,
    "win_share": 0.5,
    "sink_cosine": 0.99,
    "dead_cosine": 0.8,
    "word_letters": 3,
    "norm_ratio": 2.0,
    "first_jump": 0.3,
    "enough_images": 200,
}
"""Thresholds of the rule. ``top``, ``image_share``, ``sink_cosine`` and ``enough_images`` are those of the method; the
others are this project's choice, since "high", "outlier" and "jump" were published without numbers. ``norm_ratio``: CLIP-L's
sinks have norms of 100 and more among some 20 to 40, DINOv2-L's above 150 among some 50."""

NAMED = 3
"""Entries named in the note that came near and are no anchors."""

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
        ImagesMissing: fewer than two pictures, so that nothing can be compared across images.
    """
    rule = {**DEFAULTS, **thresholds}
    loaded.anatomy.require("connector")
    sites = _sites(loaded)
    census, total = _Census(), len(pictures) if isinstance(pictures, Sized) else 0
    for number, picture in enumerate(pictures):
        report(number, total, f"Image {number + 1:,}: {picture.name}")
        _count(loaded, trace(loaded, encode(loaded, prompt, picture), sites), census, rule)
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
    if spare not in (0, 1):
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


def is_word(token: str, letters: int) -> bool:
    """Whether a token as the tokenizer writes it (``Ġcat``, ``▁cat``) is a word, see the module."""
    return token[:1] in ("Ġ", "▁", " ") and len(token) > letters and token[1:].isalpha()


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
    candidates = [
        i
        for i, group in census.groups.items()
        if census.present[i] >= rule["image_share"] * census.images
        and group.images >= rule["win_share"] * census.images
    ]
    judged = [_judged(loaded, i, census, rule) for i in candidates]
    found = sorted((a for a in judged if a), key=lambda a: (a.kind != "sink", -a.count, a.id))
    passed = sorted(set(candidates) - {a.id for a in found}, key=lambda i: -census.groups[i].tokens)
    return Anchors(
        model=loaded.name,
        fingerprint=loaded.fingerprint,
        tokenizer_hash=loaded.tokenizer_hash,
        images=census.images,
        thresholds=dict(rule),
        found=tuple(found),
        source="discovered",
        note=_note(loaded, found, passed, census, int(rule["enough_images"])),
    )


def _judged(loaded: LoadedModel, token_id: int, census: _Census, rule: Mapping[str, float]) -> Anchor | None:
    """A candidate as the anchor it is; ``None`` for one whose tokens are alive."""
    group = census.groups[token_id]
    sink = group.cosine > rule["sink_cosine"]
    raw = str(loaded.tokenizer.convert_ids_to_tokens(token_id))
    if not sink and (group.cosine < rule["dead_cosine"] or is_word(raw, int(rule["word_letters"]))):
        return None
    origin = ""
    if sink:
        vision, language = group.outliers / group.tokens > 0.5, group.jump / group.tokens > rule["first_jump"]
        origin = "vision" if vision else "language" if language else "unknown"
    return Anchor(
        id=token_id,
        token=loaded.tokenizer.decode([token_id]),
        kind="sink" if sink else "dead",
        origin=origin,
        share=census.present[token_id] / census.images,
        cosine=group.cosine,
        count=group.tokens / census.images,
    )


def _note(loaded: LoadedModel, found: Sequence[Anchor], passed: Sequence[int], census: _Census, enough: int) -> str:
    """What was found, what came near and wasn't, and how far it can be trusted."""
    parts = []
    for kind in ("sink", "dead"):
        count = sum(anchor.kind == kind for anchor in found)
        parts.append(f"{count or 'no'} {kind} anchor{'' if count == 1 else 's'}")
    text = f"{' and '.join(parts)} found in {census.images:,} images."
    if passed:
        groups = [(loaded.tokenizer.decode([i]), census.groups[i]) for i in passed[:NAMED]]
        named = ", ".join(
            f"{token!r} ({g.tokens / census.images:.1f} tokens an image, cosine {g.cosine:.2f})" for token, g in groups
        )
        text += f" In nearly every image, but words or too little alike to be anchors: {named}."
    if census.images < enough:
        text += f" The rule asks for {enough} images or more, so this is a first impression."
    return text[0].upper() + text[1:]
