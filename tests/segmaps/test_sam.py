"""SAM on a tiny model of its own architecture with random weights, written and opened as a real one is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    Sam2Config,
    Sam2HieraDetConfig,
    Sam2MaskDecoderConfig,
    Sam2Model,
    Sam2PromptEncoderConfig,
    Sam2VisionConfig,
    SamConfig,
    SamImageProcessorPil,
    SamMaskDecoderConfig,
    SamModel,
    SamProcessor,
    SamPromptEncoderConfig,
    SamVisionConfig,
)

from lens.errors import SegmenterMissing
from lens.segmaps.points import Point, sam_coordinates
from lens.segmaps.sam import Sam, find_sam, look, open_sam, sam_masks
from tests.segmaps.seghelpers import noise

POINTS = (Point(20.0, 30.0, 1, 1.0), Point(70.0, 10.0, 0, 0.1), Point(5.0, 5.0, -1, 0.5))


def tiny_sam(folder: Path) -> None:
    torch.manual_seed(0)
    vision = SamVisionConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=64, patch_size=8, output_channels=8,
        window_size=4, global_attn_indexes=[1], mlp_ratio=2.0, num_pos_feats=4,
    )  # fmt: skip
    prompt = SamPromptEncoderConfig(hidden_size=8, image_size=64, patch_size=8, mask_input_channels=4)
    decoder = SamMaskDecoderConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, mlp_dim=16, iou_head_hidden_dim=8
    )
    parts = {"vision_config": vision, "prompt_encoder_config": prompt, "mask_decoder_config": decoder}
    config = SamConfig(**{name: part.to_dict() for name, part in parts.items()}, initializer_range=0.5)
    SamModel(config).save_pretrained(folder)
    image = SamImageProcessorPil(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}, mask_size={"longest_edge": 16}
    )
    SamProcessor(image).save_pretrained(folder)


def tiny_sam2(folder: Path) -> None:
    torch.manual_seed(0)
    hiera = Sam2HieraDetConfig(
        hidden_size=8, num_attention_heads=1, image_size=[64, 64], blocks_per_stage=[1, 1, 2, 1], mlp_ratio=2.0,
        embed_dim_per_stage=[8, 16, 32, 64], num_attention_heads_per_stage=[1, 2, 4, 8], global_attention_blocks=[3],
        window_size_per_stage=[8, 4, 4, 2], window_positional_embedding_background_size=[4, 4],
    )  # fmt: skip
    vision = Sam2VisionConfig(
        backbone_config=hiera.to_dict(), backbone_channel_list=[64, 32, 16, 8], fpn_hidden_size=32,
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
    )  # fmt: skip
    prompt = Sam2PromptEncoderConfig(hidden_size=32, image_size=64, patch_size=16, mask_input_channels=4)
    decoder = Sam2MaskDecoderConfig(hidden_size=32, mlp_dim=16, num_attention_heads=2, iou_head_hidden_dim=8)
    parts = {"vision_config": vision, "prompt_encoder_config": prompt, "mask_decoder_config": decoder}
    config = Sam2Config(**{name: part.to_dict() for name, part in parts.items()}, initializer_range=0.5)
    Sam2Model(config).save_pretrained(folder)


def test_sam_2_without_torchvision(tmp_path: Path):
    tiny_sam2(tmp_path)
    sam = open_sam(tmp_path)
    seen: dict[str, torch.Tensor] = {}
    inner = sam.model.prompt_encoder.forward

    def watch(*args: torch.Tensor, **kwargs: torch.Tensor) -> object:
        seen["points"], seen["labels"] = kwargs["input_points"], kwargs["input_labels"]
        return inner(*args, **kwargs)

    sam.model.prompt_encoder.forward = watch
    picture = noise(90, 60)
    found = sam_masks(look(sam, picture), POINTS)
    assert found.masks.shape == (3, 60, 90) and found.masks.dtype == bool
    assert (np.diff(found.estimates) <= 0).all()
    assert seen["labels"].reshape(-1).tolist() == [1, 0, -1]
    expected = [(p.x * 64 / 90, p.y * 64 / 60) for p in POINTS]
    np.testing.assert_allclose(seen["points"].reshape(-1, 2).numpy(), expected, rtol=1e-5)
    assert sam_masks(look(sam, picture), POINTS, several=False).masks.shape == (1, 60, 90)


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Sam:
    folder = tmp_path_factory.mktemp("sam") / "tiny-sam"
    tiny_sam(folder)
    return open_sam(folder)


def test_points_become_masks_of_the_whole_picture_best_first(sam: Sam):
    picture = noise(90, 60)
    found = sam_masks(look(sam, picture), POINTS)
    assert found.masks.shape == (3, 60, 90) and found.masks.dtype == bool
    assert (np.diff(found.estimates) <= 0).all()
    assert sam_masks(look(sam, picture), POINTS, several=False).masks.shape == (1, 60, 90)
    again = sam_masks(look(sam, picture), POINTS)
    assert (again.masks == found.masks).all(), "the same twice"


def test_masks_from_a_look_are_those_of_the_whole_model(sam: Sam):
    """Against SAM's own processor and forward, in one go."""
    picture = noise(90, 60)
    processor = sam.processor
    assert processor is not None
    inputs = processor(
        images=picture.image,
        input_points=[[[[point.x, point.y] for point in POINTS]]],
        input_labels=[[[point.label for point in POINTS]]],
        return_tensors="pt",
    )
    sizes, reshaped = inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes")
    output = sam.model(**inputs, multimask_output=True)
    order = np.argsort(-output.iou_scores[0, 0].numpy(), kind="stable")
    masks = processor.post_process_masks(output.pred_masks, sizes, reshaped)[0][0].numpy()[order]
    found = sam_masks(look(sam, picture), POINTS)
    assert (found.masks == masks).mean() > 0.999 and found.masks.any()
    np.testing.assert_allclose(found.estimates, output.iou_scores[0, 0].numpy()[order], rtol=1e-4)


