"""Tokens and features of the page of function tokens as HTML. Every text from a corpus, a vocabulary or a reader is escaped
here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from lens.backend.visible import visible as written
from lens.figures.steering import GROUP_COLOURS
from lens.functiontokens.counts import TokenCounts
from lens.functiontokens.coverage import Coverage, Rarefaction, TypeReach
from lens.functiontokens.featurecards import Context, FeatureCard, FeatureWords
from lens.functiontokens.graph import FeatureGraph
from lens.functiontokens.prompt import PromptReading, PromptToken
from ui.classcards import table
from ui.tokens import Setting

BARS = 12
"""Tokens of a feature that are listed."""
CONTEXTS = 6
FIRST_RANKS = 10
SATURATED = 0.99
"""A share of the features from which on a curve has no room left to say anything."""
ALIKE = 0.005
"""Shares that differ by less are called the same."""


def visible(text: str) -> str:
    """A token for plain text, not escaped: marks alone in quotes, as in the figures."""
    shown = written(text)
    return shown if any(c.isalnum() for c in shown) else f"“{shown}”"


def word(text: str) -> str:
    """A token as HTML."""
    return escape(visible(text))


def spaced(texts: Iterable[str]) -> str:
    """Several tokens as HTML, told apart by room, since some are commas."""
    return " &ensp;".join(map(word, texts))


def plain(text: str) -> str:
    """Foreign text for a caption, which reads Markdown: without what Markdown could take for its own."""
    return "".join(c for c in text if c.isalnum() or c in " '-.")[:40]


def about(setting: Setting) -> str:
    """What the page rests on, in one line."""
    basis = f"<b>{escape(setting.basis.title)}</b>: {escape(setting.basis.note)}"
    defined = f"{len(setting.function_ids):,} function tokens ({escape(setting.definition)})"
    if setting.graph is None:
        return f"{basis} · {defined}"
    made = setting.graph.manifest
    return (
        f"{basis} · corpus {escape(made.corpus)}: {made.sentences:,} sentences, {made.positions:,} tokens · {defined} · "
        f"{setting.graph.edges(setting.n).nnz:,} edges"
    )


def verdict(found: Coverage, rarefied: Rarefaction, types: TypeReach) -> str:
    """What the curve says, and what remains of it after the controls. Where any ten tokens reach nearly all features, the
    first token alone is spoken of."""
    ranks = min(FIRST_RANKS, len(found.share))
    saturated = found.mean is not None and bool(found.mean[ranks - 1] > SATURATED)
    ranks = 1 if saturated else ranks
    which = "The most frequent token alone reaches" if ranks == 1 else f"The {ranks} most frequent tokens reach"
    curve = f"{which} <b>{found.share[ranks - 1]:.0%}</b> of the features that fire"
    if found.mean is not None and found.low is not None and found.high is not None:
        mean, low, high = (float(a[ranks - 1]) for a in (found.mean, found.low, found.high))
        share = float(found.share[ranks - 1])
        if share > high:
            curve += f", more than the {_percent(mean, share)} that shuffled token labels give."
        elif share < low:
            curve += (
                f", fewer than with the token labels shuffled ({_percent(mean, share)}): frequency alone gives more."
            )
        else:
            curve += (
                f", as many as with the token labels shuffled ({_percent(mean, share)}): frequency alone explains it."
            )
        if saturated:
            curve += f" Any {FIRST_RANKS} tokens as frequent reach nearly all, so the curve's height says little here."
    else:
        curve += "; no null was drawn for this number of firings."
    return f'<p style="margin:0 0 0.2rem 0">{curve} {_remains(rarefied, types)}</p>'


def _percent(share: float, other: float) -> str:
    """A share, with a digit more where it would read like the other one."""
    return f"{share:.1%}" if f"{share:.0%}" == f"{other:.0%}" else f"{share:.0%}"


def _remains(rarefied: Rarefaction, types: TypeReach) -> str:
    if not len(rarefied.sample):
        return "One of the two groups is empty here, so they can't be compared."
    widest = int(np.argmax(np.abs(rarefied.function - rarefied.content)))
    function, content, chance = (float(a[widest]) for a in (rarefied.function, rarefied.content, rarefied.shuffled))
    which = "fewer" if function < content else "more"
    which = "as many different features as" if abs(function - content) < ALIKE else f"{which} different features than"
    text = (
        f"<b>What remains at equal numbers of occurrences</b> ({int(rarefied.sample[widest]):,} each, where they differ "
        f"most): function tokens together reach {which} content tokens ({_percent(function, content)} against "
        f"{_percent(content, function)}; any tokens {_percent(chance, content)})"
    )
    if np.isfinite(types.function_mean) and np.isfinite(types.content_mean):
        (low, high), (least, most) = types.function_interval, types.content_interval
        apart = low > most or high < least
        each = "more" if types.function_mean > types.content_mean else "fewer"
        text += (
            f", while a single one reaches {each if apart else 'about as many'} ({types.function_mean:,.0f} against "
            f"{types.content_mean:,.0f} in {types.sample} occurrences; any tokens {types.shuffled:,.0f})"
        )
    return text + "."


def token_card(graph: FeatureGraph, token_id: int, function: bool, n: int, expected: float, glosses: Sequence) -> str:
    """What the graph knows of a token; ``glosses``: (feature, words, firings, rate, lift) of its features."""
    rank = graph.counts.rank(token_id)
    degree = int(graph.degrees(n)[0][rank])
    group = "function" if function else "content"
    facts = [
        ("occurrences", f"{int(graph.counts.counts[rank]):,}, rank {rank + 1:,} of {len(graph.counts):,}"),
        ("sentences that hold it", f"{graph.counts.document_share()[rank]:.1%}"),
        ("features", f"{degree:,} of {len(graph.active):,} that fire; labels shuffled: {expected:,.0f}"),
    ]
    rows = [
        (f"<b>{feature}</b>", spaced(words), f"{firings:,}", f"{rate:.0%}", _times(lift))
        for feature, words, firings, rate, lift in glosses
    ]
    return (
        f'<p class="tl-lens">{_square(group)} {word(graph.counts.texts[rank])} '
        f'<span class="tl-how">{group} token</span></p>'
        + _facts(facts)
        + '<p class="tl-how" style="margin:0.6rem 0 0 0">Its features, and tokens that speak for each</p>'
        + table(("feature", "fires on", "firings", "of its occurrences", "× chance"), rows)
    )


def top_tokens(counts: TokenCounts, member: np.ndarray, shown: int = 25) -> str:
    """The most frequent tokens."""
    columns = zip(
        range(shown), counts.texts, counts.counts, counts.cumulative(), counts.document_share(), member, strict=False
    )
    rows = [
        (str(rank + 1), f"{_square('function' if inside else 'content')} {word(text)}", f"{count:,}", f"{share:.1%}",
         f"{documents:.1%}")
        for rank, text, count, share, documents, inside in columns
    ]  # fmt: skip
    return table(("rank", "token", "count", "cumulative", "in sentences"), rows)


def feature_head(card: FeatureCard, words: FeatureWords) -> str:
    """The upper part of a feature's card: how often it fires, where, and what it says."""
    times = card.function_share / card.function_base if card.function_base else float("nan")
    facts = [
        ("fires", f"{card.firings:,} times, on {card.rate:.2%} of the tokens read"),
        ("on function tokens", f"{card.function_share:.0%} of its firings ({times:.2f} × their share of the text)"),
        ("value", f"mean {card.mean:.3g}, largest {card.largest:.3g}"),
    ]
    return (
        f'<p class="tl-lens">Feature {card.feature} <span class="tl-how">{escape(card.name)}</span></p>'
        + _facts(facts)
        + said(words)
    )


