"""Training a connector against the frozen language model.

The warm start: a closed form from the encoder's own head and the word embeddings, a minute of fitting it to them
(stage 0), then the caption loss with a share of stage 0's loss kept as a regulariser. From scratch: random weights and
the caption loss alone.

Invariants: only the connector's parameters change; every sequence is passed with an all-ones attention mask, because
custom position ids without a mask take the packed-sequence path and lose the gradients; cells keep the positions they
have in the whole grid, so a sequence with few cells is the whole one with the others dropped; a run is determined by
its settings, and one resumed from its checkpoint goes on with the same draws.
"""

from __future__ import annotations

import json
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from transformers import LlamaForCausalLM

from lens.demo.architecture import Projector
from lens.demo.captions import Captions
from lens.demo.convert import CELLS, IMAGE_SIZE, PATCH_SIZE
from lens.demo.photos import Shot, as_tensor
from lens.progress import Report, silent

THRESHOLD, STEEPNESS = 1.5, 3.0
"""A hidden unit of the closed form is GELU(steepness x (logit - threshold)): on where its class is plausible. A single
cell's logits have a standard deviation of 0.75 and a median maximum of 1.65."""
HIDDEN = 1152
SHARPENING = 3.0
COSINE_SCALE = 20.0
SIDE = IMAGE_SIZE // PATCH_SIZE
MIDDLE = [row * SIDE + column for row in range(2, SIDE - 2) for column in range(2, SIDE - 2)]
"""Cells that the opening shows of a single picture: its label is about what is in the middle."""


@dataclass(frozen=True)
class Settings:
    """A run of the caption loss; the run is a function of these, the cached states and the language model."""

    samples: int = 7_500
    batch: int = 12
    learning_rate: float = 2e-3
    warmup: int = 20
    """Steps of linear rise; then the rate is constant until the settling, so a longer run begins like a shorter one."""
    settling: float = 0.25
    """Last share of the run: the rate falls linearly to a twentieth."""
    opening: int = 2_100
    """Samples of the opening, in which few cells from the middle of each picture are shown."""
    few: int = 12
    cells: tuple[int, ...] = (16, 32, 80)
    """How many random cells of the whole grid are shown afterwards, drawn anew each step: use shows all 144."""
    mosaics: float = 0.2
    regulariser: float = 0.3
    """Weight of the alignment loss until the settling."""
    returning: tuple[float, float] = (1.0, 0.25)
    """Weights of the alignment and the distance loss in the settling: the caption loss drives the outputs' length and
    direction away from those of words; the settling brings them back while the captions stay."""
    seed: int = 0
    scratch: bool = False

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return math.ceil(self.samples / self.batch)

    def left(self, step: int) -> float:
        """1 until the settling begins, then falling to 0 at the end."""
        return min(1.0, (self.steps - step) / (self.settling * self.steps))

    def opens(self, step: int) -> bool:
        """Whether ``step`` belongs to the opening."""
        return step * self.batch < self.opening

    def rate_at(self, step: int) -> float:
        """Learning rate at ``step``."""
        return self.learning_rate * min(1.0, (step + 1) / self.warmup) * max(0.05, self.left(step))


@dataclass(frozen=True)
class Head:
    """The encoder's ImageNet head and the (centred) mean input embeddings of its class names."""

    weight: Tensor
    """[1000, 1280]"""
    bias: Tensor
    """[1000]"""
    words: Tensor
    """[1000, 576], centred"""
    mean: Tensor
    """[576], what was subtracted"""
    rms: float
    """Root mean square length of the embedding vectors of the names."""


def head_of(weight: Tensor, bias: Tensor, embeddings: Tensor, name_ids: list[list[int]]) -> Head:
    """Pair the head's rows with the mean embeddings of the names' tokens; ``embeddings`` is [vocabulary, 576]."""
    vectors = torch.stack([embeddings.detach()[ids].float().mean(0) for ids in name_ids])
    mean = vectors.mean(0)
    return Head(weight.float(), bias.float(), vectors - mean, mean, float(vectors.norm(dim=-1).pow(2).mean().sqrt()))


def closed_form(head: Head, sample: Tensor, seed: int) -> Projector:
    """The connector as head, threshold and word embeddings; ``sample`` [n, 1280] of cells sets the output's scale."""
    generator = torch.Generator().manual_seed(seed)
    classes, inputs = head.weight.shape
    connector = Projector(inputs, HIDDEN, head.mean.numel())
    with torch.no_grad():
        connector.linear_1.weight.normal_(0, 0.02, generator=generator)
        connector.linear_1.bias.zero_()
        connector.linear_1.weight[:classes] = STEEPNESS * head.weight
        connector.linear_1.bias[:classes] = STEEPNESS * (head.bias - THRESHOLD)
        connector.linear_2.weight.zero_()
        connector.linear_2.weight[:, :classes] = head.words.T
        connector.linear_2.bias.zero_()
        length = connector(sample.float()).norm(dim=-1).pow(2).mean().sqrt()
        connector.linear_2.weight.mul_(head.words.norm(dim=-1).pow(2).mean().sqrt() / length)
        connector.linear_2.bias.copy_(head.mean)
    return connector


