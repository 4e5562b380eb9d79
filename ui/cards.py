"""Neighbours as HTML cards. Every text from a corpus, a model or a reader is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from lens.backend.visible import visible
from lens.latentlens.reading import VocabularyWord, score
from lens.latentlens.search import Neighbour

TITLES = {"latent": "LatentLens", "logit": "Logit lens", "embedding": "Embedding lens"}
HOW = {
    "latent": "cosine with words in their sentences, at every stored text layer",
    "logit": "final norm and unembedding: the next word it points to",
    "embedding": "cosine with the model's input embeddings",
}


def lens_column(lens: str, found: Sequence[Neighbour | VocabularyWord]) -> str:
    """One lens's neighbours of one patch, best first."""
    head = f'<p class="tl-lens">{TITLES[lens]}</p><p class="tl-how">{HOW[lens]}</p>'
    best = max((score(row) for row in found), default=1.0)
    full = 1.0 if lens != "logit" else max(best, 1e-6)
    return head + "".join(_card(lens, row, score(row) / full) for row in found)


def _card(lens: str, row: Neighbour | VocabularyWord, share: float) -> str:
    value = f"{score(row):.1f}" if lens == "logit" else f"{score(row):.3f}"
    sentence = _sentence(row) if isinstance(row, Neighbour) else ""
    word = escape(row.shown)
    return (
        f'<div class="tl-row"><div class="tl-head"><span class="tl-word">{word}</span>'
        f'<span class="tl-score">{value}</span></div>'
        f'<div class="tl-bar"><span style="width:{100 * min(max(share, 0.0), 1.0):.0f}%"></span></div>'
        f"{sentence}{_origin(row)}</div>"
    )


def _origin(row: Neighbour | VocabularyWord) -> str:
    """At which text layer, and by which token of the word, where that isn't the word itself."""
    layer = f'<span class="tl-layer">text layer {row.layer}</span>' if isinstance(row, Neighbour) else ""
    partial = row.token.strip() != row.word and row.shown == row.word
    token = f'<span class="tl-token">token {escape(visible(row.token))}</span>' if partial else ""
    return f'<div class="tl-origin">{layer}{token}</div>' if layer or token else ""


def _sentence(row: Neighbour) -> str:
    """The sentence with its word marked; what a causal model had not yet seen at that token is faint."""
    text, seen = row.sentence, max(row.seen, row.start)
    return (
        f'<div class="tl-sentence">{escape(text[: row.start])}<mark>{escape(text[row.start : row.end])}</mark>'
        f"{escape(text[row.end : max(seen, row.end)])}"
        f'<span class="tl-unseen" title="not yet seen by the model at this word">{escape(text[max(seen, row.end) :])}'
        "</span></div>"
    )
