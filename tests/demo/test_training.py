"""Training: the loss is the model's own, held-out classes stay out, a resumed run is the uninterrupted one."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

from lens.compare.wordforms import head_noun
from lens.demo import evaluate, names, photos, training
from lens.demo.architecture import Projector
from lens.demo.captions import Captions, answer
from lens.demo.convert import CELLS

WIDTH, INPUTS = 32, 20
NAMES = ["tabby cat", "airplane", "sunglasses", "cup of coffee", "elephant with tusks"]


class LetterTokenizer:
    """A tokenizer of one id a character, enough to count and compare sequences."""

    pad_token_id = eos_token_id = 0

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Ids below 128."""
        return [ord(letter) % 128 for letter in text]


@pytest.fixture(scope="module")
def language() -> LlamaForCausalLM:
    """A tiny Llama with weights large enough to matter."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.3, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def new_trainer(language: LlamaForCausalLM, folder: Path, states: np.ndarray, **settings: object) -> training.Trainer:
    """A trainer on random cells, with two of the tiny captions' classes held out by the caller's rows."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(1)
    shots = [photos.Shot(label, None) for label in range(len(NAMES))]
    small = {"samples": 24, "batch": 4, "few": 2, "cells": (3, 5), "opening": 8, "warmup": 2, "scratch": True}
    chosen = training.Settings(**{**small, **settings})
    captions = Captions(LetterTokenizer(), NAMES)
    connector = Projector(INPUTS, 24, WIDTH)
    return training.Trainer(connector, language, captions, states, shots, [0, 1, 3], chosen, folder)


@pytest.fixture
def states() -> np.ndarray:
    """Random cached states in the cache's own form."""
    made = torch.randn(len(NAMES), CELLS, INPUTS, generator=torch.Generator().manual_seed(2))
    return made.to(torch.bfloat16).view(torch.int16).numpy()


def test_with_every_cell_the_loss_is_the_models_own(language: LlamaForCausalLM) -> None:
    outputs = torch.randn(2, CELLS, WIDTH, generator=torch.Generator().manual_seed(4)) * 0.3
    before, after, answers = [5, 6], [7, 8, 9], [[10, 11, 12], [13]]
    found = training.caption_loss(language, outputs, [list(range(CELLS))] * 2, before, after, answers)
    table, losses = language.get_input_embeddings().weight, []
    for cells, said in zip(outputs, answers, strict=True):  # one at a time: no padding, default positions
        embedded = torch.cat((table[before], cells, table[after + said]))[None]
        logits = language(inputs_embeds=embedded).logits[0, -len(said) - 1 : -1]
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(said), reduction="none"))
    torch.testing.assert_close(found, torch.cat(losses).mean(), atol=1e-5, rtol=1e-4)


def test_dropped_cells_keep_the_positions_of_the_others(language: LlamaForCausalLM) -> None:
    outputs = torch.randn(1, 2, WIDTH, generator=torch.Generator().manual_seed(4))
    near = training.caption_loss(language, outputs, [[0, 1]], [5], [7], [[9, 10]])
    far = training.caption_loss(language, outputs, [[0, 100]], [5], [7], [[9, 10]])
    assert abs(near.item() - far.item()) > 1e-4


def test_only_the_connector_is_trained(language: LlamaForCausalLM, tmp_path: Path, states: np.ndarray) -> None:
    frozen = {name: weight.clone() for name, weight in language.state_dict().items()}
    trainer = new_trainer(language, tmp_path / "run", states)
    start = trainer.connector.linear_1.weight.clone()
    trainer.run()
    assert not torch.equal(start, trainer.connector.linear_1.weight)
    assert all(torch.equal(weight, frozen[name]) for name, weight in language.state_dict().items())


def test_a_resumed_run_is_the_uninterrupted_one(language: LlamaForCausalLM, tmp_path: Path, states: np.ndarray) -> None:
    straight = new_trainer(language, tmp_path / "straight", states)
    straight.run()
    broken = new_trainer(language, tmp_path / "broken", states)
    for _ in range(3):
        broken.advance()
    broken.save()
    again = new_trainer(language, tmp_path / "broken", states)
    again.resume()
    assert again.step == 3
    again.run()
    for name, weight in straight.connector.state_dict().items():
        assert torch.equal(weight, again.connector.state_dict()[name])
    shipped = training.read_connector(tmp_path / "straight" / "connector.safetensors")
    assert torch.equal(shipped.linear_2.bias, straight.connector.linear_2.bias.to(torch.bfloat16).float())