def said(words: FeatureWords) -> str:
    """Promoted and suppressed words."""
    if not words.promoted:
        return '<p class="tl-how">It writes nothing into the residual stream.</p>'
    return (
        f'<p style="margin:0.35rem 0 0 0;font-size:0.86rem"><b>Promotes</b> {_listed(words.promoted)}<br>'
        f"<b>Suppresses</b> {_listed(words.suppressed)}</p>"
    )


def contexts(found: Sequence[Context]) -> str:
    """Where a feature fires most, each token marked; what the model had not read yet is faint."""
    if not found:
        return '<p class="tl-how">It fired nowhere in this corpus.</p>'
    return "".join(
        f'<div class="tl-row"><div class="tl-sentence">{_context(one)} '
        f'<span class="tl-score" style="float:right">{one.value:.3g}</span></div></div>'
        for one in found[:CONTEXTS]
    )


def fires_on(card: FeatureCard) -> str:
    """The tokens that fire a feature, with their group and how much more often than chance."""
    most = max(card.tokens.firings.tolist(), default=1)
    rows = []
    for place in range(min(BARS, len(card.tokens))):
        group = "function" if card.function[place] else "content"
        width = 100 * card.tokens.firings[place] / most
        rows.append(
            f'<div class="tl-head" style="font-size:0.84rem">{_square(group)}<span>{word(card.token_texts[place])}</span>'
            f'<span class="tl-score">{int(card.tokens.firings[place]):,} · {card.tokens.rate[place]:.0%} · '
            f'{_times(card.tokens.lift[place])}</span></div><div class="tl-bar"><span style="width:{width:.0f}%;background:'
            f'{GROUP_COLOURS[group]}"></span></div>'
        )
    more = len(card.tokens) - len(rows)
    rest = f'<p class="tl-how">and {more:,} more tokens</p>' if more > 0 else ""
    return '<p class="tl-how">firings · share of the token\'s occurrences · times chance</p>' + "".join(rows) + rest


