"""Training a connector against the frozen language model.

From a start near word embeddings (:mod:`lens.demo.start`) the caption loss trains it, with the losses of that start kept as
regularisers; from scratch, the caption loss alone.

Invariants: only the connector's parameters change; every sequence is passed with an all-ones attention mask, because custom
position ids without a mask take the packed-sequence path and lose the gradients; cells keep the positions they have in the
whole grid, so a sequence with few cells is the whole one with the others dropped. The language model's rotary frequencies
stay float32, which casting the whole model would round.

A run saves as it goes, and one that is called again goes on from its checkpoint: with the weights, the optimiser and the
progress of then, and the batches that would have come next. Over a number of steps that is, on one processor, the
uninterrupted run exactly (a GPU's sums are not in a fixed order). Over a time no run is another's twin, since how many steps
fit depends on the machine's speed; but the schedule goes on from the checkpoint's time.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM

from lens.backend.files import replacing
from lens.demo.architecture import Projector
from lens.demo.convert import CELLS
from lens.demo.drawing import carry
from lens.demo.examples import Batch, Begun, Examples
from lens.demo.pictures import SIDE
from lens.demo.provision import LANGUAGE
from lens.demo.schedule import STAGE_ZERO_TIME, Settings, Stopwatch
from lens.demo.start import HIDDEN, alignment_losses, closed_form, stage_zero
from lens.progress import Report, silent

MIDDLE = [row * SIDE + column for row in range(2, SIDE - 2) for column in range(2, SIDE - 2)]
"""Cells that the opening prefers in a single picture: its label is about what is in the middle."""
MICRO = 144
"""Sequences in one forward at most; a larger batch takes several."""
ALIGNED = 32
"""Cells of each picture that the regularisers look at."""
SAVE_EVERY = 30.0
"""Seconds between checkpoints."""
LOG_EVERY = 2.0
"""Seconds after which losses are fetched from the device and written, which waits for what is running there."""
NOTED = ("caption", "alignment", "distance")


def open_language(base: Path) -> LlamaForCausalLM:
    """The language model of an assembled folder in bfloat16, frozen, its rotary frequencies in float32 as in the app."""
    config = AutoConfig.from_pretrained(base).text_config
    language = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)  # casting a model rounds its buffers too
    weights = {k.replace("model.language_model.", "model."): v for k, v in load_file(base / LANGUAGE).items()}
    language.load_state_dict(weights, strict=False)  # the head is tied
    return language.eval().requires_grad_(False)


class Trainer:
    """One connector's run, resumable from ``folder``."""

    def __init__(
        self,
        language: LlamaForCausalLM,
        examples: Examples,
        settings: Settings,
        folder: Path,
        stopwatch: Stopwatch | None = None,
    ) -> None:
        self.language, self.examples, self.settings, self.folder = language, examples, settings, folder
        self.device = examples.canvas.device
        self.stopwatch = stopwatch or Stopwatch()
        self.caption = math.nan
        """The last caption loss that was fetched."""
        self.step = self.samples = self.batches = 0
        """Optimiser steps, examples shown, and batches used (more than steps where nothing in one could be named)."""

    def begin(self) -> bool:
        """Go on from the folder's checkpoint when there is one (``True``), else start."""
        path = self.folder / "checkpoint.pt"
        if path.exists():
            saved = torch.load(path, weights_only=True, map_location=self.device)
            self._train(Projector(*saved["sizes"]))
            self.connector.load_state_dict(saved["connector"])
            self.optimiser.load_state_dict(saved["optimiser"])
            self.step, self.samples, self.batches = saved["done"]
            self.stopwatch.before += saved["seconds"]
            return True
        self._train(self._start())
        self.save()
        return False

    def run(self, report: Report = silent) -> None:
        """Train to the end; a line of ``loss.jsonl`` a step."""
        waiting: list[tuple[dict[str, Any], Tensor]] = []
        saved, logged = self.stopwatch.seconds, -math.inf
        following = self._look()
        try:
            while (progress := self.progress) < 1:
                batch = self.examples.finish(following, self.settings.batch_at(progress))
                self.batches += 1
                following = self._look(ahead=len(batch) > 0)
                if not len(batch):
                    continue
                waiting.append(self.advance(batch, progress))
                if self.stopwatch.seconds - logged > LOG_EVERY:
                    self._log(waiting)
                    logged = self.stopwatch.seconds
                if self.stopwatch.seconds - saved > SAVE_EVERY:
                    self.save()
                    saved = self.stopwatch.seconds
                report(
                    min(100.0, 100 * self.progress),
                    100,
                    f"Step {self.step:,}, caption loss {self.caption:.2f}; per cent",
                )
        finally:
            self._log(waiting)
            self.save()

    @property
    def progress(self) -> float:
        """How much of the run is done, 1 at its end."""
        return self._progress(self.step)

    def _progress(self, step: int) -> float:
        if self.settings.steps is not None:
            return step / self.settings.steps
        return self.stopwatch.seconds / (60 * self.settings.minutes)

    def _look(self, ahead: bool = False) -> Begun:
        """Begin the next batch; ``ahead``: while a step is still to be made before it."""
        progress = self._progress(self.step + ahead)
        mixed = not self.settings.opens_at(progress)
        return self.examples.begin(self.batches, self.settings.batch_at(progress), mixed)

    def _train(self, connector: Projector) -> None:
        self.connector = connector.to(self.device).requires_grad_(True)
        rate = self.settings.learning_rate
        self.optimiser = torch.optim.AdamW(connector.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)

    def _start(self) -> Projector:
        """Random weights, or the closed form after stage 0."""
        settings, head = self.settings, self.examples.head
        if settings.scratch:
            torch.manual_seed(settings.seed)
            return Projector(head.weight.shape[1], HIDDEN, head.mean.numel())
        states = self._stage_zero_states()
        connector = closed_form(head, states[:64].flatten(0, 1), settings.seed)
        alignment, distance = stage_zero(connector, head, states, settings.seed, self._stage_zero_progress)
        print(f"Stage 0 on {len(states):,} pictures: alignment {alignment:.3f}, distance {distance:.3f}", flush=True)
        return connector

    def _stage_zero_progress(self, step: int) -> float:
        done = step / self.settings.stage_zero
        return done if self.settings.steps is not None else max(done, self._progress(0) / STAGE_ZERO_TIME)

    def _stage_zero_states(self) -> Tensor:
        """Vision states of single pictures, as many as wanted or as half of stage 0's time allows."""
        wanted, states = self.settings.stage_zero_pictures, []
        while wanted > 0 and (not states or self._stage_zero_progress(0) < 0.5):
            number = (1 << 30) + len(states)  # numbers that no batch of the caption loss has
            states.append(self.examples.begin(number, min(wanted, self.settings.batch), mixed=False).states)
            wanted -= len(states[-1])
        return torch.cat(states)

    def save(self) -> None:
        """Write the checkpoint and the connector as it would ship, each beside and renamed."""
        first, second = self.connector.linear_1, self.connector.linear_2
        with replacing(self.folder / "checkpoint.pt") as part:
            content = {
                "sizes": [first.in_features, first.out_features, second.out_features],
                "connector": self.connector.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "done": [self.step, self.samples, self.batches],
                "seconds": self.stopwatch.seconds,
            }
            torch.save(content, part)
        write_connector(self.connector, self.folder / "connector.safetensors")

    def _log(self, waiting: list[tuple[dict[str, Any], Tensor]]) -> None:
        """Write what waits, and empty it."""
        with (self.folder / "loss.jsonl").open("a", encoding="utf-8") as log:
            for row, losses in waiting:
                found = {name: round(loss, 4) for name, loss in zip(NOTED, losses.tolist(), strict=True)}
                log.write(json.dumps(row | found) + "\n")
                self.caption = found["caption"]
        waiting.clear()

    def advance(self, batch: Batch, progress: float) -> tuple[dict[str, Any], Tensor]:
        """One optimiser step; what is logged of it: figures that are known, and :data:`NOTED` losses on the device (the
        latter two are 0 from scratch)."""
        settings = self.settings
        chosen = choose_cells(batch, settings.cells_at(progress), settings.opens_at(progress))
        aligned = batch.rng.permutation(chosen.shape[1])[:ALIGNED]
        rate = settings.rate_at(progress, self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad()
        total = sum(len(said) for _, said in batch.texts)
        parts = -(-len(batch) // MICRO)
        micro = -(-len(batch) // parts)
        noted = torch.zeros(len(NOTED), device=self.device)
        for first in range(0, len(batch), micro):
            part = slice(first, first + micro)
            loss, losses = self._losses(batch, part, chosen[part], aligned, total, progress)
            loss.backward()
            noted += losses
        torch.nn.utils.clip_grad_norm_(self.connector.parameters(), 1.0)
        self.optimiser.step()
        self.step, self.samples = self.step + 1, self.samples + len(batch)
        row = {
            "step": self.step,
            "seconds": round(self.stopwatch.seconds, 1),
            "samples": self.samples,
            "cells": chosen.shape[1],
            "rate": round(rate, 6),
        }
        return row, noted

    def _losses(
        self, batch: Batch, part: slice, chosen: np.ndarray, aligned: np.ndarray, total: int, progress: float
    ) -> tuple[Tensor, Tensor]:
        """A part's share of the batch's loss, and of each loss that is noted."""
        indices = carry(chosen, self.device, torch.long)
        states = batch.states[part]
        cells = states.gather(1, indices[..., None].expand(-1, -1, states.shape[-1])).float()
        outputs = self.connector(cells)
        caption = caption_loss(self.language, outputs, chosen, self.examples.captions.before, batch.texts[part], total)
        if self.settings.scratch:
            return caption, torch.stack((caption.detach(), *torch.zeros(2, device=self.device)))
        share = len(chosen) / len(batch)
        columns = carry(aligned, self.device, torch.long)
        alignment, distance = alignment_losses(
            self.examples.head, cells[:, columns].flatten(0, 1), outputs[:, columns].flatten(0, 1)
        )
        near, short = self.settings.weights_at(progress)
        loss = caption + share * (near * alignment + short * distance)
        return loss, torch.stack((caption, share * alignment, share * distance)).detach()


def choose_cells(batch: Batch, count: int, opening: bool) -> Int[np.ndarray, "n count"]:
    """Which cells of each picture are shown, in the grid's order; in the opening those in the middle of single pictures."""
    score = batch.rng.random((len(batch), CELLS))
    if opening:
        score[:, MIDDLE] += batch.single[:, None]
    return np.sort(np.argsort(-score, axis=1)[:, :count], axis=1)


def embeddings(language: LlamaForCausalLM) -> Tensor:
    """The input-embedding matrix, [vocabulary, 576]."""
    return cast(Tensor, language.get_input_embeddings().weight)


def caption_loss(
    language: LlamaForCausalLM,
    outputs: Float[Tensor, "n k d"],
    chosen: Int[np.ndarray, "n k"],
    before: list[int],
    texts: list[tuple[list[int], list[int]]],
    total: int,
) -> Tensor:
    """Cross-entropy of the answers' tokens given the chosen cells, summed and divided by ``total``.

    ``outputs`` are the connector's; ``chosen`` their indices in the grid; ``texts`` are (ids after the cells, ids of the
    answer). Sequences are padded on the right, where the causal mask keeps the padding out of everything that counts; logits
    are computed for answers only.
    """
    table, device, (batch, k) = embeddings(language), outputs.device, outputs.shape[:2]
    start, longest = len(before), max(len(after) + len(said) for after, said in texts)
    text = np.zeros((batch, longest), np.int64)
    places, wanted = [], []
    for i, (after, said) in enumerate(texts):
        text[i, : len(after) + len(said)] = after + said
        first = i * (start + k + longest) + start + k + len(after) - 1
        places.extend(range(first, first + len(said)))
        wanted.extend(said)
    positions = np.concatenate(
        (
            np.broadcast_to(np.arange(start), (batch, start)),
            start + chosen,
            np.broadcast_to(start + CELLS + np.arange(longest), (batch, longest)),
        ),
        axis=1,
    )
    ids, at, target, position = (
        carry(np.asarray(each, np.int64), device, torch.long) for each in (text, places, wanted, positions)
    )
    opening = table[carry(np.array(before), device, torch.long)].expand(batch, -1, -1)
    embedded = torch.cat((opening, outputs.to(table.dtype), table[ids]), dim=1)
    states = language.model(
        inputs_embeds=embedded, attention_mask=torch.ones_like(position), position_ids=position, use_cache=False
    ).last_hidden_state.flatten(0, 1)
    logits = language.lm_head(states.index_select(0, at)).float()
    return functional.cross_entropy(logits, target, reduction="sum") / total


def write_connector(connector: Projector, path: Path) -> None:
    """Save a connector as it ships: bfloat16 safetensors with the stock parameter names; written beside and renamed."""
    beside = path.with_suffix(".part")
    save_file({k: v.detach().to("cpu", torch.bfloat16).contiguous() for k, v in connector.state_dict().items()}, beside)
    beside.replace(path)


def read_connector(path: Path) -> Projector:
    """Load a shipped connector in float32."""
    tensors = load_file(path)
    hidden, inputs = tensors["linear_1.weight"].shape
    connector = Projector(inputs, hidden, tensors["linear_2.weight"].shape[0])
    connector.load_state_dict({k: v.float() for k, v in tensors.items()})
    return connector
