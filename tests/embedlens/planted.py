"""A tiny LLaVA whose visual tokens are constructed: known sinks, dead tokens, a common word, and content.

The connector is replaced by one that gives chosen patches chosen vocabulary embeddings, whatever the image; the vision
encoder makes the patches of one sink loud, and block 2's MLP turns those of the other sink to the first token.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from lens.backend.encoding import encode
from lens.backend.images import Picture, open_picture
from lens.backend.loading import LoadedModel, assemble
from lens.embedlens.judging import letters_of
from tests.helpers import tiny_llava

PROMPT = "Describe the image."
PATCHES = 36


@dataclass(frozen=True)
class Planted:
    """The model, what was planted, and where (patches in reading order)."""

    loaded: LoadedModel
    ids: dict[str, int]
    cells: dict[str, range]


class PlantedConnector(nn.Module):
    """Chosen patches get ``embedding + noise``, the others vectors that only this image has."""

    def __init__(self, rows: dict[str, Tensor], cells: dict[str, range], noise: dict[str, float]) -> None:
        super().__init__()
        self.rows, self.cells, self.noise = rows, cells, noise

    def forward(self, features: Tensor) -> Tensor:
        width = next(iter(self.rows.values())).shape[-1]
        generator = torch.Generator().manual_seed(int(features.abs().sum().item() * 1e4) % 2**31)
        out = torch.randn(1, features.shape[1], width, generator=generator)
        planted = torch.linalg.qr(torch.stack(list(self.rows.values())).T).Q
        out = out - out @ planted @ planted.T  # content is never near what was planted
        for name, cells in self.cells.items():
            unit = nn.functional.normalize(out[0, list(cells)], dim=-1)
            out[0, list(cells)] = self.rows[name] + self.noise[name] * self.rows[name].norm() * unit
        return out


CELLS = {"seen": range(0, 4), "aligned": range(4, 7), "dead": range(7, 18), "word": range(18, 21)}
NOISE = {"seen": 0.02, "aligned": 0.02, "dead": 0.33, "word": 0.33}


def plant(folder: Path) -> Planted:
    """Sinks of either origin, dead tokens and a word that every image holds, in one model."""
    loaded = tiny_llava(folder)
    names = [loaded.tokenizer.convert_ids_to_tokens(i) for i in range(loaded.anatomy.vocab_size)]
    word = next(i for i, name in enumerate(names) if letters_of(name) >= 3)
    ids = {"seen": 30, "aligned": 60, "dead": 90, "word": word}
    weight = loaded.anatomy.embeddings.weight
    rows = {name: weight[i].clone() for name, i in ids.items()}
    loaded.model.model.multi_modal_projector = PlantedConnector(rows, CELLS, NOISE)
    _make_loud(loaded.anatomy.vision_blocks[1], [1 + cell for cell in CELLS["seen"]])
    planted = assemble(loaded.spec, loaded.model, loaded.tokenizer, loaded.processor)
    start = encode(planted, PROMPT, picture_of_noise(0)).token_map.visual_positions[0]
    _turn_to_the_first(planted.anatomy.mlps[1], [int(start) + cell for cell in CELLS["aligned"]])
    return Planted(planted, ids, CELLS)


def _make_loud(block: nn.Module, rows: list[int]) -> None:
    inner = block.forward

    def forward(*args: object, **kwargs: object) -> object:
        out = inner(*args, **kwargs)
        states = out[0] if isinstance(out, tuple) else out
        states = states.clone()
        states[:, rows] *= 10
        return (states, *out[1:]) if isinstance(out, tuple) else states

    block.forward = forward  # type: ignore[method-assign]


def _turn_to_the_first(mlp: nn.Module, positions: list[int]) -> None:
    inner = mlp.forward

    def forward(states: Tensor) -> Tensor:
        out = inner(states).clone()
        out[:, [0, *positions]] += 100 * torch.linspace(-1, 1, out.shape[-1])
        return out

    mlp.forward = forward  # type: ignore[method-assign]


def picture_of_noise(seed: int) -> Picture:
    pixels = np.random.default_rng(seed).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return open_picture(buffer.getvalue(), f"noise-{seed}.png")


def pictures(count: int) -> list[Picture]:
    """Different pictures of noise."""
    return [picture_of_noise(seed) for seed in range(count)]


def cell_mask(cells: range) -> np.ndarray:
    return np.isin(np.arange(PATCHES), list(cells)).reshape(6, 6)
