"""Caching states, training and measuring, on tiny models and planted dictionaries."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lens.backend.corpus import Corpus
from lens.backend.loading import LoadedModel
from lens.backend.tracing import text_states
from lens.errors import Cancelled, CorpusUnreadable, FeaturesUnreadable, LayerMissing
from lens.functiontokens import train_sae, training
from lens.functiontokens.quality import Texts, chance_stability, dead_share, loss, measure, rebuilt, stability
from lens.functiontokens.sae import Autoencoder
from lens.functiontokens.states import Recipe, StateCache, windows
from lens.functiontokens.train_sae import chosen_layers, main, thirds, untrained
from lens.functiontokens.training import Settings, Trainer
from tests.helpers import TEXT, tiny_gpt2, tiny_llama

LENGTH = 24


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    rng = np.random.default_rng(0)
    words = TEXT.split()
    lines = [" ".join(rng.choice(words, 12)) for _ in range(150)]
    return Corpus("lines", lambda: lines, "none")


@pytest.fixture(scope="module")
def texts(llama: LoadedModel, corpus: Corpus) -> list[list[int]]:
    return windows(llama, corpus, LENGTH, 0)


def recipe(loaded: LoadedModel, rows: int = 300, layers: tuple[int, ...] = (1, 3)) -> Recipe:
    return Recipe(loaded.language_fingerprint, "digest", 0, LENGTH, layers, rows, loaded.anatomy.width)


# Windows and the cache of states


def test_windows_cover_the_text_once_in_an_order_of_the_seed(llama: LoadedModel, corpus: Corpus):
    one, again, other = (windows(llama, corpus, LENGTH, seed) for seed in (0, 0, 1))
    assert one == again != other
    assert sorted(one) == sorted(other)
    assert {len(window) for window in one} == {LENGTH}
    assert len({tuple(window) for window in one}) == len(one)


def test_one_window_in_sixteen_is_a_chat(llama: LoadedModel, corpus: Corpus):
    llama.tokenizer.chat_template = "user: {{ messages[0]['content'] }}\nassistant: "
    try:
        found = [llama.tokenizer.decode(window) for window in windows(llama, corpus, LENGTH, 0)]
    finally:
        llama.tokenizer.chat_template = None
    chats = [text.startswith("user: ") and text.endswith("assistant: ") for text in found]
    assert [place for place, chat in enumerate(chats) if chat] == list(range(0, len(found), 16))


def test_a_tokenizer_that_puts_bos_first_has_it_in_every_window(tmp_path: Path, corpus: Corpus):
    found = windows(tiny_llama(tmp_path, bos=True), corpus, LENGTH, 0)
    assert {window[0] for window in found} == {1}
    assert {len(window) for window in found} == {LENGTH}


def test_a_text_without_two_windows_is_refused(llama: LoadedModel):
    with pytest.raises(CorpusUnreadable, match="windows"):
        windows(llama, Corpus("short", lambda: ["A cat sat."]), LENGTH, 0)


def test_the_cache_holds_the_states_without_positions_0_and_1(
    llama: LoadedModel, texts: list[list[int]], tmp_path: Path
):
    kept = StateCache(tmp_path / "c", recipe(llama))
    kept.fill(llama, texts)
    assert kept.rows == 300
    ids = torch.tensor(texts[:14])
    for layer, states in text_states(llama, ids, torch.ones_like(ids), [1, 3]).items():
        expected = states[:, 2:].reshape(-1, 32)[:300].numpy()
        np.testing.assert_allclose(kept.states(layer), expected, atol=2e-2, rtol=2e-3)


def test_an_interrupted_cache_goes_on_where_it_stopped(llama: LoadedModel, texts: list[list[int]], tmp_path: Path):
    whole = StateCache(tmp_path / "whole", recipe(llama, 700))
    whole.fill(llama, texts)

    def stop(done: float, total: float, message: str) -> None:
        raise Cancelled("Cancelled.")

    parts = StateCache(tmp_path / "parts", recipe(llama, 700))
    with pytest.raises(Cancelled):
        parts.fill(llama, texts, stop)
    resumed = StateCache(tmp_path / "parts", recipe(llama, 700))
    assert 0 < resumed.rows < 700
    resumed.fill(llama, texts)
    assert resumed.rows == 700
    assert np.array_equal(whole.states(3), resumed.states(3))


def test_a_text_that_ends_early_leaves_fewer_rows(llama: LoadedModel, texts: list[list[int]], tmp_path: Path):
    kept = StateCache(tmp_path / "c", recipe(llama, 10_000))
    kept.fill(llama, texts[:5])
    assert kept.rows == 5 * (LENGTH - 2) == len(kept.states(1))


def test_a_cache_of_another_recipe_is_refused(llama: LoadedModel, texts: list[list[int]], tmp_path: Path):
    StateCache(tmp_path / "c", recipe(llama)).fill(llama, texts)
    with pytest.raises(FeaturesUnreadable, match="another"):
        StateCache(tmp_path / "c", recipe(llama, layers=(2,)))


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [flipped, Path.unlink])
def test_a_damaged_cache_is_filled_anew(llama: LoadedModel, texts: list, tmp_path: Path, damage: Callable):
    whole = StateCache(tmp_path / "c", recipe(llama, 200))
    whole.fill(llama, texts)
    wanted = whole.states(3).copy()
    damage(tmp_path / "c" / "layer-3.f16")
    again = StateCache(tmp_path / "c", recipe(llama, 200))
    again.fill(llama, texts)
    assert again.rows == 200 and np.array_equal(again.states(3), wanted)


# Training


def planted(rows: int = 4000, width: int = 32, size: int = 40) -> tuple[np.ndarray, Tensor]:
    """States that are sparse sums of known unit directions, and the directions."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((size, width))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    values = (rng.random((rows, size)) < 0.06) * rng.gamma(4, 2, (rows, size))
    return (values @ directions + 3).astype(np.float16), torch.from_numpy(directions).float()


