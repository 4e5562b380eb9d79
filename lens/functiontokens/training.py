"""Training a BatchTopK autoencoder on cached states, on a CPU.

BatchTopK (arXiv 2412.06410): of all values of a batch of n states the n·k largest fire, so that k latents fire on average
and a state may take more or fewer; for use it becomes a JumpReLU with the running mean of the value at which the cut fell.
That value is found on every :data:`SAMPLED`-th state of the (shuffled) batch. States are centred and scaled to a mean norm
of sqrt(d) while training; the result is in the residual stream's own units again, with decoder rows of norm 1.

The gradients are written out, since only k of the m latents of a state take part: both weight gradients are sums over what
fired, which ``embedding_bag`` computes in a fifth of the time of the dense products.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize

from lens.backend.files import replacing
from lens.errors import FeaturesUnreadable
from lens.functiontokens.sae import Autoencoder
from lens.functiontokens.states import sample_rows
from lens.progress import Report, silent

SAMPLED = 8
WARM_UP, DECAY = 0.05, 0.2
"""Shares of the steps in which the learning rate rises to its full value, and falls to 0 at the end."""
DEAD_AFTER = 200_000
"""Visits without firing after which a latent counts as dead and the auxiliary loss works on it."""
AUXILIARY, AUXILIARY_WEIGHT = 256, 1 / 32
"""Dead latents that rebuild what the live ones left over, and the weight of that loss (arXiv 2406.04093)."""
THRESHOLD_MEMORY = 0.9
STATISTICS_ROWS = 50_000
CHECKPOINT_STEPS = 100


@dataclass(frozen=True)
class Settings:
    """A run. ``visits``: states shown, counted with repetition; ``active``: k, latents that fire on average."""

    latents: int = 4096
    active: int = 32
    visits: int = 3_000_000
    batch: int = 2048
    learning_rate: float = 1e-3
    seed: int = 0

    @property
    def steps(self) -> int:
        return max(1, self.visits // self.batch)


class Trainer:
    """One run on the states of one layer; call :meth:`run`, then :meth:`result`."""

    def __init__(self, states: Float[np.ndarray, "rows d"], settings: Settings, folder: Path) -> None:
        """Begin, or go on from the checkpoint in ``folder`` if it is as it was written.

        Raises:
            FeaturesUnreadable: fewer states than a batch, or a checkpoint of other settings.
        """
        if len(states) < settings.batch:
            raise FeaturesUnreadable(
                f"{len(states)} states are fewer than one batch of {settings.batch}; give a longer text or a smaller batch."
            )
        self.states, self.settings, self.folder = states, settings, folder
        picked = torch.from_numpy(np.asarray(states[sample_rows(states, STATISTICS_ROWS, 0)], np.float32))
        self.mean = picked.mean(0)
        self.scale = math.sqrt(states.shape[1]) / float((picked - self.mean).norm(dim=-1).mean())
        self.step = 0
        self._order: tuple[int, Int[np.ndarray, " rows"]] = (-1, np.zeros(0, np.int64))
        self._begin(states.shape[1])
        self._resume()

    def _begin(self, width: int) -> None:
        generator = torch.Generator().manual_seed(self.settings.seed)
        rows = normalize(torch.randn(self.settings.latents, width, generator=generator), dim=-1)
        latents = self.settings.latents
        self.weights = {
            "encoder": rows.clone(),
            "encoder_bias": torch.zeros(latents),
            "decoder": rows,
            "decoder_bias": torch.zeros(width),
        }
        for tensor in self.weights.values():
            tensor.requires_grad_()
        self.optimizer = torch.optim.Adam(list(self.weights.values()), lr=0.0, fused=True)
        self.threshold = torch.zeros(())
        self.silent_for = torch.zeros(latents)

    def run(self, report: Report = silent) -> None:
        """Train to the end, saving on the way."""
        steps = self.settings.steps
        while self.step < steps:
            loss = self._advance()
            self.step += 1
            if self.step % CHECKPOINT_STEPS == 0 or self.step == steps:
                self._save()
            report(self.step, steps, f"Training, loss {loss:.3f}, {self.dead} dead")

    @property
    def dead(self) -> int:
        """Latents that haven't fired for :data:`DEAD_AFTER` visits."""
        return int((self.silent_for >= DEAD_AFTER).sum())

    def result(self) -> Autoencoder:
        """The autoencoder as it is now, in the residual stream's units."""
        w = {name: tensor.detach().clone() for name, tensor in self.weights.items()}
        return Autoencoder(
            w_enc=w["encoder"].T.contiguous(),
            b_enc=w["encoder_bias"] / self.scale,
            w_dec=w["decoder"],
            b_dec=self.mean + w["decoder_bias"] / self.scale,
            rule="jumprelu",
            threshold=torch.full((self.settings.latents,), float(self.threshold) / self.scale),
        )

    def _batch(self) -> Float[Tensor, "batch d"]:
        """The states of this step: a fresh order each epoch."""
        per_epoch = len(self.states) // self.settings.batch
        epoch, place = divmod(self.step, per_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self.settings.seed, epoch]).permutation(len(self.states)))
        rows = self._order[1][place * self.settings.batch : (place + 1) * self.settings.batch]
        return (torch.from_numpy(np.asarray(self.states[np.sort(rows)], np.float32)) - self.mean) * self.scale

    def _advance(self) -> float:
        """One step; returns the share of the batch's variance that isn't rebuilt."""
        x, w = self._batch(), self.weights
        with torch.no_grad():
            centred = x - w["decoder_bias"]
            low = (tensor.to(torch.bfloat16) for tensor in (w["encoder_bias"], centred, w["encoder"].T))
            pre = torch.addmm(*low)  # half the time; its rounding is far below what the latents leave over
            sample = pre[::SAMPLED].float()
            cut = sample.flatten().topk(len(sample) * self.settings.active).values[-1].clamp_min(0)
            rows, cols = (pre > cut).nonzero(as_tuple=True)
            starts = torch.searchsorted(rows, torch.arange(len(x)))
            memory = THRESHOLD_MEMORY if self.step else 0.0
            self.threshold = memory * self.threshold + (1 - memory) * cut
            self._count(cols, len(x))
        values = pre[rows, cols].float().requires_grad_()
        rebuilt = embedding_bag(cols, w["decoder"], starts, mode="sum", per_sample_weights=values) + w["decoder_bias"]
        error = x - rebuilt
        loss = error.square().sum(-1).mean() / x.shape[-1]
        auxiliary = self._auxiliary(centred, error.detach())
        (loss + AUXILIARY_WEIGHT * auxiliary).backward()
        self._encoder_gradient(centred, cols, starts, values)
        self._update()
        return float(loss.detach()) * x.shape[-1] / float(x.square().sum(-1).mean())

    def _encoder_gradient(self, centred: Tensor, cols: Tensor, starts: Tensor, values: Tensor) -> None:
        """What the loss says about encoder and biases, given what it says about the values that fired."""
        w, says = self.weights, values.grad
        assert says is not None
        back = embedding_bag(cols, w["encoder"], starts, mode="sum", per_sample_weights=says)
        back.backward(centred)  # adds, for each latent, the sum of says * state: the gradient of its encoder row
        bias = torch.zeros(self.settings.latents).index_add_(0, cols, says)
        w["encoder_bias"].grad = bias if w["encoder_bias"].grad is None else w["encoder_bias"].grad + bias
        assert w["decoder_bias"].grad is not None
        w["decoder_bias"].grad -= back.detach().sum(0)

    def _auxiliary(self, centred: Tensor, error: Tensor) -> Tensor:
        """How badly the dead latents rebuild what is left, as a share of it; 0 if none is dead."""
        dead = (self.silent_for >= DEAD_AFTER).nonzero()[:, 0]
        if not len(dead):
            return torch.zeros(())
        w = self.weights
        pre = torch.addmm(w["encoder_bias"][dead], centred, w["encoder"][dead].T)
        top = pre.topk(min(AUXILIARY, len(dead)), dim=-1)
        values = torch.zeros_like(pre).scatter(-1, top.indices, top.values.relu())
        return (error - values @ w["decoder"][dead]).square().sum() / error.square().sum()

    def _count(self, cols: Tensor, visits: int) -> None:
        self.silent_for += visits
        self.silent_for[cols] = 0

    def _update(self) -> None:
        done = (self.step + 1) / self.settings.steps
        factor = min(1.0, done / WARM_UP, (1 - done) / DECAY)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * factor
        decoder = self.weights["decoder"]
        assert decoder.grad is not None
        with torch.no_grad():  # what would only change a row's norm is undone below anyhow
            decoder.grad -= (decoder.grad * decoder).sum(-1, keepdim=True) * decoder
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            decoder.copy_(normalize(decoder, dim=-1))

    def _save(self) -> None:
        held = {name: tensor.detach() for name, tensor in self.weights.items()}
        for name, tensor in self.weights.items():
            moments = self.optimizer.state[tensor]
            held |= {f"{name}.{key}": moments[key] for key in ("exp_avg", "exp_avg_sq", "step")}
        held |= {"threshold": self.threshold, "silent_for": self.silent_for}
        about = {"step": str(self.step), "settings": json.dumps(asdict(self.settings)), "rows": str(len(self.states))}
        about["sha256"] = _digest(held, about)
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.folder / "checkpoint.safetensors") as part:
            save_file({name: tensor.contiguous() for name, tensor in held.items()}, part, about)

    def _resume(self) -> None:
        path = self.folder / "checkpoint.safetensors"
        try:
            with safe_open(path, "pt") as file:
                about = dict(file.metadata() or {})
            held = load_file(path)
        except (OSError, SafetensorError, ValueError):
            return  # none, or half of one
        if about.pop("sha256", None) != _digest(held, about):
            return  # not as it was written
        if (json.loads(about["settings"]), int(about["rows"])) != (asdict(self.settings), len(self.states)):
            raise FeaturesUnreadable(
                f"The folder {self.folder.name!r} holds a run with other settings; give another folder, or delete it."
            )
        self.step = int(about["step"])
        self.threshold, self.silent_for = held["threshold"], held["silent_for"]
        with torch.no_grad():
            for name, tensor in self.weights.items():
                tensor.copy_(held[name])
                moments = {key: held[f"{name}.{key}"] for key in ("exp_avg", "exp_avg_sq", "step")}
                self.optimizer.state[tensor].update(moments)


def _digest(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """SHA-256 (hex) of a checkpoint's tensors and of what it says of itself."""
    digest = hashlib.sha256(json.dumps(dict(about), sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
