"""How good <SEG> is, on composed scenes with known masks and on photographs, where there are none.

Every score has its control beside it: the exact mask of all objects together and the head with the mean query (both deaf
to the prompt), and the mask of another object of the same scene. IoU is taken at the head's own resolution (48 x 48) and
on the grid of visual tokens (12 x 12), where a cell belongs to what covers half of it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lens.demo.convert import IMAGE_SIZE
from lens.demo.photos import pixels, whole
from lens.demo.scenes import FINE, GRID, Scene, Sources, coverage
from lens.demo.seg_head import MaskHead
from lens.demo.seg_language import PROMPTS, Packs, Turn, seg_states
from lens.demo.seg_models import SegModels, feature_maps
from lens.demo.seg_objects import alike
from lens.demo.seg_training import small


@dataclass(frozen=True)
class SegQuality:
    """Means over ``queries`` objects of ``scenes`` scenes of one split.

    Attributes:
        fine, coarse: IoU at 48 x 48 and at 12 x 12.
        several: as ``fine``, of scenes with two objects and more; the next three are of the same scenes.
        everything: IoU of the exact mask of all objects together (48 x 48).
        deaf: IoU of the head with the split's mean query (48 x 48).
        swapped: IoU of the mask asked for by another object's name (48 x 48).
        pointing: how often the coarse mask's highest cell is at least half the object's.
        similarity: area under the ROC curve of the plain dot product of <SEG>'s state with the visual tokens' after the
            final norm, against the coarse mask.
        answered: share of objects in the scene answered with <SEG> (greedily).
        refused: share of objects not in the scene answered without.
    """

    split: str
    scenes: int
    queries: int
    fine: float
    coarse: float
    several: float
    everything: float
    deaf: float
    swapped: float
    pointing: float
    similarity: float
    answered: float
    refused: float


@dataclass(frozen=True)
class PhotoQuality:
    """On photographs of held-out classes side by side: is most of the mask on the half that was asked for (chance .5)?

    ``boxes``: of photographs with a box drawn by hand, how often the highest cell's centre is in it; ``box_area`` is what
    a random point, ``box_centre`` what the picture's centre would reach; ``None`` without boxes.
    """

    pairs: int
    right_half: float
    boxes: int = 0
    in_box: float | None = None
    box_area: float | None = None
    box_centre: float | None = None


@dataclass
class _Asked:
    """What one scene's pack gave: projected queries [k, keys], and what the head needs again for another query."""

    queries: Tensor
    cells: Tensor
    visual: Tensor
    levels: dict[str, Tensor]
    states: Tensor


@torch.inference_mode()
def measure(
    split: str, models: SegModels, head: MaskHead, scenes: Iterable[Scene], names: Sequence[str], seed: int = 0
) -> SegQuality:
    """Score one split; every scene is asked for all its objects and for as many of ``names`` that aren't there."""
    rng = random.Random(f"measure/{seed}/{split}")
    asked, said_seg, said_none = [], [], []
    for scene in scenes:
        found, seg, none = ask(models, head, scene.image, scene.names, absent_names(rng, names, scene.names))
        asked.append((found, torch.from_numpy(coverage(scene.masks, FINE)).to(models.device)))
        said_seg += seg
        said_none += none
    mean = torch.cat([found.queries[0] for found, _ in asked]).mean(0)
    scores: dict[str, list[float]] = {}
    for found, wanted in asked:
        for name, values in scene_scores(head, found, wanted, mean).items():
            scores.setdefault(name, []).extend(values)
    return SegQuality(
        split=split, scenes=len(asked), queries=len(scores["fine"]), answered=share(said_seg), refused=share(said_none),
        **{name: share(values) for name, values in scores.items()},
    )  # fmt: skip


def absent_names(rng: random.Random, names: Sequence[str], present: Sequence[str]) -> list[str]:
    """As many names as are there, of what isn't."""
    fit = [name for name in names if not any(alike(name, other) for other in present)]
    return rng.sample(fit, len(present))


def ask(
    models: SegModels, head: MaskHead, picture: Image.Image, present: Sequence[str], absent: Sequence[str]
) -> tuple[_Asked, list[bool], list[bool]]:
    """One pack on a picture; who was answered with <SEG>, and who of the absent was not."""
    language = models.language
    levels = feature_maps(models.tower, pixels([picture]).to(models.device))
    cells = models.cells(levels)
    turns = [language.turns.turn(name, PROMPTS[0], True) for name in present]
    turns += [language.turns.turn(name, PROMPTS[0], False) for name in absent]
    packs = Packs.of([turns], models.device)
    states, visual = language.states(cells, packs.ids)
    assert visual is not None
    seg = seg_states(states, packs)[:, : len(present)]
    will = [follows(models, own, turn) for own, turn in zip(states[0], turns, strict=True)]
    found = _Asked(head.project(seg), cells, visual.float(), levels, seg[0])
    return found, will[: len(present)], [not answered for answered in will[len(present) :]]


