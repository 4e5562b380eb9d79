"""The start of a connector that begins near word embeddings: made by hand from the encoder's head, then fitted (stage 0).

The first layer is the encoder's own ImageNet head, the second the mean input embeddings of the class names. The two losses
that fit it stay as regularisers while the caption loss trains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lens.demo.architecture import Projector

THRESHOLD, STEEPNESS = 1.5, 3.0
"""A hidden unit of the closed form is GELU(steepness x (logit - threshold)): on where its class is plausible. A single
cell's logits have a standard deviation of 0.75 and a median maximum of 1.65."""
HIDDEN = 1152
SHARPENING = 3.0
COSINE_SCALE = 20.0
STAGE_ZERO_RATE = 1e-3
STAGE_ZERO_CELLS = 1536
"""Cells of one step of stage 0."""


@dataclass(frozen=True)
class Head:
    """The encoder's ImageNet head and the (centred) mean input embeddings of its class names, float32 on one device."""

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

    def logits(self, cells: Tensor) -> Tensor:
        """Class logits [..., 1000] of cells, or means of them, [..., 1280]."""
        return cells.float() @ self.weight.T + self.bias


def head_of(weight: Tensor, bias: Tensor, embeddings: Tensor, name_ids: Sequence[Sequence[int]]) -> Head:
    """Pair the head's rows with the mean embeddings of the names' tokens; ``embeddings`` is [vocabulary, 576]."""
    vectors = torch.stack([embeddings.detach()[list(ids)].float().mean(0) for ids in name_ids])
    mean, device = vectors.mean(0), embeddings.device
    rms = float(vectors.norm(dim=-1).pow(2).mean().sqrt())
    return Head(weight.float().to(device), bias.float().to(device), vectors - mean, mean, rms)


def closed_form(head: Head, sample: Tensor, seed: int) -> Projector:
    """The connector as head, threshold and word embeddings; ``sample`` [n, 1280] of cells sets the output's scale."""
    classes, inputs = head.weight.shape
    connector = Projector(inputs, HIDDEN, head.mean.numel())
    with torch.no_grad():
        connector.linear_1.weight.normal_(0, 0.02, generator=torch.Generator().manual_seed(seed))
        connector.to(head.weight.device)
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


def alignment_losses(head: Head, cells: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """(alignment, distance) of ``outputs`` [n, 576], which the connector made of ``cells`` [n, 1280].

    Alignment: cross-entropy of the outputs' cosines with the centred class embeddings against the head's sharpened
    softmax. Distance: mean squared distance of the outputs from the words' mean under that softmax, in units of the words'
    mean square length.
    """
    with torch.no_grad():
        share = (SHARPENING * head.logits(cells)).softmax(-1)
        target = share @ head.words + head.mean
    outputs = outputs.float()
    cosines = functional.normalize(outputs - head.mean, dim=-1) @ functional.normalize(head.words, dim=-1).T
    alignment = -(share * (COSINE_SCALE * cosines).log_softmax(-1)).sum(-1).mean()
    return alignment, (outputs - target).pow(2).sum(-1).mean() / head.rms**2


def stage_zero(
    connector: Projector, head: Head, states: Tensor, seed: int, progress: Callable[[int], float]
) -> tuple[float, float]:
    """Fit the connector to the word embeddings on single cells; returns the last losses. No language model.

    ``states`` are [pictures, cells, 1280]; ``progress(step)`` is how much of the stage is done before that step: it ends
    at 1, and the rate falls with it.
    """
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(connector.parameters(), lr=STAGE_ZERO_RATE, weight_decay=0.0)
    every = states.flatten(0, 1)
    alignment = distance = torch.tensor(math.nan)
    step = 0
    while (done := progress(step)) < 1:
        drawn = torch.randint(len(every), (STAGE_ZERO_CELLS,), generator=generator).to(every.device)
        cells = every[drawn].float()
        alignment, distance = alignment_losses(head, cells, connector(cells))
        for group in optimiser.param_groups:
            group["lr"] = STAGE_ZERO_RATE * (1 - done)
        optimiser.zero_grad()
        (alignment + distance).backward()
        optimiser.step()
        step += 1
    return alignment.item(), distance.item()
