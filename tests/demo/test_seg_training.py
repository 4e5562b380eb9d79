"""Training <SEG>: what learns in which phase, resuming, held-out names, the masks' loss and the scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

from lens.demo import seg_cache, seg_evaluate, seg_head, seg_training
from lens.demo.architecture import EfficientNetLite, EfficientNetLiteConfig, Projector
from lens.demo.photos import pixels
from lens.demo.scenes import Pool, Sources
from lens.demo.seg_cache import Cache, feature_maps, pools, vision_states
from lens.demo.seg_card import card
from lens.demo.seg_evaluate import auc, iou
from lens.demo.seg_head import MaskHead, dice_loss, head_of, mask_loss, read_seg, write_seg
from lens.demo.seg_language import SegLanguage, Turns
from lens.demo.seg_objects import OBJECTS, alike, held_out_objects
from lens.demo.seg_training import SegModels, SegSettings, SegTrainer, mirrored
from lens.segmaps.maps import similarities
from tests.demo.test_scenes import COLOURS, Squares
from tests.demo.test_seg_language import LetterTokenizer

NAMES = list(COLOURS)
SMALL = SegSettings(scenes=4, steps=(2, 2), batch=(2, 2), queries=4, rank=2, alpha=4, warmup=1)


@pytest.fixture(scope="module")
def tower() -> EfficientNetLite:
    """The real tower's shape with random weights."""
    torch.manual_seed(0)
    return EfficientNetLite(EfficientNetLiteConfig()).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def cache(tower: EfficientNetLite, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """Four scenes of coloured squares."""
    made = Cache(tmp_path_factory.mktemp("seg") / "scenes")
    sources = Sources({"squares": Squares()})  # type: ignore[dict-item]
    made.fill(4, "train", 0, Pool(tuple(NAMES), ("squares",)), sources, tower)
    tower.float()
    return made


def new_models(tower: EfficientNetLite) -> SegModels:
    """A tiny language model of the demo's width."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128, hidden_size=seg_head.WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True,
    )  # fmt: skip
    language = SegLanguage(LlamaForCausalLM(config), Turns(LetterTokenizer()), SMALL.rank, SMALL.alpha)  # type: ignore[arg-type]
    return SegModels(tower, Projector(1280, 16, seg_head.WIDTH).requires_grad_(False), language)


def new_trainer(tower: EfficientNetLite, cache: Cache, folder: Path) -> SegTrainer:
    """A trainer of two steps a phase."""
    folder.mkdir(exist_ok=True)
    return SegTrainer(new_models(tower), cache, ["rocket", "piano"], SMALL, folder)


def test_the_cache_goes_on_where_it_stopped(tower: EfficientNetLite, cache: Cache, tmp_path: Path) -> None:
    sources = Sources({"squares": Squares()})  # type: ignore[dict-item]
    again = Cache(tmp_path / "again")
    for count in (4, 4):  # the second call finds all done
        again.fill(count, "train", 0, Pool(tuple(NAMES), ("squares",)), sources, tower)
    tower.float()
    assert again.rows() == cache.rows()
    torch.testing.assert_close(again.read([3]).masks, cache.read([3]).masks)
    torch.testing.assert_close(again.read([3]).levels["deep"], cache.read([3]).levels["deep"])


def test_cached_maps_give_the_towers_own_states(tower: EfficientNetLite) -> None:
    picture = pixels([Image.fromarray(np.random.default_rng(0).integers(0, 255, (384, 384, 3), dtype=np.uint8))])
    maps = feature_maps(tower, picture)
    assert {name: tuple(found.shape[1:]) for name, found in maps.items()} == seg_cache.SHAPES
    with torch.inference_mode():
        wanted = tower(picture).last_hidden_state
    torch.testing.assert_close(vision_states(tower, maps["deep"]), wanted, atol=1e-4, rtol=1e-4)


def test_nothing_held_out_is_in_the_training_pool() -> None:
    names = [f"class {label}" for label in range(999)] + ["giant panda"]
    made = pools(0, names)
    train, kept = made["train"], held_out_objects(0)
    assert set(train.objects) | kept == set(OBJECTS) and not set(train.objects) & kept
    assert seg_cache.HELD_OUT_STYLE not in train.styles
    assert not any(alike(names[label], name) for label in train.classes for name in kept)
    for split, pool in made.items():
        if split != "train":
            assert not set(pool.backgrounds) & set(train.backgrounds)
    assert set(made["held-out objects"].objects) == kept
    assert made["held-out style"].styles == (seg_cache.HELD_OUT_STYLE,)


def test_each_phase_trains_what_it_should_and_nothing_frozen_moves(
    tower: EfficientNetLite, cache: Cache, tmp_path: Path
) -> None:
    trainer = new_trainer(tower, cache, tmp_path / "run")
    frozen = {
        k: v.clone() for k, v in trainer.models.language.language.state_dict().items() if not k.endswith((".a", ".b"))
    }
    moved = {}
    for phase, act in enumerate((trainer.from_names, trainer.scenes)):
        trainer.phase, trainer.step = phase, 0
        trainer.optimiser = trainer._optimiser()
        before = {part: {k: v.clone() for k, v in tensors.items()} for part, tensors in trainer.state().items()}
        trainer.advance(act)
        trainer.advance(act)
        after = trainer.state()
        moved[phase] = {
            f"{part}.{k}" for part in before for k in before[part] if not torch.equal(before[part][k], after[part][k])
        }
    assert {"head.query.weight", "head.fine.weight"} <= moved[0] and all(name.startswith("head.") for name in moved[0])
    assert "head.last.weight" not in moved[0]  # no language model has seen the picture
    learned = {"language.seg", "language.1_q_proj.b", "head.last.weight", "head.fine.weight", "similar.weight"}
    assert learned <= moved[1]
    for name, tensor in frozen.items():
        assert torch.equal(trainer.models.language.language.state_dict()[name], tensor)


def test_the_closed_form_start_is_the_least_squares_one(tower: EfficientNetLite, cache: Cache, tmp_path: Path) -> None:
    """Over the scenes it is made from: means agree, and no other factor would come nearer."""
    trainer = new_trainer(tower, cache, tmp_path / "run")
    language = trainer.models.language
    batch = cache.read(list(range(4)))
    names = [name for present in batch.names for name in present]
    with torch.no_grad():
        wanted = trainer.head.project(torch.stack([trainer.said[name][0] for name in names]))
        trainer.align()
        found = []
        for cells, present in zip(trainer.models.cells(batch.levels), batch.names, strict=True):
            turns = [language.turns.turn(name, seg_training.PROMPTS[0], True) for name in present]
            found.append(trainer.head.project(seg_training.seg_states(language.states(cells, turns)[0], turns)))
        got = torch.cat(found)
    torch.testing.assert_close(got.mean(0), wanted.mean(0), atol=1e-5, rtol=1e-4)
    apart = got - got.mean(0)
    assert abs(float(((wanted - got) * apart).sum())) < 1e-3 * float((apart * apart).sum())


def test_the_similarity_that_is_trained_is_the_one_the_page_maps(
    tower: EfficientNetLite, cache: Cache, tmp_path: Path
) -> None:
    trainer = new_trainer(tower, cache, tmp_path / "run")
    said, seen = torch.randn(2, seg_head.WIDTH), torch.randn(144, seg_head.WIDTH)
    with torch.no_grad():
        trainer.similar.weight.fill_(3.0)
        got = trainer.similarity(said, seen).flatten(1)
    expected = similarities(said[0], seen, "dot")
    assert np.corrcoef(got[0].numpy(), expected)[0, 1] > 1 - 1e-6
    assert got[0].std(correction=0) == pytest.approx(3.0, rel=1e-3)
    with torch.no_grad():
        trainer.similar.weight.fill_(-3.0)
        torch.testing.assert_close(
            trainer.similarity(said, seen).flatten(1), got, msg="the map is never trained upside down"
        )


def test_a_resumed_run_is_the_uninterrupted_one(tower: EfficientNetLite, cache: Cache, tmp_path: Path) -> None:
    whole = new_trainer(tower, cache, tmp_path / "whole")
    whole.run()
    stopped = new_trainer(tower, cache, tmp_path / "stopped")

    def stop(done: float, total: float, message: str) -> None:
        if message.startswith("scenes") and done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped.run(stop, save_every=1)
    resumed = new_trainer(tower, cache, tmp_path / "stopped")
    resumed.resume()
    assert (resumed.phase, resumed.step) == (1, 1)
    resumed.run()
    for part, tensors in whole.state().items():
        for name, tensor in tensors.items():
            torch.testing.assert_close(resumed.state()[part][name], tensor, msg=f"{part}.{name}")
    assert (tmp_path / "whole" / "demo-seg.safetensors").is_file()


def test_what_ships_is_read_back(tmp_path: Path) -> None:
    head = MaskHead()
    write_seg(head, {"seg": torch.arange(4.0)}, tmp_path / "file.safetensors", alpha="4.0")
    tensors, language, about = read_seg(tmp_path / "file.safetensors")
    assert about["alpha"] == "4.0" and torch.equal(language["seg"], torch.arange(4.0))
    torch.testing.assert_close(head_of(tensors).query.weight, head.query.weight, atol=1e-2, rtol=1e-2)


def test_the_start_of_the_head_ignores_the_language_models_last_layer() -> None:
    torch.manual_seed(0)
    head = MaskHead()
    queries, first, last = torch.randn(1, 2, 128), torch.randn(1, 144, 576), torch.randn(1, 144, 576)
    levels = {name: torch.randn(1, *shape) for name, shape in seg_cache.SHAPES.items()}
    with torch.no_grad():
        coarse, fine = head(queries, first, None, levels)
        torch.testing.assert_close(head(queries, first, last, levels)[1], fine)
    assert coarse.shape == (1, 2, 12, 12) and fine.shape == (1, 2, 48, 48)
    # The enlargement keeps cell centres: its mean over each 4 x 4 block is close to the coarse value of a smooth map.
    assert abs(float(fine.mean() - coarse.mean())) < 0.05


def test_the_losses_have_the_known_values() -> None:
    """Measured on LISA's own functions: zero logits on a mask that is half full."""
    target = torch.zeros(2, 4, 4)
    target[:, :2] = 1
    zero = torch.zeros(2, 4, 4)
    assert dice_loss(zero, target).tolist() == pytest.approx([0.499969] * 2, abs=1e-6)
    assert (mask_loss(zero, target) - dice_loss(zero, target)).tolist() == pytest.approx([2 * 0.693147] * 2, abs=1e-5)
    assert mask_loss(40 * (target - 0.5), target).tolist() == pytest.approx([0.0] * 2, abs=1e-4)
    nothing = torch.zeros(1, 4, 4)
    assert float(dice_loss(nothing - 40, nothing)) == pytest.approx(0.0, abs=1e-4), "an empty mask that is found empty"


def test_mirroring_turns_maps_and_masks_together(cache: Cache) -> None:
    batch = cache.read([0])
    turned = mirrored(batch)
    torch.testing.assert_close(mirrored(turned).levels["fine"], batch.levels["fine"])
    torch.testing.assert_close(
        turned.levels["deep"].view(12, 12, -1)[:, 0], batch.levels["deep"].view(12, 12, -1)[:, -1]
    )
    torch.testing.assert_close(turned.masks[..., 0], batch.masks[..., -1])


def test_scores_of_known_masks() -> None:
    found = torch.tensor([[[True, True], [False, False]]])
    wanted = torch.tensor([[[True, False], [True, False]]])
    assert iou(found, wanted) == [pytest.approx(1 / 3)]
    inside = torch.tensor([True, True, False, False])
    assert auc(torch.tensor([3.0, 2.0, 1.0, 0.0]), inside) == 1.0
    assert auc(torch.tensor([1.0, 1.0, 1.0, 1.0]), inside) == 0.5
    assert auc(torch.tensor([0.0, 2.0, 1.0, 3.0]), inside) == 0.25


def test_measuring_gives_shares_and_a_card(tower: EfficientNetLite, cache: Cache, tmp_path: Path) -> None:
    trainer = new_trainer(tower, cache, tmp_path / "run")
    trainer.run()
    found = seg_evaluate.measure(
        "new scenes", trainer.models, trainer.head, cache, ["rocket", "piano", "lamp", "desk"], 4
    )
    assert found.queries == sum(len(row["names"]) for row in cache.rows())
    assert all(0 <= value <= 1 for value in (found.fine, found.everything, found.deaf, found.similarity, found.refused))
    photos = []
    for label in range(3):
        photos.append(tmp_path / f"{label}.png")
        Image.new("RGB", (300, 256), (80 * label, 90, 90)).save(photos[-1])
    sources = Sources({}, photos, ("cat", "rocket", "lamp"))
    boxes = {"1.png": ("rocket", [0.0, 0.0, 1.0, 1.0])}
    seen = seg_evaluate.measure_photos(trainer.models, trainer.head, sources, [0, 1, 2], 2, boxes)
    assert seen.pairs == 2 and seen.in_box == seen.box_area == 1.0
    text = card(SMALL, [found], seen, tmp_path / "run" / "loss.jsonl", 100, ["panda"])
    assert "| `names` |" in text and "new scenes | 4," in text and f"{found.everything:.2f}" in text


def test_the_exact_mask_scores_one_and_a_swapped_one_nothing(cache: Cache) -> None:
    """The scoring itself, with a head that answers with the truth."""
    batch = next(b for b in (cache.read([i]) for i in range(len(cache))) if len(b.names[0]) > 1)
    k = len(batch.names[0])
    wanted = batch.masks[0, :k]

    class Oracle(MaskHead):
        def forward(self, queries, first, last, levels):  # type: ignore[override]
            fine = wanted - 0.4999
            coarse = torch.nn.functional.adaptive_avg_pool2d(wanted[:, None], (12, 12))[:, 0] - 0.4999
            return coarse[None], fine[None]

    visual = torch.randn(1, 144, 576)
    asked = seg_evaluate._Asked(torch.zeros(1, k, 128), visual, visual, batch.levels, torch.randn(k, 576))
    scores = seg_evaluate.scene_scores(Oracle(), asked, wanted, torch.zeros(128))
    assert scores["fine"] == pytest.approx([1.0] * k) and scores["pointing"] == [1.0] * k
    assert max(scores["swapped"]) < 0.05  # a cell that two objects share to halves belongs to both
    assert all(value < 1 for value in scores["everything"])
    assert scores["several"] == scores["fine"]
    one = seg_evaluate.scene_scores(MaskHead(), asked_of_first(asked), wanted[:1], torch.zeros(128))
    assert len(one["fine"]) == 1 and one["everything"] == one["swapped"] == []  # alone, everything would be the answer


def asked_of_first(asked: seg_evaluate._Asked) -> seg_evaluate._Asked:
    """The same scene asked for its first object alone."""
    return replace(asked, queries=asked.queries[:, :1], states=asked.states[:1])


def test_the_training_module_never_reads_a_test_split(tower: EfficientNetLite, cache: Cache, tmp_path: Path) -> None:
    """Absent names are drawn from what the trainer was given, and never from what a scene shows."""
    trainer = new_trainer(tower, cache, tmp_path / "run")
    drawn = trainer.absent(seg_training.random.Random(0), ("piano",), 1)
    assert drawn == ["rocket"]
