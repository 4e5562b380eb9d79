"""Training <SEG>: two phases, the cheap one first, laid out over the time that there is.

``names``: the mask head alone. What it is asked with is the frozen language model's own state at <SEG> in "It is <SEG>.",
after a prompt with the object's name and no picture: computed once for each name. ``scenes``: whole packs, with the
low-rank updates and <SEG>'s vector; answers by cross-entropy, masks from the state of <SEG>, and the plain similarity of
that state with the visual tokens after the final norm, so that the map of <SEG> means something.

Invariants: the state is read at <SEG> itself (position p), so its input embedding counts; every batch is a new one, a
function of the seed, the phase and the step; rates are functions of the share of the phase's time that is over, which a
resumed run goes on counting from its checkpoint.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from lens.demo.photos import scaled
from lens.demo.scenes import FINE, GRID, MOST
from lens.demo.schedule import Stopwatch
from lens.demo.seg_compose import Composer
from lens.demo.seg_draw import Draw, Drawer, Draws
from lens.demo.seg_head import MaskHead, mask_loss, standard, write_seg
from lens.demo.seg_language import Answers, Packs, seg_states
from lens.demo.seg_models import SegModels, feature_maps
from lens.progress import Report, silent

PHASES = ("names", "scenes")
SHARES = (0.1, 0.9)
"""Of the training time, for each phase."""
WORKERS = 6
"""Processes at most that draw batches for an accelerator; the processor draws its own."""


@dataclass(frozen=True)
class SegSettings:
    """A run: time, batch size and rates; the run is a function of these, the pictures, the models and the clock."""

    minutes: float = 2.5
    scenes: int = 24
    """Scenes a step."""
    aligned: int = 4
    """Batches by which the queries of states with a picture are brought to those without, in closed form."""
    rate: tuple[float, float] = (2e-3, 1e-3)
    """Of ``names`` and ``scenes``."""
    rise: tuple[float, float] = (0.2, 0.1)
    """Share of each phase in which the rate rises."""
    decision: float = 1.0
    """Weight of the loss of an answer's first token, beside that of the whole answer."""
    rank: int = 16
    alpha: float = 32.0
    first: int = 1
    """The first block with low-rank updates."""
    seed: int = 0

    def seconds(self, phase: int) -> float:
        """How long a phase lasts."""
        return 60 * self.minutes * SHARES[phase]

    def rate_at(self, phase: int, progress: float) -> float:
        """Learning rate: a linear rise on a linear fall, no less than 3 % of the highest."""
        return self.rate[phase] * max(0.03, min(1.0, progress / self.rise[phase]) * (1 - progress))


@dataclass(frozen=True, eq=False)
class Batch:
    """Composed scenes and their packs.

    Attributes:
        cells, levels: visual tokens at layer 0 [b, 144, width], and the encoder's feature maps.
        masks: [b, 4, 48, 48] in 0..1; ``real`` [b, 4], which of the slots may be asked for.
        names, prompts: of the turns, [b, 6].
        present, absent: [b, 6], turns whose answer counts, as one thing or the other.
    """

    cells: Tensor
    levels: dict[str, Tensor]
    masks: Tensor
    real: Tensor
    names: Tensor
    prompts: Tensor
    present: Tensor
    absent: Tensor


