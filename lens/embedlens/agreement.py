"""EmbedLens classes beside the other rules that tell which visual tokens carry little, or are worth keeping.

Two kinds of rules. *Marks* say yes or no by a threshold: phi (visual attention sinks), vision-encoder norm, massive
activations. *Rankings* order tokens by worth: IMA alignment, TransPrune, IDPruner, attention from the text, chance; they
become sets at a budget, the share of visual tokens kept. Two sets agree by their Matthews correlation (the phi coefficient
of two binary variables): 1 the same set, 0 as chance has it, -1 the complement; NaN where a set is empty or full.

Every score is [rows, cols] over the patches. What a model has no such thing for is listed with the reason in
:attr:`Rules.missing`, never filled with zeros. Published thresholds were set on other models; each is a parameter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens.backend.encoding import visual_grid, visual_order
from lens.backend.loading import LoadedModel
from lens.backend.tracing import Trace, hidden_sites
from lens.embedlens.discovery import vision_norms, vision_site
from lens.embedlens.probe import unit_rows
from lens.errors import CapabilityMissing

MARKS = {
    "phi": "Visual attention sink (phi)",
    "vision_norm": "Norm in the vision encoder",
    "massive": "Massive activation",
}
RANKINGS = {
    "ima": "Alignment with the text (IMA)",
    "transprune": "TransPrune",
    "idpruner": "IDPruner",
    "attention": "Attention from the text",
    "random": "Chance",
}


@dataclass(frozen=True)
class Thresholds:
    """Every number the rules use.

    Attributes:
        tau: phi above it marks a visual attention sink. ``None``: 20 of at most 64, as published for a width of 4096, in
            proportion to the model's bound sqrt(d).
        norm_ratio: vision-encoder norm, in multiples of the picture's median, above which a patch is an outlier. The
            published limits (CLIP 100, DINOv2-L 150) are absolute and hold for one encoder each.
        massive, massive_ratio: smallest absolute value of a massive activation, and its smallest multiple of the median
            absolute value of the layer (Sun et al. 2024).
        trade: lambda of IDPruner, importance against difference from what is picked.
    """

    tau: float | None = None
    norm_ratio: float = 2.0
    massive: float = 100.0
    massive_ratio: float = 1000.0
    trade: float = 0.5


DEFAULTS = Thresholds()


@dataclass(frozen=True, eq=False)
class Rules:
    """What every rule says about one picture.

    Attributes:
        marks: by name of :data:`MARKS`, the patches marked.
        scores: by name of either kind, the number behind; for :data:`RANKINGS` larger is worth more. IDPruner's is the
            order of picking, n for the first.
        sink_dims: dimensions of the residual stream found to be this model's sink dimensions.
        tau: the threshold of phi that was used.
        ima: by layer 0..N, cosine between the mean visual and the mean text state.
        missing: by name, why a rule has nothing to say.
    """

    marks: dict[str, Bool[np.ndarray, "rows cols"]]
    scores: dict[str, Float[np.ndarray, "rows cols"]]
    sink_dims: tuple[int, ...]
    tau: float
    ima: Float[np.ndarray, " layers"]
    missing: dict[str, str] = field(default_factory=dict)


def sites(loaded: LoadedModel) -> tuple[str, ...]:
    """What a trace must hold for :func:`rules`."""
    depth, vision = loaded.anatomy.depth, vision_site(loaded)
    inner = [f"{part}.{i}" for i in transition_blocks(depth) for part in _SUBLAYER_SITES]
    return (*hidden_sites(depth), *inner, *([vision] if vision else []))


def rules(
    loaded: LoadedModel,
    trace: Trace,
    attention: Float[np.ndarray, "blocks visual"] | None,
    thresholds: Thresholds = DEFAULTS,
    layer: int = 0,
    seed: int = 0,
) -> Rules:
    """All rules on one traced picture.

    Args:
        trace: with the :func:`sites` of its model.
        attention: of :func:`lens.backend.attention.attention_received`; ``None`` if the model gives none.
        layer: where IMA alignment is scored.

    Raises:
        CapabilityMissing: the trace has no visual tokens.
        SiteMissing: a site is missing from the trace.
    """
    grid = visual_grid(trace.token_map)
    shape, positions = (grid.rows, grid.cols), grid.positions.reshape(-1)
    width = trace.hidden(0).shape[1]
    tau = 20 * (width / 4096) ** 0.5 if thresholds.tau is None else thresholds.tau
    dims = sink_dims(trace, tau)
    flags: dict[str, np.ndarray] = {}
    scores: dict[str, np.ndarray] = {}
    missing: dict[str, str] = {}
    if dims:
        middle = torch.stack([trace.hidden(i)[positions] for i in range(2, trace.depth)])
        scores["phi"] = phi(middle, dims).amax(0).numpy()
        flags["phi"] = scores["phi"] > tau
    else:
        missing["phi"] = f"No dimension of the first token's states stands out beyond {tau:.1f} times their rms."
    norms = vision_norms(loaded, trace)
    if norms is None:
        missing["vision_norm"] = "The vision encoder has no cell for each visual token."
    else:
        scores["vision_norm"] = norms / np.median(norms)
        flags["vision_norm"] = scores["vision_norm"] > thresholds.norm_ratio
    scores["massive"], flags["massive"] = massive(trace, positions, thresholds)
    curve, aligned = ima(trace, layer)
    scores["ima"] = aligned
    _rank(trace, attention, positions, thresholds.trade, scores, missing)
    scores["random"] = np.random.default_rng(seed).permutation(len(positions)).astype(float)
    shaped = {name: values.reshape(shape) for name, values in scores.items()}
    return Rules({n: f.reshape(shape) for n, f in flags.items()}, shaped, dims, tau, curve, missing)


def phi(states: Float[Tensor, "*n d"], dims: tuple[int, ...]) -> Float[Tensor, "*n"]:
    """max over ``dims`` of |x_d| / rms(x) (Kang et al. 2025, "See What You Are Told"); at most sqrt(d), reached by a state
    with one entry alone."""
    x = states.float()
    rms = x.pow(2).mean(-1).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
    return x[..., list(dims)].abs().amax(-1) / rms


def sink_dims(trace: Trace, tau: float) -> tuple[int, ...]:
    """The model's sink dimensions: those in which the *first token*, the attention sink of causal models, exceeds ``tau``
    times its rms in at least half of the layers 2..N-1. Published ones (LLaVA-1.5-7B: 1415 and 2533) are the massive
    dimensions of the first token, too."""
    first = [trace.hidden(layer)[0].float() for layer in range(2, trace.depth)]
    if not first:
        return ()
    ratio = torch.stack([x.abs() / x.pow(2).mean().sqrt().clamp_min(1e-30) for x in first])
    return tuple(torch.nonzero((ratio > tau).float().mean(0) >= 0.5).flatten().tolist())


def massive(
    trace: Trace, positions: np.ndarray, thresholds: Thresholds
) -> tuple[Float[np.ndarray, " visual"], Bool[np.ndarray, " visual"]]:
    """Largest absolute activation of each visual token over the layers 1..N-1, and whether in one of them it is massive:
    at least ``massive``, and at least ``massive_ratio`` times the median over the whole layer."""
    largest, marked = np.zeros(len(positions)), np.zeros(len(positions), bool)
    for layer in range(1, trace.depth):
        states = trace.hidden(layer).float().abs()
        peak = states[positions].amax(-1).numpy()
        largest = np.maximum(largest, peak)
        marked |= (peak >= thresholds.massive) & (peak >= thresholds.massive_ratio * float(states.median()))
    return largest, marked


def ima(trace: Trace, layer: int) -> tuple[Float[np.ndarray, " layers"], Float[np.ndarray, " visual"]]:
    """Implicit multimodal alignment (Shukor and Cord 2024): by layer, the cosine between the mean visual and the mean text
    state; and at ``layer`` the cosine of each visual token with the mean text state. Text is every token of kind "text"."""
    positions = visual_grid(trace.token_map).positions.reshape(-1)
    text = np.flatnonzero(np.array(trace.token_map.kinds) == "text")
    if not len(text):
        raise CapabilityMissing("There is no text to align visual tokens with; give a prompt.")
    curve = []
    for i in range(trace.depth + 1):
        states = trace.hidden(i).float()
        curve.append(float(torch.cosine_similarity(states[positions].mean(0), states[text].mean(0), dim=0)))
    states = trace.hidden(layer).float()
    centre = unit_rows(states[text].mean(0)[None])
    return np.array(curve), (unit_rows(states[positions]) @ centre.T)[:, 0].numpy()


_SUBLAYER_SITES = ("attention_in", "attention", "mlp_in", "mlp")


def transition_blocks(depth: int) -> range:
    """TransPrune's blocks 7 to 12 (from 1), or in a model of fewer than 13 blocks the same part of 32."""
    if depth > 12:
        return range(7, 13)
    return range(max(1, round(depth * 7 / 32)), max(1, round(depth * 12 / 32)) + 1)