def alignment_loss(head: Head, cells: Tensor, outputs: Tensor) -> Tensor:
    """Cross-entropy of the outputs' cosines with the centred class embeddings against the head's sharpened softmax.

    ``cells`` [n, 1280] are what the head reads, ``outputs`` [n, 576] what the connector made of them.
    """
    with torch.no_grad():
        target = (SHARPENING * (cells.float() @ head.weight.T + head.bias)).softmax(-1)
    words = functional.normalize(head.words, dim=-1)
    cosines = functional.normalize(outputs.float() - head.mean, dim=-1) @ words.T
    return -(target * (COSINE_SCALE * cosines).log_softmax(-1)).sum(-1).mean()


def distance_loss(head: Head, cells: Tensor, outputs: Tensor) -> Tensor:
    """Mean squared distance of the outputs from the words' mean under the head's sharpened softmax, in units of the
    words' mean square length; arguments as for :func:`alignment_loss`."""
    with torch.no_grad():
        target = (SHARPENING * (cells.float() @ head.weight.T + head.bias)).softmax(-1) @ head.words + head.mean
    return (outputs.float() - target).pow(2).sum(-1).mean() / head.rms**2


def stage_zero(
    connector: Projector, head: Head, states: np.ndarray, rows: list[int], seed: int, steps: int = 800
) -> float:
    """Fit the connector to the word embeddings on single cells; returns the last loss. No language model."""
    rng = np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(connector.parameters(), lr=1e-3, weight_decay=0.0)
    loss = torch.zeros(())
    for step in range(steps):
        picked = np.ix_(rng.choice(rows, 64, replace=False), rng.choice(CELLS, 12, replace=False))
        cells = as_tensor(states[picked]).flatten(0, 1).float()
        outputs = connector(cells)
        loss = alignment_loss(head, cells, outputs)
        total = loss + distance_loss(head, cells, outputs)
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * (1 - step / steps)
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    return loss.item()


class Trainer:
    """One connector's run of the caption loss, resumable from ``folder``."""

    def __init__(
        self,
        connector: Projector,
        language: LlamaForCausalLM,
        captions: Captions,
        states: np.ndarray,
        shots: list[Shot],
        rows: list[int],
        settings: Settings,
        folder: Path,
        head: Head | None = None,
    ) -> None:
        """``rows`` are the cached pictures that may be trained on; ``head`` is needed for the regulariser."""
        self.connector, self.language, self.captions = connector, language.requires_grad_(False).eval(), captions
        self.states, self.shots, self.rows, self.settings = states, shots, rows, settings
        self.folder, self.head = folder, head
        self.optimiser = torch.optim.AdamW(connector.parameters(), lr=settings.learning_rate, weight_decay=0.01)
        self.step = 0

    def resume(self) -> None:
        """Go on from the folder's checkpoint, when there is one."""
        path = self.folder / "checkpoint.pt"
        if path.exists():
            saved = torch.load(path, weights_only=True)
            self.connector.load_state_dict(saved["connector"])
            self.optimiser.load_state_dict(saved["optimiser"])
            self.step = saved["step"]

    def save(self) -> None:
        """Write the checkpoint and the connector as it would ship, each beside and renamed."""
        beside = self.folder / "checkpoint.part"
        torch.save(
            {"connector": self.connector.state_dict(), "optimiser": self.optimiser.state_dict(), "step": self.step},
            beside,
        )
        beside.replace(self.folder / "checkpoint.pt")
        write_connector(self.connector, self.folder / "connector.safetensors")

    def run(self, report: Report = silent, save_every: int = 50) -> None:
        """Train to the end of the settings; a line of ``loss.jsonl`` a step."""
        started, first = time.monotonic(), self.step
        with (self.folder / "loss.jsonl").open("a", encoding="utf-8") as log:
            while self.step < self.settings.steps:
                caption, aligned = self.advance()
                rate = (self.step - first) * self.settings.batch / (time.monotonic() - started)
                row = {
                    "step": self.step,
                    "loss": round(caption, 4),
                    "alignment": round(aligned, 4),
                    "rate": round(rate, 2),
                }
                row["cpu"] = round(time.process_time())
                log.write(json.dumps(row) + "\n")
                log.flush()
                if self.step % save_every == 0 or self.step == self.settings.steps:
                    self.save()
                report(self.step, self.settings.steps, f"Caption loss {caption:.2f}")

    def advance(self) -> tuple[float, float]:
        """One optimiser step; returns the caption loss and the alignment loss (0 without a head)."""
        rng = random.Random(f"{self.settings.seed}/{self.step}")
        count = self.settings.few if self.settings.opens(self.step) else rng.choice(self.settings.cells)
        drawn = [self.draw(rng, count) for _ in range(self.settings.batch)]
        cells = torch.stack([cells for _, _, cells in drawn]).float()
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.rate_at(self.step)
        outputs = self.connector(cells)
        kind, after = self.captions.prompt(rng)
        answers = [self.captions.answer(kind, labels) for labels, _, _ in drawn]
        positions = [chosen for _, chosen, _ in drawn]
        caption = caption_loss(self.language, outputs, positions, self.captions.before, after, answers)
        aligned, total = torch.zeros(()), caption
        if self.head is not None:
            flat = cells.flatten(0, 1), outputs.flatten(0, 1)
            aligned = alignment_loss(self.head, *flat)
            if self.settings.left(self.step) < 1.0:
                near, short = self.settings.returning
                total = caption + near * aligned + short * distance_loss(self.head, *flat)
            else:
                total = caption + self.settings.regulariser * aligned
        self.optimiser.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.connector.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        return caption.item(), aligned.item()

    def draw(self, rng: random.Random, count: int) -> tuple[tuple[int, ...], list[int], Tensor]:
        """One picture or a mosaic of two: its classes, ``count`` positions in the grid, and their cells [count, 1280]."""
        first = rng.choice(self.rows)
        mosaic = rng.random() < self.settings.mosaics
        middle = self.settings.opens(self.step) and not mosaic
        chosen = sorted(rng.sample(MIDDLE if middle else range(CELLS), count))
        if not mosaic:
            return (self.shots[first].label,), chosen, as_tensor(self.states[first])[chosen]
        second = rng.choice(self.rows)
        labels = (self.shots[first].label, self.shots[second].label)
        sides = [divide(position, stacked=bool(first % 2)) for position in chosen]
        cells = as_tensor(np.stack([self.states[(first, second)[side]][source] for side, source in sides]))
        return labels, chosen, cells


