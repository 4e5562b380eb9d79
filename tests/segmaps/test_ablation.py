"""Dropping patches: what the changed model finds of the answer, and of <SEG> in it."""

from __future__ import annotations

import numpy as np
import pytest
from jaxtyping import Float

from lens.backend import interventions
from lens.backend.answers import generate, score
from lens.backend.encoding import encode, visual_grid
from lens.backend.loading import LoadedModel
from lens.errors import Cancelled, ControlsImpossible
from lens.segmaps.ablation import ablate
from lens.segmaps.asking import Asked, ask, seg_query
from lens.segmaps.maps import similarity_map
from tests.segmaps.seghelpers import PROMPT, noise


def seg_values(asked: Asked) -> Float[np.ndarray, "rows cols"]:
    return similarity_map(asked.trace, seg_query(asked)).at(4)


def test_likelihoods_are_those_of_the_run_without_the_patches(seg_model: LoadedModel, asked: Asked):
    values = seg_values(asked)
    found = ablate(seg_model, asked, values, 5, controls=3)
    prompt = encode(seg_model, PROMPT, noise(90, 60))
    assert found.answer_before == pytest.approx(score(seg_model, prompt, asked.answer_ids).logprob, abs=1e-3)
    assert [values[cell] for cell in found.cells] == sorted(values.reshape(-1), reverse=True)[:5]
    dropped = [int(visual_grid(asked.token_map).positions[cell]) for cell in found.cells]
    with interventions.drop(seg_model, dropped):
        assert found.said == generate(seg_model, prompt).text
        assert found.answer == pytest.approx(score(seg_model, prompt, asked.answer_ids).logprob, abs=1e-3)
        before_seg = asked.answer_ids[: asked.segs[0] - asked.start]
        steps = [
            score(seg_model, prompt, before_seg + tail).logprob for tail in ((), (asked.answer_ids[len(before_seg)],))
        ]
    assert found.seg.tolist() == pytest.approx([steps[1] - steps[0]], abs=1e-3)
    assert found.answer != pytest.approx(found.answer_before, abs=1e-4)
    assert found.answer_controls.shape == (3,) and found.seg_controls.shape == (3, 1)


def test_the_same_seed_gives_the_same_controls(seg_model: LoadedModel, asked: Asked):
    values = seg_values(asked)
    one, same, other = (ablate(seg_model, asked, values, 4, controls=3, seed=seed) for seed in (0, 0, 1))
    assert (one.answer_controls == same.answer_controls).all() and (one.answer_controls != other.answer_controls).any()
    lower = one.answer_before - one.answer_controls >= one.answer_before - one.answer
    assert one.p == pytest.approx((1 + lower.sum()) / 4)


def test_an_answer_without_seg_is_measured_too(seg_model: LoadedModel):
    asked = ask(seg_model, PROMPT, noise(90, 60), answer="There is no cat.")
    found = ablate(seg_model, asked, np.arange(36.0).reshape(6, 6), 2, controls=1)
    assert found.seg.shape == (0,) and found.cells == ((5, 5), (5, 4))


def test_too_many_patches_and_no_answer_are_refused(seg_model: LoadedModel, asked: Asked):
    values = np.zeros((6, 6))
    for count in (0, 19, 36):
        with pytest.raises(ControlsImpossible, match="choose 1 to 18 patches"):
            ablate(seg_model, asked, values, count)
    silent_one = ask(seg_model, PROMPT, noise(90, 60), answer="")
    with pytest.raises(ControlsImpossible, match="answer of 0 tokens"):
        ablate(seg_model, silent_one, values, 3)


def test_it_can_be_cancelled(seg_model: LoadedModel, asked: Asked):
    def stop(done: float, total: float, message: str) -> None:
        if done >= 2:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        ablate(seg_model, asked, np.zeros((6, 6)), 3, report=stop)
