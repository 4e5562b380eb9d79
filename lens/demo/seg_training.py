"""Training <SEG>: two phases, the cheap one first.

``names``: the mask head alone. What it is asked with is the frozen language model's own state at <SEG> in "It is <SEG>.",
after a prompt with the object's name and no picture: computed once for each name. ``scenes``: whole packs, with the
low-rank updates and <SEG>'s vector; answers by cross-entropy, masks from the state of <SEG>, and the plain similarity of
that state with the visual tokens after the final norm, so that the map of <SEG> means something.

Invariants: the state is read at <SEG> itself (position p), so its input embedding counts; held-out objects are neither
shown nor named in any phase; a step is a function of the settings, the phase, its number and what the steps before made,
so a run resumed from its checkpoint is the uninterrupted one.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from lens.demo.architecture import EfficientNetLite, Projector
from lens.demo.scenes import GRID
from lens.demo.seg_cache import Batch, Cache, vision_states
from lens.demo.seg_head import MaskHead, mask_loss, standard, write_seg
from lens.demo.seg_language import PROMPTS, SegLanguage, Turn
from lens.demo.seg_objects import alike
from lens.progress import Report, silent

PHASES = ("names", "scenes")
ALIGNED = 48
"""Scenes by which the queries of states with a picture are brought to those without, in closed form."""


@dataclass(frozen=True)
class SegSettings:
    """A run: steps, batch sizes and rates of each phase; the run is a function of these, the scenes and the models."""

    scenes: int = 4_000
    steps: tuple[int, int] = (3_000, 300)
    """Of ``names`` and ``scenes``."""
    batch: tuple[int, int] = (8, 4)
    """Scenes, and packs, a step."""
    rate: tuple[float, float] = (2e-3, 1e-3)
    queries: int = 6
    """Turns of a pack: every object that is there, the rest names of objects that aren't."""
    rank: int = 16
    alpha: float = 32.0
    first: int = 1
    """The first block with low-rank updates."""
    warmup: int = 20
    seed: int = 0

    def rate_at(self, phase: int, step: int) -> float:
        """Learning rate: a short rise, then a linear fall to a twentieth."""
        left = 1 - step / self.steps[phase]
        return self.rate[phase] * min(1.0, (step + 1) / self.warmup) * max(0.05, left)


@dataclass(frozen=True)
class SegModels:
    """What is frozen, and the language model with its updates."""

    tower: EfficientNetLite
    connector: Projector
    language: SegLanguage

    @torch.no_grad()
    def cells(self, levels: dict[str, Tensor]) -> Tensor:
        """Visual tokens at layer 0, [b, 144, 576], from cached feature maps."""
        return self.connector(vision_states(self.tower, levels["deep"]))

    @torch.no_grad()
    def said(self, names: Sequence[str], prompt: str, batch: int = 16) -> Tensor:
        """The states at <SEG> after a prompt with each name and no picture, [n, 576]."""
        found = []
        for start in range(0, len(names), batch):
            turns = [self.language.turns.turn(name, prompt, True) for name in names[start : start + batch]]
            found.append(seg_states(self.language.states(None, turns)[0], turns))
        return torch.cat(found)


