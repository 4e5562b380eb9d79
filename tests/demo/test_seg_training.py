"""Training <SEG>: what learns in which phase, what counts in a loss and how much, resuming, and that the loss falls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lens.demo import seg_head
from lens.demo.architecture import EfficientNetLite, EfficientNetLiteConfig, Projector
from lens.demo.scenes import MOST, Pool
from lens.demo.seg_compose import Composer, read_bank
from lens.demo.seg_draw import Draw, Drawer, Draws
from lens.demo.seg_language import Answers, SegLanguage, Turns, seg_states
from lens.demo.seg_models import SegModels, seg_models
from lens.demo.seg_training import PHASES, Batch, SegSettings, SegTrainer, balanced, mean_loss, small
from lens.demo.seg_vocabulary import vocabulary
from lens.segmaps.maps import similarities
from tests.demo.test_seg_compose import COLOURS, outlines, sources  # noqa: F401 (fixtures)
from tests.demo.test_seg_language import LetterTokenizer

SMALL = SegSettings(scenes=2, aligned=1, rank=2, alpha=4)
Kit = tuple[EfficientNetLite, Composer, Drawer]


@pytest.fixture(scope="module")
def kit(sources, outlines) -> Kit:  # noqa: F811
    """The real tower's shape with random weights, and scenes of Ls and of photographs of one colour."""
    torch.manual_seed(0)
    words = vocabulary(Pool(tuple(COLOURS), ("corners",), (0, 1)), sources, ("zebra",), lambda name: True)
    bank, sizes = read_bank(words.icons, sources, outlines)
    return EfficientNetLite(EfficientNetLiteConfig()), Composer(bank), Drawer(words, sizes, outlines)