SMALL = Settings(latents=48, active=3, visits=60_000, batch=256, learning_rate=3e-3)


def test_planted_directions_are_found_again(tmp_path: Path):
    states, directions = planted()
    trainer = Trainer(states, SMALL, tmp_path / "run")
    trainer.run()
    found = trainer.result()
    fvu, l0 = rebuilt(found, states.astype(np.float32))
    assert fvu < 0.2
    assert l0 == pytest.approx(SMALL.active, rel=0.15)
    assert (found.w_dec @ directions.T).amax(0).mean() > 0.8
    torch.testing.assert_close(found.w_dec.norm(dim=-1), torch.ones(48))


def test_gradients_are_those_of_the_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Against autograd through the dense formula, with dead latents and thus the auxiliary loss."""
    states, _ = planted(512)
    trainer = Trainer(states, Settings(latents=48, active=3, visits=512, batch=256), tmp_path / "run")
    draw = torch.Generator().manual_seed(1)
    for tensor in trainer.weights.values():  # nothing at its symmetric beginning
        tensor.data += 0.1 * torch.randn(tensor.shape, generator=draw)
        tensor.data = tensor.data.bfloat16().float()
    trainer.silent_for[[3, 5, 11, 20]] = training.DEAD_AFTER
    trainer.weights["encoder_bias"].data[[3, 5, 11, 20]] = -2.5  # so that they stay below the cut, but not below 0
    monkeypatch.setattr(trainer, "_batch", lambda: batch)
    monkeypatch.setattr(trainer, "_update", lambda: None)
    batch = ((torch.from_numpy(states[:256].astype(np.float32)) - trainer.mean) * trainer.scale).bfloat16().float()
    trainer._advance()
    assert trainer.dead
    ours = {name: tensor.grad for name, tensor in trainer.weights.items()}

    w = {name: tensor.detach().clone().requires_grad_() for name, tensor in trainer.weights.items()}
    low = torch.addmm(*(t.detach().bfloat16() for t in (w["encoder_bias"], batch - w["decoder_bias"], w["encoder"].T)))
    dead = trainer.silent_for >= training.DEAD_AFTER
    pre = (batch - w["decoder_bias"]) @ w["encoder"].T + w["encoder_bias"]
    values = pre * (low > trainer.threshold)
    error = batch - values @ w["decoder"] - w["decoder_bias"]
    left = error.detach()
    again = ((batch - w["decoder_bias"].detach()) @ w["encoder"].T + w["encoder_bias"]).relu() * dead
    assert (again > 0).any()
    auxiliary = (left - again @ w["decoder"]).square().sum() / left.square().sum()
    (error.square().sum(-1).mean() / 32 + training.AUXILIARY_WEIGHT * auxiliary).backward()
    for name, tensor in w.items():
        assert tensor.grad is not None and ours[name] is not None
        torch.testing.assert_close(ours[name], tensor.grad, atol=2e-4, rtol=2e-2)


def test_an_interrupted_run_ends_as_an_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(training, "CHECKPOINT_STEPS", 7)
    states, _ = planted(1000)
    settings = Settings(latents=48, active=3, visits=256 * 20, batch=256)
    whole = Trainer(states, settings, tmp_path / "whole")
    whole.run()

    def stop(done: float, total: float, message: str) -> None:
        if done == 12:
            raise Cancelled("Cancelled.")

    with pytest.raises(Cancelled):
        Trainer(states, settings, tmp_path / "parts").run(stop)
    resumed = Trainer(states, settings, tmp_path / "parts")
    assert resumed.step == 7
    resumed.run()
    assert resumed.result().digest() == whole.result().digest()


@pytest.mark.parametrize(
    "damage", [flipped, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"x" * 99)]
)
def test_a_damaged_checkpoint_is_not_gone_on_with(tmp_path: Path, damage: Callable[[Path], object]):
    states, _ = planted(600)
    settings = Settings(latents=48, active=3, visits=512, batch=256)
    whole = Trainer(states, settings, tmp_path / "run")
    whole.run()
    assert Trainer(states, settings, tmp_path / "run").step > 0
    damage(tmp_path / "run" / "checkpoint.safetensors")
    again = Trainer(states, settings, tmp_path / "run")
    assert again.step == 0
    again.run()
    assert again.result().digest() == whole.result().digest()


def test_seeds_differ_and_a_seed_repeats(tmp_path: Path):
    states, _ = planted(600)
    digests = []
    for place, seed in enumerate((0, 0, 1)):
        trainer = Trainer(
            states, Settings(latents=48, active=3, visits=1024, batch=256, seed=seed), tmp_path / str(place)
        )
        trainer.run()
        digests.append(trainer.result().digest())
    assert digests[0] == digests[1] != digests[2]


def test_a_run_with_other_settings_is_not_gone_on_with(tmp_path: Path):
    states, _ = planted(600)
    Trainer(states, Settings(latents=48, active=3, visits=512, batch=256), tmp_path / "run").run()
    with pytest.raises(FeaturesUnreadable, match="settings"):
        Trainer(states, Settings(latents=48, active=4, visits=512, batch=256), tmp_path / "run")


def test_too_few_states_for_a_batch_are_refused(tmp_path: Path):
    with pytest.raises(FeaturesUnreadable, match="batch"):
        Trainer(planted(100)[0], SMALL, tmp_path / "run")


# Quality


def perfect(width: int = 32) -> Autoencoder:
    """Two latents a dimension, one for each sign: rebuilds every state exactly."""
    eye = torch.eye(width)
    both = torch.cat([eye, -eye])
    return Autoencoder(both.T.contiguous(), torch.zeros(2 * width), both, torch.zeros(width), "relu")


def test_a_perfect_autoencoder_costs_nothing(llama: LoadedModel, texts: list[list[int]]):
    quality = measure(llama, perfect(), 2, Texts("own", tuple(texts[:6])))
    assert quality.fvu == pytest.approx(0, abs=1e-10)
    assert quality.l0 == pytest.approx(32)
    assert quality.spliced == pytest.approx(quality.clean, abs=1e-5)
    assert quality.score_zero == pytest.approx(1, abs=1e-3) and quality.score_mean == pytest.approx(1, abs=1e-3)
    assert abs(quality.zero - quality.clean) > 0.01
    assert quality.positions == 6 * (LENGTH - 2)


def test_an_autoencoder_that_gives_the_mean_is_the_mean_ablation(llama: LoadedModel, texts: list[list[int]]):
    some = Texts("own", tuple(texts[:6]))
    ids = torch.tensor(some.windows)
    states = text_states(llama, ids, torch.ones_like(ids), [2])[2][:, 2:].reshape(-1, 32)
    nothing = Autoencoder(torch.zeros(32, 8), torch.zeros(8), torch.zeros(8, 32), states.mean(0), "relu")
    quality = measure(llama, nothing, 2, some)
    assert quality.fvu == pytest.approx(1, abs=1e-5)
    assert quality.l0 == 0
    assert quality.spliced == pytest.approx(quality.mean, abs=1e-5)


def test_the_clean_loss_is_the_models_own(llama: LoadedModel, texts: list[list[int]]):
    ids = torch.tensor(texts[:5])
    logits = llama.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    expected = torch.nn.functional.cross_entropy(logits[:, 2:-1].reshape(-1, logits.shape[-1]), ids[:, 3:].reshape(-1))
    assert loss(llama, texts[:5], 2) == pytest.approx(float(expected), abs=1e-5)


def test_padding_is_not_counted(llama: LoadedModel, texts: list[list[int]]):
    one, other = texts[0], texts[1][:9]
    both = loss(llama, [one, other], 2) * (LENGTH - 3 + 6)
    assert both == pytest.approx(loss(llama, [one], 2) * (LENGTH - 3) + loss(llama, [other], 2) * 6, rel=1e-5)


def test_dead_latents_are_counted():
    autoencoder = perfect(4)
    states = np.abs(np.random.default_rng(0).standard_normal((50, 4))).astype(np.float32)
    assert dead_share(autoencoder, states) == 0.5  # no state has a negative entry


def test_stability_is_1_for_the_same_rows_in_another_order_and_chance_for_others():
    rows = torch.randn(64, 16, generator=torch.Generator().manual_seed(3))
    one = Autoencoder(rows.T.contiguous(), torch.zeros(64), rows, torch.zeros(16), "relu")
    mixed = Autoencoder(one.w_enc, one.b_enc, rows.flip(0) * 3, one.b_dec, "relu")
    assert stability(one, mixed) == pytest.approx(1)
    assert chance_stability(64, 16) == pytest.approx(0.5, abs=0.15)
    assert stability(one, perfect(16)) < 0.9


def test_too_short_texts_are_refused(llama: LoadedModel):
    with pytest.raises(CorpusUnreadable, match="longer"):
        measure(llama, perfect(), 2, Texts("short", ([5, 6],)))
    with pytest.raises(CorpusUnreadable, match="longer"):
        loss(llama, [[5, 6]], 2)


# The command


def test_default_layers_are_the_sixths():
    assert thirds(30) == (5, 15, 25)
    assert thirds(32) == (5, 16, 27)
    assert thirds(3) == (1, 2)


def test_the_last_layer_is_refused():
    assert chosen_layers([0, 3], 4) == (0, 3)
    with pytest.raises(LayerMissing, match="0 to 3"):
        chosen_layers([4], 4)


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_the_untrained_model_has_new_weights_and_an_identity_of_its_own(make, tmp_path: Path):
    loaded = make(tmp_path)
    before = {name: tensor.clone() for name, tensor in loaded.anatomy.text_model.state_dict().items()}
    fresh = untrained(loaded, 7)
    after = fresh.anatomy.text_model.state_dict()
    assert fresh.language_fingerprint != loaded.language_fingerprint
    assert not any(torch.equal(before[name], after[name]) for name in before if before[name].std() > 0)


def test_the_command_trains_measures_and_publishes(tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch):
    from lens.functiontokens.features import features_for, open_features

    loaded = tiny_llama(tmp_path / "model", seed=5)
    text = tmp_path / "text.txt"
    text.write_text("\n".join(corpus), encoding="utf-8")
    sizes = [
        "--tokens",
        "900",
        "--length",
        "24",
        "--visits",
        "8000",
        "--latents",
        "48",
        "--active",
        "4",
        "--batch",
        "128",
    ]
    call = [
        "--model",
        str(tmp_path / "model"),
        "--text",
        str(text),
        "--held-out",
        str(text),
        "--dtype",
        "float32",
        *sizes,
    ]
    call += ["--layers", "2", "--seeds", "0", "1", "--untrained", "2", "--licence", "CC0"]
    call += ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "home" / "features")]
    assert main(call) == 0
    spec = features_for(loaded)[0]
    assert (spec.name, spec.layer, spec.size) == ("model-sae-block2", 2, 48)
    features = open_features(loaded, spec.name)
    assert (features.site, features.kind) == ("hidden.2", "sae")
    assert spec.folder is not None
    found = json.loads((spec.folder / "quality.json").read_text())
    assert found["stability"] is not None and found["untrained_fvu"] > 0 and found["licence"] == "CC0"
    for word in ("FVU", "Two seeds", "Untrained weights", "Dead", "CC0"):
        assert word in (spec.folder / "card.md").read_text()
    before = (spec.folder / "sae_weights.safetensors").read_bytes()
    monkeypatch.setattr(train_sae, "measure", None)
    monkeypatch.setattr(Trainer, "_advance", None)
    assert main(call) == 0, "what is there already is neither trained nor measured again"
    assert (spec.folder / "sae_weights.safetensors").read_bytes() == before
    assert all(s.kind == "neurons" for s in features_for(tiny_llama(tmp_path / "other", seed=6)))
