"""Bases of features bound to models: neurons against the model's own arithmetic, autoencoders against their model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lens.backend.encoding import encode
from lens.backend.interventions import add
from lens.backend.loading import LoadedModel
from lens.backend.tracing import text_sites, text_states, trace
from lens.errors import FeaturesMismatch, FeaturesUnreadable, LayerMissing
from lens.functiontokens import basis, hub
from lens.functiontokens.features import SHIPPED, bind, features_for, left_out, open_features
from lens.functiontokens.formats import Stored, read, write
from lens.functiontokens.neurons import ACTIVE, open_neurons
from lens.functiontokens.sae import Autoencoder
from tests.helpers import tiny_gpt2, tiny_llama, tiny_llava

PROMPT = "A cat sat on the red mat. Two dogs run over wet sand."


@pytest.fixture(scope="module", params=[tiny_llama, tiny_gpt2])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return request.param(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return tiny_llama(tmp_path_factory.mktemp("llama"))


def autoencoder(width: int = 32, size: int = 50, seed: int = 0) -> Autoencoder:
    draw = torch.Generator().manual_seed(seed)
    shapes = ((width, size), (size,), (size, width), (width,), (size,))
    w_enc, b_enc, w_dec, b_dec, threshold = (torch.randn(*shape, generator=draw) for shape in shapes)
    return Autoencoder(w_enc, b_enc, w_dec, b_dec, "jumprelu", threshold.abs())


# Neurons


def test_all_neurons_through_the_down_projection_are_the_mlps_output(loaded: LoadedModel):
    run = trace(loaded, encode(loaded, PROMPT), ["neurons.2", "mlp.2"])
    neurons = open_neurons(loaded, 2)
    assert run.site("neurons.2").shape[1] == neurons.size == loaded.anatomy.neurons(2)
    torch.testing.assert_close(neurons.decode(run.site("neurons.2")), run.site("mlp.2"), atol=1e-5, rtol=1e-5)


def test_a_neurons_direction_is_what_it_adds(loaded: LoadedModel):
    neurons = open_neurons(loaded, 1)
    if (bias := getattr(neurons.down, "bias", None)) is not None:
        torch.nn.init.constant_(bias, 0.7)  # a bias belongs to no neuron
    values = torch.randn(1, neurons.size, generator=torch.Generator().manual_seed(0))
    more = values.clone()
    more[0, 7] += 2.0
    added = (neurons.decode(more) - neurons.decode(values))[0]
    torch.testing.assert_close(added, 2 * neurons.direction(7), atol=1e-5, rtol=1e-4)


def test_active_neurons_are_the_largest_in_magnitude_signed(loaded: LoadedModel):
    run = trace(loaded, encode(loaded, PROMPT), ["neurons.3"])
    states, neurons = run.site("neurons.3"), open_neurons(loaded, 3)
    values = neurons.encode(states)
    assert ((values != 0).sum(1) == ACTIVE).all()
    assert (values < 0).any() and (values > 0).any()
    for row, kept in zip(states, values, strict=True):
        expected = set(row.abs().argsort(descending=True)[:ACTIVE].tolist())
        assert set(kept.nonzero()[:, 0].tolist()) == expected
        assert torch.equal(kept[kept != 0], row[kept != 0])


def test_only_the_last_blocks_neurons_cannot_be_steered(loaded: LoadedModel):
    depth = loaded.anatomy.depth
    assert [open_neurons(loaded, block).steerable for block in (1, depth - 1, depth)] == [True, True, False]
    with pytest.raises(LayerMissing):
        open_features(loaded, f"neurons-{depth + 1}")
    with pytest.raises(LayerMissing):
        open_features(loaded, "neurons-0")


def test_sites_of_a_batch_of_texts_are_those_of_each_text(loaded: LoadedModel):
    ids = torch.tensor(loaded.tokenizer([PROMPT, PROMPT])["input_ids"])
    found = text_sites(loaded, ids, torch.ones_like(ids), ["neurons.2", "hidden.1", "mlp.2"])
    alone = text_sites(loaded, ids[:1], torch.ones_like(ids[:1]), ["neurons.2"])
    torch.testing.assert_close(found["neurons.2"][1:], alone["neurons.2"], atol=1e-5, rtol=1e-5)
    assert torch.equal(found["hidden.1"], text_states(loaded, ids, torch.ones_like(ids), [1])[1])


def test_every_block_of_a_vision_language_model_offers_its_neurons(tmp_path: Path):
    loaded = tiny_llava(tmp_path)
    specs = features_for(loaded)
    assert [spec.name for spec in specs if spec.kind == "neurons"] == [f"neurons-{block}" for block in (1, 2, 3, 4)]
    assert {spec.size for spec in specs} == {64}


# What every basis promises


def test_active_is_encode_without_the_zeros(llama: LoadedModel, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(basis, "CHUNK_VALUES", 150)  # three rows a piece
    states = torch.randn(10, 32, generator=torch.Generator().manual_seed(4))
    bound = bind(llama, Stored(autoencoder(), 2, "block.2"), "x")
    rows, which, values = bound.active(states)
    dense = torch.zeros(10, 50)
    dense[torch.from_numpy(rows), torch.from_numpy(which).long()] = torch.from_numpy(values)
    torch.testing.assert_close(
        dense, bound.encode(states), atol=1e-4, rtol=1e-5
    )  # the size of a batch changes roundings
    assert np.all(values != 0) and (rows.dtype, which.dtype, values.dtype) == (np.int64, np.int32, np.float32)
    assert list(zip(rows, which, strict=True)) == sorted(zip(rows, which, strict=True))


def test_a_limit_keeps_the_strongest_of_each_row(llama: LoadedModel):
    states = torch.randn(6, 32, generator=torch.Generator().manual_seed(4))
    bound = bind(llama, Stored(autoencoder(), 2, "block.2"), "x")
    rows, which, _values = bound.active(states, limit=3)
    assert np.bincount(rows, minlength=6).tolist() == [3] * 6
    top = bound.encode(states).topk(3).indices
    assert all(set(which[rows == row]) == set(top[row].tolist()) for row in range(6))


def test_nothing_fires_in_no_states(llama: LoadedModel):
    bound = bind(llama, Stored(autoencoder(), 2, "block.2"), "x")
    assert [len(column) for column in bound.active(torch.zeros(0, 32))] == [0, 0, 0]


def test_reconstruction_and_error_make_the_state_and_a_unit_of_a_feature_its_direction(llama: LoadedModel):
    bound = bind(llama, Stored(autoencoder(), 2, "block.2"), "x")
    states = trace(llama, encode(llama, PROMPT), [bound.site]).site(bound.site)
    values = bound.encode(states)
    error = states - bound.decode(values)
    torch.testing.assert_close(bound.decode(values) + error, states, atol=1e-4, rtol=1e-5)
    more = values.clone()
    more[:, 9] += 1.5
    expected = (1.5 * bound.direction(9)).expand_as(states)
    torch.testing.assert_close(bound.decode(more) - bound.decode(values), expected, atol=1e-4, rtol=1e-4)


def test_a_direction_can_be_added_to_the_residual_stream(llama: LoadedModel):
    bound = bind(llama, Stored(autoencoder(), 2, "block.2"), "x")
    encoded = encode(llama, PROMPT)
    before = trace(llama, encoded, ["hidden.2"]).hidden(2)
    with add(llama, bound.layer, [3], 2 * bound.direction(5)):
        after = trace(llama, encoded, ["hidden.2"]).hidden(2)
    torch.testing.assert_close(after[3] - before[3], 2 * bound.autoencoder.w_dec[5], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("number", [-1, 50])
def test_a_feature_that_is_not_there_is_refused(number: int, llama: LoadedModel):
    with pytest.raises(FeaturesMismatch, match="0 to 49"):
        bind(llama, Stored(autoencoder(), 2, "block.2"), "x").direction(number)


# Autoencoders and their model


def test_the_last_blocks_output_is_not_the_last_layer(llama: LoadedModel):
    inner, last = (bind(llama, Stored(autoencoder(), layer, f"block.{layer}"), "x") for layer in (3, 4))
    assert (inner.site, inner.steerable) == ("hidden.3", True)
    assert (last.site, last.steerable) == ("block.4", False)
    first = bind(llama, Stored(autoencoder(), 0, "hidden.0"), "x")
    assert (first.site, first.steerable) == ("hidden.0", True)
    part = bind(llama, Stored(autoencoder(), 3, "mlp.3"), "x")
    assert (part.site, part.layer, part.steerable) == ("mlp.3", 3, True)


@pytest.mark.parametrize(
    ("stored", "word"),
    [
        (Stored(autoencoder(width=48), 2, "block.2"), "48"),
        (Stored(autoencoder(), 5, "block.5"), "layer 5"),
        (Stored(autoencoder(), 2, "block.2", "another"), "another language model"),
    ],
)
def test_an_autoencoder_that_does_not_fit_is_refused(stored: Stored, word: str, llama: LoadedModel):
    with pytest.raises(FeaturesMismatch, match=word) as caught:
        bind(llama, stored, "mine")
    assert "mine" in str(caught.value)


def test_fingerprints_tell_weights_and_places_apart(llama: LoadedModel):
    prints = {
        bind(llama, Stored(autoencoder(seed=seed), layer, site), "x").fingerprint
        for seed, layer, site in [(0, 2, "block.2"), (1, 2, "block.2"), (0, 3, "block.3"), (0, 2, "mlp.2")]
    }
    assert len(prints | {open_neurons(llama, block).fingerprint for block in (1, 2)}) == 6
    again = bind(llama, Stored(autoencoder(), 2, "block.2"), "y").fingerprint
    assert again in prints


def test_own_folders_are_offered_to_their_model_only(
    llama: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TOKENLENS_HOME", str(tmp_path))
    about = {"title": "Mine", "note": "A note.", "layer": 3, "language_fingerprint": llama.language_fingerprint}
    write(tmp_path / "features" / "mine", autoencoder(), 3, about, torch.float32)
    write(tmp_path / "features" / "yours", autoencoder(), 3, about | {"language_fingerprint": "x"}, torch.float32)
    (tmp_path / "features" / "broken").mkdir()
    (tmp_path / "features" / "broken" / "cfg.json").write_text("[1")
    found = [spec for spec in features_for(llama) if spec.kind == "sae"]
    assert [(spec.name, spec.layer, spec.size, spec.title, spec.note) for spec in found] == [
        ("mine", 3, 50, "Mine", "A note.")
    ]
    assert open_features(llama, "mine").name == "mine"
    with pytest.raises(FeaturesUnreadable, match="mine"):
        open_features(llama, "yours")
    with pytest.raises(FeaturesMismatch):
        open_features(llama, str(tmp_path / "features" / "yours"))
    assert open_features(llama, str(tmp_path / "features" / "mine"), layer=1).site == "hidden.1"


@pytest.mark.parametrize(
    "name", ["", "nothing", "/no/such/folder", "../x", "a//b", "owner/name/../x", "n\0n", "x" * 5000]
)
def test_names_that_are_nothing_give_one_sentence(name: str, llama: LoadedModel):
    with pytest.raises(FeaturesUnreadable) as caught:
        open_features(llama, name)
    assert len(str(caught.value)) < 420


# The hub


def test_hub_addresses():
    assert hub.is_hub_address("google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71")
    assert hub.is_hub_address("owner/name")
    assert not any(map(hub.is_hub_address, ["owner", "owner/na me", "owner/name/", "owner/name/../x", "/a/b", ""]))


def test_only_the_folders_own_files_are_fetched(llama: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "below" / "folder", autoencoder(), 3, {}, torch.float32)
    asked = []

    def snapshot(repository: str, allow_patterns: list[str]) -> str:
        asked.append((repository, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    assert open_features(llama, "owner/name/below/folder").site == "hidden.3"
    assert asked[0][0] == "owner/name" and "below/folder/cfg.json" in asked[0][1]
    assert all(pattern.startswith("below/folder/") for pattern in asked[0][1])


def test_without_a_network_one_sentence(llama: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hub, "snapshot_download", lambda *_a, **_k: hub_offline(tmp_path / "cache"))
    with pytest.raises(FeaturesUnreadable, match="network"):
        open_features(llama, "owner/name/layers.2")


def hub_offline(cache: Path) -> str:
    """The hub's own behaviour without a network."""
    from huggingface_hub import snapshot_download

    return snapshot_download("owner/name", cache_dir=cache, local_files_only=True)


