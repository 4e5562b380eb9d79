"""A question about a picture, the model's answer, and the states of both in one trace; and the queries that are in it.

Where <SEG> stands and which state speaks for it is data (:data:`SEG_TOKENS`). p is the token's own position: by the rule
``"p"`` its own state is read, by ``"p-1"`` the one before, which emits it. In a causal model the second can't know the
token's embedding.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from lens.backend.answered import with_answer
from lens.backend.encoding import MAX_PROMPT_CHARS, Encoded, TokenMap, encode, in_view, visual_grid
from lens.backend.images import Picture
from lens.backend.loading import LoadedModel
from lens.backend.store import STORE
from lens.backend.tracing import Trace, hidden_sites
from lens.backend.typed import typed_states
from lens.errors import PromptUnusable, QueryMissing
from lens.segmaps.maps import Query

TOKEN_RULES = ("p-1", "p")
PROMPT = "Segment the {}."


@dataclass(frozen=True)
class SegToken:
    """How some models write <SEG>.

    Attributes:
        text: the token. rule: which state speaks for it in the models' own code.
        answer: what they say, as a template for a forced answer.
        prompt: how they were asked in training, with ``{}`` for the thing.
        model_types: the models it is for; empty for all others that have the token.
    """

    text: str
    rule: str
    answer: str
    prompt: str = PROMPT
    model_types: tuple[str, ...] = ()


SEG_TOKENS = (
    SegToken("[SEG]", "p", "Sure, it is [SEG].", "Please segment the {} in this image.", ("internvl", "sa2va_chat")),
    SegToken("[SEG]", "p-1", "Sure, [SEG].", "Please segment the {} in this image."),
    SegToken("<SEG>", "p", "It is <SEG>."),
)
"""Sa2VA reads the token itself; LISA, SESAME, READ and GLaMM the state before it; demo-seg, trained here, the token. Which
id the token has (32000 in SESAME and READ, 32003 in LISA-7B-v1) is the tokenizer's to tell. The questions and answers of
[SEG] are LISA's (``SHORT_QUESTION_LIST`` and ``ANSWER_LIST`` of its ``utils/utils.py``)."""


@dataclass(frozen=True, eq=False)
class Asked:
    """One question, answered and traced.

    Attributes:
        encoded: picture, prompt and answer as one sequence. start: where the answer starts in it.
        answer: its text. answer_ids: its tokens.
        trace: with every layer.
        segs: where <SEG> stands in the answer, one entry each. seg: how this model writes it; ``None`` if it can't.
    """

    encoded: Encoded
    start: int
    answer: str
    answer_ids: tuple[int, ...]
    trace: Trace
    segs: tuple[int, ...]
    seg: SegToken | None

    @property
    def token_map(self) -> TokenMap:
        return self.encoded.token_map


def seg_token(loaded: LoadedModel) -> SegToken | None:
    """How a model writes <SEG>; ``None`` for one whose vocabulary has no such token."""
    model_type = loaded.model.config.model_type
    vocabulary = loaded.tokenizer.get_vocab()
    fit = [row for row in SEG_TOKENS if row.text in vocabulary]
    return next((row for row in fit if model_type in row.model_types or not row.model_types), None)


def question(loaded: LoadedModel, thing: str) -> str:
    """A prompt that asks for a thing, in the words that the model was trained with."""
    token = seg_token(loaded)
    return (token.prompt if token else PROMPT).format(thing)


def ask(
    loaded: LoadedModel,
    prompt: str,
    picture: Picture,
    *,
    answer: str | tuple[int, ...] | None = None,
    sites: Iterable[str] = (),
    view: int = 0,
) -> Asked:
    """Ask, and trace the question with its greedy answer, or with a given ``answer`` (text or tokens) that is forced on the
    model; ``sites``: what else to trace; ``view``: which of the picture's to look at. Both are kept in the store.

    Raises:
        PromptUnusable, CapabilityMissing: see :func:`lens.backend.encoding.encode`.
    """
    encoded = in_view(encode(loaded, prompt, picture), view)
    if answer is None:
        said = STORE.answer(loaded, encoded)
        ids, text = said.ids, said.text
    else:
        ids = answer if isinstance(answer, tuple) else _written(loaded, answer)
        text = loaded.tokenizer.decode(ids, skip_special_tokens=True).strip()
    whole = with_answer(loaded, encoded, ids)
    wanted = (*hidden_sites(loaded.anatomy.depth), *sites)
    token = seg_token(loaded)
    seg_id = loaded.tokenizer.get_vocab()[token.text] if token else None
    start = len(encoded.token_map)
    segs = tuple(start + i for i, token_id in enumerate(ids) if token_id == seg_id)
    return Asked(whole, start, text, ids, STORE.trace(loaded, whole, wanted), segs, token)


