"""Which candidates are anchors: the rule that tells sink and dead from alive, by thresholds that a reader may move.

The portable rule, a reconstruction of how arXiv 2603.00510 found its classes on LLaVA-1.5-7B, at layer 0:

1. Count, over all images, in how many of them each vocabulary entry is among the three best of some visual token. Candidates
   are those in at least ``image_share`` of the images that also *win* (are the best of) a token in ``win_share`` of them; an
   entry that wins nowhere is only the neighbour of one that does.
2. For each candidate, take the mean cosine between the tokens that it wins in different images. Above ``sink_cosine``: a
   sink. Otherwise at least ``dead_cosine``: dead. What is left is alive: no anchor. The published dead anchor is a piece of
   a word; here a whole word may be one as well, since what stands in nearly every one of many varied images names nothing
   in them. The note says which anchors begin a word or are one; with ``word_letters`` above 0 words are spared.
3. A sink is the vision encoder's where most of its tokens have a norm there above ``norm_ratio`` times the image's median;
   else the language model's where the cosine of its tokens with the first token of the sequence jumps by ``first_jump``
   at the MLP of block 2; else of unknown origin. Either test is left out where the model or the input has no such thing.

Every number is a threshold that is stored with the result. Nothing is forced: a model may have no anchors at all.

A *word* here begins with a blank and consists of at least ``word_letters`` letters (``WORD_LETTERS`` in the note); so
sub-words without a blank, single letters, marks and punctuation are none. A rare sub-word with a blank counts as a word, and
scripts that write no blanks have fewer words than they should.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lens.embedlens.anchors import Anchor, Anchors, Candidate

DEFAULTS: Mapping[str, float] = {
    "top": 3,
    "image_share": 0.95,
    "win_share": 0.5,
    "sink_cosine": 0.99,
    "dead_cosine": 0.8,
    "word_letters": 0,
    "norm_ratio": 2.0,
    "first_jump": 0.3,
    "enough_images": 200,
}
"""Thresholds of the rule. ``top``, ``image_share``, ``sink_cosine`` and ``enough_images`` are those of the method; the
others are this project's choice, since "high", "outlier" and "jump" were published without numbers. ``norm_ratio``: CLIP-L's
sinks have norms of 100 and more among some 20 to 40, DINOv2-L's above 150 among some 50."""

WORD_LETTERS = 3
"""Letters of the shortest token that the note says begins a word or is one."""

NAMED = 3
"""Entries named in the note that came near and are no anchors."""


KEPT_SHARE = 0.5
"""Entries among the best of some token in this share of the images, or more, are kept as candidates, so that thresholds
can be moved later without another pass over the images."""


def judged(anchors: Anchors, thresholds: Mapping[str, float]) -> Anchors:
    """The same candidates under other thresholds (those not given stay). Only ``image_share``, ``win_share``,
    ``sink_cosine``, ``dead_cosine``, ``word_letters`` and ``first_jump`` act without a new pass over the images, and shares
    below ``KEPT_SHARE`` find nothing more."""
    rule = {**anchors.thresholds, **thresholds}
    standing = [c for c in anchors.candidates if c.share >= rule["image_share"] and c.win_share >= rule["win_share"]]
    pairs = [(c, _judge(c, rule)) for c in standing]
    found = sorted((a for _, a in pairs if a), key=lambda a: (a.kind != "sink", -a.count, a.id))
    passed = sorted((c for c, a in pairs if a is None), key=lambda c: -c.count)
    note = _note(found, passed, standing, anchors.images, rule)
    return replace(anchors, thresholds=rule, found=tuple(found), note=note)


def _judge(candidate: Candidate, rule: Mapping[str, float]) -> Anchor | None:
    """A candidate as the anchor it is; ``None`` for one whose tokens are alive."""
    sink = candidate.cosine > rule["sink_cosine"]
    spared = 0 < rule["word_letters"] <= candidate.letters
    if not sink and (not candidate.cosine >= rule["dead_cosine"] or spared):
        return None
    origin = ""
    if sink:
        vision, language = candidate.outliers > 0.5, candidate.jump > rule["first_jump"]
        origin = "vision" if vision else "language" if language else "unknown"
    return Anchor(
        candidate.id,
        candidate.token,
        "sink" if sink else "dead",
        origin,
        candidate.share,
        candidate.cosine,
        candidate.count,
    )


def letters_of(token: str) -> int:
    """Letters of a token that is a word as the tokenizer writes it (``Ġcat``, ``▁cat``: 3), 0 for any other; see the
    module."""
    return len(token) - 1 if token[:1] in ("Ġ", "▁", " ") and token[1:].isalpha() else 0


def _note(
    found: Sequence[Anchor],
    passed: Sequence[Candidate],
    standing: Sequence[Candidate],
    images: int,
    rule: Mapping[str, float],
) -> str:
    """What was found, what came near and wasn't, and how far it can be trusted."""
    parts = []
    for kind in ("sink", "dead"):
        count = sum(anchor.kind == kind for anchor in found)
        parts.append(f"{count or 'no'} {kind} anchor{'' if count == 1 else 's'}")
    text = f"{' and '.join(parts)} found in {images:,} images."
    whole = {c.id for c in standing if c.letters >= WORD_LETTERS}
    words = [repr(anchor.token) for anchor in found if anchor.kind == "dead" and anchor.id in whole]
    if words:
        text += (
            f" {', '.join(words)} {'begin words or are' if len(words) > 1 else 'begins a word or is'} one: dead because "
            "nearly every image has such tokens and they are alike, whatever it shows."
        )
    if passed:
        named = ", ".join(f"{c.token!r} ({c.count:.1f} tokens an image, cosine {c.cosine:.2f})" for c in passed[:NAMED])
        why = "words or too little alike" if rule["word_letters"] > 0 else "too little alike"
        text += f" In nearly every image, but {why} to be anchors: {named}."
    if images < rule["enough_images"]:
        text += f" The rule asks for {rule['enough_images']:.0f} images or more, so this is a first impression."
    return text[0].upper() + text[1:]
