"""Is a map about what was asked? The same reading with one thing changed, which an honest map must not survive.

Each control is a map on the same patches, so that it is drawn and scored beside the one it checks. The picture stands
before the prompt, so that patches' states are the same whatever is asked: swapped, absent and foreign queries change the
query alone. Answers are forced to be the one that the map was read from, and <SEG> stands where it stood in it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from lens.backend import interventions
from lens.backend.images import Picture
from lens.backend.loading import LoadedModel, assemble
from lens.backend.tracing import hidden_sites, trace
from lens.errors import QueryMissing
from lens.segmaps.asking import Asked, ask, find_word, seg_query, token_query, word_query
from lens.segmaps.maps import Query, SimilarityMap, relabelled, similarity_map


@dataclass(frozen=True, eq=False)
class Control:
    """One control.

    Attributes:
        name: what was changed. note: what it means when the map stays.
    """

    name: str
    note: str
    found: SimilarityMap


def swapped(
    loaded: LoadedModel,
    asked: Asked,
    query: Query,
    word: str,
    other: str,
    similarity: str = "dot",
    *,
    absent: bool = False,
) -> Control:
    """The map of :func:`swapped_query`. ``absent``: it is known not to be in the picture."""
    found = similarity_map(asked.trace, swapped_query(loaded, asked, query, word, other), similarity)
    kind = "absent" if absent else "swapped"
    note = (
        f"{other} isn't in the picture, yet the answer is forced: a map as clear as before isn't about the words."
        if absent
        else f"Asked for {other} instead: a map that stays isn't about the words."
    )
    return Control(f"{kind}: {other}", note, relabelled(found, kind, other))


def swapped_query(loaded: LoadedModel, asked: Asked, query: Query, word: str, other: str) -> Query:
    """The query of the same question about another thing: ``other`` takes the place of ``word`` in the prompt, or in the
    answer where it stands there alone (one run); a typed word is typed anew. :class:`QueryMissing` where that can't be."""
    if query.kind == "word":
        return word_query(loaded, other)
    prompt, answer = _replaced(loaded, asked, word, other)
    return _same(asked, ask(loaded, prompt, _picture(asked), answer=answer), query, other)


def foreign(
    loaded: LoadedModel, asked: Asked, query: Query, picture: Picture, word: str, similarity: str = "dot"
) -> Control:
    """The query as it is with another picture, on this picture's patches."""
    again = ask(loaded, asked.encoded.prompt, picture, answer=asked.answer_ids)
    found = similarity_map(asked.trace, _same(asked, again, query, word), similarity)
    note = "The query was read with another picture: a map that stays is about the words alone, not about what it saw here."
    return Control("another picture's query", note, relabelled(found, "foreign", "another picture's query"))


def untrained(loaded: LoadedModel, asked: Asked, query: Query, similarity: str = "dot") -> Control:
    """The query's own token with the mean of all input embeddings in the place of its own, what a token starts from that
    nobody trained. By the rule p-1 nothing can change, since that state comes before the token."""
    if query.kind == "patch" or query.position is None:
        raise QueryMissing(
            "This query is no token of the text, so that it has no embedding to replace; choose a token."
        )
    mean = loaded.anatomy.embeddings.weight.float().mean(0, keepdim=True).to(loaded.device, loaded.dtype)
    with interventions.replace(loaded, 0, [query.position], mean):
        held = trace(loaded, asked.encoded, hidden_sites(loaded.anatomy.depth))
    again = replace(asked, trace=held)
    found = similarity_map(held, _at(again, query), similarity)
    same = " By the rule p-1 this changes nothing: the state is read before the token." if query.rule == "p-1" else ""
    note = f"The token's embedding is one that nobody trained: what is left comes from its place in the text.{same}"
    return Control("untrained token", note, relabelled(found, "untrained", "untrained token"))


def random_language(loaded: LoadedModel, seed: int = 0) -> LoadedModel:
    """The same model with a language model that knows nothing: blocks drawn anew, norms of one; vision tower, connector and
    embeddings are shared with the original. Takes the memory of the blocks once more."""
    anatomy = loaded.anatomy
    shared = [anatomy.vision_tower, anatomy.connector, anatomy.embeddings, anatomy.unembedding]
    memo: dict[int, Any] = {id(part): part for part in shared if part is not None}
    with loaded.lock:
        model = copy.deepcopy(loaded.model, memo)
    spec = replace(loaded.spec, name=f"{loaded.name} with a random language model")
    twin = assemble(spec, model, loaded.tokenizer, loaded.processor)
    spread = float(getattr(twin.anatomy.text_model.config, "initializer_range", 0.02))
    generator = torch.Generator().manual_seed(seed)
    for module in (*twin.anatomy.blocks, twin.anatomy.final_norm):
        for part in module.modules():
            _draw(part, spread, generator)
    return twin


def _draw(part: nn.Module, spread: float, generator: torch.Generator) -> None:
    """Weights of one layer by itself: matrices N(0, spread²), gains 1, shifts 0."""
    for name, tensor in part.named_parameters(recurse=False):
        if tensor.ndim >= 2:
            drawn = torch.randn(tensor.shape, generator=generator) * spread
            tensor.data = drawn.to(tensor.device, tensor.dtype)
        else:
            tensor.data = torch.full_like(tensor, 0.0 if name == "bias" else 1.0)


def randomised(loaded: LoadedModel, asked: Asked, query: Query, similarity: str = "dot", seed: int = 0) -> Control:
    """The same sequence read by :func:`random_language`."""
    twin = random_language(loaded, seed)
    held = trace(twin, asked.encoded, hidden_sites(twin.anatomy.depth))
    found = similarity_map(held, _at(replace(asked, trace=held), query), similarity)
    note = "The language model's blocks are random: what is left comes from the connector and the architecture alone."
    return Control("random language model", note, relabelled(found, "randomised", "random language model"))


def _picture(asked: Asked) -> Picture:
    picture = asked.encoded.picture
    assert picture is not None  # there is a map
    return picture


def _same(asked: Asked, again: Asked, query: Query, word: str) -> Query:
    """The query that plays the same part in another run: the <SEG> of the same number, or the token of ``word``."""
    if query.kind == "seg" and query.position is not None:
        return seg_query(again, asked.segs.index(query.position), query.rule)
    if query.kind == "token":
        return token_query(again, find_word(again, word), query.rule or "p")
    raise QueryMissing("This control needs a token of the text as its query; choose <SEG> or a word of the prompt.")


def _at(again: Asked, query: Query) -> Query:
    """The same position of the same sequence in another run."""
    if query.kind == "patch" or query.position is None:
        raise QueryMissing("This control needs a token of the text as its query; choose <SEG> or a word of the prompt.")
    return token_query(again, query.position, query.rule or "p")


def _replaced(loaded: LoadedModel, asked: Asked, word: str, other: str) -> tuple[str, str | tuple[int, ...]]:
    """Prompt and answer with another word."""
    prompt, answer = asked.encoded.prompt, loaded.tokenizer.decode(asked.answer_ids)
    if not word.strip() or not other.strip():
        raise QueryMissing("A word and another to take its place are needed; type both.")
    if word in prompt:
        return prompt.replace(word, other), asked.answer_ids
    if word in answer:
        return prompt, answer.replace(word, other)
    raise QueryMissing(
        f"Neither prompt nor answer holds {word[:60]!r}, so that nothing can take its place; change the prompt."
    )
