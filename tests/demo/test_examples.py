"""Training examples: the encoder's states of the drawn pictures, the head's opinion of their parts, one batch a number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lens.demo.examples import Examples
from lens.demo.photos import encode
from lens.demo.pictures import BESIDE, SINGLE
from tests.demo.tinyconnector import INPUTS, tiny_examples, tiny_language, tiny_tower


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    return tiny_examples(tiny_language(), tmp_path_factory.mktemp("examples"))


@pytest.mark.parametrize(("wanted", "pictures"), [(2, 3), (9, 11), (10, 22)])
def test_some_pictures_are_begun_to_spare_in_whole_chunks(
    examples: Examples, wanted: int, pictures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lens.demo.examples.CHUNK", 11)
    begun = examples.begin(0, wanted, True)
    assert len(begun.plan) == len(begun.states) == pictures
    assert len(examples.finish(begun, wanted)) <= wanted


def test_a_batch_is_a_function_of_its_number(examples: Examples) -> None:
    one, same, other = (examples.finish(examples.begin(number, 8, True), 8) for number in (3, 3, 4))
    assert torch.equal(one.states, same.states) and one.texts == same.texts
    assert one.rng.random() == same.rng.random()
    assert not torch.equal(one.states[:4], other.states[:4])


def test_the_states_are_the_encoders_to_half_precision(examples: Examples) -> None:
    begun = examples.begin(5, 8, True)
    exact = encode(tiny_tower(), torch.cat(list(examples.canvas.draw(begun.plan, 4))))
    assert begun.states.dtype == torch.bfloat16 and begun.states.shape == (9, 144, INPUTS)
    assert (begun.states.float() - exact).norm() < 0.03 * exact.norm()


def test_the_head_judges_each_part_by_its_own_cells(examples: Examples) -> None:
    begun = examples.begin(6, 40, True)
    likeliest, probability = begun.opinion.read()
    row = int(np.flatnonzero(begun.plan.layout == BESIDE)[0])
    grid = begun.states[row].float().reshape(12, 12, INPUTS)
    edge = begun.plan.box[row, 0, 2] / 32  # columns of the left part
    columns = torch.tensor([min(1.0, max(0.0, edge - column)) for column in range(12)])
    for part, weight in ((0, columns), (1, 1 - columns)):
        mean = (grid * weight[None, :, None]).sum((0, 1)).float() / (12 * float(weight.sum()))
        chance = (examples.head.weight @ mean + examples.head.bias).softmax(0)
        assert likeliest[row, part].tolist() == chance.argsort(descending=True).tolist()
        assert probability[row, part] == pytest.approx(chance.max().item(), abs=1e-3)


def test_a_batch_has_the_states_of_the_pictures_it_asks_about(examples: Examples) -> None:
    begun = examples.begin(7, 20, True)
    batch = examples.finish(begun, 20)
    assert len(batch) == len(batch.states) == len(batch.single)
    for states, single in zip(batch.states, batch.single, strict=True):
        (found,) = np.flatnonzero([torch.equal(states, each) for each in begun.states])
        assert (begun.plan.layout[found] == SINGLE) == single


def test_held_out_classes_are_neither_shown_nor_named(tmp_path: Path) -> None:
    held = tiny_examples(tiny_language(), tmp_path, classes=(0, 1))
    batches = [held.begin(number, 20, True) for number in range(3)]
    assert {int(c) for begun in batches for c in begun.plan.photo[begun.plan.exists]} == {0, 1}
    said = [text for begun in batches for _, text in held.finish(begun, 20).texts]
    letters = ["".join(map(chr, ids)) for ids in said]
    assert letters and not any("shark" in text or "cock" in text for text in letters)
