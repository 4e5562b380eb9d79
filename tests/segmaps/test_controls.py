"""Controls and baselines: each changes what it says it changes, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lens.backend.attention import attention_rollout
from lens.backend.encoding import visual_grid
from lens.backend.loading import LoadedModel
from lens.backend.maskfiles import mask_of
from lens.backend.regions import box_mask
from lens.errors import QueryMissing
from lens.segmaps.asking import Asked, ask, find_word, patch_query, seg_query, token_query, word_query
from lens.segmaps.baselines import (
    NOTES,
    centre_prior,
    class_word,
    mean_text,
    oracle,
    random_map,
    rollout,
    stands_out,
)
from lens.segmaps.controls import foreign, random_language, randomised, swapped, untrained
from lens.segmaps.maps import similarity_map
from lens.segmaps.scores import score_layers
from tests.segmaps.seghelpers import ANSWER, PROMPT, noise


def difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """By layer, the greatest difference in units of the map's range."""
    return np.abs(one - other).max((1, 2)) / np.ptp(one, axis=(1, 2))


def test_a_swapped_query_is_the_query_of_the_other_prompt(seg_model: LoadedModel, asked: Asked):
    query = seg_query(asked)
    control = swapped(seg_model, asked, query, "cat", "unbelievable motorcycles")
    again = ask(seg_model, "Segment the unbelievable motorcycles.", noise(90, 60), answer=ANSWER)
    assert again.start != asked.start, "a longer prompt"
    expected = similarity_map(asked.trace, seg_query(again))
    np.testing.assert_array_equal(control.found.raw, expected.raw)
    changed = difference(similarity_map(asked.trace, query).raw, control.found.raw)
    assert changed[0] < 1e-6 < 0.01 < changed[4], "layer 0 knows no prompt"
    assert control.found.kind == "swapped" and "motorcycles" in control.name
    same = swapped(seg_model, asked, query, "cat", "cat")
    np.testing.assert_array_equal(same.found.raw, similarity_map(asked.trace, query).raw)
    assert swapped(seg_model, asked, query, "cat", "dog", absent=True).found.kind == "absent"


def test_a_swapped_word_is_followed_to_its_new_place(seg_model: LoadedModel, asked: Asked):
    query = token_query(asked, find_word(asked, "cat"))
    control = swapped(seg_model, asked, query, "cat", "dogs")
    again = ask(seg_model, "Segment the dogs.", noise(90, 60), answer=ANSWER)
    expected = similarity_map(asked.trace, token_query(again, find_word(again, "dogs")))
    np.testing.assert_array_equal(control.found.raw, expected.raw)


def test_a_word_of_the_answer_is_swapped_there(seg_model: LoadedModel):
    """The default of a model without <SEG>: the query is a word that the model itself said."""
    asked = ask(seg_model, "What is it?", noise(90, 60), answer="a cat.")
    control = swapped(seg_model, asked, token_query(asked, find_word(asked, "cat")), "cat", "dog")
    again = ask(seg_model, "What is it?", noise(90, 60), answer="a dog.")
    expected = similarity_map(asked.trace, token_query(again, find_word(again, "dog")))
    np.testing.assert_array_equal(control.found.raw, expected.raw)


def test_a_typed_word_is_typed_anew(seg_model: LoadedModel, asked: Asked):
    control = swapped(seg_model, asked, word_query(seg_model, "cat"), "cat", "dog", "centred", absent=True)
    expected = similarity_map(asked.trace, word_query(seg_model, "dog"), "centred")
    np.testing.assert_array_equal(control.found.raw, expected.raw)
    assert control.found.kind == "absent"


def test_a_foreign_query_saw_another_picture(seg_model: LoadedModel, asked: Asked):
    query, other = seg_query(asked), noise(40, 70, seed=4)
    control = foreign(seg_model, asked, query, other, "cat")
    again = ask(seg_model, PROMPT, other, answer=ANSWER)
    np.testing.assert_array_equal(control.found.raw, similarity_map(asked.trace, seg_query(again)).raw)
    assert difference(similarity_map(asked.trace, query).raw, control.found.raw)[4] > 0.01
    assert (control.found.boxes == visual_grid(asked.token_map).boxes).all(), "on this picture's patches"


def test_an_untrained_token_changes_its_own_state_and_none_before_it(seg_model: LoadedModel, asked: Asked):
    own, before = seg_query(asked, rule="p"), seg_query(asked, rule="p-1")
    control = untrained(seg_model, asked, own)
    assert difference(similarity_map(asked.trace, own).raw, control.found.raw).min() > 0.01
    mean = seg_model.anatomy.embeddings.weight.mean(0).double()
    grid = visual_grid(asked.token_map).positions.reshape(-1)
    expected = asked.trace.hidden(0)[grid].double() @ mean
    np.testing.assert_allclose(control.found.at(0).reshape(-1), expected, rtol=1e-4, atol=1e-5)
    unchanged = untrained(seg_model, asked, before)
    np.testing.assert_allclose(unchanged.found.raw, similarity_map(asked.trace, before).raw, rtol=1e-4, atol=1e-3)
    assert "changes nothing" in unchanged.note and "changes nothing" not in control.note


