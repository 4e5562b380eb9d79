"""Ablating patches: none is the baseline exactly, every way agrees with an intervention written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lens.backend import interventions
from lens.backend.answers import generate, score
from lens.backend.bench import divergence, next_changes
from lens.backend.encoding import Encoded
from lens.backend.loading import LoadedModel
from lens.backend.tracing import Trace, trace
from lens.errors import Cancelled, CapabilityMissing, PatchOutsideGrid
from lens.latentlens.ablation import WAYS, ablate, each_alone, treating

PATCHES = [(0, 1), (3, 3), (5, 5)]


def positions(held: Trace) -> list[int]:
    return [held.token_map.grids[0].position(*cell) for cell in PATCHES]


@pytest.mark.parametrize("way", WAYS)
def test_no_patches_are_the_baseline_exactly(llava: LoadedModel, looking: Encoded, held: Trace, way: str):
    found = ablate(llava, looking, held, [], way)
    assert found.treated == found.base and found.base.kl == 0 and found.controls is None and found.gains == ()
    before = trace(llava, looking, ["logits"]).site("logits")
    with treating(llava, held, way, 0)([]):
        assert torch.equal(trace(llava, looking, ["logits"]).site("logits"), before)


@pytest.mark.parametrize(("way", "layer"), [("drop", 0), ("zero", 0), ("zero", 2), ("mean", 0), ("mean", 3)])
def test_each_way_is_the_intervention_it_names(llava: LoadedModel, looking: Encoded, held: Trace, way: str, layer: int):
    found = ablate(llava, looking, held, PATCHES, way, layer, controls=2)
    at = positions(held)
    mean = held.hidden(layer)[held.token_map.visual_positions].mean(0)
    by_hand = {
        "drop": lambda: interventions.drop(llava, at),
        "zero": lambda: interventions.zero(llava, layer, at),
        "mean": lambda: interventions.replace(llava, layer, at, torch.stack([mean] * 3)),
    }[way]
    answer = generate(llava, looking)
    base = score(llava, looking, answer)
    with by_hand():
        said, after = generate(llava, looking), score(llava, looking, answer)
    assert found.base.logprob == base.logprob and found.treated.answer == said.text
    assert found.treated.logprob == pytest.approx(after.logprob, abs=1e-4)
    assert found.treated.kl == pytest.approx(divergence(base, after), abs=1e-6) and found.treated.kl > 1e-5
    assert found.controls is not None and found.controls.positions.shape == (2, 3)
    assert not set(found.controls.positions.ravel().tolist()) & set(at)
    gains, losses = next_changes(llava, base, after)
    assert [one.id for one in found.gains] == [one.id for one in gains]
    assert [one.id for one in found.losses] == [one.id for one in losses]
    assert all(one.after > one.before for one in gains) and all(one.after < one.before for one in losses)


def test_the_mean_of_equal_patches_changes_nothing(llava: LoadedModel, looking: Encoded, held: Trace):
    """Where every visual token is the mean already, only rounding is left."""
    mean = held.hidden(0)[held.token_map.visual_positions].mean(0)
    visual = held.token_map.visual_positions.tolist()
    with interventions.replace(llava, 0, visual, mean.expand(len(visual), -1)):
        once = score(llava, looking, ())
    at = positions(held)
    with interventions.replace(llava, 0, visual, mean.expand(len(visual), -1)), treating(llava, held, "mean", 0)(at):
        again = score(llava, looking, ())
    assert divergence(once, again) == pytest.approx(0, abs=1e-9)


def test_every_patch_alone_is_each_ablation(llava: LoadedModel, looking: Encoded, held: Trace):
    answer = generate(llava, looking, 3)
    found = each_alone(llava, looking, held, "zero", 1, answer=answer)
    assert found.logprob.shape == found.kl.shape == (6, 6)
    for cell in PATCHES:
        alone = ablate(llava, looking, held, [cell], "zero", 1, controls=0, answer=answer)
        assert found.kl[cell] == pytest.approx(alone.treated.kl)
        assert found.logprob[cell] == pytest.approx(alone.treated.logprob - alone.base.logprob)
    assert len(np.unique(found.kl)) > 30


def test_bad_input_and_cancelling(llava: LoadedModel, looking: Encoded, held: Trace):
    with pytest.raises(PatchOutsideGrid):
        ablate(llava, looking, held, [(6, 0)])
    with pytest.raises(CapabilityMissing, match="drop, mean, zero"):
        ablate(llava, looking, held, PATCHES, "blur")
    with pytest.raises(CapabilityMissing, match="choose a layer from 0 to 3"):
        ablate(llava, looking, held, PATCHES, "zero", 4)

    def stop(done: float, total: float, message: str) -> None:
        if done >= 2:
            raise Cancelled("Stopped.")

    for run in (
        lambda: ablate(llava, looking, held, PATCHES, report=stop),
        lambda: each_alone(llava, looking, held, report=stop),
    ):
        with pytest.raises(Cancelled):
            run()