# What is shipped


@pytest.mark.parametrize("folder", sorted(SHIPPED.glob("*/")), ids=lambda folder: folder.name)
def test_a_shipped_autoencoder_reads_and_has_its_card(folder: Path):
    stored = read(folder)
    about = json.loads((folder / "cfg.json").read_text())["metadata"]
    quality = json.loads((folder / "quality.json").read_text())
    assert stored.layer == about["layer"] == quality["layer"]
    assert stored.language_fingerprint and about["note"] and about["title"]
    assert stored.autoencoder.size == quality["latents"] and stored.autoencoder.width == quality["width"]
    card = (folder / "card.md").read_text()
    assert f"{quality['qualities'][0]['fvu']:.3f}" in card
    torch.testing.assert_close(
        stored.autoencoder.w_dec.norm(dim=-1), torch.ones(stored.autoencoder.size), atol=1e-3, rtol=0
    )


def test_what_is_shipped_is_small():
    assert sum(file.stat().st_size for file in SHIPPED.rglob("*") if file.is_file()) < 60_000_000


# Folders of the user's own


def own_folder(home: Path, name: str, loaded: LoadedModel, **about: object) -> Path:
    folder = home / "features" / name
    given = {"layer": 2, "title": name, "note": "A note.", "language_fingerprint": loaded.language_fingerprint}
    write(folder, autoencoder(), 2, given | about, torch.float32)
    return folder


