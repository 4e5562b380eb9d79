"""Causal tests: an empty set changes nothing, controls match in size, every number agrees with one computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lens.backend import interventions
from lens.backend.answers import answer_logprob, generate, next_token_logprobs
from lens.backend.controlled import draw_controls
from lens.backend.encoding import Encoded, encode
from lens.backend.hooks import Hook, attached
from lens.backend.loading import LoadedModel
from lens.backend.tracing import hidden_sites, trace
from lens.embedlens.anchors import Anchor, Anchors
from lens.embedlens.causal import inject, prune, scale_norm, skip_sublayers, skipping
from lens.embedlens.causal_folder import prune_folder
from lens.embedlens.classes import classify
from lens.embedlens.probe import probe
from lens.errors import Cancelled, CapabilityMissing, LayerMissing
from tests.embedlens.planted import PROMPT, picture_of_noise, pictures


@pytest.fixture(scope="module")
def encoded(llava: LoadedModel) -> Encoded:
    return encode(llava, PROMPT, picture_of_noise(0))


@pytest.fixture(scope="module")
def chosen(encoded: Encoded) -> list[int]:
    """Seven visual tokens, not in order."""
    return encoded.token_map.visual_positions[[8, 9, 14, 15, 2, 30, 31]].tolist()


def logits(llava: LoadedModel, encoded: Encoded) -> torch.Tensor:
    return trace(llava, encoded, ["logits"]).site("logits")


def test_pruning_reports_what_a_hand_made_run_gives(llava: LoadedModel, encoded: Encoded, chosen: list[int]):
    result = prune(llava, encoded, chosen, controls=3)
    answer = generate(llava, encoded)
    base, before = next_token_logprobs(llava, encoded).double(), answer_logprob(llava, encoded, answer)
    with interventions.drop(llava, chosen):
        said, after = generate(llava, encoded).text, answer_logprob(llava, encoded, answer)
        treated = next_token_logprobs(llava, encoded).double()
    assert (result.base.answer, result.base.kl) == (answer.text, 0.0)
    assert result.base.logprob == before and result.treated.logprob == after and result.treated.answer == said
    expected = float((base.exp() * (base - treated)).sum())
    assert result.treated.kl == pytest.approx(expected, rel=1e-3) and expected > 1e-4
    controls = result.controls
    assert controls is not None and controls.positions.shape == (3, 7)
    for positions, logprob in zip(controls.positions, controls.logprob, strict=True):
        with interventions.drop(llava, positions.tolist()):
            assert answer_logprob(llava, encoded, answer) == logprob
    assert (controls.kl > 0).all()
    worse = (1 + (controls.logprob <= result.treated.logprob).sum()) / 4
    assert result.p_logprob == pytest.approx(worse)


def test_an_empty_class_changes_nothing_and_says_so(llava: LoadedModel, encoded: Encoded):
    for result in (prune(llava, encoded, []), skip_sublayers(llava, encoded, [], [1, 2])):
        assert result.treated == result.base and result.controls is None and result.p_kl is None
        assert result.note == "No token is chosen, so that nothing changes."
    before = logits(llava, encoded)
    with interventions.drop(llava, []), skipping(llava, [1, 2], ("attention", "mlp"), []):
        assert torch.equal(logits(llava, encoded), before)


def test_controls_are_seeded_of_equal_size_and_of_other_tokens(encoded: Encoded, chosen: list[int]):
    token_map = encoded.token_map
    for spatial in (False, True):
        drawn, overlapping = draw_controls(token_map, chosen, 20, 5, spatial)
        again, _ = draw_controls(token_map, chosen, 20, 5, spatial)
        assert drawn.shape == (20, 7) and np.array_equal(drawn, again) and not overlapping
        assert all(len(set(row)) == 7 for row in drawn.tolist())
        assert not set(drawn.reshape(-1)) & set(chosen) and set(drawn.reshape(-1)) <= set(token_map.visual_positions)
    assert not np.array_equal(drawn, draw_controls(token_map, chosen, 20, 6, True)[0])


def test_spatial_controls_stay_near(encoded: Encoded):
    """For one corner patch: random controls are spread over the picture, spatial ones lie around the corner."""
    grid = encoded.token_map.grids[0]
    corner = [int(grid.positions[0, 0])]
    places = {int(p): np.hypot(r, c) for (r, c), p in np.ndenumerate(grid.positions)}
    drawn = [draw_controls(encoded.token_map, corner, 40, 0, spatial)[0].ravel() for spatial in (True, False)]
    near, far = ([places[int(p)] for p in positions] for positions in drawn)
    assert max(near) < 3.2 < max(far)


def test_more_than_half_of_the_tokens(llava: LoadedModel, encoded: Encoded):
    visual = encoded.token_map.visual_positions.tolist()
    drawn, overlapping = draw_controls(encoded.token_map, visual[:20], 4, 0, False)
    assert overlapping and drawn.shape == (4, 20)
    result = prune(llava, encoded, visual)
    assert result.controls is None and "every visual token" in result.note
    assert result.treated.kl > 0


def test_fact_3_skipping_every_sublayer_leaves_the_input_embedding(llava: LoadedModel, encoded: Encoded, chosen):
    depth = llava.anatomy.depth
    plain = trace(llava, encoded, ["hidden.0"]).hidden(0)[chosen]
    with skipping(llava, range(1, depth + 1), ("attention", "mlp"), chosen):
        held = trace(llava, encoded, [*hidden_sites(depth), f"block.{depth}"])
    for layer in range(depth):
        assert torch.equal(held.hidden(layer)[chosen], plain)
    assert torch.equal(held.site(f"block.{depth}")[chosen], plain)
    result = skip_sublayers(llava, encoded, chosen, range(1, depth + 1), controls=2)
    assert result.treated.kl > 0 and result.controls is not None
    only = skip_sublayers(llava, encoded, chosen, [2], ["mlp"], controls=0)
    assert only.treated != result.treated and only.treatment == "mlp of 1 block skipped for 7 visual tokens"


def test_fact_2_injection_at_layer_0_is_the_baseline(llava: LoadedModel, encoded: Encoded):
    result = inject(llava, encoded, 0)
    assert result.treated == result.base
    late, gone = inject(llava, encoded, 2), inject(llava, encoded, llava.anatomy.depth)
    assert late.treated.kl > 1e-4 and gone.treated.kl > 1e-4 and late.treated != gone.treated
    pruned = prune(llava, encoded, encoded.token_map.visual_positions.tolist())
    assert gone.treated.logprob == pytest.approx(pruned.treated.logprob, abs=1e-3)
    with pytest.raises(LayerMissing):
        inject(llava, encoded, llava.anatomy.depth + 1)


def test_the_norm_test(llava: LoadedModel, encoded: Encoded):
    sweep = scale_norm(llava, encoded, [0.01, 1.0, 10.0])
    small, same, large = sweep.runs
    assert same == sweep.base and small.kl > 0 and large.kl > 0
    for factor in (0.0, 0.001, 11, -1):
        with pytest.raises(ValueError, match="expected factors"):
            scale_norm(llava, encoded, [factor])


def test_progress_and_cancelling_leave_the_model_as_it_was(llava: LoadedModel, encoded: Encoded, chosen: list[int]):
    seen: list[float] = []

    def report(done: float, total: float, message: str) -> None:
        seen.append(done / total)
        if done >= 2:
            raise Cancelled("Stopped.")

    before = logits(llava, encoded)
    with pytest.raises(Cancelled):
        prune(llava, encoded, chosen, controls=4, report=report)
    assert seen == [0, 0.2, 0.4]
    assert torch.equal(logits(llava, encoded), before)


def test_each_control_costs_one_forward(llava: LoadedModel, encoded: Encoded, chosen: list[int]):
    answer = generate(llava, encoded, 3)
    calls: list[int] = []
    with attached([Hook(llava.anatomy.text_model, "before", lambda *_: calls.append(1))]):
        prune(llava, encoded, chosen, controls=0, answer=answer)
        alone = len(calls)
        prune(llava, encoded, chosen, controls=6, answer=answer)
    assert len(calls) - 2 * alone == 6


def test_what_is_no_visual_token(llava: LoadedModel, llama: LoadedModel, encoded: Encoded):
    with pytest.raises(ValueError, match="visual tokens"):
        prune(llava, encoded, [len(encoded.token_map) - 1])
    text = encode(llama, PROMPT)
    with pytest.raises(CapabilityMissing):
        prune(llama, text, [])
    with pytest.raises(CapabilityMissing):
        inject(llama, text, 1)


def test_over_a_folder(llava: LoadedModel, encoded: Encoded):
    """The anchor is the best word of one token of the first picture, so that the class is small and not always there."""
    held = trace(llava, encoded, ["hidden.0"])
    states = held.hidden(0)[encoded.token_map.visual_positions[:1]]
    found = int(probe(llava, states, 1).ids[0, 0])
    anchors = Anchors("m", "", "", 0, {}, (), (Anchor(found, "word", "dead", "", 1, 1, 1),), "discovered", "")
    effect = prune_folder(llava, pictures(3), PROMPT, anchors, "dead", rule=1, controls=2)
    assert [p.name for p in effect.pictures] == ["noise-0.png", "noise-1.png", "noise-2.png"]
    first = effect.pictures[0]
    labels = classify(llava, held, anchors, rule=1).labels
    positions = encoded.token_map.grids[0].positions[labels == "dead"].tolist()
    alone = prune(llava, encoded, positions, controls=2)
    assert first.tokens == len(positions) > 0 and first.kl == alone.treated.kl
    assert first.logprob == pytest.approx(alone.treated.logprob - alone.base.logprob)
    used = [p for p in effect.pictures if p.tokens]
    assert effect.empty == 3 - len(used)
    assert effect.mean["kl"] == pytest.approx(np.mean([p.kl for p in used]))
    nothing = prune_folder(llava, pictures(2), PROMPT, anchors, "sink", controls=2)
    assert nothing.empty == 2 and nothing.mean == {} and all(p.kl == 0 for p in nothing.pictures)
