"""Masks by a segment-anything model that is on disk, prompted by points.

SAM and SAM 2 as transformers has them, safetensors only. Without such a checkpoint :func:`find_sam` says what to fetch;
nothing is downloaded here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from lens.backend.images import Picture
from lens.backend.regions import Size
from lens.backend.running import quoting
from lens.errors import CapabilityMissing, SegmenterMissing
from lens.home import home
from lens.segmaps.points import Point

KINDS = {"sam": "SamModel", "sam2": "Sam2Model", "sam2_video": "Sam2Model"}
"""By ``model_type``: transformers' class. Checkpoints of SAM 2 are published as video models."""
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""SAM 2's normalisation of pixels from 0 to 1 (ImageNet's)."""
FETCH = "hf download facebook/sam-vit-base --local-dir"


@dataclass(frozen=True, eq=False)
class Sam:
    """A segmenter ready for use. ``processor``: ``None`` for SAM 2, whose own needs torchvision."""

    name: str
    model: Any
    processor: Any | None


@dataclass(frozen=True, eq=False)
class Seen:
    """A picture as a segmenter sees it, from which any number of prompts are answered.

    Attributes:
        size: of the picture. inner: of the picture within SAM's input. embeddings: in the model's own form.
    """

    sam: Sam
    size: Size
    inner: Size
    embeddings: Any


@dataclass(frozen=True, eq=False)
class SamMasks:
    """SAM's answers to one set of points, best first by its own estimate.

    Attributes:
        masks: over the whole picture. estimates: the IoU that SAM expects of each.
    """

    masks: Bool[np.ndarray, "n h w"]
    estimates: Float[np.ndarray, " n"]


def find_sam() -> Path:
    """The first folder with a SAM checkpoint below ``home()/models``; :class:`SegmenterMissing` says what to fetch."""
    folder = home() / "models"
    for config in sorted(folder.glob("*/config.json")):
        if _model_type(config) in KINDS:
            return config.parent
    raise SegmenterMissing(
        f"No SAM checkpoint is in {folder}, so that masks come from thresholds alone; fetch one with `{FETCH} "
        f"{folder / 'sam-vit-base'}` (375 MB)."
    )


def open_sam(folder: Path) -> Sam:
    """The segmenter in a folder; :class:`SegmenterMissing` where there is none that can be read."""
    import transformers

    kind = _model_type(folder / "config.json")
    if kind not in KINDS:
        raise SegmenterMissing(
            f"{folder} holds no SAM checkpoint (its model type is {kind!r}); {FETCH} {folder} gets one."
        )
    model = getattr(transformers, KINDS[kind])
    try:
        loaded, info = model.from_pretrained(folder, use_safetensors=True, output_loading_info=True)
        if info["missing_keys"]:
            raise OSError(f"no weights for {sorted(info['missing_keys'])[0]}")
        processor = transformers.SamProcessor.from_pretrained(folder) if kind == "sam" else None
        return Sam(folder.name, loaded.eval().requires_grad_(False), processor)
    except Exception as error:  # safetensors, configurations and processors each raise their own kinds
        text = " ".join(str(error).split())[:200]
        raise SegmenterMissing(f"The SAM checkpoint in {folder} can't be read ({text}); fetch it again.") from error


def look(sam: Sam, picture: Picture) -> Seen:
    """Run SAM's image encoder, the costly half of a mask; :class:`CapabilityMissing` for a picture too thin for it."""
    size, device = (picture.width, picture.height), sam.model.device

    def embedded(pixels: Tensor) -> Any:
        with quoting(f"The segmenter {sam.name!r}"):
            return sam.model.get_image_embeddings(pixels)

    with torch.inference_mode():
        if sam.processor is None:
            pixels, side = _sam2_pixels(sam, picture)
            return Seen(sam, size, (side, side), embedded(pixels.to(device)))
        side = int(sam.model.config.vision_config.image_size)
        if min(size) * side / max(size) < 0.5:
            raise CapabilityMissing(
                f"The picture is {size[0]} x {size[1]} pixels, of which nothing is left on one side when SAM shrinks it to "
                f"{side}; choose one that is less long."
            )
        with quoting(f"The processor of {sam.name!r}"):
            inputs = sam.processor(images=picture.image, return_tensors="pt")
        height, width = inputs["reshaped_input_sizes"][0].tolist()
        return Seen(sam, size, (width, height), embedded(inputs["pixel_values"].to(device)))


def _sam2_pixels(sam: Sam, picture: Picture) -> tuple[Tensor, int]:
    """What ``Sam2Processor`` does, in Pillow's arithmetic: the picture squeezed into a square."""
    side = int(sam.model.config.prompt_encoder_config.image_size)
    pixels = np.asarray(picture.image.resize((side, side), Image.Resampling.BILINEAR), dtype=np.float32) / 255
    pixels = ((pixels - np.array(MEAN)) / np.array(SPREAD)).astype(np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None], side


def sam_masks(seen: Seen, points: Sequence[Point], several: bool = True) -> SamMasks:
    """The masks of one object, which points describe: labels 1 inside, 0 outside, -1 no statement.

    ``several``: three answers to an ambiguous prompt rather than one.
    """
    if not points:
        raise SegmenterMissing(
            "There are no points to prompt SAM with; add one, or lower the bound of positive points."
        )
    across, down = (inner / outer for inner, outer in zip(seen.inner, seen.size, strict=True))
    device = seen.sam.model.device
    places = torch.tensor([[[[point.x * across, point.y * down] for point in points]]], dtype=torch.float32)
    prompt = {
        "input_points": places.to(device),
        "input_labels": torch.tensor([[[point.label for point in points]]], device=device),
    }
    with torch.inference_mode():
        with quoting(f"The segmenter {seen.sam.name!r}"):
            output = seen.sam.model(image_embeddings=seen.embeddings, **prompt, multimask_output=several)
        masks = _pixels(seen, output.pred_masks.cpu())
    estimates = output.iou_scores[0, 0].float().cpu().numpy()
    order = np.argsort(-estimates, kind="stable")
    return SamMasks(masks[order], estimates[order])


def _pixels(seen: Seen, logits: Float[Tensor, "1 1 n rows cols"]) -> Bool[np.ndarray, "n h w"]:
    """Masks of the picture's size."""
    size = seen.size[::-1]
    if seen.sam.processor is not None:
        return seen.sam.processor.post_process_masks(logits, [size], [seen.inner[::-1]])[0][0].numpy().astype(bool)
    grown = torch.nn.functional.interpolate(logits[0].float(), size, mode="bilinear", align_corners=False)
    return (grown[0] > 0).numpy()


def _model_type(config: Path) -> str:
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ""
    return str(content.get("model_type", "")) if isinstance(content, dict) else ""
