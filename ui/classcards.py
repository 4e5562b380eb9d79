"""Words, anchors and answers of the EmbedLens page as HTML. Every text from a vocabulary or a model is escaped here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from html import escape

from lens.backend.bench import Run
from lens.backend.controlled import CausalResult
from lens.backend.visible import visible
from lens.embedlens.anchors import Anchors
from lens.embedlens.causal import NormSweep
from lens.embedlens.causal_folder import FolderEffect
from lens.embedlens.judging import WORD_LETTERS, letters_of
from lens.embedlens.path import Step
from lens.embedlens.persistence import Persistence
from lens.figures.embedlens import LOOKS, line_colour
from lens.statistics import p_fraction

MEANING = {
    "sink": "nearly the same state in every picture",
    "dead": "alike across pictures, near vocabulary that has nothing to do with them",
    "alive": "near none of the anchors",
}
MARKS = {"sink": "✕", "dead": "▨", "alive": "●"}


def summary(anchors: Anchors) -> str:
    """What the classes rest on, in one line."""
    groups = []
    for kind in ("sink", "dead"):
        found = ", ".join(f"<b>{_visible(anchor.token)}</b>" for anchor in anchors.of(kind))
        groups.append(f"{kind}: {found}" if found else f"{kind}: none found")
    where = f"found in {anchors.images:,} images" if anchors.source == "discovered" else "as published"
    return f"Anchors of {escape(anchors.model)}, {where} · {' · '.join(groups)}"


def paragraph(sentences: Iterable[str]) -> str:
    """Plain sentences as the paragraph that opens a page."""
    return f'<p style="margin:0 0 0.2rem 0">{escape(" ".join(sentences))}</p>'


def meaning(step: Step, anchors: Anchors) -> str:
    """What the class of a patch says of it; of a dead one, which anchor it is near and of what kind that is."""
    tokens = {anchor.token: anchor for anchor in anchors.of("dead")}
    near = next((tokens[word] for word, _cosine in step.words if word in tokens), None)
    if step.label != "dead" or near is None:
        return escape(MEANING[step.label].capitalize())
    kind = "begins a word or is one" if letters_of(near.token) >= WORD_LETTERS else "is a piece of a word"
    return f"Near “{_visible(near.token)}”, which {kind}, as tokens of nearly every picture are"


def class_line(step: Step, anchors: Anchors) -> str:
    """The class of a patch, its margin and its anchor cosine."""
    colour = line_colour(step.label)
    numbers = ""
    if not math.isnan(step.margin):
        numbers = f"nearest anchor {step.anchor_cosine:.3f} · margin over other words {step.margin:+.3f}"
    return (
        f'<p class="tl-lens"><span style="color:{colour}">{MARKS[step.label]}</span> {escape(step.label)}</p>'
        f'<p class="tl-how">{meaning(step, anchors)}{numbers and " · " + numbers}</p>'
    )


def words(step: Step, anchors: Anchors) -> str:
    """The nearest words of a patch with their cosines; anchors are marked."""
    kinds = {anchor.token: anchor.kind for anchor in anchors.found}
    return "".join(
        f'<div class="tl-row"><div class="tl-head"><span class="tl-word">{_visible(word)}</span>{_badge(kinds.get(word))}'
        f'<span class="tl-score">{cosine:.3f}</span></div><div class="tl-bar">'
        f'<span style="width:{100 * min(max(cosine, 0.0), 1.0):.0f}%"></span></div></div>'
        for word, cosine in step.words
    )


def anchors_table(anchors: Anchors) -> str:
    """What each anchor is and how it was found."""
    rows = [
        (
            _visible(anchor.token),
            anchor.kind + (f", from the {ORIGINS[anchor.origin]}" if anchor.origin in ORIGINS else ""),
            *(_number(value) for value in (anchor.share, anchor.cosine, anchor.count)),
        )
        for anchor in anchors.found
    ]
    return table(("word", "kind", "share of images", "cosine across images", "tokens per image"), rows)


ORIGINS = {"vision": "vision encoder", "language": "language model"}


def answers(results: Mapping[str, CausalResult]) -> str:
    """What the model says in each run, by the class that was treated, with the p-values of its two measures."""
    first = next(iter(results.values()))
    rows = [("unchanged", _said(first.base), "", "", "")]
    for kind, found in results.items():
        draws = len(found.controls.logprob) if found.controls else 0
        values = ("" if p is None else p_fraction(p, draws) for p in (found.p_logprob, found.p_kl))
        rows.append((escape(f"{kind}: {found.treatment}"), _said(found.treated), *values, escape(found.note)))
    return table(("run", "answer", "p (log-probability)", "p (next token)", ""), rows)


def sweep(found: NormSweep) -> str:
    """What the model says at each norm."""
    rows = [("unchanged", _said(found.base))]
    rows += [(f"norm × {factor:g}", _said(run)) for factor, run in zip(found.factors, found.runs, strict=True)]
    return table(("run", "answer"), rows)


def persistence(found: Iterable[Persistence]) -> str:
    """Classes of moved windows beside those of the first window."""
    rows = []
    for one in found:
        kept = ("" if math.isnan(one.kept[kind]) else f"{one.kept[kind]:.0%}" for kind in MEANING)
        rows.append((one.name, f"{one.agreement:.0%}", f"{one.chance:.0%}", *kept, f"{one.by_place:.0%}"))
    return table(
        (
            "window",
            "same class, same content",
            "by chance",
            *(f"{kind} stays" for kind in MEANING),
            "same class, same place",
        ),
        rows,
    )


def many(found: FolderEffect) -> str:
    """What pruning did beyond its controls, over pictures."""
    lines = []
    for key, title in (
        ("beyond_logprob", "log-probability of the answer"),
        ("beyond_kl", "KL divergence of the next token"),
    ):
        if key in found.mean:
            low, high = found.interval[key]
            lines.append(f"{title} **{found.mean[key]:+.2f}** nats (95 % interval {low:+.2f} to {high:+.2f})")
    told = len(found.pictures) - found.empty
    left_out = f"; {found.empty} without such a token left out" if found.empty else ""
    if not lines:
        return f"No picture of {len(found.pictures)} has a {found.kind} token, so there is nothing to take away."
    return f"Beyond random sets of as many tokens, mean of {told} pictures{left_out}: {'; '.join(lines)}."


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table of cells that are escaped already; it scrolls sideways where it is too wide."""
    cell = 'style="text-align:left;vertical-align:top;padding:0.15rem 1rem 0.15rem 0;overflow-wrap:break-word"'
    top = "".join(f'<th {cell}><span class="tl-how">{title}</span></th>' for title in head)
    body = "".join("<tr>" + "".join(f"<td {cell}>{text}</td>" for text in row) + "</tr>" for row in rows)
    return f'<div style="overflow-x:auto"><table style="font-size:0.86rem"><tr>{top}</tr>{body}</table></div>'


def _badge(kind: str | None) -> str:
    return f'<span class="tl-layer" style="color:{LOOKS[kind].colour}">{kind} anchor</span>' if kind else ""


def _visible(token: str) -> str:
    """A token as HTML."""
    return escape(visible(token))


def _number(value: float) -> str:
    return "not published" if math.isnan(value) else f"{value:.3g}"


def _said(run: Run) -> str:
    return escape(run.answer) or "<i>(nothing)</i>"
