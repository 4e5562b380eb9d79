"""<SEG>'s language side: packed turns are what each alone would be, the update is low-rank, merging changes nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lens.demo import seg_language
from lens.demo.convert import CELLS
from lens.demo.seg_language import SEG, Packs, SegLanguage, Turn, Turns, seg_states

WIDTH = 32


class LetterTokenizer:
    """One id a character, and one for <SEG>."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Ids below 128; 127 is <SEG>."""
        return [ord(letter) % 127 for letter in text.replace(SEG, "\x7f")] if SEG not in text else self._with(text)

    def _with(self, text: str) -> list[int]:
        before, after = text.split(SEG)
        return [*self.encode(before), 127, *self.encode(after)]

    def convert_tokens_to_ids(self, token: str) -> int:
        """Only <SEG> is asked for."""
        assert token == SEG
        return 127


@pytest.fixture
def model() -> SegLanguage:
    """A tiny Llama with tied embeddings whose low-rank updates are not zero."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, initializer_range=0.3, tie_word_embeddings=True,
    )  # fmt: skip
    made = SegLanguage(LlamaForCausalLM(config), Turns(LetterTokenizer()), rank=2, alpha=4, first=2)  # type: ignore[arg-type]
    for update in made.updates.values():
        torch.nn.init.normal_(update.b, std=0.3)  # type: ignore[arg-type]
    return made


def turns_of(model: SegLanguage) -> list[Turn]:
    """Three turns of different lengths, one without <SEG>."""
    prompts = seg_language.PROMPTS
    return [
        model.turns.turn("cat", prompts[0], True),
        model.turns.turn("yellow bus", prompts[1], False),
        model.turns.turn("tree", prompts[2], True),
    ]


def test_a_turn_ends_in_its_answer_and_knows_where_seg_stands(model: SegLanguage) -> None:
    found, absent, _ = turns_of(model)
    assert found.seg is not None and found.ids[found.seg] == model.turns.seg_id
    assert list(found.ids[found.answer :]) == model.turns.ids(f"It is {SEG}.<|im_end|>")
    assert absent.seg is None and model.turns.seg_id not in absent.ids


CPU = torch.device("cpu")


def pictures(model: SegLanguage) -> torch.Tensor:
    """Visual tokens of two pictures."""
    return torch.randn(2, CELLS, WIDTH, generator=torch.Generator().manual_seed(1)) * 0.3


def test_packed_turns_are_what_each_is_alone(model: SegLanguage) -> None:
    """In packs of two pictures with the same turns in another order."""
    cells, turns = pictures(model), turns_of(model)
    packs = [turns, turns[::-1]]
    with torch.no_grad():
        packed, visual = model.states(cells, Packs.of(packs, CPU).ids)
        assert visual is not None
        for picture, pack, found, seen in zip(cells, packs, packed, visual, strict=True):
            for i, turn in enumerate(pack):
                text = model.embed(torch.tensor(turn.ids))
                before = model.table[torch.tensor(model.turns.before)]
                alone = model.language.model(inputs_embeds=torch.cat((before, picture, text))[None]).last_hidden_state[
                    0
                ]
                torch.testing.assert_close(found[i, : len(turn.ids)], alone[-len(turn.ids) :], atol=1e-5, rtol=1e-4)
                start = len(before)
                torch.testing.assert_close(seen, alone[start : start + CELLS], atol=1e-5, rtol=1e-4)


def test_turns_without_a_picture_stand_where_they_do_after_one(model: SegLanguage) -> None:
    turn = turns_of(model)[1]
    with torch.no_grad():
        found, visual = model.states(None, Packs.of([[turn]], CPU).ids)
        positions = torch.arange(len(turn.ids))[None] + len(model.turns.before) + CELLS
        embedded = model.embed(torch.tensor(turn.ids))[None]
        # a mask as well: without one, position ids that don't begin at 0 are taken for packed sequences
        alone = model.language.model(
            inputs_embeds=embedded, position_ids=positions, attention_mask=torch.ones_like(positions)
        ).last_hidden_state
    assert visual is None
    torch.testing.assert_close(found[0], alone, atol=1e-5, rtol=1e-4)


def test_the_table_holds_every_turn_of_every_name(model: SegLanguage) -> None:
    names = ["cat", "yellow bus"]
    table = model.turns.table(names, CPU)
    assert table.ids.shape[:3] == (2, 2, len(seg_language.PROMPTS))
    for present in (False, True):
        for i, name in enumerate(names):
            for j, prompt in enumerate(seg_language.PROMPTS):
                turn = model.turns.turn(name, prompt, present)
                ids, answer, length, seg = table.at(*torch.tensor([[int(present)], [i], [j]]))
                assert tuple(ids[0, : len(turn.ids)].tolist()) == turn.ids and int(answer) == turn.answer
                assert int(length) == len(turn.ids) <= model.turns.longest(name) and int(seg) == (turn.seg or 0)


def test_merging_gives_the_same_states(model: SegLanguage) -> None:
    cells, packs = pictures(model), Packs.of([turns_of(model)] * 2, CPU)
    plain = LlamaForCausalLM(model.language.config)
    tensors = {k.replace(".frozen.", "."): v for k, v in copy.deepcopy(model.language.state_dict()).items()}
    tensors = {k: v for k, v in tensors.items() if not k.endswith(("_proj.a", "_proj.b"))}
    trained = {name: tensor.detach() for name, tensor in model.trained().items()}
    changed = seg_language.merged_weights(trained, 4.0, tensors.__getitem__)
    plain.load_state_dict(tensors | changed)
    with torch.no_grad():
        wanted, _ = model.states(cells, packs.ids)
        plain.get_input_embeddings().weight[model.turns.seg_id] = model.seg
        merged = SegLanguage(plain, model.turns, rank=2, alpha=4)
        merged.seg.copy_(model.seg)
        found, _ = merged.states(cells, packs.ids)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    assert len(changed) == 4  # q and v of the two blocks from block 2


def test_only_updates_and_seg_get_gradients(model: SegLanguage) -> None:
    packs = Packs.of([turns_of(model)] * 2, CPU)
    states, _ = model.states(pictures(model), packs.ids)
    model.answers(states, packs, 40).whole.mean().backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    assert len(with_gradient) > 1
    assert all(name == "seg" or name.endswith((".a", ".b")) for name in with_gradient)
    assert model.seg.grad is not None and float(model.seg.grad.abs().sum()) > 0


def test_the_losses_of_answers_are_the_models_own(model: SegLanguage) -> None:
    turns = turns_of(model)
    packs = Packs.of([turns], CPU)
    with torch.no_grad():
        states, _ = model.states(torch.zeros(1, CELLS, WIDTH), packs.ids)
        answers = model.answers(states, packs, int((packs.length - packs.answer).max()))
        model.table[model.turns.seg_id] = model.seg
        for i, turn in enumerate(turns):
            logits = model.language.lm_head(states[0, i])[turn.answer - 1 : len(turn.ids) - 1]
            wanted = torch.tensor(turn.ids[turn.answer :])
            torch.testing.assert_close(answers.whole[0, i], torch.nn.functional.cross_entropy(logits, wanted))
            torch.testing.assert_close(answers.first[0, i], torch.nn.functional.cross_entropy(logits[:1], wanted[:1]))
            assert bool(answers.right[0, i]) == (int(logits[0].argmax()) == int(wanted[0]))


def test_the_states_at_seg_are_those_of_its_position(model: SegLanguage) -> None:
    turns = turns_of(model)
    packs = Packs.of([turns], CPU)
    states = torch.randn(1, *packs.ids.shape[1:], WIDTH)
    found = seg_states(states, packs)[0]
    for i in (0, 2):
        assert turns[i].seg is not None
        torch.testing.assert_close(found[i], states[0, i, turns[i].seg])