def legend(groups: Iterable[str]) -> str:
    """What the colours of the groups mean."""
    meaning = {"special": "special (template)"}
    return (
        '<p class="tl-how">'
        + " &nbsp; ".join(f"{_square(group)} {meaning.get(group, group)}" for group in groups)
        + "</p>"
    )


def scale(name: str, low: float, high: float) -> str:
    """A colour scale in the page's text."""
    stops = ", ".join(("#440154", "#3e4989", "#26828e", "#35b779", "#fde725"))
    return (
        f'<p style="font-size:0.78rem;margin:0 0 0.5rem 0">{escape(name)} {low:.2f} <span style="display:inline-block;'
        f'width:9rem;height:0.7em;background:linear-gradient(90deg, {stops})"></span> {high:.2f}</p>'
    )


def token_line(token: PromptToken, fires: str) -> str:
    """One token of the reader's text."""
    numbers = [f"position {token.position}", f"{token.group} token"]
    if token.loss is not None and token.entropy is not None:
        numbers.append(f"predicted with loss {token.loss:.2f} and entropy {token.entropy:.2f} nats")
    numbers.append(f"{token.active} features fire, {token.again} of them had fired before")
    return (
        f'<p class="tl-lens">{_square(token.group)} {word(token.text)}</p><p class="tl-how">{" · ".join(numbers)}. '
        f"{escape(fires)}</p>"
    )


def token_features(token: PromptToken, reading: PromptReading, glosses: Sequence[Sequence[str]]) -> str:
    """The strongest features of a token, and where each fired first."""
    rows = []
    for fired, gloss in zip(token.top, glosses, strict=True):
        first = "here" if fired.first == token.position else f"{fired.first} ({word(reading.tokens[fired.first].text)})"
        rows.append((f"<b>{fired.feature}</b>", f"{fired.value:.3g}", first, spaced(gloss)))
    if not rows:
        return (
            '<p class="tl-how">The first two positions are left out: the first state of a text is over 100 times as long as '
            "all others.</p>"
        )
    return table(("feature", "value", "first fired at", "fires on"), rows)


def repetition(reading: PromptReading) -> str:
    """How much of what fires had fired before, by group, with its null."""
    found = reading.repetition
    if found.function is None or found.content is None or found.null is None:
        return ""
    low, high = found.null
    return (
        f'<p style="font-size:0.88rem">Function tokens fire {found.function:.0%} features that had fired before, content '
        f"tokens {found.content:.0%}: a difference of {found.function - found.content:+.0%}, where groups drawn at random "
        f"give {low:+.0%} to {high:+.0%} (p = {found.p:.3f}).</p>"
    )


def _context(one: Context) -> str:
    before, after = one.sentence[: one.start], one.sentence[one.end :]
    return (
        f"{escape(before)}<mark>{escape(one.sentence[one.start : one.end])}</mark>"
        f'<span class="tl-unseen" title="not yet read by the model at this token">{escape(after)}</span>'
    )


def _listed(found: Sequence[tuple[str, float]]) -> str:
    return " ".join(f'<span title="{logit:.2f}">{word(text)}</span>,' for text, logit in found)[:-1]


def _facts(rows: Sequence[tuple[str, str]]) -> str:
    return "".join(
        f'<div style="font-size:0.86rem"><span style="opacity:0.7">{name}:</span> {text}</div>' for name, text in rows
    )


def _square(group: str) -> str:
    """Colour and mark of a group: hatched for function tokens, plain for content, as in every figure."""
    colour = GROUP_COLOURS[group]
    ground = f"repeating-linear-gradient(135deg, {colour} 0 3px, white 3px 4px)" if group == "function" else colour
    return f'<span style="display:inline-block;width:0.8em;height:0.8em;background:{ground}"></span>'


def _times(lift: float) -> str:
    return f"{lift:.0f} ×" if lift >= 10 else f"{lift:.1f} ×"
