"""Training a connector: the loss is the model's own and falls, phases follow the clock, a resumed run goes on."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from lens.demo import training
from lens.demo.architecture import Projector
from lens.demo.convert import CELLS
from lens.demo.examples import Batch, Examples
from lens.demo.schedule import Settings, Stopwatch
from lens.demo.training import MIDDLE, Trainer, caption_loss, choose_cells, open_language, read_connector
from lens.errors import Cancelled
from tests.demo.tinyconnector import SMALL, WIDTH, tiny_examples, tiny_language


@pytest.fixture(scope="module")
def language() -> LlamaForCausalLM:
    return tiny_language()


@pytest.fixture(scope="module")
def examples(language: LlamaForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Examples:
    return tiny_examples(language, tmp_path_factory.mktemp("photographs"))


def trainer(examples: Examples, folder: Path, settings: Settings = SMALL, **more: object) -> Trainer:
    folder.mkdir(exist_ok=True)
    return Trainer(tiny_language(), examples, settings, folder, **more)  # type: ignore[arg-type]


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "loss.jsonl").read_text().splitlines()]


def outputs(count: int, cells: int) -> torch.Tensor:
    return torch.randn(count, cells, WIDTH, generator=torch.Generator().manual_seed(4)) * 0.3


def test_with_every_cell_the_loss_is_the_models_own(language: LlamaForCausalLM) -> None:
    before, texts = [5, 6], [([7, 8, 9], [10, 11, 12]), ([7], [13])]
    found = caption_loss(language, outputs(2, CELLS), np.tile(np.arange(CELLS), (2, 1)), before, texts, 4)
    table, losses = language.get_input_embeddings().weight, []
    for cells, (after, said) in zip(
        outputs(2, CELLS), texts, strict=True
    ):  # one at a time: no padding, default positions
        embedded = torch.cat((table[before], cells, table[after + said]))[None]
        logits = language(inputs_embeds=embedded).logits[0, -len(said) - 1 : -1]
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(said), reduction="none"))
    torch.testing.assert_close(found, torch.cat(losses).mean(), atol=1e-5, rtol=1e-4)


def test_dropped_cells_keep_the_positions_of_the_others(language: LlamaForCausalLM) -> None:
    losses = [
        caption_loss(language, outputs(1, 2), np.array([chosen]), [5], [([7], [9, 10])], 2)
        for chosen in ([0, 1], [0, 100])
    ]
    assert abs(losses[0].item() - losses[1].item()) > 1e-4


def test_only_the_connector_is_trained(examples: Examples, tmp_path: Path) -> None:
    made = trainer(examples, tmp_path)
    frozen = {name: weight.clone() for name, weight in made.language.state_dict().items()}
    made.begin()
    start = made.connector.linear_1.weight.clone()
    made.run()
    assert not torch.equal(start, made.connector.linear_1.weight)
    assert all(torch.equal(weight, frozen[name]) for name, weight in made.language.state_dict().items())
    shipped = read_connector(tmp_path / "connector.safetensors")
    assert torch.equal(shipped.linear_2.bias, made.connector.linear_2.bias.to(torch.bfloat16).float())


@pytest.mark.parametrize("scratch", [False, True])
def test_the_loss_falls(examples: Examples, tmp_path: Path, scratch: bool) -> None:
    light = replace(SMALL, alignment=(0.05, 0.05), distance=(0.01, 0.01))  # this language model can't do both at once
    made = trainer(examples, tmp_path, replace(light, steps=25, scratch=scratch, learning_rate=0.03))
    batch = examples.finish(examples.begin(999, 12, True), 12)
    every, total = np.tile(np.arange(CELLS), (len(batch), 1)), sum(len(said) for _, said in batch.texts)

    def unseen() -> float:
        with torch.no_grad():
            outputs = made.connector(batch.states.float())
            return caption_loss(made.language, outputs, every, examples.captions.before, batch.texts, total).item()

    made.begin()
    before = unseen()
    made.run()
    assert unseen() < 0.95 * before
    assert [row["step"] for row in rows(tmp_path)] == list(range(1, 26))
    assert all((row["alignment"] == row["distance"] == 0) is scratch for row in rows(tmp_path))


def test_a_start_from_words_is_nearer_to_them(examples: Examples, tmp_path: Path) -> None:
    settings = replace(SMALL, stage_zero=60)
    near, far = (
        trainer(examples, tmp_path / name, replace(settings, scratch=name == "far")) for name in ("near", "far")
    )
    near.begin()
    far.begin()
    cells = examples.begin(9, 6, False).states.flatten(0, 1).float()
    losses = [training.alignment_losses(examples.head, cells, each.connector(cells))[0] for each in (near, far)]
    assert losses[0] < losses[1] / 2


def test_a_resumed_run_over_steps_is_the_uninterrupted_one(examples: Examples, tmp_path: Path) -> None:
    straight = trainer(examples, tmp_path / "straight")
    straight.begin()
    straight.run()

    def stop(done: float, total: float, message: str) -> None:
        if done >= 50:
            raise Cancelled("stop")

    broken = trainer(examples, tmp_path / "broken")
    assert not broken.begin()
    with pytest.raises(Cancelled):
        broken.run(stop)
    again = trainer(examples, tmp_path / "broken")
    assert again.begin() and again.step == 3
    again.run()
    for name, weight in straight.connector.state_dict().items():
        assert torch.equal(weight, again.connector.state_dict()[name])

    def plain(folder: str) -> list[dict]:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in rows(tmp_path / folder)]

    assert plain("straight") == plain("broken")


def test_a_run_over_a_time_goes_through_its_phases_and_ends(examples: Examples, tmp_path: Path) -> None:
    ticks = itertools.count()
    settings = replace(SMALL, steps=None, minutes=3, batch=2, scratch=True)
    made = trainer(examples, tmp_path, settings, stopwatch=Stopwatch(lambda: float(next(ticks))))
    made.begin()
    made.run()
    found = rows(tmp_path)
    assert [cells for cells, _ in itertools.groupby(row["cells"] for row in found)] == [16, 36, 72, 144]
    assert 150 < found[-1]["seconds"] < 190
    assert made.progress >= 1


def test_a_resumed_run_over_a_time_has_what_is_left_of_it(examples: Examples, tmp_path: Path) -> None:
    now = [0.0]
    settings = replace(SMALL, steps=None, minutes=2)
    first = trainer(examples, tmp_path, settings, stopwatch=Stopwatch(lambda: now[0]))
    first.begin()
    now[0] = 90.0
    first.save()
    now[0] = 1000.0
    again = trainer(examples, tmp_path, settings, stopwatch=Stopwatch(lambda: now[0]))
    again.begin()
    now[0] = 1006.0
    assert again.progress == pytest.approx(96 / 120)


def test_stage_zero_takes_a_tenth_of_the_time_at_most(examples: Examples, tmp_path: Path) -> None:
    ticks = itertools.count()
    settings = replace(SMALL, steps=None, minutes=5, stage_zero=10_000, stage_zero_pictures=10_000, batch=2)
    made = trainer(examples, tmp_path, settings, stopwatch=Stopwatch(lambda: float(next(ticks))))
    made.begin()
    assert 30 <= made.stopwatch.seconds < 40


def test_it_saves_as_it_goes(examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "SAVE_EVERY", 0.0)
    made = trainer(examples, tmp_path)
    made.begin()
    seen = []

    def look(done: float, total: float, message: str) -> None:
        seen.append(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["done"][0])

    made.run(look)
    assert seen == [1, 2, 3, 4, 5, 6]
    assert not list(tmp_path.glob("*.part"))


def test_the_opening_prefers_the_middle_of_single_pictures() -> None:
    batch = Batch(torch.zeros(2, CELLS, 1), np.array([True, False]), [([1], [2])] * 2, np.random.default_rng(0))
    single, mosaic = choose_cells(batch, 16, opening=True)
    assert set(single) <= set(MIDDLE) and not set(mosaic) <= set(MIDDLE)
    later, _ = choose_cells(batch, 36, opening=False)
    assert sorted(later) == list(later) and len(set(later)) == 36 and not set(later) <= set(MIDDLE)
    assert choose_cells(batch, CELLS, opening=False).tolist() == [list(range(CELLS))] * 2


def test_a_batch_in_parts_has_the_gradient_of_the_whole(
    examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {}
    for micro in (144, 2):
        monkeypatch.setattr(training, "MICRO", micro)
        each = trainer(examples, tmp_path / str(micro), replace(SMALL, scratch=True))
        each.begin()
        _, losses = each.advance(examples.finish(examples.begin(1, 6, True), 6), 0.3)
        made[micro] = losses, each.connector.linear_1.weight
    torch.testing.assert_close(made[144][0], made[2][0])
    torch.testing.assert_close(made[144][1], made[2][1], atol=1e-5, rtol=1e-4)


def test_a_connector_keeps_its_size_on_disk(tmp_path: Path) -> None:
    training.write_connector(Projector(20, 24, 32), tmp_path / "c.safetensors")
    assert read_connector(tmp_path / "c.safetensors").linear_1.weight.shape == (24, 20)


@pytest.mark.model
def test_the_language_model_keeps_exact_rotary_frequencies(demo_home: Path) -> None:
    opened = open_language(demo_home / "models" / "demo")
    wanted = 1.0 / opened.config.rope_parameters["rope_theta"] ** (torch.arange(0, 64, 2).float() / 64)
    assert opened.dtype == torch.bfloat16
    torch.testing.assert_close(opened.model.rotary_emb.inv_freq, wanted, rtol=1e-6, atol=0)
