"""Does a greedy answer name the object? Whole words, strictly and loosely, with the head's ceiling and chance."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lens.compare.wordforms import head_noun
from lens.demo import evaluate
from lens.demo.architecture import Projector
from lens.demo.photos import encode, opened, pixels, whole
from lens.demo.training import embeddings
from tests.demo.tinyconnector import INPUTS, NAMES, WIDTH, photographs, tiny_examples, tiny_language, tiny_tower


def test_scoring_takes_whole_words() -> None:
    wanted = ["cat", "sunglasses", "coffee", "elephant"]
    assert [head_noun(n) for n in ("tabby cat", "sunglasses", "cup of coffee", "elephant with tusks")] == wanted
    assert evaluate.says("A cat.", ["cat"]) and evaluate.says("Two Cats", ["cat"])
    assert not evaluate.says("A catalogue", ["cat"])
    pairs = [(["cat"], ["cat"]), (["car"], ["car", "vehicle"])]
    assert evaluate.share(["A cat.", "A vehicle."], pairs) == (0.5, 1.0)


def test_greedy_answers_are_the_language_models_own(tmp_path: Path) -> None:
    language = tiny_language()
    captions = tiny_examples(language, tmp_path).captions
    torch.manual_seed(0)
    connector = Projector(INPUTS, 16, WIDTH)
    states = torch.rand(3, 144, INPUTS) * 6
    said = evaluate.caption_all(language, connector, captions, states, "What?")
    table = embeddings(language)
    for state, text in zip(states, said, strict=True):
        ids: list[int] = []
        sequence = torch.cat((table[captions.before], connector(state), table[captions.after(["What?"])[0]]))[None]
        for _ in range(24):
            best = int(language(inputs_embeds=sequence).logits[0, -1].argmax())
            if best == captions.tokenizer.eos_token_id:
                break
            ids.append(best)
            sequence = torch.cat((sequence, table[best][None, None]), 1)
        assert text == captions.tokenizer.batch_decode([ids])[0].strip()


def test_the_ceiling_is_the_heads_own_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    language = tiny_language()
    examples = tiny_examples(language, tmp_path)
    states = encode(tiny_tower(), pixels([whole(opened(file)) for file in photographs(tmp_path, noise=20)]))
    assert evaluate.heads_answers(examples.captions, examples.head, states) == [f"A {name}." for name in NAMES]
    monkeypatch.setattr(evaluate, "caption_all", lambda *_: ["A tench.", "A fish.", "A dog.", "A shark.", ""])
    found = evaluate.measure(
        "five", language, Projector(INPUTS, 16, WIDTH), examples.captions, examples.head, states, [*range(5)]
    )
    assert (found.named, found.named_loose) == (0.4, 0.6) and found.ceiling == found.ceiling_loose == 1.0
    assert found.chance == pytest.approx((1 + 2) / 25, abs=0.05)  # tench names one of five, shark two
    assert found.captions[1] == ("goldfish", "A fish.")
