"""A tiny LLaVA whose vocabulary has a <SEG> token, and pictures for it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from lens.backend.catalog import ModelSpec
from lens.backend.images import Picture, open_picture
from lens.backend.loading import LoadedModel, load
from tests.helpers import tiny_llava

ANSWER = "It is <SEG>."
PROMPT = "Segment the cat."


def seg_llava(folder: Path, seed: int = 0) -> LoadedModel:
    """:func:`tests.helpers.tiny_llava` (6 x 6 patches of a 48 x 48 centre crop) with ``<SEG>`` as one more token."""
    tiny_llava(folder, seed)
    processor = AutoProcessor.from_pretrained(folder)
    model = LlavaForConditionalGeneration.from_pretrained(folder)
    processor.tokenizer.add_tokens(["<SEG>"])
    torch.manual_seed(seed + 1)
    model.resize_token_embeddings(len(processor.tokenizer), mean_resizing=False)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return load(ModelSpec(name="tiny-seg", source=str(folder)))


def noise(width: int, height: int, seed: int = 0) -> Picture:
    """A picture of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return open_picture(buffer.getvalue(), f"noise-{seed}.png")
