"""What runs and autoencoders gave, for the page of function tokens, as HTML. Text of models and files is escaped here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import numpy as np

from lens.functiontokens.search import LayerScan, MinimalK
from lens.functiontokens.steering import Steering
from lens.functiontokens.visual import VisualFeatures
from lens.statistics import p_fraction
from ui.classcards import table
from ui.tokencards import spaced, word

LISTED = 12
"""Features of a search that are listed."""
QUALITY = (
    '<p class="tl-how">FVU: share of the variance that is lost. L0: features that fire in a state. CE: cross-entropy (nats) '
    "of the model as it is, with the states replaced by their reconstructions (spliced), by their mean, by zeros. Score: "
    "share of the damage of the mean that reconstructions avoid. Dead: features that never fire.</p>"
)


def answers(found: Steering) -> str:
    """The answer before and after."""
    pushes = ", ".join(f"{push.alpha:+.3g} × feature {push.feature} (there {push.before:.3g})" for push in found.pushes)
    at = ", ".join(f"{p} ({word(t)})" for p, t in zip(found.positions, found.tokens, strict=True))
    rows = [("before", _said(found.base.answer)), ("after", _said(found.treated.answer))]
    return (
        table(("", "answer"), rows)
        + f'<p class="tl-how">{escape(pushes)} at token {at} · norm of what is added {found.norm:.3g}, of the state there '
        f"{found.state_norm:.3g} · KL of the next token {found.treated.kl:.3f} nats. {escape(found.note)}</p>"
    )


def controls(found: Steering) -> str:
    """How the push compares with its controls."""
    rows = [
        (
            escape(one.kind), f"{len(one.kl)}", f"{one.kl.mean():.3f}",
            *(p_fraction(p, len(one.kl)) for p in (one.p_kl, one.p_watched)),
        )
        for one in found.controls
    ]  # fmt: skip
    names = ", ".join(map(word, found.watched))
    head = ("pushes of the same norm", "drawn", "mean KL (nats)", "p (KL)", "p (watched words)")
    return table(head, rows) + f'<p class="tl-how">Watched words: {names}</p>'


def scan(found: LayerScan) -> str:
    """What the prompts said at each layer, and what that comes to."""
    rows = [("unchanged", f"{found.base.success:.0%}", "", "", _answers(found.base.answers))]
    for place, (layer, effect) in enumerate(zip(found.layers, found.effects, strict=True)):
        chance = f"{found.control_gain[place].min():+.2f} to {found.control_gain[place].max():+.2f}"
        rows.append(
            (f"layer {layer}", f"{effect.success:.0%}", f"{effect.gain:+.2f}", chance, _answers(effect.answers))
        )
    shown = "shows" if found.shown else "<b>does not show</b>"
    head = ("vector added at", "success", "gain (nats a token)", "gain of random vectors", "answers")
    return (
        f"<p>{_outcome(found)}</p>"
        f'<p class="tl-how">Your text is answered: {_said(found.trait_answer)} This {shown} the trait. Gain: how much '
        f"likelier that answer becomes after the other prompts.</p>{table(head, rows)}"
    )


def _outcome(found: LayerScan) -> str:
    """One or two sentences on a scan."""
    if found.best is not None:
        best = found.layers.index(found.best)
        success, chance = found.effects[best].success, float(found.control_success[best].mean())
        strayed = found.control_success.max(1)
        caution = "" if strayed.max() < success else (
            f" <b>But</b> at layer {found.layers[int(strayed.argmax())]} a random vector brings it to {strayed.max():.0%}: "
            "it may come with any push."
        )  # fmt: skip
        return (
            f"The trait comes best at <b>layer {found.best}</b>: {success:.0%} of the answers show it, "
            f"{found.base.success:.0%} of the unchanged ones, {chance:.0%} with random vectors of the same norm.{caution}"
        )
    best = int(np.argmax([effect.gain for effect in found.effects]))
    return (
        f"<b>At none of these layers</b> do more answers show the trait than without ({found.base.success:.0%}). The answer "
        f"to your text becomes likeliest at layer {found.layers[best]}, by {found.effects[best].gain:+.2f} nats a token; "
        f"random vectors of the same norm reach {found.control_gain[best].max():+.2f}. Try another α, or the difference."
    )


def smallest(found: MinimalK, spoken: Callable[[int], Sequence[str]]) -> str:
    """What the search for the smallest number of features found. ``spoken``: words that stand for a feature."""
    if found.k is None or found.alone is None or found.feature is None:
        return f"<p>{escape(found.note)}</p>"
    p = (
        ""
        if found.p is None
        else f"; random vectors of the same norm raise its likelihood as much with p = {found.p:.3f}"
    )
    effect = next(one.effect for one in found.tried if one.k == found.k)
    tried = [("unchanged", f"{found.base.success:.0%}", "", _answers(found.base.answers))]
    tried += [
        (name, f"{one.success:.0%}", f"{one.gain:+.2f}", _answers(one.answers))
        for name, one in ((f"the first {found.k}", effect), (f"feature {found.feature} alone", found.alone))
    ]
    firsts = zip(found.order[: found.k], found.values, strict=False)
    features = [(f"<b>{number}</b>", f"{value:+.3g}", spaced(spoken(number))) for number, value in firsts]
    return (
        f"<p>The {found.k} largest of {len(found.order)} features are enough to bring the trait to {effect.success:.0%} of "
        f"the answers{p}. The last of them is feature <b>{found.feature}</b>; alone it brings it to "
        f"{found.alone.success:.0%}.</p>"
        + table(("added", "success", "gain (nats a token)", "answers"), tried)
        + table(("feature", "value", "fires on"), features[:LISTED])
    )


def shared(found: VisualFeatures) -> str:
    """How far patches and words share features, with the control."""
    low, high = (np.quantile(found.turned, q) for q in (0.025, 0.975)) if len(found.turned) else (0.0, 0.0)
    return (
        f"<p><b>{found.shared:.0%}</b> of what the patches fire is fired by one of the words too ({len(found.words)} "
        f"tokens); of patches turned to random directions it is {low:.0%} to {high:.0%} (p = {found.p:.3f}). "
        f"{escape(found.note)}</p>"
    )


def visual_feature(found: VisualFeatures, feature: int) -> str:
    """One feature of the picture."""
    one = next(row for row in found.features if row.feature == feature)
    words = ", ".join(word(found.words[w]) for w in one.words) or "none"
    near = "" if one.neighbours is None else (
        f" · {one.neighbours:.0%} of its neighbouring pairs both fire (shuffled patches: p = {one.p:.3f})"
    )  # fmt: skip
    return (
        f'<p class="tl-lens">Feature {feature}</p><p class="tl-how">at {one.patches} patches of {found.positions.size}, '
        f"strongest {one.strongest:.3g}{near} · words that fire it: {words}</p>"
    )


def qualities(cards: dict[str, dict[str, Any]]) -> str:
    """The quality cards of a model's autoencoders, a row for each text that they were measured on."""
    rows = []
    for title, made in cards.items():
        for number, one in enumerate(made.get("qualities", [])):
            name = f"<b>{escape(title)}</b>" if not number else ""
            dead = f"{_figure(made, 'dead_share', '.2%')}" if not number else ""
            keys = (("fvu", ".3f"), ("l0", ".1f"), ("clean", ".3f"), ("spliced", ".3f"), ("mean", ".3f"), ("zero", ".3f"),
                    ("score_mean", ".1%"))  # fmt: skip
            rows.append((name, escape(str(one.get("text", ""))), *(_figure(one, *key) for key in keys), dead))
    head = ("", "text", "FVU", "L0", "CE", "spliced", "mean", "zero", "score", "dead")
    return table(head, rows) + QUALITY + "".join(_seeds(title, made) for title, made in cards.items())


def _answers(found: Sequence[str]) -> str:
    return "<br>".join(_said(answer) for answer in found)


def _said(answer: str) -> str:
    return f"“{escape(answer)}”" if answer else "<i>(nothing)</i>"


def _seeds(title: str, made: dict[str, Any]) -> str:
    parts = []
    if made.get("stability") is not None:
        parts.append(
            f"a second seed finds its features again with a cosine of {_figure(made, 'stability', '.2f')} (chance "
            f"{_figure(made, 'stability_chance', '.2f')})"
        )
    if made.get("untrained_fvu") is not None:
        parts.append(
            f"on an untrained model the same recipe loses {_figure(made, 'untrained_fvu', '.0%')} of the variance"
        )
    return f'<p class="tl-how">{escape(title)}: {"; ".join(parts)}.</p>' if parts else ""


def _figure(made: dict[str, Any], key: str, form: str) -> str:
    """A number of a card, which may be somebody else's file."""
    value = made.get(key)
    return format(value, form) if isinstance(value, (int, float)) else "–"