def test_only_the_rows_given_are_drawn(language: LlamaForCausalLM, tmp_path: Path, states: np.ndarray) -> None:
    trainer = new_trainer(language, tmp_path / "run", states, mosaics=0.5)
    drawn = [trainer.draw(random.Random(i), 3) for i in range(200)]
    assert {label for labels, _, _ in drawn for label in labels} == {0, 1, 3}
    assert {len(labels) for labels, _, _ in drawn} == {1, 2}
    assert all(cells.shape == (3, INPUTS) for _, _, cells in drawn)


@pytest.mark.parametrize("stacked", [False, True])
def test_a_mosaic_shows_the_middle_half_of_each_picture_once(stacked: bool) -> None:
    shown = [training.divide(position, stacked) for position in range(CELLS)]
    assert len(set(shown)) == CELLS
    for side in (0, 1):
        rows, columns = zip(*(divmod(cell, 12) for which, cell in shown if which == side), strict=True)
        assert set(rows if stacked else columns) == set(range(3, 9))
        assert set(columns if stacked else rows) == set(range(12))
    assert training.divide(0, stacked)[0] == 0 and training.divide(CELLS - 1, stacked)[0] == 1


def test_the_closed_form_sends_a_certain_cell_to_its_word() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.eye(6, INPUTS)
    embeddings = torch.randn(50, WIDTH, generator=generator)
    head = training.head_of(weight, torch.zeros(6), embeddings, [[i, i + 10] for i in range(6)])
    torch.testing.assert_close(head.words.mean(0), torch.zeros(WIDTH), atol=1e-6, rtol=0)
    cells = 6 * torch.eye(6, INPUTS)
    connector = training.closed_form(head, cells, seed=0)
    outputs = connector(cells) - head.mean
    cosines = torch.nn.functional.cosine_similarity(outputs[:, None], head.words[None], dim=-1)
    assert cosines.argmax(-1).tolist() == list(range(6))
    assert cosines.diagonal().min() > 0.99
    torch.testing.assert_close(
        outputs.norm(dim=-1).pow(2).mean(), head.words.norm(dim=-1).pow(2).mean(), rtol=0.2, atol=0
    )


def test_longer_runs_begin_like_shorter_ones() -> None:
    short, long = training.Settings(samples=1200), training.Settings(samples=4800)
    assert [short.rate_at(s) for s in range(70)] == [long.rate_at(s) for s in range(70)]
    assert short.rate_at(0) < short.rate_at(19) == short.learning_rate
    assert short.rate_at(99) == pytest.approx(0.05 * short.learning_rate)
    assert short.opens(174) and not short.opens(175)


def test_held_out_classes_are_cached_for_measuring_only() -> None:
    held, cached = photos.held_out(0), photos.shots(0)
    assert len(held) == 100 and held == photos.held_out(0) != photos.held_out(1)
    assert [shot.label for shot in cached[:1000]] == list(range(1000))
    assert not any(shot.label in held for shot in cached[1000:])
    assert len(cached) == 1000 + 900 * photos.CROPS


def test_the_whole_picture_is_what_the_processor_shows() -> None:
    from lens.demo.convert import image_processor

    noise = np.random.default_rng(0).integers(0, 256, (256, 341, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    ours = photos.pixels([photos.whole(image)])
    theirs = image_processor()(image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_captions_are_short_sentences() -> None:
    assert answer("name", (0,), NAMES) == "A tabby cat."
    assert answer("photo", (1, 2), NAMES) == "A photo of an airplane and sunglasses."
    assert answer("name", (1, 1), NAMES) == "An airplane."


def test_scoring_takes_whole_words() -> None:
    assert [head_noun(name) for name in NAMES] == ["cat", "airplane", "sunglasses", "coffee", "elephant"]
    assert evaluate.says("A cat.", ["cat"]) and evaluate.says("Two Cats", ["cat"])
    assert not evaluate.says("A catalogue", ["cat"])
    wanted = [(["cat"], ["cat"]), (["car"], ["car", "vehicle"])]
    assert evaluate.share(["A cat.", "A vehicle."], wanted) == (0.5, 1.0)


def test_broader_words_cover_known_classes() -> None:
    table = names.broader()
    assert set(table) <= set(range(1000))
    assert [table[i] for i in (0, 9, 151, 281, 817, 954)] == ["fish", "bird", "dog", "cat", "car", "fruit"]