def _written(loaded: LoadedModel, answer: str) -> tuple[int, ...]:
    """A typed answer as tokens; :class:`PromptUnusable` for one that is too long to be looked at."""
    if len(answer) > MAX_PROMPT_CHARS:
        raise PromptUnusable(
            f"The answer has {len(answer):,} characters, but at most {MAX_PROMPT_CHARS:,} are read; shorten it."
        )
    return tuple(loaded.tokenizer(answer, add_special_tokens=False)["input_ids"])


def seg_query(asked: Asked, number: int = 0, rule: str | None = None) -> Query:
    """One <SEG> of the answer (counted from 0), by ``rule`` or the model's own.

    Raises:
        QueryMissing: the model has no <SEG>, or its answer hasn't that many.
    """
    if asked.seg is None:
        raise QueryMissing(
            "This model has no <SEG> token; choose one that has, such as demo-seg, or a word of the text."
        )
    if not 0 <= number < len(asked.segs):
        found = f"{len(asked.segs)} {asked.seg.text}" if asked.segs else f"no {asked.seg.text}"
        raise QueryMissing(
            f"The model answered {asked.answer[:200]!r}, with {found} in it, so that there is no such map; ask for "
            "something that the picture shows, put an answer with it into the model's mouth (on the page “Ask for the mask "
            "anyway”, else --force), or choose a word of the text."
        )
    text = asked.seg.text if len(asked.segs) == 1 else f"{asked.seg.text} {number + 1}"
    return _read(asked, asked.segs[number], rule or asked.seg.rule, "seg", text)


def token_query(asked: Asked, position: int, rule: str = "p") -> Query:
    """Any token of the prompt or the answer, by its position in the sequence; :class:`QueryMissing` for what is no text."""
    known = asked.token_map
    if not 0 <= position < len(known) or known.kinds[position] == "image":
        raise QueryMissing(
            f"There is no text token at position {position}; choose one from 0 to {len(known) - 1} that isn't the picture's."
        )
    return _read(asked, position, rule, "token", known.texts[position])


def _read(asked: Asked, position: int, rule: str, kind: str, text: str) -> Query:
    if rule not in TOKEN_RULES:
        raise ValueError(f"expected a rule of {TOKEN_RULES}, got {rule!r}")
    at = position - 1 if rule == "p-1" else position
    if at < 0:
        raise QueryMissing("Nothing stands before the first token; read the token itself.")
    states = {layer: asked.trace.hidden(layer)[at].float() for layer in range(asked.trace.depth + 1)}
    return Query(kind, text, states, position, rule)


def find_word(asked: Asked, word: str) -> int:
    """The position of the last token of ``word`` in the text after the picture, where it stands last in the prompt, else in
    the answer; capitals don't matter. :class:`QueryMissing` where it doesn't stand there."""
    visual = asked.token_map.visual_positions
    first = int(visual[-1]) + 1 if len(visual) else 0
    pattern = re.compile(rf"(?<!\w){re.escape(word.strip())}(?!\w)", re.IGNORECASE)
    for start, stop, which in ((first, asked.start, -1), (asked.start, len(asked.token_map), 0)):
        texts = asked.token_map.texts[start:stop]
        hits = [match.end() - 1 for match in pattern.finditer("".join(texts))] if word.strip() else []
        if hits:
            seen = 0
            for place, text in enumerate(texts):
                seen += len(text)
                if seen > hits[which]:
                    return start + place
    raise QueryMissing(
        f"The word {word[:60]!r} stands neither in the prompt nor in the answer; put it into the prompt, or give a word "
        "that is there."
    )


def patch_query(asked: Asked, row: int, col: int) -> Query:
    """One patch; :class:`PatchOutsideGrid` where there is none."""
    position = visual_grid(asked.token_map).position(row, col)
    states = {layer: asked.trace.hidden(layer)[position].float() for layer in range(asked.trace.depth + 1)}
    return Query("patch", f"patch {row},{col}", states, position)


def word_query(loaded: LoadedModel, word: str) -> Query:
    """A typed word by itself, behind a carrier phrase and without the picture: the mean of its tokens' states at each layer.
    One short pass of text. :class:`QueryMissing` for a word of no tokens or too many."""
    layers = range(loaded.anatomy.depth + 1)
    states = typed_states(loaded, [word], layers)[0]
    return Query("word", word.strip(), {layer: states[layer].mean(0) for layer in layers})


def mean_text_query(asked: Asked) -> Query:
    """The mean over all text tokens of prompt and answer: what any text of this run has in common."""
    rows = [i for i, kind in enumerate(asked.token_map.kinds) if kind == "text"]
    layers = range(asked.trace.depth + 1)
    return Query("mean text", "mean text token", {i: asked.trace.hidden(i)[rows].float().mean(0) for i in layers})
