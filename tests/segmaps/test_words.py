"""Words near a query are those of the lenses at its own position."""

from __future__ import annotations

import re

import numpy as np
import pytest

from lens.backend.loading import LoadedModel
from lens.backend.readouts import embedding_lens, logit_lens
from lens.segmaps.asking import Asked, seg_query, token_query
from lens.segmaps.words import LENSES, named_token, query_words


def test_each_layer_has_the_words_of_its_own_state(seg_model: LoadedModel, asked: Asked):
    query = seg_query(asked)
    found = query_words(seg_model, query, 3)
    assert tuple(found) == LENSES and all(tuple(by_layer) == tuple(range(5)) for by_layer in found.values())
    for layer in (0, 2, 4):
        state = asked.trace.hidden(layer)[asked.segs[0]][None]
        for lens, expected in (
            ("logit", logit_lens(seg_model, state, layer, 3)),
            ("embedding", embedding_lens(seg_model, state, 3)),
        ):
            words = found[lens][layer]
            assert words.tokens == expected.tokens and words.ids.tolist() == expected.ids.tolist()
            np.testing.assert_allclose(words.scores, expected.scores, rtol=1e-4)


def test_at_layer_0_a_tokens_own_word_is_nearest(seg_model: LoadedModel, asked: Asked):
    position = asked.start - 1
    near = query_words(seg_model, token_query(asked, position))["embedding"][0]
    assert near.ids[0, 0] == asked.token_map.ids[position]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("A cat.", "cat"),
        ("A close-up of a red banana of the banana family", "banana"),
        ("A group", "group"),
        ("There is a black-and-white cat sitting on a mat.", "cat"),
        ("The living room", "room"),
        ("It is <SEG>.", "SEG"),
        ("Describe the image.", "image"),
        ("This is it", "it"),
        ("A dog, a cat", "dog"),
        ("猫", "猫"),
    ],
)
def test_a_map_starts_from_what_the_text_names_first(text: str, word: str):
    texts = re.findall(r"\s*[\w'’-]+|\s*[^\w\s]+", text)
    found = named_token(texts)
    assert found is not None and texts[found].strip() == word


def test_a_word_in_pieces_is_read_at_its_last():
    assert named_token(["A", " ban", "ana", " of", " gold"]) == 2
    assert named_token(["12", " ", "!"]) is None