def follows(models: SegModels, states: Tensor, turn: Turn) -> bool:
    """Whether the greedy answer to a turn of ``states`` [t, width] leads to <SEG>: its first token is the found answer's,
    and after that, <SEG> wins.

    For an object that isn't there only the first token is known, and it decides.
    """
    turns, start = models.language.turns, models.language.turns.ids("It")[0]
    first = models.language.logits(states[turn.answer - 1][None]).argmax().item()
    if turn.seg is None or first != start:
        return first == start
    return models.language.logits(states[turn.seg - 1][None]).argmax().item() == turns.seg_id


def scene_scores(head: MaskHead, found: _Asked, wanted: Tensor, mean: Tensor) -> dict[str, list[float]]:
    """All scores of one scene, by name; ``wanted`` [k, 48, 48] in 0..1."""
    coarse, fine = head(found.queries, found.cells, found.visual, found.levels)
    deaf = head(mean[None, None], found.cells, found.visual, found.levels)[1]
    cells = small(wanted)
    together = wanted.sum(0, keepdim=True).expand_as(wanted)
    peaks = coarse[0].flatten(1).argmax(1)
    raw = found.states @ found.visual[0].T
    scores = {
        "fine": iou(fine[0] > 0, wanted >= 0.5),
        "coarse": iou(coarse[0] > 0, cells >= 0.5),
        "pointing": (cells.flatten(1).gather(1, peaks[:, None])[:, 0] >= 0.5).float().tolist(),
        "similarity": [auc(row, mask >= 0.5) for row, mask in zip(raw, cells.flatten(1), strict=True)],
    }
    rivals = {
        "several": fine[0] > 0,
        "everything": together >= 0.5,
        "deaf": (deaf[0] > 0).expand_as(wanted),
        "swapped": fine[0].roll(1, 0) > 0,
    }
    several = len(wanted) > 1
    return scores | {name: iou(rival, wanted >= 0.5) if several else [] for name, rival in rivals.items()}


def iou(found: Tensor, wanted: Tensor) -> list[float]:
    """Intersection over union of each mask, [n, h, w] bool."""
    both, either = (found & wanted).sum((1, 2)), (found | wanted).sum((1, 2))
    return (both / either.clamp(min=1)).tolist()


def auc(scores: Tensor, inside: Tensor) -> float:
    """Area under the ROC curve of ``scores`` for ``inside`` (both [n]); ties count half."""
    one, other = scores[inside].double(), scores[~inside].double()
    return float((one[:, None] > other).double().mean() + 0.5 * (one[:, None] == other).double().mean())


def share(values: Sequence[float] | Sequence[bool]) -> float:
    """The mean, 0 of nothing."""
    return float(np.mean(values)) if len(values) else 0.0


@torch.inference_mode()
def measure_photos(
    models: SegModels,
    head: MaskHead,
    sources: Sources,
    labels: Sequence[int],
    pairs: int,
    boxes: dict[str, tuple[str, list[float]]] | None = None,
    seed: int = 0,
) -> PhotoQuality:
    """Halves of two photographs of ``labels`` side by side, and photographs with boxes (file name to name and box)."""
    rng = random.Random(f"photographs/{seed}")
    right = []
    while len(right) < 2 * pairs:
        one, other = rng.sample(list(labels), 2)
        names = sources.names[one], sources.names[other]
        if alike(*names):
            continue
        picture = side_by_side(sources, one, other)
        fine = answer_masks(models, head, picture, names)[1].sigmoid()
        left = fine[..., : fine.shape[-1] // 2].sum((1, 2)) / fine.sum((1, 2))
        right += [bool(left[0] > 0.5), bool(left[1] < 0.5)]
    if not boxes:
        return PhotoQuality(pairs, share(right))
    by_name = {path.name: path for path in sources.photos}
    inside, area, centre = [], [], []
    for file, (name, box) in boxes.items():
        with Image.open(by_name[file]) as opened:
            picture = whole(opened.convert("RGB"))
        peak = int(answer_masks(models, head, picture, (name,))[0].flatten().argmax())
        x, y = (peak % GRID + 0.5) / GRID, (peak // GRID + 0.5) / GRID
        inside.append(box[0] <= x <= box[2] and box[1] <= y <= box[3])
        area.append((box[2] - box[0]) * (box[3] - box[1]))
        centre.append(box[0] <= 0.5 <= box[2] and box[1] <= 0.5 <= box[3])
    return PhotoQuality(pairs, share(right), len(inside), share(inside), share(area), share(centre))


def side_by_side(sources: Sources, one: int, other: int) -> Image.Image:
    """The middle halves of two photographs next to each other, 384 x 384."""
    picture = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE))
    for label, left in ((one, 0), (other, IMAGE_SIZE // 2)):
        with Image.open(sources.photos[label]) as opened:
            half = whole(opened.convert("RGB")).crop((IMAGE_SIZE // 4, 0, 3 * IMAGE_SIZE // 4, IMAGE_SIZE))
        picture.paste(half, (left, 0))
    return picture


def answer_masks(
    models: SegModels, head: MaskHead, picture: Image.Image, names: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Coarse and fine logits [k, ...] of every name, the answer given, whatever the model would say."""
    found, _, _ = ask(models, head, picture, names, ())
    coarse, fine = head(found.queries, found.cells, found.visual, found.levels)
    return coarse[0], fine[0]