class SegTrainer:
    """One run, resumable from ``folder``."""

    def __init__(self, models: SegModels, cache: Cache, names: list[str], settings: SegSettings, folder: Path) -> None:
        """``names`` may be named as absent, and hold no held-out object."""
        torch.manual_seed(settings.seed)
        self.models, self.cache, self.names = models, cache, names
        self.settings, self.folder = settings, folder
        self.rows = list(range(min(len(cache), settings.scenes)))
        self.head = MaskHead()
        self.similar = nn.Linear(1, 1)  # similarity, standardised over the picture, as a logit; see :meth:`similarity`
        nn.init.ones_(self.similar.weight)
        self.phase, self.step = 0, 0
        self.optimiser = self._optimiser()

    def _optimiser(self) -> torch.optim.Optimizer:
        """A new one for each phase: who learns, and the head's old parts more slowly than the updates."""
        head, language = list(self.head.parameters()), list(self.models.language.trained().values())
        groups = {
            "names": [(head, 1.0)],
            "scenes": [(head, 0.6), (language, 1.0), (list(self.similar.parameters()), 10.0)],
        }[PHASES[min(self.phase, 1)]]
        return torch.optim.AdamW([{"params": p, "share": share} for p, share in groups], lr=1e-3, weight_decay=0.01)

    def state(self) -> dict[str, dict[str, Tensor]]:
        """All trained tensors."""
        return {
            "head": self.head.state_dict(),
            "similar": self.similar.state_dict(),
            "language": {name: tensor.detach() for name, tensor in self.models.language.trained().items()},
        }

    def resume(self) -> None:
        """Go on from the folder's checkpoint, when there is one."""
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return
        saved = torch.load(path, weights_only=True)
        self.head.load_state_dict(saved["head"])
        self.similar.load_state_dict(saved["similar"])
        with torch.no_grad():
            for name, tensor in self.models.language.trained().items():
                tensor.copy_(saved["language"][name])
        self.phase, self.step = saved["phase"], saved["step"]
        self.optimiser = self._optimiser()
        self.optimiser.load_state_dict(saved["optimiser"])

    def save(self) -> None:
        """Write the checkpoint and the weights as they ship, each beside and renamed."""
        beside = self.folder / "checkpoint.part"
        torch.save(
            {**self.state(), "optimiser": self.optimiser.state_dict(), "phase": self.phase, "step": self.step}, beside
        )
        beside.replace(self.folder / "checkpoint.pt")
        language = self.models.language.trained()
        write_seg(self.head, language, self.folder / "demo-seg.safetensors", alpha=str(self.settings.alpha))

    def run(self, report: Report = silent, save_every: int = 25) -> None:
        """Train to the end of the last phase; a line of ``loss.jsonl`` a step."""
        acts: tuple[Callable[[random.Random], dict[str, Tensor]], ...] = (self.from_names, self.scenes)
        started = time.monotonic()
        with (self.folder / "loss.jsonl").open("a", encoding="utf-8") as log:
            while self.phase < len(PHASES):
                while self.step < self.settings.steps[self.phase]:
                    losses = self.advance(acts[self.phase])
                    row = {"phase": PHASES[self.phase], "step": self.step, "seconds": round(time.monotonic() - started)}
                    log.write(json.dumps(row | losses | {"cpu": round(time.process_time())}) + "\n")
                    log.flush()
                    if self.step % save_every == 0:
                        self.save()
                    report(self.step, self.settings.steps[self.phase], f"{PHASES[self.phase]}: {losses}")
                self.phase, self.step = self.phase + 1, 0
                if PHASES[self.phase : self.phase + 1] == ("scenes",):
                    self.align()
                self.optimiser = self._optimiser()
                self.save()

    def advance(self, act: Callable[[random.Random], dict[str, Tensor]]) -> dict[str, float]:
        """One optimiser step."""
        for group in self.optimiser.param_groups:
            group["lr"] = group["share"] * self.settings.rate_at(self.phase, self.step)
        self.optimiser.zero_grad()
        losses = act(random.Random(f"{self.settings.seed}/{PHASES[self.phase]}/{self.step}"))
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        self.optimiser.step()
        self.step += 1
        return {name: round(float(loss.detach()), 4) for name, loss in losses.items()}

    @cached_property
    def said(self) -> dict[str, Tensor]:
        """By name, the frozen model's states at <SEG> without a picture, one of each prompt; while nothing has moved it."""
        names = sorted({*self.names, *(name for row in self.cache.rows() for name in row["names"])})
        by_prompt = [self.models.said(names, prompt) for prompt in PROMPTS]
        return dict(zip(names, torch.stack(by_prompt, 1), strict=True))

    def from_names(self, rng: random.Random) -> dict[str, Tensor]:
        """Masks from the names alone; one name that isn't there for every scene, whose mask is empty."""
        batch = self.draw(rng, self.settings.batch[0])
        asked = [[*names, *self.absent(rng, names, 1)] for names in batch.names]
        longest = max(map(len, asked))
        states = torch.zeros(len(asked), longest, self.head.query.in_features)
        wanted = torch.zeros(len(asked), longest, *batch.masks.shape[2:])
        real = torch.zeros(len(asked), longest, dtype=torch.bool)
        for i, names in enumerate(asked):
            states[i, : len(names)] = torch.stack([rng.choice(list(self.said[name])) for name in names])
            wanted[i, : len(names) - 1] = batch.masks[i, : len(names) - 1]
            real[i, : len(names)] = True
        found = self.head(self.head.project(states), self.models.cells(batch.levels), None, batch.levels)
        coarse, fine = masks_loss(found, wanted, real)
        (coarse + fine).backward()
        return {"coarse": coarse, "fine": fine}

    @torch.no_grad()
    def align(self) -> None:
        """The start of ``scenes`` in closed form: a factor and a shift bring the queries of states with a picture to those
        of the same names without, by least squares over some scenes."""
        rng = random.Random(f"{self.settings.seed}/align")
        picked = self.cache.read(sorted(rng.sample(self.rows, min(ALIGNED, len(self.rows)))))
        cells = self.models.cells(picked.levels)
        states, names = [], []
        for i, present in enumerate(picked.names):
            turns = [self.models.language.turns.turn(name, PROMPTS[0], True) for name in present]
            states.append(seg_states(self.models.language.states(cells[i], turns)[0], turns))
            names += present
        wanted = self.head.project(torch.stack([self.said[name][0] for name in names]))
        found = standard(torch.cat(states)) @ self.head.query.weight.T
        apart, wanted_apart = found - found.mean(0), wanted - wanted.mean(0)
        scale = (apart * wanted_apart).sum() / (apart * apart).sum()
        self.head.query.weight.mul_(scale)
        self.head.query.bias.copy_(wanted.mean(0) - scale * found.mean(0))

    def scenes(self, rng: random.Random) -> dict[str, Tensor]:
        """Packs: answers for what is there and what isn't, masks for what is."""
        batch = self.draw(rng, self.settings.batch[1])
        cells = self.models.cells(batch.levels)
        sums = {name: torch.zeros(()) for name in ("answer", "coarse", "fine", "similar")}
        for i, names in enumerate(batch.names):
            absent = self.absent(rng, names, max(1, self.settings.queries - len(names)))
            turns = [self.models.language.turns.turn(name, rng.choice(PROMPTS), True) for name in names]
            turns += [self.models.language.turns.turn(name, rng.choice(PROMPTS), False) for name in absent]
            states, visual = self.models.language.states(cells[i], turns)
            answer = self.models.language.answer_loss(states, turns)
            said, seen = seg_states(states, turns), cast(Tensor, visual).float()
            levels = {name: maps[i : i + 1] for name, maps in batch.levels.items()}
            found = self.head(self.head.project(said)[None], cells[i : i + 1], seen[None], levels)
            real = torch.ones(1, len(names), dtype=torch.bool)
            wanted = batch.masks[i : i + 1, : len(names)]
            coarse, fine = masks_loss(found, wanted, real)
            similar = mask_loss(self.similarity(said, seen), small(wanted[0])).mean()
            ((answer + coarse + fine + similar) / len(batch.names)).backward()
            for name, loss in (("answer", answer), ("coarse", coarse), ("fine", fine), ("similar", similar)):
                sums[name] = sums[name] + loss.detach() / len(batch.names)
        return sums

    def similarity(self, said: Tensor, seen: Tensor) -> Tensor:
        """The plain dot products of states [k, width] with visual tokens [cells, width] as logits, [k, rows, cols].

        The factor's absolute value is taken: with a negative one the map would be trained to be dark where the object is.
        """
        logits = functional.linear(standard(said @ seen.T)[..., None], self.similar.weight.abs(), self.similar.bias)
        return logits[..., 0].unflatten(1, (GRID, GRID))

    def draw(self, rng: random.Random, count: int) -> Batch:
        """Some scenes, all mirrored or none."""
        batch = self.cache.read(sorted(rng.sample(self.rows, count)))
        return mirrored(batch) if rng.random() < 0.5 else batch

    def absent(self, rng: random.Random, names: tuple[str, ...], count: int) -> list[str]:
        """Names of things that aren't in a scene and couldn't mean what is."""
        fit: list[str] = []
        while len(fit) < count:
            name = rng.choice(self.names)
            if not any(alike(name, other) for other in (*names, *fit)):
                fit.append(name)
        return fit


