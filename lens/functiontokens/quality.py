"""How good an autoencoder is: what it rebuilds, how sparsely, and what the model loses when it reads the rebuilt states.

Spliced cross-entropy: the states of the layer are replaced by their reconstructions, and the model predicts on; beside it
stand the same run with zeros and with the mean state in their place. The *score* is the share of the loss by an ablation
that the reconstructions don't cause: (ablated - spliced) / (ablated - clean), 1 for a perfect autoencoder. Positions 0 and
1 are neither replaced nor counted (see :mod:`lens.functiontokens.states`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from lens.backend.batches import pad
from lens.backend.interventions import edit
from lens.backend.loading import LoadedModel
from lens.backend.running import forward
from lens.errors import CorpusUnreadable
from lens.functiontokens.basis import FIRST
from lens.functiontokens.sae import Autoencoder
from lens.functiontokens.states import sample_rows, window_states
from lens.progress import Report, silent

BATCH = 8
"""Windows whose logits are in memory at once: 8 x 128 x 49,152 are 200 MB in float32."""
STABILITY_CHUNK = 1024
DEAD_ROWS = 100_000
ENCODED = 4096


@dataclass(frozen=True)
class Texts:
    """Token windows to measure on, and what to call them."""

    name: str
    windows: tuple[list[int], ...]

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the windows."""
        return hashlib.sha256(json.dumps(self.windows).encode()).hexdigest()


@dataclass(frozen=True)
class Quality:
    """Measured on one text.

    Attributes:
        digest: of the text's windows.
        positions: states that were measured.
        fvu: share of the states' variance (about their mean) that isn't rebuilt.
        l0: latents that fire in a state, on average.
        clean, spliced, zero, mean: mean cross-entropy in nats a token, of the model as it is, with the reconstructions,
            with zeros, and with the mean state in place of the states.
    """

    text: str
    digest: str
    positions: int
    fvu: float
    l0: float
    clean: float
    spliced: float
    zero: float
    mean: float

    @property
    def score_zero(self) -> float:
        """Share of the damage by zeros that the reconstructions avoid."""
        return (self.zero - self.spliced) / (self.zero - self.clean)

    @property
    def score_mean(self) -> float:
        """Share of the damage by the mean state that the reconstructions avoid."""
        return (self.mean - self.spliced) / (self.mean - self.clean)


def measure(
    loaded: LoadedModel,
    autoencoder: Autoencoder,
    layer: int,
    texts: Texts,
    report: Report = silent,
    clean: float | None = None,
) -> Quality:
    """All of :class:`Quality` for an autoencoder of the residual stream at ``layer``; ``clean`` if it is known already.

    Raises:
        CorpusUnreadable: fewer than two positions to measure on.
    """
    states = states_of(loaded, layer, texts)
    fvu, l0 = rebuilt(autoencoder, states)
    middle = torch.from_numpy(states.mean(0))
    changes: dict[str, Callable[[Tensor], Tensor] | None] = {
        "clean": None,
        "spliced": lambda x: splice(autoencoder, x),
        "zero": torch.zeros_like,
        "mean": lambda x: middle.to(x).expand_as(x),
    }
    losses = {}
    for place, (name, change) in enumerate(changes.items()):
        report(place, len(changes), f"Cross-entropy at layer {layer}, {name}")
        known = clean if name == "clean" else None
        losses[name] = loss(loaded, texts.windows, layer, change) if known is None else known
    return Quality(texts.name, texts.digest, len(states), fvu, l0, **losses)


def states_of(loaded: LoadedModel, layer: int, texts: Texts) -> Float[np.ndarray, "n d"]:
    """The states of a text at ``layer``, without positions 0 and 1."""
    found = [states[layer] for _done, states in window_states(loaded, texts.windows, [layer])]
    states = np.concatenate(found) if found else np.zeros((0, loaded.anatomy.width), np.float32)
    if len(states) < 2:
        raise CorpusUnreadable(f"The text {texts.name} has {len(states)} states to measure on; give a longer one.")
    return states


def window_fvu(loaded: LoadedModel, autoencoder: Autoencoder, layer: int, texts: Texts) -> float:
    """The share of a text's variance at ``layer`` that isn't rebuilt."""
    return rebuilt(autoencoder, states_of(loaded, layer, texts))[0]