def test_places_and_labels_reach_the_model(sam: Sam):
    """In its own words: SAM sees the points in its input, and each label by another embedding."""
    seen: dict[str, torch.Tensor] = {}
    inner = sam.model.prompt_encoder.forward

    def watch(*args: torch.Tensor, **kwargs: torch.Tensor) -> object:
        seen["points"], seen["labels"] = kwargs["input_points"], kwargs["input_labels"]
        return inner(*args, **kwargs)

    sam.model.prompt_encoder.forward = watch
    try:
        sam_masks(look(sam, noise(90, 60)), POINTS)
    finally:
        del sam.model.prompt_encoder.forward
    assert seen["labels"].reshape(-1).tolist() == [1, 0, -1]
    scale = 64 / 90
    expected = [(p.x * int(90 * scale + 0.5) / 90, p.y * int(60 * scale + 0.5) / 60) for p in POINTS]
    np.testing.assert_allclose(seen["points"].reshape(-1, 2).numpy(), expected, rtol=1e-5)
    assert sam_coordinates(POINTS, (90, 60))[0] == pytest.approx((20 * 1024 / 90, 30 * int(60 * 1024 / 90 + 0.5) / 60))


def test_a_checkpoint_is_found_on_disk_or_its_absence_told(sam: Sam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TOKENLENS_HOME", str(tmp_path))
    with pytest.raises(SegmenterMissing, match="hf download facebook/sam-vit-base"):
        find_sam()
    (tmp_path / "models" / "broken").mkdir(parents=True)
    (tmp_path / "models" / "broken" / "config.json").write_text("[", encoding="utf-8")
    tiny_sam(tmp_path / "models" / "zz-sam")
    assert find_sam() == tmp_path / "models" / "zz-sam"


def test_what_is_no_checkpoint_is_one_sentence(tmp_path: Path):
    with pytest.raises(SegmenterMissing, match="holds no SAM checkpoint"):
        open_sam(tmp_path)
    tiny_sam(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(SegmenterMissing, match="can't be read"):
        open_sam(tmp_path)


def test_no_points_no_mask(sam: Sam):
    with pytest.raises(SegmenterMissing, match="no points"):
        sam_masks(look(sam, noise(20, 20)), ())