def divide(position: int, stacked: bool) -> tuple[int, int]:
    """For a cell of a mosaic: which picture it shows (0 or 1), and which of that picture's cells.

    The middle half of each picture is shown, side by side or one above the other.
    """
    row, column = divmod(position, SIDE)
    half, quarter = SIDE // 2, SIDE // 4
    if stacked:
        return row // half, (row % half + quarter) * SIDE + column
    return column // half, row * SIDE + column % half + quarter


def embeddings(language: LlamaForCausalLM) -> Tensor:
    """The input-embedding matrix, [vocabulary, 576]."""
    return cast(Tensor, language.get_input_embeddings().weight)


def caption_loss(
    language: LlamaForCausalLM,
    outputs: Tensor,
    chosen: list[list[int]],
    before: list[int],
    after: list[int],
    answers: list[list[int]],
) -> Tensor:
    """Mean cross-entropy of the answers' tokens given the chosen cells.

    ``outputs`` [batch, k, 576] are the connector's; ``chosen`` their indices in the grid; one prompt for the whole batch,
    which keeps the padding short. Sequences are padded on the right, where the causal mask keeps the padding out of
    everything that counts; logits are computed for answers only.
    """
    table = embeddings(language)
    batch, k = outputs.shape[:2]
    longest = len(after) + max(map(len, answers))
    text = torch.zeros(batch, longest, dtype=torch.long)
    labels = torch.full((batch, longest), -100)
    for i, answer in enumerate(answers):
        text[i, : len(after) + len(answer)] = torch.tensor(after + answer)
        labels[i, len(after) - 1 : len(after) + len(answer) - 1] = torch.tensor(answer)
    start = len(before)
    position = torch.cat(
        (
            torch.arange(start).expand(batch, -1),
            start + torch.tensor(chosen),
            (start + CELLS + torch.arange(longest)).expand(batch, -1),
        ),
        dim=1,
    )
    embedded = torch.cat(
        (table[torch.tensor(before)].expand(batch, -1, -1), outputs.to(table.dtype), table[text]), dim=1
    )
    states = language.model(
        inputs_embeds=embedded, attention_mask=torch.ones_like(position), position_ids=position, use_cache=False
    ).last_hidden_state[:, start + k :]
    wanted = labels >= 0
    return functional.cross_entropy(language.lm_head(states[wanted]).float(), labels[wanted])


def write_connector(connector: Projector, path: Path) -> None:
    """Save a connector as it ships: bfloat16 safetensors with the stock parameter names; written beside and renamed."""
    beside = path.with_suffix(".part")
    save_file({k: v.detach().to(torch.bfloat16).contiguous() for k, v in connector.state_dict().items()}, beside)
    beside.replace(path)


def read_connector(path: Path) -> Projector:
    """Load a shipped connector in float32."""
    tensors = load_file(path)
    hidden, inputs = tensors["linear_1.weight"].shape
    connector = Projector(inputs, hidden, tensors["linear_2.weight"].shape[0])
    connector.load_state_dict({k: v.float() for k, v in tensors.items()})
    return connector