def test_a_random_language_model_shares_all_but_its_blocks(seg_model: LoadedModel, asked: Asked):
    before = {name: value.clone() for name, value in seg_model.model.state_dict().items()}
    twin, again, other = random_language(seg_model), random_language(seg_model), random_language(seg_model, seed=1)
    for name, value in seg_model.model.state_dict().items():
        assert torch.equal(before[name], value), "the original is as it was"
    for part in ("vision_tower", "connector", "embeddings", "unembedding"):
        assert getattr(twin.anatomy, part) is getattr(seg_model.anatomy, part)
    weights = [m.anatomy.blocks[1].self_attn.q_proj.weight for m in (seg_model, twin, again, other)]
    assert torch.equal(weights[1], weights[2])
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[3])
    spread = seg_model.anatomy.text_model.config.initializer_range
    assert float(weights[1].std()) == pytest.approx(spread, rel=0.15)
    assert (twin.anatomy.final_norm.weight == 1).all()
    assert twin.anatomy.blocks[0] is not seg_model.anatomy.blocks[0]
    control = randomised(seg_model, asked, seg_query(asked))
    changed = difference(similarity_map(asked.trace, seg_query(asked)).raw, control.found.raw)
    assert changed[0] < 1e-6 and changed[1:].min() > 0.01
    np.testing.assert_array_equal(control.found.raw, randomised(seg_model, asked, seg_query(asked)).found.raw)


def test_controls_that_make_no_sense_are_refused(seg_model: LoadedModel, asked: Asked):
    patch, typed = patch_query(asked, 0, 0), word_query(seg_model, "dog")
    with pytest.raises(QueryMissing):
        swapped(seg_model, asked, patch, "cat", "dog")
    for query in (patch, typed):
        for control in (
            lambda q: untrained(seg_model, asked, q),
            lambda q: randomised(seg_model, asked, q),
        ):
            with pytest.raises(QueryMissing):
                control(query)
    with pytest.raises(QueryMissing, match="prompt nor answer holds 'horse'"):
        swapped(seg_model, asked, seg_query(asked), "horse", "dog")
    for word, other in (("", "dog"), ("cat", " ")):
        with pytest.raises(QueryMissing, match="type both"):
            swapped(seg_model, asked, seg_query(asked), word, other)


def test_baselines_are_maps_of_the_same_kind(seg_model: LoadedModel, asked: Asked):
    mask = mask_of(box_mask((35, 10, 55, 40), (90, 60)))
    found = [
        class_word(asked, "cat"),
        mean_text(asked),
        rollout(seg_model, asked, asked.segs[0]),
        centre_prior(asked.trace),
        stands_out(asked.trace),
        random_map(asked.trace),
        oracle(asked.trace, mask),
        oracle(asked.trace, mask_of(box_mask((15, 0, 75, 40), (90, 60))), "all objects"),
    ]
    assert {each.kind for each in found} == set(NOTES)
    for each in found:
        assert each.raw.shape == (len(each.layers), 6, 6) and each.layers[-1] == 4
        assert np.isfinite(score_layers(each, mask).curve("auc")[-1])
    scores = {each.kind: score_layers(each, mask).scores[-1] for each in found}
    assert scores["oracle"].auc > 0.99 and scores["oracle"].best_iou > 0.8
    assert scores["oracle"].best_iou == max(score.best_iou for score in scores.values())
    assert scores["oracle"].auc > scores["all objects"].auc > 0.5
    assert scores["centre"].pointing == 1 and scores["centre"].auc > 0.8


def test_the_baselines_by_hand(seg_model: LoadedModel, asked: Asked):
    word = similarity_map(asked.trace, token_query(asked, find_word(asked, "cat")), "cosine")
    np.testing.assert_array_equal(class_word(asked, "cat", "cosine").raw, word.raw)
    flow = attention_rollout(seg_model, asked.encoded, asked.segs[0])
    np.testing.assert_allclose(rollout(seg_model, asked, asked.segs[0]).at(3).reshape(-1), flow[3])
    states = asked.trace.hidden(2)[visual_grid(asked.token_map).positions.reshape(-1)].double()
    np.testing.assert_allclose(
        stands_out(asked.trace).at(2).reshape(-1), np.linalg.norm(states - states.mean(0), axis=1), rtol=1e-9
    )
    centre = centre_prior(asked.trace).at(0)
    assert np.allclose(centre, centre[::-1]) and np.allclose(centre, centre[:, ::-1])
    assert (random_map(asked.trace).raw == random_map(asked.trace).raw).all()
    assert (random_map(asked.trace).raw != random_map(asked.trace, 1).raw).any()
    half = oracle(asked.trace, mask_of(box_mask((15, 0, 20, 60), (90, 60)))).at(0)
    assert half[:, 0] == pytest.approx(0.5) and half[:, 1:].max() == 0
