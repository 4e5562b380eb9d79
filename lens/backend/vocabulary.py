"""A tokenizer's tokens against the rows of the model's embedding matrix: a token that was added to the one and not to the
other can be typed, but not run.

Such a token is refused by name in a prompt, an answer or a typed word (:func:`check_ids`, which every forward goes through),
and a corpus is read without the sentences that hold one (:func:`readable`), which its name then tells.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from lens.backend.corpus import Corpus
from lens.backend.loading import LoadedModel
from lens.errors import CorpusUnreadable, TokenUnknown

READ = 512
"""Sentences tokenized at once."""
NAMED = 3
"""Tokens that a sentence names."""


def beyond(loaded: LoadedModel) -> dict[int, str]:
    """The tokenizer's tokens by id, ascending, for which the model has no embedding."""
    size = loaded.anatomy.vocab_size
    found = {i: token for token, i in loaded.tokenizer.get_vocab().items() if i >= size}
    return dict(sorted(found.items()))


def typed_beyond(loaded: LoadedModel) -> dict[int, str]:
    """Those of :func:`beyond` that a text may hold: without placeholders, which stand for what isn't text."""
    holders = (loaded.tokenizer, loaded.processor)
    names = (f"{kind}_token" for kind in ("image", "video", "audio"))
    placeholders = {str(getattr(holder, name, None)) for name in names for holder in holders}
    return {
        i: token
        for i, token in beyond(loaded).items()
        if i != loaded.anatomy.image_token_id and token not in placeholders
    }


def check_ids(loaded: LoadedModel, ids: Int[Tensor, "*batch seq"], seeing: bool) -> None:
    """Refuse ids for which the model has no embedding; ``seeing``: pictures come along, whose states go where their
    placeholder is.

    Raises:
        TokenUnknown: names the first such token.
    """
    size = loaded.anatomy.vocab_size
    wrong = ids >= size
    if seeing and loaded.anatomy.image_token_id is not None:
        wrong &= ids != loaded.anatomy.image_token_id
    if not bool(torch.any(wrong)):
        return
    first = int(ids[wrong][0])
    raise TokenUnknown(
        f"The text holds the token {str(loaded.tokenizer.convert_ids_to_tokens(first))!r} (id {first}), but the model "
        f"{loaded.name!r} has embeddings for the ids 0 to {size - 1} alone; leave it out, or fetch the tokenizer that "
        "belongs to the model."
    )


def readable(corpus: Corpus, loaded: LoadedModel) -> Corpus:
    """The corpus without the sentences that the model can't run, which are counted in its name; costs two passes where the
    tokenizer has tokens without an embedding, else none, and gives the corpus itself where nothing is left out.

    Raises:
        CorpusUnreadable: nothing remains.
    """
    strange = frozenset(beyond(loaded))
    if not strange:
        return corpus
    met: set[int] = set()

    def read() -> Iterator[str]:
        sentences = iter(corpus)
        while batch := list(islice(sentences, READ)):
            encoded: Any = loaded.tokenizer(batch, add_special_tokens=False, padding=False, verbose=False)
            for sentence, ids in zip(batch, encoded["input_ids"], strict=True):
                found = strange.intersection(ids)
                met.update(found)
                if not found:
                    yield sentence

    total, kept = sum(1 for _ in corpus), sum(1 for _ in read())
    if kept == total:
        return corpus
    tokens = named([str(loaded.tokenizer.convert_ids_to_tokens(i)) for i in sorted(met)])
    if not kept:
        raise CorpusUnreadable(
            f"Every sentence of the corpus {corpus.name} holds a token without an embedding in {loaded.name!r} ({tokens}); "
            "fetch the tokenizer that belongs to the model."
        )
    left_out = f"{total - kept:,} of {total:,} sentences left out that hold tokens without an embedding ({tokens})"
    return Corpus(f"{corpus.name}, {left_out}", read, corpus.licence)


def named(tokens: list[str]) -> str:
    """Some tokens by name, further ones counted."""
    more = f" and {len(tokens) - NAMED:,} more" if len(tokens) > NAMED else ""
    return ", ".join(token[:40] for token in tokens[:NAMED]) + more