def new_language() -> SegLanguage:
    """A tiny language model of the demo's width."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128, hidden_size=seg_head.WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True,
    )  # fmt: skip
    return SegLanguage(LlamaForCausalLM(config), Turns(LetterTokenizer()), SMALL.rank, SMALL.alpha)  # type: ignore[arg-type]


def new_models(tower: EfficientNetLite) -> SegModels:
    """On the processor."""
    torch.manual_seed(0)
    return seg_models(tower, Projector(1280, 16, seg_head.WIDTH), new_language(), torch.device("cpu"))


def new_trainer(kit: Kit, folder: Path, settings: SegSettings = SMALL, steps: int = 2) -> SegTrainer:
    """A trainer whose clock lets each phase have so many steps."""
    tower, composer, drawer = kit
    folder.mkdir(exist_ok=True)
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += settings.seconds(min(trainer.phase, 1)) / (steps + 0.5)
        return now

    trainer = SegTrainer(new_models(tower), composer, drawer, settings, folder, clock)
    return trainer


def batch_of(trainer: SegTrainer, number: int = 0) -> tuple[Draw[np.ndarray], Batch]:
    """A drawn batch and what became of it."""
    draw = Draws(trainer.drawer, (0, 1), trainer.settings.scenes)[number]
    return draw, trainer.compose(Draw(*map(torch.as_tensor, draw)))


def test_each_phase_trains_what_it_should_and_nothing_frozen_moves(kit: Kit, tmp_path: Path) -> None:
    trainer = new_trainer(kit, tmp_path / "run")
    language = trainer.models.language.language
    frozen = {k: v.clone() for k, v in language.state_dict().items() if not k.endswith((".a", ".b"))}
    moved = {}
    for phase in range(len(PHASES)):
        trainer.phase, trainer.step = phase, 0
        trainer.optimiser = trainer._optimiser()
        before = {part: {k: v.clone() for k, v in tensors.items()} for part, tensors in trainer.state().items()}
        for draw, _ in zip(trainer.feed(), range(2), strict=False):
            trainer.advance(draw, 0.3)
        after = trainer.state()
        moved[phase] = {
            f"{part}.{k}" for part in before for k in before[part] if not torch.equal(before[part][k], after[part][k])
        }
    assert {"head.query.weight", "head.fine.weight"} <= moved[0] and all(name.startswith("head.") for name in moved[0])
    assert "head.last.weight" not in moved[0]  # no language model has seen the picture
    learned = {"language.seg", "language.1_q_proj.b", "head.last.weight", "head.fine.weight", "similar.weight"}
    assert learned <= moved[1]
    for name, tensor in frozen.items():
        assert torch.equal(language.state_dict()[name], tensor)


def test_a_short_run_brings_the_losses_down(kit: Kit, tmp_path: Path) -> None:
    trainer = new_trainer(kit, tmp_path / "run", SMALL)
    losses: dict[str, list[float]] = {phase: [] for phase in PHASES}
    for trainer.phase, phase in enumerate(PHASES):
        trainer.step, trainer.optimiser = 0, trainer._optimiser()
        for draw, step in zip(trainer.feed(), range(14), strict=False):
            found = trainer.advance(draw, 0.1 + step / 20)
            losses[phase].append(sum(value for name, value in found.items() if name != "right"))
    for phase in PHASES:
        assert np.mean(losses[phase][-4:]) < 0.9 * np.mean(losses[phase][:4]), phase


def test_the_closed_form_start_is_the_least_squares_one(kit: Kit, tmp_path: Path) -> None:
    """Over the scenes it is made from: means agree, and no other factor would come nearer."""
    trainer = new_trainer(kit, tmp_path / "run", replace(SMALL, scenes=6))
    draws = Draws(trainer.drawer, (0, len(PHASES)), 6)
    batch = trainer.compose(Draw(*map(torch.as_tensor, draws[0])))
    with torch.no_grad():
        said = trainer.said(batch.names[:, :MOST], batch.prompts[:, :MOST])[batch.real]
        wanted = trainer.head.project(said)
        trainer.align()
        states, _, packs = trainer.asked(batch)
        got = trainer.head.project(seg_states(states, packs)[:, :MOST][batch.real])
    torch.testing.assert_close(got.mean(0), wanted.mean(0), atol=1e-5, rtol=1e-4)
    apart = got - got.mean(0)
    assert abs(float(((wanted - got) * apart).sum())) < 1e-3 * float((apart * apart).sum())


def test_the_similarity_that_is_trained_is_the_one_the_page_maps(kit: Kit, tmp_path: Path) -> None:
    trainer = new_trainer(kit, tmp_path / "run")
    said, seen = torch.randn(1, 2, seg_head.WIDTH), torch.randn(1, 144, seg_head.WIDTH)
    with torch.no_grad():
        trainer.similar.weight.fill_(3.0)
        got = trainer.similarity(said, seen)[0].flatten(1)
    expected = similarities(said[0, 0], seen[0], "dot")
    assert np.corrcoef(got[0].numpy(), expected)[0, 1] > 1 - 1e-6
    assert got[0].std(correction=0) == pytest.approx(3.0, rel=1e-3)
    with torch.no_grad():
        trainer.similar.weight.fill_(-3.0)
        again = trainer.similarity(said, seen)[0].flatten(1)
        torch.testing.assert_close(again, got, msg="the map is never trained upside down")


def test_a_resumed_run_is_the_uninterrupted_one(kit: Kit, tmp_path: Path) -> None:
    whole = new_trainer(kit, tmp_path / "whole")
    whole.run()
    stopped = new_trainer(kit, tmp_path / "stopped")

    def stop(done: float, total: float, message: str) -> None:
        if message.startswith("scenes"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped.run(stop, save_every=0.0)
    resumed = new_trainer(kit, tmp_path / "stopped")
    resumed.resume()
    assert (resumed.phase, resumed.step) == (1, 1) and resumed.spent == pytest.approx(stopped.spent)
    resumed.run()
    for part, tensors in whole.state().items():
        for name, tensor in tensors.items():
            torch.testing.assert_close(
                resumed.state()[part][name], tensor, msg=lambda text, at=f"{part}.{name}": f"{at}: {text}"
            )
    assert (tmp_path / "whole" / "demo-seg.safetensors").is_file()
    again = new_trainer(kit, tmp_path / "stopped")
    again.resume()
    again.run(stop)  # all is done: nothing is trained any more
    assert again.phase == len(PHASES)


def test_rates_follow_the_time_that_is_over() -> None:
    settings = SegSettings(minutes=2.0)
    assert [settings.seconds(phase) for phase in (0, 1)] == pytest.approx([12.0, 108.0])
    assert settings.rate_at(1, 0.0) == pytest.approx(0.03 * settings.rate[1])
    assert settings.rate_at(1, 0.05) == pytest.approx(0.5 * 0.95 * settings.rate[1])
    assert settings.rate_at(1, 0.5) == pytest.approx(0.5 * settings.rate[1])
    assert settings.rate_at(1, 0.999) == pytest.approx(0.03 * settings.rate[1])


def test_the_recipe_of_the_shipped_weights_is_the_default() -> None:
    settings = SegSettings()
    assert (settings.rank, settings.alpha, settings.scenes, settings.decision) == (16, 32.0, 24, 1.0)


def test_present_and_absent_turns_weigh_the_same_however_many_they_are() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0, 10.0], [5.0, 100.0, 100.0, 20.0]])
    answers = Answers(values, 10 * values, values > 4)
    present = torch.tensor([[True, True, True, False], [True, False, False, False]])
    absent = torch.tensor([[False, False, False, True], [False, False, False, True]])
    whole, first, right = balanced(answers, present, absent)
    assert float(whole) == pytest.approx((11 / 4 + 15) / 2) and float(first) == pytest.approx(10 * float(whole))
    assert float(right) == pytest.approx((1 / 4 + 1) / 2)
    alone = balanced(answers, present, torch.zeros_like(absent))[0]
    assert float(alone) == pytest.approx(11 / 8), "none of a kind counts nothing"


def test_the_deciding_token_is_weighed_apart(kit: Kit, tmp_path: Path) -> None:
    trainer = new_trainer(kit, tmp_path / "run", replace(SMALL, decision=3.0))
    with torch.no_grad():
        total, parts = trainer.scenes(batch_of(trainer)[1])
    wanted = sum(parts[name] for name in ("answer", "coarse", "fine", "similar")) + 3.0 * parts["decide"]
    torch.testing.assert_close(total, wanted)


def test_what_counts_is_what_is_seen_or_surely_absent(kit: Kit, tmp_path: Path) -> None:
    trainer = new_trainer(kit, tmp_path / "run", replace(SMALL, scenes=6))
    found = (batch_of(trainer, number) for number in range(8))
    draw, batch = next(of for of in found if (of[0].shown[:, :MOST] & ~of[1].real.numpy()).any())  # too little is seen
    shown, namable = torch.from_numpy(draw.shown), torch.from_numpy(draw.namable)
    seen = torch.nn.functional.pad(batch.real, (0, 2))
    assert torch.equal(batch.present, seen & namable) and torch.equal(batch.absent, ~shown & namable)
    with torch.no_grad():
        _, _, packs = trainer.asked(batch)
    assert torch.equal(packs.seg > 0, seen), "only what is seen is answered with <SEG>"


def test_a_names_state_is_the_frozen_models_and_computed_once(kit: Kit, tmp_path: Path) -> None:
    trainer = new_trainer(kit, tmp_path / "run")
    language, names = trainer.models.language, torch.tensor([[0, 3], [3, 1]])
    prompts = torch.tensor([[0, 2], [2, 1]])
    found = trainer.said(names, prompts)
    turn = language.turns.turn(trainer.drawer.words.names[3], "Show me the {}.", True)
    with torch.no_grad():
        states, _ = language.states(None, torch.tensor([[turn.ids]]))
    assert turn.seg is not None
    torch.testing.assert_close(found[0, 1], states[0, 0, turn.seg], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found[0, 1], found[1, 0])
    with torch.no_grad():
        language.seg.add_(1.0)
    torch.testing.assert_close(trainer.said(names, prompts), found, msg="the model has moved, the states have not")


def test_masks_that_are_not_real_count_nothing() -> None:
    logits, wanted = torch.randn(2, 3, 48, 48), torch.rand(2, 3, 48, 48)
    real = torch.tensor([[True, False, False], [False, True, False]])
    losses = [seg_head.mask_loss(logits[i, j][None], wanted[i, j][None]) for i, j in ((0, 0), (1, 1))]
    torch.testing.assert_close(mean_loss(logits, wanted, real), torch.cat(losses).mean())
    assert float(mean_loss(logits, wanted, torch.zeros_like(real))) == 0.0
    assert small(wanted).shape == (2, 3, 12, 12)
    torch.testing.assert_close(small(wanted)[0, 0, 0, 0], wanted[0, 0, :4, :4].mean())
