"""A model checked against itself: are its parts where its family's row says, and do they compute what they should?

Each check is one statement that must hold whatever the weights are. A failed one names the capability that is off; the
others stay on.

=====================  =================================================================================================
``places``             every part is there, with the shapes that belong together
``tokens``             every token that can be typed has an embedding, see :mod:`lens.backend.vocabulary`
``layers``             the traced layers equal the model's own ``output_hidden_states``
``logits``             final norm and unembedding, applied to the last block's output, rank words as the model's logits do
``visual positions``   of the input embeddings, another picture changes those of the visual positions and no others
``patches``            painted patches move the tokens that the grid puts there, see :mod:`lens.backend.placing`
=====================  =================================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import ceil, floor
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from lens.backend.encoding import DEFAULT_PROMPT, Encoded, PatchGrid, encode
from lens.backend.images import Picture
from lens.backend.loading import LoadedModel
from lens.backend.placing import placing
from lens.backend.running import forward
from lens.backend.tracing import hidden_sites, trace
from lens.backend.vocabulary import named, typed_beyond
from lens.errors import LensError, MemoryExhausted, ModelFailed
from lens.progress import Report as Progress
from lens.progress import silent

SIZE = (640, 448)
"""Width and height of the picture that is shown: not square, so that rows and columns can't be taken for one another."""


@dataclass(frozen=True)
class Check:
    """One statement about a model. ``passed``: ``None`` where it says nothing about this model; ``off``: what can't be
    used because it failed, else empty."""

    name: str
    passed: bool | None
    why: str
    off: str = ""


@dataclass(frozen=True)
class Report:
    """All checks of one model, in the order of this module's table."""

    model: str
    family: str
    model_type: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed is not False for check in self.checks)

    @property
    def off(self) -> tuple[str, ...]:
        """The capabilities that failed checks take away."""
        return tuple(check.off for check in self.checks if check.off)


def check(loaded: LoadedModel, picture: Picture | None = None, report: Progress = silent) -> Report:
    """Run every check; ``picture`` is what a vision-language model is shown, by default soft coloured noise."""
    anatomy = loaded.anatomy
    shown = (picture or noise(SIZE)) if anatomy.sees_images else None
    checks = [_places(loaded), _tokens(loaded)]
    try:
        encoded = encode(loaded, DEFAULT_PROMPT, shown)
    except MemoryExhausted:
        raise
    except LensError as error:
        name, off = ("visual positions", "pictures") if shown else ("layers", "every view of layers")
        checks.append(Check(name, False, str(error), off))
    else:
        try:
            checks += _run(loaded, encoded, shown, report)
        except ModelFailed as error:
            checks.append(Check("layers", False, str(error), "every view of layers"))
    return Report(loaded.name, anatomy.family.name, loaded.model.config.model_type, tuple(checks))


def _run(loaded: LoadedModel, encoded: Encoded, shown: Picture | None, report: Progress) -> list[Check]:
    """The checks that need forwards."""
    report(0, 1, "Checking the model against itself: layers")
    checks = _against_the_model(loaded, encoded)
    if shown is not None:
        report(0.2, 1, "Checking the model against itself: visual positions")
        checks += [_visual_positions(loaded, encoded, shown), _patches(loaded, encoded, shown, report)]
    return checks


def noise(size: tuple[int, int], seed: int = 0) -> Picture:
    """Soft coloured noise: no two places alike, nothing that stands out."""
    cells = np.random.default_rng(seed).integers(90, 166, (12, 16, 3), dtype=np.uint8)
    return Picture(Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC), "noise", f"noise {size} {seed}")


def _places(loaded: LoadedModel) -> Check:
    anatomy = loaded.anatomy
    config = loaded.model.config.get_text_config()
    unembedding: Any = anatomy.unembedding.weight
    wrong = []
    if anatomy.depth != config.num_hidden_layers:
        wrong.append(f"{anatomy.depth} blocks where the configuration says {config.num_hidden_layers}")
    if unembedding.shape[1] != anatomy.width:
        wrong.append(f"an unembedding that reads {unembedding.shape[1]} numbers of states that have {anatomy.width}")
    if anatomy.sees_images and anatomy.image_token_id is None:
        wrong.append("no id of the visual positions")
    if wrong:
        return Check("places", False, f"Found {' and '.join(wrong)}.", "everything")
    lacking = [part.replace("_", " ") for part in ("mlps", "down_projections") if not getattr(anatomy, part)]
    seeing = ("vision_tower", "vision_blocks", "connector") if anatomy.sees_images else ()
    lacking += [part.replace("_", " ") for part in seeing if getattr(anatomy, part) in (None, ())]
    without = f", without {' and '.join(lacking)}" if lacking else ""
    return Check("places", True, f"{anatomy.depth} blocks of width {anatomy.width}{without}.")


def _tokens(loaded: LoadedModel) -> Check:
    """What fails is refused where it is met, so that everything else stays on."""
    strange, size = typed_beyond(loaded), loaded.anatomy.vocab_size
    if not strange:
        return Check("tokens", True, f"Every token that can be typed is among the {size:,} that have an embedding.")
    why = f"{len(strange):,} tokens have ids from {size:,} on and no embedding: {named([*strange.values()])}."
    return Check(
        "tokens", False, f"Of the tokenizer's vocabulary {why}", "prompts and sentences that hold such a token"
    )