class SegTrainer:
    """One run, resumable from ``folder``."""

    def __init__(
        self,
        models: SegModels,
        composer: Composer,
        drawer: Drawer,
        settings: SegSettings,
        folder: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        torch.manual_seed(settings.seed)
        self.models, self.composer, self.drawer = models, composer, drawer
        self.settings, self.folder, self.clock = settings, folder, clock
        self.turns = models.language.turns.table(drawer.words.names, models.device)
        self.longest = int((self.turns.length - self.turns.answer).max())
        self.head = MaskHead().to(models.device)
        self.similar = nn.Linear(1, 1).to(models.device)  # similarity as a logit; see :meth:`similarity`
        nn.init.ones_(self.similar.weight)
        self.said = Said(models, self.turns)
        self.phase, self.step, self.spent = 0, 0, 0.0
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
        saved = torch.load(path, weights_only=True, map_location=self.models.device)
        self.head.load_state_dict(saved["head"])
        self.similar.load_state_dict(saved["similar"])
        self.models.language.load(saved["language"])
        self.phase, self.step, self.spent = saved["phase"], saved["step"], saved["spent"]
        self.optimiser = self._optimiser()
        self.optimiser.load_state_dict(saved["optimiser"])

    def save(self) -> None:
        """Write the checkpoint and the weights as they ship, each beside and renamed."""
        beside = self.folder / "checkpoint.part"
        at = {"phase": self.phase, "step": self.step, "spent": self.spent}
        torch.save({**self.state(), "optimiser": self.optimiser.state_dict(), **at}, beside)
        beside.replace(self.folder / "checkpoint.pt")
        language = self.models.language.trained()
        write_seg(self.head, language, self.folder / "demo-seg.safetensors", alpha=str(self.settings.alpha))

    def run(self, report: Report = silent, save_every: float = 30.0) -> None:
        """Train to the end of the last phase; a line of ``loss.jsonl`` a step, a checkpoint every so many seconds."""
        with (self.folder / "loss.jsonl").open("a", encoding="utf-8") as log:
            while self.phase < len(PHASES):
                if self.phase == 1 and self.step == 0:
                    self.align()
                saved, seconds = self.spent, self.settings.seconds(self.phase)
                stopwatch = Stopwatch(self.clock, self.spent)
                for draw in self.feed():
                    self.spent = stopwatch.seconds
                    if self.spent >= seconds:
                        break
                    losses = self.advance(draw, self.spent / seconds)
                    row = {"phase": PHASES[self.phase], "step": self.step, "seconds": round(self.spent, 1)}
                    log.write(json.dumps(row | losses | {"cpu": round(time.process_time())}) + "\n")
                    log.flush()
                    if self.spent - saved >= save_every:
                        self.save()
                        saved = self.spent
                    report(self.spent, seconds, f"{PHASES[self.phase]}, seconds: {losses}")
                self.phase, self.step, self.spent = self.phase + 1, 0, 0.0
                self.optimiser = self._optimiser()
                self.save()

    def feed(self) -> Iterable[Draw[Tensor]]:
        """The phase's batches from this step on; drawn by other processes where an accelerator computes."""
        apart = self.models.device.type != "cpu"
        workers = min(WORKERS, max(1, (os.cpu_count() or 1) - 1)) if apart else 0
        draws = Draws(self.drawer, (self.settings.seed, self.phase), self.settings.scenes)
        return draws.feed(self.step, workers, pinned=self.models.device.type == "cuda")

    def advance(self, draw: Draw[Tensor], progress: float) -> dict[str, float]:
        """One optimiser step; none where a gradient isn't finite."""
        for group in self.optimiser.param_groups:
            group["lr"] = group["share"] * self.settings.rate_at(self.phase, progress)
        self.optimiser.zero_grad()
        batch = self.compose(draw)
        total, losses = (self.from_names, self.scenes)[self.phase](batch)
        total.backward()
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        if bool(norm.isfinite()):
            self.optimiser.step()
        self.step += 1
        return {name: round(float(loss.detach()), 4) for name, loss in losses.items()}

    def compose(self, draw: Draw[Tensor]) -> Batch:
        """A drawn batch as scenes and packs, on the models' device."""
        draw = Draw(*(part.to(self.models.device, non_blocking=True) for part in draw))
        pictures, masks, real = self.composer(draw)
        levels = feature_maps(self.models.quick, scaled(pictures))
        seen = torch.cat((real, torch.zeros_like(draw.shown[:, MOST:])), 1)
        return Batch(
            self.models.cells(levels), levels, masks, real, draw.asked, draw.prompt,
            present=draw.namable & seen, absent=draw.namable & ~draw.shown,
        )  # fmt: skip

    def from_names(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Masks from the names alone; the last turn of every scene names what isn't there, and its mask is empty."""
        wanted = torch.cat((batch.masks, torch.zeros_like(batch.masks[:, :1])), 1)
        real = torch.cat((batch.real, batch.absent[:, -1:]), 1)
        asked = [torch.cat((part[:, :MOST], part[:, -1:]), 1) for part in (batch.names, batch.prompts)]
        found = self.head(self.head.project(self.said(*asked)), batch.cells, None, batch.levels)
        coarse, fine = masks_loss(found, wanted, real)
        return coarse + fine, {"coarse": coarse, "fine": fine}

    @torch.no_grad()
    def align(self) -> None:
        """The start of ``scenes`` in closed form: a factor and a shift bring the queries of states with a picture to those
        of the same names without, by least squares over some scenes."""
        draws = Draws(self.drawer, (self.settings.seed, len(PHASES)), self.settings.scenes)
        found, wanted = [], []
        for number in range(self.settings.aligned):
            batch = self.compose(Draw(*map(torch.as_tensor, draws[number])))
            states, _, packs = self.asked(batch)
            found.append(seg_states(states, packs)[:, :MOST][batch.real])
            wanted.append(self.said(batch.names[:, :MOST], batch.prompts[:, :MOST])[batch.real])
        goal = self.head.project(torch.cat(wanted))
        have = standard(torch.cat(found)) @ self.head.query.weight.T
        apart, goal_apart = have - have.mean(0), goal - goal.mean(0)
        scale = (apart * goal_apart).sum() / (apart * apart).sum()
        self.head.query.weight.mul_(scale)
        self.head.query.bias.copy_(goal.mean(0) - scale * have.mean(0))

    def asked(self, batch: Batch) -> tuple[Tensor, Tensor, Packs]:
        """States of the turns [b, 6, t, width] and of the visual tokens [b, 144, width], and the turns: one answered with
        <SEG> for a slot that is real, one that says no for the others."""
        seen = functional.pad(batch.real, (0, batch.names.shape[1] - MOST))
        packs = self.turns.at(seen.long(), batch.names, batch.prompts)
        states, visual = self.models.language.states(batch.cells, packs.ids)
        assert visual is not None
        return states, visual, packs

    def scenes(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Packs: answers for what is there and what isn't, masks for what is."""
        states, visual, packs = self.asked(batch)
        answers = self.models.language.answers(states, packs, self.longest)
        answer, decide, right = balanced(answers, batch.present, batch.absent)
        said, seen = seg_states(states, packs)[:, :MOST], visual.float()
        found = self.head(self.head.project(said), batch.cells, seen, batch.levels)
        coarse, fine = masks_loss(found, batch.masks, batch.real)
        similar = mean_loss(self.similarity(said, seen), small(batch.masks), batch.real)
        total = answer + self.settings.decision * decide + coarse + fine + similar
        losses = {
            "answer": answer,
            "decide": decide,
            "right": right,
            "coarse": coarse,
            "fine": fine,
            "similar": similar,
        }
        return total, losses

    def similarity(self, said: Tensor, seen: Tensor) -> Tensor:
        """The plain dot products of states [b, k, width] with visual tokens [b, cells, width] as logits, [b, k, rows, cols].

        The factor's absolute value is taken: with a negative one the map would be trained to be dark where the object is.
        """
        dots = standard(said @ seen.transpose(-1, -2))[..., None]
        logits = functional.linear(dots, self.similar.weight.abs(), self.similar.bias)
        return logits[..., 0].unflatten(-1, (GRID, GRID))


class Said:
    """The frozen model's states at <SEG> after a prompt with a name and no picture; each is computed once, when first
    asked for, which must be before anything has moved the model."""

    def __init__(self, models: SegModels, turns: Packs) -> None:
        """``turns`` as :meth:`lens.demo.seg_language.Turns.table` gives them."""
        self.models, self.turns = models, turns
        shape = turns.seg.shape[1:]
        self.known = torch.zeros(shape, dtype=torch.bool, device=models.device)
        self.held = torch.zeros(*shape, models.language.table.shape[1], device=models.device)

    @torch.no_grad()
    def __call__(self, names: Tensor, prompts: Tensor) -> Tensor:
        """States [..., width] for rows of names and of prompts [...]."""
        pairs = torch.stack((names, prompts), -1)[~self.known[names, prompts]].unique(dim=0)
        for some in pairs.split(64) if len(pairs) else ():
            where = tuple(some.unbind(1))
            packs = self.turns.at(torch.ones_like(where[0]), *where)
            states, _ = self.models.language.states(None, packs.ids[:, None])
            self.held[where] = states[torch.arange(len(some), device=states.device), 0, packs.seg].float()
            self.known[where] = True
        return self.held[names, prompts]


def balanced(answers: Answers, present: Tensor, absent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each part of the answers [b, q] as the mean of its mean over ``present`` and its mean over ``absent`` [b, q]: both
    weigh the same, however many they are."""

    def both(values: Tensor) -> Tensor:
        halves = [(values * of).sum() / of.sum().clamp(min=1) for of in (present, absent)]
        return (halves[0] + halves[1]) / 2

    return both(answers.whole), both(answers.first), both(answers.right.float())


def masks_loss(found: tuple[Tensor, Tensor], wanted: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Mean loss of the coarse and of the fine masks [b, k, h, w] where ``real`` [b, k]; ``wanted`` is at 48 x 48."""
    return mean_loss(found[0], small(wanted), real), mean_loss(found[1], wanted, real)


def mean_loss(logits: Tensor, wanted: Tensor, real: Tensor) -> Tensor:
    """Mean over the ``real`` [b, k] ones of the losses of masks [b, k, h, w]; 0 where none is."""
    losses = mask_loss(logits.flatten(0, 1), wanted.flatten(0, 1)).view(real.shape)
    return (losses * real).sum() / real.sum().clamp(min=1)


def small(masks: Tensor) -> Tensor:
    """Masks [..., 48, 48] as the share of each visual token's cell that they cover, [..., 12, 12]."""
    return functional.avg_pool2d(masks, FINE // GRID)
