"""The checks themselves: each must fail, and say so, when what it states is broken."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from lens.backend import encoding, views
from lens.backend.checking import check
from lens.backend.loading import LoadedModel


def failed(report) -> dict[str, str]:
    return {c.name: c.off for c in report.checks if c.passed is False}


def test_models_whose_parts_are_right_pass(case):
    """But for the patches of ``demo``: every cell of its untrained convolutions sees the whole picture."""
    report = check(case.loaded)
    assert set(failed(report)) <= ({"patches"} if case.loaded.name == "tiny-demo" else set())
    assert ("patches" in [c.name for c in report.checks]) == case.loaded.anatomy.sees_images


def broken(loaded: LoadedModel, **parts) -> LoadedModel:
    return dataclasses.replace(loaded, anatomy=dataclasses.replace(loaded.anatomy, **parts))


def test_blocks_in_another_order_are_not_the_models_layers(llama: LoadedModel):
    blocks = llama.anatomy.blocks
    report = check(broken(llama, blocks=(blocks[0], blocks[2], blocks[1], blocks[3])))
    assert failed(report) == {"layers": "every view of layers"}
    assert "Layer" in report.checks[2].why


def test_a_missing_block_is_counted(llama: LoadedModel):
    assert check(broken(llama, blocks=llama.anatomy.blocks[:3])).checks[0].why.startswith("Found 3 blocks where")


def test_another_unembedding_does_not_rank_words_as_the_model_does(llama: LoadedModel):
    other = torch.nn.Linear(llama.anatomy.width, llama.anatomy.vocab_size, bias=False)
    assert failed(check(broken(llama, unembedding=other))) == {"logits": "the logit lens"}


def test_a_scaled_unembedding_still_ranks_words(llama: LoadedModel):
    scaled = torch.nn.Linear(llama.anatomy.width, llama.anatomy.vocab_size, bias=False)
    scaled.weight = torch.nn.Parameter(3 * llama.anatomy.unembedding.weight, requires_grad=False)  # type: ignore[operator]
    report = check(broken(llama, unembedding=scaled))
    assert report.passed and "another scale" in report.checks[3].why


@pytest.mark.parametrize("change", ["transposed", "one to the side", "two to the side"])
def test_a_grid_that_lies_elsewhere_is_found_out(llava: LoadedModel, monkeypatch, change: str):
    rule = views.RULES["single view"]

    def wrong(seen):
        (view,) = rule(seen)
        by = 1 if change.startswith("one") else 2
        tokens = view.tokens.T if change == "transposed" else (view.tokens + by) % view.tokens.size
        return (dataclasses.replace(view, tokens=tokens),)

    monkeypatch.setitem(encoding.RULES, "single view", wrong)
    assert failed(check(llava)) == {"patches": "everything that shows patches in the picture"}


def test_a_processor_that_places_other_tokens_leaves_the_text_checks_out(llava: LoadedModel):
    report = check(broken(llava, image_token_id=None))
    assert not report.passed
    assert report.off