def _against_the_model(loaded: LoadedModel, encoded: Encoded) -> list[Check]:
    depth = loaded.anatomy.depth
    held = trace(loaded, encoded, (*hidden_sites(depth), f"block.{depth}"))
    output: Any = forward(loaded, loaded.model, **encoded.inputs, use_cache=False, output_hidden_states=True)
    own = getattr(output, "hidden_states", None)
    final = forward(loaded, loaded.anatomy.final_norm, held.site(f"block.{depth}").to(loaded.device))
    words = forward(loaded, loaded.anatomy.unembedding, final)
    return [
        _layers(own, [held.hidden(layer) for layer in range(depth + 1)]),
        _logits(words.cpu(), output.logits[0].cpu()),
    ]


def _layers(own: tuple[Tensor, ...] | None, traced: list[Tensor]) -> Check:
    name, off = "layers", "every view of layers"
    if own is None:
        return Check(name, None, "The model gives no hidden states of its own to compare with.")
    if len(own) != len(traced):
        return Check(name, False, f"The model has {len(own)} layers of states where {len(traced)} are traced.", off)
    apart = [_distance(mine, theirs[0].cpu()) for mine, theirs in zip(traced, own, strict=True)]
    worst = int(np.argmax(apart))
    if apart[worst] > _tolerance(traced[0]):
        return Check(name, False, f"Layer {worst} differs from the model's own by {apart[worst]:.1e} of its size.", off)
    return Check(name, True, f"Layers 0 to {len(traced) - 1} are the model's own.")


def _logits(words: Tensor, own: Tensor) -> Check:
    """Equal, or equal in order: some families divide the logits by a constant or cap them."""
    name, off = "logits", "the logit lens"
    own = own[..., : words.shape[-1]]
    if _distance(words, own) <= _tolerance(words):
        return Check(name, True, "Final norm and unembedding give the model's logits.")
    order = words.float().argsort(dim=-1)
    steps = own.float().gather(-1, order).diff(dim=-1)
    slack = _tolerance(words) * own.float().abs().max()
    if bool((steps >= -slack).all()) and float(own.float().std()) > 0:
        return Check(name, True, "Final norm and unembedding rank words as the model's logits do, on another scale.")
    return Check(name, False, "Final norm and unembedding rank words otherwise than the model's logits do.", off)


def _visual_positions(loaded: LoadedModel, encoded: Encoded, shown: Picture) -> Check:
    name, off = "visual positions", "pictures"
    expected = encoded.token_map.visual_positions
    if not len(expected):
        return Check(name, False, "No position of the sequence holds a visual token.", off)
    other = encode(loaded, DEFAULT_PROMPT, noise((shown.width, shown.height), seed=1))
    moved = np.flatnonzero(_movement(loaded, encoded, other) > 0)
    if np.array_equal(moved, expected):
        return Check(name, True, f"The picture changes the {len(expected)} visual positions and no others.")
    outside, still = np.setdiff1d(moved, expected), np.setdiff1d(expected, moved)
    found = f"{len(outside)} other positions change" if len(outside) else f"{len(still)} of them don't change"
    return Check(name, False, f"Of {len(expected)} visual positions {found} with the picture.", off)


def _patches(loaded: LoadedModel, encoded: Encoded, shown: Picture, report: Progress) -> Check:
    name = "patches"
    grids = encoded.token_map.grids
    if not grids:
        return Check(name, None, "Visual tokens are queries over the whole picture: there is no grid of patches.")
    told = []
    for number, grid in enumerate(grids):
        report(0.3 + 0.7 * number / len(grids), 1, "Checking the model against itself: painting patches")
        found = placing(grid.rows, grid.cols, partial(_moved_by, loaded, encoded, shown, grid))
        told.append(f"{found.why} (of {grid.rows} x {grid.cols})")
        if not found.right:
            return Check(name, False, f"{_sentence(told[-1])}", "everything that shows patches in the picture")
    return Check(name, True, _sentence("; ".join(told)))


def _moved_by(
    loaded: LoadedModel, encoded: Encoded, shown: Picture, grid: PatchGrid, spot: tuple[int, int]
) -> np.ndarray | None:
    """How far each token of the grid moves when the patch at ``spot`` is painted; ``None`` where it covers no pixel."""
    x0, y0, x1, y1 = grid.boxes[spot]
    box = (ceil(x0), ceil(y0), floor(x1) - 1, floor(y1) - 1)
    if box[2] < box[0] or box[3] < box[1]:
        return None
    image = shown.image.copy()
    ImageDraw.Draw(image).rectangle(box, fill=(255, 30, 0))
    painted = encode(loaded, DEFAULT_PROMPT, Picture(image, "painted", f"{shown.digest} {box}"))
    return _movement(loaded, encoded, painted)[grid.positions].astype(float)


def _sentence(clause: str) -> str:
    return f"{clause[0].upper()}{clause[1:]}."


def _movement(loaded: LoadedModel, one: Encoded, other: Encoded) -> np.ndarray:
    """How far the input embedding of each position is from one picture to another of the same size."""
    first, second = (trace(loaded, encoded, ["hidden.0"]).hidden(0).float() for encoded in (one, other))
    return (first - second).norm(dim=1).numpy()


def _distance(mine: Tensor, theirs: Tensor) -> float:
    """Largest difference over largest value."""
    if mine.shape != theirs.shape:
        return float("inf")
    mine, theirs = mine.float(), theirs.float()
    return float((mine - theirs).abs().max() / theirs.abs().max().clamp_min(1e-12))


def _tolerance(states: Tensor) -> float:
    """Rounding: a few units in the last place of the states' dtype."""
    return 16 * torch.finfo(states.dtype).eps