def splice(autoencoder: Autoencoder, states: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
    """The reconstructions of states, in their dtype and on their device."""
    flat = states.reshape(-1, states.shape[-1])
    return autoencoder.decode(autoencoder.encode(flat)).to(states).reshape(states.shape)


def rebuilt(autoencoder: Autoencoder, states: Float[np.ndarray, "n d"]) -> tuple[float, float]:
    """Share of variance unexplained, and mean number of latents that fire."""
    error, fired = 0.0, 0
    for chunk in pieces(states):
        values = autoencoder.encode(chunk)
        error += float((chunk - autoencoder.decode(values).cpu()).double().square().sum())
        fired += int((values != 0).sum())
    centre = states.mean(0, dtype=np.float64)
    variance = sum(float((chunk.double() - torch.from_numpy(centre)).square().sum()) for chunk in pieces(states))
    return error / variance, fired / len(states)


def dead_share(autoencoder: Autoencoder, states: Float[np.ndarray, "rows d"], rows: int = DEAD_ROWS) -> float:
    """Share of the latents that fire on none of ``rows`` states, drawn at random with a fixed seed."""
    alive = torch.zeros(autoencoder.size, dtype=torch.bool)
    for chunk in pieces(states[sample_rows(states, rows, 0)]):
        alive |= (autoencoder.encode(chunk) != 0).any(0).cpu()
    return float((~alive).float().mean())


def pieces(states: Float[np.ndarray, "n d"]) -> Iterator[Float[Tensor, "chunk d"]]:
    """The states in float32, some thousand at a time."""
    for start in range(0, len(states), ENCODED):
        yield torch.from_numpy(np.asarray(states[start : start + ENCODED], np.float32))


def loss(
    loaded: LoadedModel,
    windows: Sequence[list[int]],
    layer: int,
    change: Callable[[Tensor], Tensor] | None = None,
) -> float:
    """Mean cross-entropy of the next token at the positions from :data:`~lens.functiontokens.basis.FIRST` on, in nats,
    with the states of these positions at ``layer`` changed."""
    total, count = 0.0, 0
    for start in range(0, len(windows), BATCH):
        ids, mask = (tensor.to(loaded.device) for tensor in pad(windows[start : start + BATCH]))
        positions = range(FIRST, ids.shape[1])
        context = nullcontext() if change is None else changed(loaded, layer, positions, change)
        with loaded.lock, torch.inference_mode(), context:
            inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
            states = forward(loaded, loaded.anatomy.text_model, **inputs).last_hidden_state
            told = (mask[:, 1:] == 1).clone()
            told[:, :FIRST] = False
            logits = forward(loaded, loaded.anatomy.unembedding, states[:, :-1][told]).float()
            total += float(cross_entropy(logits, ids[:, 1:][told], reduction="sum"))
            count += int(told.sum())
    if not count:
        raise CorpusUnreadable(f"The windows have no token after position {FIRST}; give a longer text.")
    return total / count


def changed(
    loaded: LoadedModel, layer: int, positions: Sequence[int], change: Callable[[Tensor], Tensor]
) -> AbstractContextManager[None]:
    """A run in which the states of ``positions`` at ``layer`` are what ``change`` makes of them."""
    return edit(loaded, layer, positions, lambda states, _which: change(states))


def stability(one: Autoencoder, other: Autoencoder) -> float:
    """Mean, over the latents of ``one``, of the largest cosine of their decoder row with any row of ``other``."""
    rows, columns = normalize(one.w_dec, dim=-1), normalize(other.w_dec, dim=-1)
    best = [(chunk @ columns.T).amax(-1) for chunk in rows.split(STABILITY_CHUNK)]
    return float(torch.cat(best).mean())


def chance_stability(size: int, width: int) -> float:
    """What :func:`stability` is for two sets of random directions (seed 0)."""
    generator = torch.Generator().manual_seed(0)
    one, other = (normalize(torch.randn(size, width, generator=generator), dim=-1) for _ in range(2))
    return float(torch.cat([(chunk @ other.T).amax(-1) for chunk in one.split(STABILITY_CHUNK)]).mean())
