"""Small parts to train a connector with: photographs of plain colours, an encoder of four blocks, a Llama of two."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

from lens.demo.architecture import EfficientNetLite, EfficientNetLiteConfig
from lens.demo.captions import Captions
from lens.demo.drawing import Canvas
from lens.demo.examples import Examples
from lens.demo.photos import encode, opened, pixels, whole
from lens.demo.pictures import SINGLE, Plan
from lens.demo.schedule import Settings
from lens.demo.start import head_of
from lens.demo.training import embeddings

WIDTH, INPUTS = 32, 20
CPU = torch.device("cpu")
NAMES = ["tench", "goldfish", "tiger shark", "hammerhead shark", "cock"]
COLOURS = [(230, 30, 30), (30, 200, 40), (40, 60, 230), (240, 220, 40), (20, 20, 20)]
SMALL = Settings(steps=6, batch=6, stage_zero=5, stage_zero_pictures=6)


class LetterTokenizer:
    """A tokenizer of one id a character, enough to count and compare sequences; special tokens are one id each."""

    pad_token_id = eos_token_id = 0
    special = ("<|im_start|>", "<|im_end|>")

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Ids below 128."""
        for number, token in enumerate(self.special, 1):
            text = text.replace(token, chr(number))
        return [ord(letter) % 128 for letter in text]

    def __call__(self, texts: Sequence[str], add_special_tokens: bool = True) -> dict[str, list[list[int]]]:
        return {"input_ids": [self.encode(text) for text in texts]}

    def batch_decode(self, rows: Sequence[Sequence[int]], skip_special_tokens: bool = True) -> list[str]:
        """The letters again."""
        return ["".join(chr(int(i)) for i in row if int(i) > 2) for row in rows]


def tiny_language() -> LlamaForCausalLM:
    """A tiny Llama with weights large enough to matter."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.3, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def tiny_tower() -> EfficientNetLite:
    """The tower's grid of 12 x 12 cells, with 20 channels and random weights of a trained network's scale."""
    torch.manual_seed(0)
    stages = tuple((1, 3, 2, 1, channels) for channels in (6, 8, 10, 12))
    config = EfficientNetLiteConfig(stem_channels=4, stages=stages, hidden_size=INPUTS)
    tower = EfficientNetLite(config).eval().requires_grad_(False)
    for weight in tower.parameters():
        if weight.ndim == 4:
            torch.nn.init.kaiming_normal_(weight)
    tower.head.weight *= 10
    return tower


def photographs(folder: Path, noise: int = 0) -> list[Path]:
    """A picture of each colour, plain or with noise of so many levels, as PNG."""
    rng = np.random.default_rng(0)
    paths = [folder / f"{number}.png" for number in range(len(COLOURS))]
    for path, colour in zip(paths, COLOURS, strict=True):
        levels = np.array(colour) + rng.integers(-noise, noise + 1, (300, 400, 3))
        Image.fromarray(levels.clip(0, 255).astype(np.uint8)).save(path)
    return paths


def tiny_examples(language: LlamaForCausalLM, folder: Path, classes: Sequence[int] = range(len(NAMES))) -> Examples:
    """Examples of noisy photographs, whose colours the head tells apart."""
    folder.mkdir(exist_ok=True, parents=True)
    captions = Captions(LetterTokenizer(), NAMES, set(range(len(NAMES))) - set(classes))  # type: ignore[arg-type]
    files, tower = photographs(folder, noise=20), tiny_tower()
    seen = encode(tower, pixels([whole(opened(file)) for file in files])).mean(1)
    weight = 4 * torch.nn.functional.normalize(seen - seen.mean(0))
    head = head_of(weight, -weight @ seen.mean(0), embeddings(language), captions.all_ids([f" {n}" for n in NAMES]))
    return Examples(Canvas(files, CPU), tower, head, captions, list(classes), seed=0)


def one_part(count: int = 1, photo: int = 0, size: tuple[int, int] = (400, 300), **changed: np.ndarray) -> Plan:
    """Single pictures: the whole of a photograph, its light as it is, no shape."""
    box, source = np.zeros((count, 4, 4)), np.zeros((count, 4, 4))
    box[:, 0] = (0, 0, 384, 384)
    source[:, 0] = (0, 0, *size)
    fields = {
        "layout": np.full(count, SINGLE),
        "box": box,
        "photo": np.full((count, 4), photo),
        "source": source,
        "area": np.ones((count, 4)),
        "flip": np.zeros((count, 4), bool),
        "light": np.tile((0.0, 1.0, 1.0), (count, 1)),
        "shape": np.zeros(count, np.int64),
        "colour": np.zeros(count, np.int64),
        "paint": np.zeros((count, 6)),
    }
    return Plan(**{**fields, **changed})
