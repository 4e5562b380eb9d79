"""Questions, answers and the queries in them: <SEG> at p and p-1, words, patches; what isn't there is explained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lens.backend.loading import LoadedModel
from lens.backend.typed import CARRIER
from lens.errors import PatchOutsideGrid, PromptUnusable, QueryMissing
from lens.segmaps.asking import (
    Asked,
    ask,
    find_word,
    mean_text_query,
    patch_query,
    seg_query,
    seg_token,
    token_query,
    word_query,
)
from tests.helpers import tiny_llava
from tests.segmaps.seghelpers import ANSWER, PROMPT, noise


def test_seg_is_found_in_the_answer(seg_model: LoadedModel, asked: Asked):
    assert asked.answer == ANSWER
    (position,) = asked.segs
    assert asked.token_map.texts[position] == "<SEG>" and position >= asked.start
    token = seg_token(seg_model)
    assert token is not None and (token.text, token.rule) == ("<SEG>", "p")


def test_p_and_the_state_before_it(asked: Asked):
    own, before, usual = (seg_query(asked, rule=rule) for rule in ("p", "p-1", None))
    (position,) = asked.segs
    for layer in range(5):
        states = asked.trace.hidden(layer)
        assert torch.equal(own.states[layer], states[position]) and torch.equal(usual.states[layer], own.states[layer])
        assert torch.equal(before.states[layer], states[position - 1])
        assert torch.equal(before.states[layer], token_query(asked, position - 1).states[layer])
    assert (own.position, own.rule, before.position, before.rule) == (position, "p", position, "p-1")
    with pytest.raises(ValueError, match="rule"):
        seg_query(asked, rule="p+1")


def test_the_rule_is_data(seg_model: LoadedModel):
    """Of models that write [SEG], Sa2VA reads the token and the others the state before it."""
    tokenizer = seg_model.tokenizer

    class Renamed:
        def get_vocab(self) -> dict[str, int]:
            return {("[SEG]" if token == "<SEG>" else token): i for token, i in tokenizer.get_vocab().items()}

    lisa = replace(seg_model, tokenizer=Renamed())
    found = seg_token(lisa)
    assert found is not None and (found.text, found.rule) == ("[SEG]", "p-1")
    kind = seg_model.model.config.model_type
    try:
        seg_model.model.config.model_type = "sa2va_chat"
        found = seg_token(lisa)
        assert found is not None and found.rule == "p"
    finally:
        seg_model.model.config.model_type = kind


def test_two_seg_have_a_map_each(seg_model: LoadedModel):
    asked = ask(seg_model, PROMPT, noise(90, 60), answer="It is <SEG> and <SEG>.")
    assert len(asked.segs) == 2
    one, other = seg_query(asked, 0), seg_query(asked, 1)
    assert (one.text, other.text) == ("<SEG> 1", "<SEG> 2")
    assert (one.position, other.position) == asked.segs
    assert not torch.equal(one.states[4], other.states[4])
    with pytest.raises(QueryMissing, match="with 2 <SEG> in it"):
        seg_query(asked, 2)


def test_an_answer_without_seg_is_told(seg_model: LoadedModel):
    asked = ask(seg_model, PROMPT, noise(90, 60), answer="There is no cat.")
    assert asked.segs == ()
    with pytest.raises(QueryMissing, match=r"answered 'There is no cat\.', with no <SEG>"):
        seg_query(asked)


def test_a_seg_in_the_prompt_is_no_answer(seg_model: LoadedModel):
    asked = ask(seg_model, "What does <SEG> mean?", noise(90, 60), answer="Nothing.")
    assert asked.segs == ()


def test_a_model_without_the_token(tmp_path: Path):
    plain = tiny_llava(tmp_path)
    asked = ask(plain, PROMPT, noise(90, 60), answer="A cat.")
    assert asked.seg is None and asked.segs == ()
    with pytest.raises(QueryMissing, match="no <SEG> token"):
        seg_query(asked)
    assert token_query(asked, find_word(asked, "cat")).kind == "token"


def test_its_own_greedy_answer(seg_model: LoadedModel):
    asked = ask(seg_model, PROMPT, noise(90, 60))
    assert asked.answer_ids
    logits = seg_model.model(**asked.encoded.inputs).logits[0]
    assert tuple(logits[asked.start - 1 : -1].argmax(-1).tolist()) == asked.answer_ids


def test_any_text_token_can_be_asked(asked: Asked):
    known = asked.token_map
    visual = int(known.visual_positions[0])
    for position in (0, asked.start - 1, asked.segs[0], len(known) - 1):
        assert torch.equal(token_query(asked, position).states[2], asked.trace.hidden(2)[position])
    for position in (visual, -1, len(known)):
        with pytest.raises(QueryMissing, match="no text token at position"):
            token_query(asked, position)
    with pytest.raises(QueryMissing, match="before the first token"):
        token_query(asked, 0, "p-1")


def test_words_are_found_whole_and_in_the_prompt_first(seg_model: LoadedModel):
    asked = ask(seg_model, "Is a cat in the cattle, Cat?", noise(90, 60), answer="A cat and a DOG.")
    known = asked.token_map

    def text_until(position: int) -> str:
        first = int(known.visual_positions[-1]) + 1
        return "".join(known.texts[first : position + 1])

    assert text_until(find_word(asked, "cat")).endswith("cattle, Cat"), "the last in the prompt"
    assert text_until(find_word(asked, " dog ")).endswith("and a DOG"), "else in the answer"
    assert text_until(find_word(asked, "the cattle")).endswith("in the cattle")
    for word in ("catt", "horse", "", "  "):
        with pytest.raises(QueryMissing, match="neither in the prompt nor"):
            find_word(asked, word)


def test_a_typed_word_is_read_behind_its_carrier(seg_model: LoadedModel):
    query = word_query(seg_model, "dog")
    ids = seg_model.tokenizer(f"{CARRIER} dog", return_tensors="pt")["input_ids"]
    before = seg_model.tokenizer(CARRIER)["input_ids"]
    assert ids[0, : len(before)].tolist() == before
    output = seg_model.anatomy.text_model(input_ids=ids, output_hidden_states=True)
    for layer, states in enumerate(output.hidden_states):
        torch.testing.assert_close(query.states[layer], states[0, len(before) :].mean(0), rtol=1e-4, atol=1e-4)
    assert query.position is None
    for word in ("", "   ", "word " * 80):
        with pytest.raises(QueryMissing, match="no word"):
            word_query(seg_model, word)


def test_the_mean_text_token(asked: Asked):
    rows = [i for i, kind in enumerate(asked.token_map.kinds) if kind == "text"]
    assert torch.allclose(mean_text_query(asked).states[3], asked.trace.hidden(3)[rows].mean(0))


def test_patches_and_prompts_that_are_not_there(seg_model: LoadedModel, asked: Asked):
    with pytest.raises(PatchOutsideGrid):
        patch_query(asked, 6, 0)
    with pytest.raises(PromptUnusable, match="empty"):
        ask(seg_model, " ", noise(90, 60))
