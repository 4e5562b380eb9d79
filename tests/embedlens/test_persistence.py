"""Classes that go with content, and classes that go with place; the probe on tokens whose word is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lens.backend.encoding import encode
from lens.backend.images import Picture
from lens.backend.loading import LoadedModel
from lens.embedlens.anchors import Anchor, Anchors
from lens.embedlens.classes import CLASSES
from lens.embedlens.persistence import _part, _square, compare, persistence, text_control
from lens.errors import Cancelled, CapabilityMissing, PromptUnusable
from tests.embedlens.planted import PROMPT, Planted, picture_of_noise

SCENE = np.random.default_rng(0).choice(CLASSES, (12, 12), p=(0.2, 0.3, 0.5))


def window(row: int, col: int, size: int = 6, scale: float = 10.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels of a part of the scene, and its boxes."""
    edges = np.arange(size + 1) * scale
    boxes = np.array([[(edges[c], edges[r], edges[c + 1], edges[r + 1]) for c in range(size)] for r in range(size)])
    return SCENE[row : row + size, col : col + size], boxes + np.array([col, row, col, row]) * scale


def test_classes_that_go_with_content_persist_wholly():
    found = compare(*window(0, 0), *window(2, 2), "moved")
    assert found.table.sum() == 16 and found.agreement == 1
    assert all(share == 1 for share in found.kept.values())
    assert found.by_place < 0.8 and found.chance < 0.7


def test_classes_that_go_with_the_place_persist_there_alone():
    labels, boxes = window(0, 0)
    found = compare(labels, boxes, labels, boxes + 20, "moved")
    assert found.by_place == 1 and found.agreement < 0.9
    assert found.agreement == pytest.approx((labels[2:, 2:] == labels[:4, :4]).mean())


def test_chance_is_that_of_the_margins():
    labels, boxes = window(0, 0)
    all_dead = np.full_like(labels, "dead")
    found = compare(labels, boxes, all_dead, boxes, "all dead")
    assert found.agreement == found.chance == pytest.approx((labels == "dead").mean())
    none_sink = compare(all_dead, boxes, labels, boxes, "from dead")
    assert np.isnan(none_sink.kept["sink"]) and none_sink.kept["dead"] == found.agreement


def test_a_crop_is_compared_by_what_its_patches_show():
    """The middle quarter, each patch of which shows a quarter of a patch."""
    labels, boxes = window(0, 0)
    small = np.repeat(np.repeat(labels[1:4, 1:4], 2, 0), 2, 1)
    inner = boxes / 2 + 10
    found = compare(labels, boxes, small, inner, "crop")
    assert found.agreement == 1 and found.table.sum() == 36


def test_windows_that_share_nothing_have_nothing_to_say():
    labels, boxes = window(0, 0)
    found = compare(labels, boxes, labels, boxes + 1000, "away")
    assert found.table.sum() == 0 and all(np.isnan(share) for share in found.kept.values())


def test_planted_classes_stay_where_they_were_planted(planted: Planted, anchors: Anchors):
    """The planted connector goes by place: whatever is shown, the same cells are sinks and dead."""
    found = persistence(planted.loaded, picture_of_noise(1), PROMPT, anchors, rule=1)
    names = [each.name for each in found]
    assert names[:3] == ["shifted by 1 patch", "shifted by 2 patches", "shifted by 3 patches"]
    assert names[3:] == ["cropped to 90%", "cropped to 75%", "cropped to 50%"]
    for shift, each in zip((1, 2, 3), found, strict=False):
        assert each.by_place == 1 and each.agreement < 1
        assert each.table.sum() == (6 - shift) ** 2, "a shift by whole patches maps patches onto patches"
    assert all(each.table.sum() == 36 for each in found[3:])


def test_a_shift_shows_the_same_pixels(llava: LoadedModel):
    """One patch further, one patch back: the model's input is the same."""
    noise = picture_of_noise(2)
    square = _square(Picture(noise.image.resize((96, 64)), "x", "d"))
    step = square.width // 7
    base, moved = (
        encode(llava, PROMPT, _part(square, "w", k * step, k * step, 6 * step)).inputs["pixel_values"][0]
        for k in (0, 1)
    )
    # The resampling reaches across the windows' edges, so that only the inner part is the same.
    assert torch.allclose(base[:, 12:44, 12:44], moved[:, 4:36, 4:36], atol=0.06)
    assert not torch.allclose(base[:, 12:44, 12:44], moved[:, 12:44, 12:44], atol=0.06)


def test_cancelling(planted: Planted, anchors: Anchors):
    def report(done: float, total: float, message: str) -> None:
        if done >= 2:
            raise Cancelled("Stopped.")

    with pytest.raises(Cancelled):
        persistence(planted.loaded, picture_of_noise(1), PROMPT, anchors, report=report)


def test_a_text_tokens_own_word_comes_first_at_its_embedding(llava: LoadedModel, llama: LoadedModel):
    none = Anchors("m", "", "", 0, {}, (), (), "discovered", "")
    for loaded in (llava, llama):
        found = text_control(loaded, "Nine white birds fly above the sea.", none)
        assert found.first[0] == found.among_five[0] == 1
        assert (found.among_five >= found.first).all() and len(found.first) == loaded.anatomy.depth + 1
        assert (found.fractions["alive"] == 1).all()
        assert sum(found.fractions.values()) == pytest.approx(np.ones(len(found.layers)))


def test_a_text_of_an_anchor_is_of_its_class(llama: LoadedModel):
    ids = llama.tokenizer("white", add_special_tokens=False)["input_ids"]
    anchors = Anchors("m", "", "", 0, {}, (), tuple(Anchor(i, "t", "dead", "", 1, 1, 1) for i in ids), "discovered", "")
    found = text_control(llama, "white", anchors, [0], rule=1)
    assert found.fractions["dead"].tolist() == [1.0] and found.tokens == len(ids)


def test_what_cannot_be_done(llama: LoadedModel, planted: Planted, anchors: Anchors):
    with pytest.raises(CapabilityMissing):
        persistence(llama, picture_of_noise(0), PROMPT, anchors)
    with pytest.raises(PromptUnusable):
        text_control(llama, " ", anchors)