def transprune(
    trace: Trace, attention: Float[np.ndarray, "blocks visual"]
) -> tuple[Float[np.ndarray, " visual"], Float[np.ndarray, " visual"]]:
    """The two terms of TransPrune (arXiv 2507.20630 and its code), each summing to 1 over the visual tokens; their sum
    ranks tokens.

    Transition: per sublayer (|out| / |in|) exp(1 - cos) / sum over all tokens of exp(1 - cos), where "in" is the
    sublayer's normed input and "out" its output without the residual; added up over sublayers and
    :func:`transition_blocks`. Attention: what the text after the picture pays in the next block.
    """
    positions = visual_grid(trace.token_map).positions.reshape(-1)
    total = np.zeros(len(positions))
    blocks = transition_blocks(trace.depth)
    for block in blocks:
        for part in ("attention", "mlp"):
            total += transition(trace.site(f"{part}_in.{block}"), trace.site(f"{part}.{block}"))[positions]
    received = attention[min(blocks[-1], trace.depth - 1)].astype(float)[visual_order(trace.token_map)]
    return total / total.sum(), received / received.sum()


def transition(before: Float[Tensor, "seq d"], after: Float[Tensor, "seq d"]) -> Float[np.ndarray, " seq"]:
    """TransPrune's transition weight of every token in one sublayer."""
    before, after = before.double(), after.double()
    turned = (1 - torch.cosine_similarity(before, after, dim=-1)).exp()
    return (after.norm(dim=-1) / before.norm(dim=-1) * turned / turned.sum()).numpy()


