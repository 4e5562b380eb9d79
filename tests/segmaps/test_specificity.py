"""Is a map about its word? The rule on planted maps, and the difference map against a computation of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lens.backend.loading import LoadedModel
from lens.errors import MapConstant, QueryMissing
from lens.segmaps.asking import Asked, ask, find_word, patch_query, seg_query, token_query, word_query
from lens.segmaps.maps import SimilarityMap, similarity_map
from lens.segmaps.reading import as_json, read_map
from lens.segmaps.specificity import WORDS, control_queries, control_words, difference, specificity
from tests.segmaps.seghelpers import ANSWER, noise


def planted(asked: Asked, *grids: np.ndarray) -> SimilarityMap:
    found = similarity_map(asked.trace, seg_query(asked))
    return replace(found, raw=np.stack(grids), layers=tuple(range(len(grids))))


def with_r(base: np.ndarray, r: float, seed: int = 1) -> np.ndarray:
    """A map whose correlation with ``base`` is exactly ``r``, in another range."""
    z = (base - base.mean()) / base.std()
    other = np.random.default_rng(seed).normal(size=base.shape)
    other -= other.mean() + (other * z).mean() * z
    return 7 + 30 * (r * z + np.sqrt(1 - r * r) * other / other.std())


@pytest.mark.parametrize(
    ("rs", "verdict", "sentence"),
    [
        ((0.2, 0.95), "no", "No: the map for “b” is nearly the same (r 0.95)."),
        ((0.9, 0.1), "no", "No: the map for “a” is nearly the same (r 0.90)."),
        ((0.894, 0.3), "partly", "Partly: the map for “a” is alike (r 0.89)."),
        ((0.896, 0.3), "no", "No: the map for “a” is nearly the same (r 0.90)."),
        ((0.1, 0.5), "partly", "Partly: the map for “b” is alike (r 0.50)."),
        ((0.49, -0.99), "yes", "Yes, as far as 2 other words can tell: the map for “a” is the most similar (r 0.49)."),
    ],
)
def test_the_most_similar_control_decides(asked: Asked, rs: tuple[float, ...], verdict: str, sentence: str):
    base = np.random.default_rng(0).normal(size=(6, 6))
    # A hair above the bound, so that rounding decides nothing.
    controls = {name: planted(asked, with_r(base, r + 1e-9)) for name, r in zip("ab", rs, strict=False)}
    found = specificity(planted(asked, base), "cat", controls, 0)
    assert found.verdict == verdict and found.answer == sentence and found.question == "Specific to “cat”?"
    assert list(found.alike.values()) == pytest.approx(rs)


def test_what_cannot_be_told_is_not_called_specific(asked: Asked):
    base, flat = np.random.default_rng(0).normal(size=(6, 6)), np.ones((6, 6))
    assert specificity(planted(asked, base), "cat", {"a": planted(asked, flat)}, 0).verdict == "unknown"
    assert specificity(planted(asked, flat), "cat", {"a": planted(asked, base)}, 0).verdict == "unknown"
    one = specificity(planted(asked, base), "cat", {"a": planted(asked, flat), "b": planted(asked, 2 * base)}, 0)
    assert one.verdict == "no" and one.nearest == "b", "a constant control says nothing, the other one decides"


def test_the_difference_map_is_z_scores_less_their_mean(seg_model: LoadedModel, asked: Asked):
    """Against the definition written out patch by patch."""
    query, others = seg_query(asked), ("dog", "unbelievable motorcycles")
    queries = control_queries(seg_model, asked, query, "cat", others)
    again = [ask(seg_model, f"Segment the {other}.", noise(90, 60), answer=ANSWER) for other in others]
    for similarity in ("dot", "cosine", "centred"):
        found = similarity_map(asked.trace, query, similarity)
        controls = {o: similarity_map(asked.trace, q, similarity) for o, q in zip(others, queries, strict=True)}
        left = difference(found, controls)
        assert left.minus == others and left.layers == found.layers and left.similarity == similarity
        expected = [similarity_map(asked.trace, seg_query(one), similarity).raw[4] for one in again]
        for row in range(6):
            for col in range(6):
                z = [(grid[row, col] - grid.mean()) / grid.std() for grid in (found.raw[4], *expected)]
                assert left.raw[4, row, col] == pytest.approx(z[0] - (z[1] + z[2]) / 2, abs=1e-9)
        assert (left.shown(4, "difference") == left.raw[4]).all(), "shown as it is"


def test_a_control_that_is_the_same_map_leaves_nothing(asked: Asked):
    """Whatever its range: and nothing is refused in one sentence rather than drawn as noise of rounding."""
    base = np.random.default_rng(0).normal(size=(6, 6))
    left = difference(planted(asked, base, base), {"a": planted(asked, 40 * base - 3, with_r(base, 0.95))})
    assert not left.raw[0].any() and left.raw[1].std() == pytest.approx(np.sqrt(2 - 2 * 0.95))
    with pytest.raises(MapConstant, match="0 at every patch"):
        left.shown(0, "difference")
    flat = difference(planted(asked, np.ones((6, 6))), {"a": planted(asked, base)})
    assert not flat.raw.any(), "a constant map isn't the negative of its controls"


def test_scale_and_map_belong_together(asked: Asked):
    found = similarity_map(asked.trace, seg_query(asked))
    with pytest.raises(ValueError, match="difference"):
        found.shown(4, "difference")
    with pytest.raises(ValueError, match="min-max"):
        replace(found, minus=("dog",)).shown(4)


def test_points_mask_and_export_are_those_of_the_difference(seg_model: LoadedModel, asked: Asked):
    query = seg_query(asked)
    found = similarity_map(asked.trace, query)
    controls = {"dog": similarity_map(asked.trace, control_queries(seg_model, asked, query, "cat", ["dog"])[0])}
    left, plain = difference(found, controls), as_json(read_map(asked, found, 4), "tiny")
    reading = replace(read_map(asked, left, 4, scale="difference"), specific=specificity(found, "cat", controls, 4))
    table = as_json(reading, "tiny")
    assert table["scale"] == "difference" and table["minus_mean_of"] == ["dog"]
    np.testing.assert_allclose(table["map"], left.raw[4], atol=1e-6)
    assert table["points"] != plain["points"] and table["mask"] != plain["mask"]
    assert table["specific"]["word"] == "cat" and list(table["specific"]["r_with_control_words"]) == ["dog"]
    assert plain["minus_mean_of"] == [] and plain["specific"] is None


def test_every_kind_of_query_with_a_word_has_controls(seg_model: LoadedModel, asked: Asked):
    typed = control_queries(seg_model, asked, word_query(seg_model, "cat"), "cat", ["dog", "sofa"])
    assert [one.text for one in typed] == ["dog", "sofa"]
    for layer, state in word_query(seg_model, "sofa").states.items():
        assert (typed[1].states[layer] == state).all()
    token = token_query(asked, find_word(asked, "cat"))
    (dog,) = control_queries(seg_model, asked, token, "cat", ["dog"])
    assert dog.kind == "token" and "dog".endswith(dog.text.strip())
    with pytest.raises(QueryMissing, match="zebra"):
        control_queries(seg_model, asked, seg_query(asked), "zebra", ["dog"])


def test_control_words_are_other_words_for_a_word(asked: Asked):
    query = seg_query(asked)
    assert control_words(WORDS, query, "cat") == WORDS and WORDS[0] == "submarine"
    assert control_words(["Cat", " a  dog ", "", "a dog", "sofa"], query, "cat") == ("a dog", "sofa")
    assert len(control_words(list(map(str, range(20))), query, "cat")) == 8
    with pytest.raises(QueryMissing, match="No control word is left beside 'cat'"):
        control_words([" CAT "], query, "cat")
    with pytest.raises(QueryMissing, match="patch has no word"):
        control_words(WORDS, patch_query(asked, 0, 0), "cat")
    with pytest.raises(QueryMissing, match="is no word that another"):
        control_words(WORDS, query, ".")
    with pytest.raises(QueryMissing, match="doesn't say in one word what is asked for"):
        control_words(WORDS, query, " ")
