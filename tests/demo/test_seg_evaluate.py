"""Measuring <SEG>: scores of known masks, controls beside every score, shares of what was answered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from lens.demo import seg_evaluate
from lens.demo.architecture import EfficientNetLite, EfficientNetLiteConfig
from lens.demo.scenes import FINE, Pool, Scene, Sources, compose, coverage
from lens.demo.seg_evaluate import auc, iou
from lens.demo.seg_head import CHANNELS, MaskHead
from lens.demo.seg_models import SegModels
from tests.demo.test_scenes import COLOURS, Squares
from tests.demo.test_seg_training import new_models

SIDES = {"fine": 48, "middle": 24, "deep": 12}


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """Three scenes of coloured squares on noise and stripes."""
    sources = Sources({"squares": Squares()})  # type: ignore[dict-item]
    return [compose(f"measured/{i}", Pool(tuple(COLOURS), ("squares",)), sources) for i in range(3)]


@pytest.fixture(scope="module")
def models() -> SegModels:
    """The real tower's shape with random weights, a tiny language model."""
    torch.manual_seed(0)
    return new_models(EfficientNetLite(EfficientNetLiteConfig()))


def test_scores_of_known_masks() -> None:
    found = torch.tensor([[[True, True], [False, False]]])
    wanted = torch.tensor([[[True, False], [True, False]]])
    assert iou(found, wanted) == [pytest.approx(1 / 3)]
    inside = torch.tensor([True, True, False, False])
    assert auc(torch.tensor([3.0, 2.0, 1.0, 0.0]), inside) == 1.0
    assert auc(torch.tensor([1.0, 1.0, 1.0, 1.0]), inside) == 0.5
    assert auc(torch.tensor([0.0, 2.0, 1.0, 3.0]), inside) == 0.25


def test_measuring_gives_shares_of_all_that_was_asked(models: SegModels, scenes: list[Scene], tmp_path: Path) -> None:
    head = MaskHead().eval()
    found = seg_evaluate.measure("new scenes", models, head, scenes, ["rocket", "piano", "lamp", "desk"])
    assert found.scenes == 3 and found.queries == sum(len(scene.names) for scene in scenes)
    assert all(0 <= value <= 1 for value in (found.fine, found.everything, found.deaf, found.similarity, found.refused))
    photos = []
    for label in range(3):
        photos.append(tmp_path / f"{label}.png")
        Image.new("RGB", (300, 256), (80 * label, 90, 90)).save(photos[-1])
    sources = Sources({}, photos, ("cat", "rocket", "lamp"))
    boxes = {"1.png": ("rocket", [0.0, 0.0, 1.0, 1.0])}
    seen = seg_evaluate.measure_photos(models, head, sources, [0, 1, 2], 1, boxes)
    assert seen.pairs == 1 and seen.in_box == seen.box_area == 1.0


def test_the_exact_mask_scores_one_and_a_swapped_one_nothing(scenes: list[Scene]) -> None:
    """The scoring itself, with a head that answers with the truth."""
    scene = next(scene for scene in scenes if len(scene.names) > 1)
    wanted = torch.from_numpy(coverage(scene.masks, FINE))
    k = len(wanted)
    levels = {name: torch.randn(1, side**2, CHANNELS[name]) for name, side in SIDES.items()}

    class Oracle(MaskHead):
        def forward(self, queries, first, last, levels):  # type: ignore[override]
            fine = wanted - 0.4999
            coarse = torch.nn.functional.adaptive_avg_pool2d(wanted[:, None], (12, 12))[:, 0] - 0.4999
            return coarse[None], fine[None]

    visual = torch.randn(1, 144, 576)
    asked = seg_evaluate._Asked(torch.zeros(1, k, 128), visual, visual, levels, torch.randn(k, 576))
    scores = seg_evaluate.scene_scores(Oracle(), asked, wanted, torch.zeros(128))
    assert scores["fine"] == pytest.approx([1.0] * k) and scores["pointing"] == [1.0] * k
    assert max(scores["swapped"]) < 0.05  # a cell that two objects share to halves belongs to both
    assert all(value < 1 for value in scores["everything"])
    assert scores["several"] == scores["fine"]
    one = seg_evaluate.scene_scores(MaskHead(), asked_of_first(asked), wanted[:1], torch.zeros(128))
    assert len(one["fine"]) == 1 and one["everything"] == one["swapped"] == []  # alone, everything would be the answer


def asked_of_first(asked: seg_evaluate._Asked) -> seg_evaluate._Asked:
    """The same scene asked for its first object alone."""
    return replace(asked, queries=asked.queries[:, :1], states=asked.states[:1])