def seg_states(states: Tensor, turns: list[Turn]) -> Tensor:
    """The states at <SEG> of the turns that have one, [n, width] in float32."""
    return torch.stack([states[i, turn.seg] for i, turn in enumerate(turns) if turn.seg is not None]).float()


def masks_loss(found: tuple[Tensor, Tensor], wanted: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Mean loss of the coarse and of the fine masks [b, k, h, w] where ``real`` [b, k]; ``wanted`` is at 48 x 48."""
    target = wanted[real]
    return mask_loss(found[0][real], small(target)).mean(), mask_loss(found[1][real], target).mean()


def small(masks: Tensor) -> Tensor:
    """Masks [n, 48, 48] as the share of each visual token's cell that they cover, [n, 12, 12]."""
    return functional.adaptive_avg_pool2d(masks[:, None], (GRID, GRID))[:, 0]


def mirrored(batch: Batch) -> Batch:
    """The scenes seen in a mirror: cached feature maps and masks turned, left for right."""

    def turn(cells: Tensor) -> Tensor:
        side = round(cells.shape[1] ** 0.5)
        return cells.unflatten(1, (side, side)).flip(2).flatten(1, 2)

    return Batch({name: turn(maps) for name, maps in batch.levels.items()}, batch.masks.flip(-1), batch.names)