DEEP = '{"a":' * 100_000


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        ({"layer": "15"}, "layer"),
        ({"layer": True}, "layer"),
        ({"layer": 99}, "layer"),
        ({"layer": 2.0}, "layer"),
        ({"layer": float("inf")}, "layer"),
        ({"title": ["a"]}, "title"),
        ({"note": None}, "note"),
        (DEEP, "can't be read"),
        ("[]", "no object"),
        ('{"d_sae": Infinity', "can't be read"),
    ],
)
def test_a_damaged_folder_is_named_and_left_out(
    spoil: dict | str, named: str, llama: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TOKENLENS_HOME", str(tmp_path))
    own_folder(tmp_path, "good", llama)
    bad = own_folder(tmp_path, "bad", llama, **(spoil if isinstance(spoil, dict) else {}))
    if isinstance(spoil, str):
        (bad / "cfg.json").write_text(spoil)
    (tmp_path / "features" / "of-another").mkdir()
    (tmp_path / "features" / "of-another" / "cfg.json").write_text('{"d_in": 7}')
    assert [spec.name for spec in features_for(llama)] == ["good", "neurons-1", "neurons-2", "neurons-3", "neurons-4"]
    sentences = left_out(llama)
    assert len(sentences) == 1 and "'bad'" in sentences[0] and named in sentences[0]
    assert open_features(llama, "good").layer == 2
    assert open_features(llama, "neurons-1").layer == 1
    with pytest.raises(FeaturesUnreadable, match="bad"):
        open_features(llama, "bad")


def test_infinitely_many_latents_are_left_out(llama: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TOKENLENS_HOME", str(tmp_path))
    file = own_folder(tmp_path, "bad", llama) / "cfg.json"
    file.write_text(file.read_text().replace('"d_sae": 50', '"d_sae": Infinity'))
    assert [spec.kind for spec in features_for(llama)] == ["neurons"] * 4
    assert "d_sae" in left_out(llama)[0]