def idpruner(
    importance: Float[np.ndarray, " n"], states: Float[Tensor, "n d"], trade: float = 0.5
) -> Float[np.ndarray, " n"]:
    """IDPruner's order: the most important token, then again and again the one with the largest
    ``trade`` importance - (1 - ``trade``) (largest cosine with those picked), importance being scaled to 0..1.

    Returns:
        n for the first picked, 1 for the last.
    """
    spread = float(np.ptp(importance))
    worth = (importance - importance.min()) / spread if spread else np.zeros(len(importance))
    unit = unit_rows(states).double().numpy()
    order = np.zeros(len(worth))
    open_, nearest = np.ones(len(worth), bool), np.full(len(worth), -np.inf)
    pick = int(worth.argmax())
    for place in range(len(worth), 0, -1):
        order[pick] = place
        open_[pick] = False
        nearest = np.maximum(nearest, unit @ unit[pick])
        pick = int(np.where(open_, trade * worth - (1 - trade) * nearest, -np.inf).argmax())
    return order


def keep_sets(scores: Mapping[str, Float[np.ndarray, "rows cols"]], budget: float) -> dict[str, np.ndarray]:
    """By ranking, the patches kept at a ``budget``: that share of the visual tokens (rounded, at least one), the best
    first; ties go to the earlier patch."""
    if not 0 < budget <= 1:
        raise ValueError(f"expected a budget above 0 and at most 1, got {budget}")
    kept = {}
    for name, values in scores.items():
        best = np.argsort(-values.reshape(-1), kind="stable")[: max(1, round(budget * values.size))]
        kept[name] = np.zeros(values.size, bool)
        kept[name][best] = True
        kept[name] = kept[name].reshape(values.shape)
    return kept


def embedlens_worth(labels: np.ndarray, margin: Float[np.ndarray, "rows cols"]) -> Float[np.ndarray, "rows cols"]:
    """The EmbedLens classes as a ranking: alive before dead before sink, within a class the token first that is least an
    anchor's (smallest ``margin``)."""
    closeness = np.nan_to_num(margin, nan=0.0)
    step = 1 + np.ptp(closeness)
    return np.select([labels == "alive", labels == "dead"], [2 * step, step], 0.0) - closeness


def sets(found: Rules, labels: np.ndarray, margin: np.ndarray, budget: float) -> dict[str, np.ndarray]:
    """Every set that the agreement matrix compares, by name: the classes, the marks, and the rankings at ``budget``."""
    ranked = {"embedlens": embedlens_worth(labels, margin)} | {n: s for n, s in found.scores.items() if n in RANKINGS}
    classes = {name: labels == name for name in ("sink", "dead", "alive")}
    return {**classes, **found.marks, **{f"keep:{n}": kept for n, kept in keep_sets(ranked, budget).items()}}


def agreement(chosen: Mapping[str, Bool[np.ndarray, "rows cols"]]) -> tuple[tuple[str, ...], np.ndarray]:
    """Names, and the matrix [n, n] of Matthews correlations between sets; NaN where a set is empty or full."""
    flat = np.array([flags.reshape(-1) for flags in chosen.values()], dtype=float)
    centred = flat - flat.mean(1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        matrix = (centred @ centred.T) / np.outer(lengths, lengths)
    return tuple(chosen), np.clip(matrix, -1, 1)


def _rank(
    trace: Trace,
    attention: Float[np.ndarray, "blocks visual"] | None,
    positions: np.ndarray,
    trade: float,
    scores: dict[str, np.ndarray],
    missing: dict[str, str],
) -> None:
    """The rankings that need attention, which comes for the visual tokens of all views."""
    if attention is None:
        missing.update(dict.fromkeys(("transprune", "idpruner", "attention"), "This model gives no attention weights."))
        return
    scores["attention"] = attention.mean(0).astype(float)[visual_order(trace.token_map)]
    scores["transprune"] = np.sum(transprune(trace, attention), axis=0)
    scores["idpruner"] = idpruner(scores["attention"], trace.hidden(0)[positions], trade)
