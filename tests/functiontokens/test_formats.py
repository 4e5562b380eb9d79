"""Files of the exact layout of each format, written here by hand, against the formula of each format."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lens.errors import FeaturesUnreadable
from lens.functiontokens.formats import read, write
from lens.functiontokens.sae import Autoencoder

WIDTH, SIZE = 12, 30


def weights(seed: int = 0) -> dict[str, Tensor]:
    """SAELens names; decoder rows of many norms, thresholds on both sides of 0."""
    draw = torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (WIDTH, SIZE), "b_enc": (SIZE,), "W_dec": (SIZE, WIDTH), "b_dec": (WIDTH,), "threshold": (SIZE,)}
    return {name: torch.randn(*shape, generator=draw) for name, shape in shapes.items()}


def states(count: int = 40) -> Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(9)) * 2


def saelens(folder: Path, tensors: dict[str, Tensor], **cfg: Any) -> Path:
    """A folder as SAELens 6 leaves it."""
    folder.mkdir(exist_ok=True)
    about = {"hook_name": "blocks.1.hook_resid_post", "sae_lens_version": "6.12.1", "model_name": "tiny"}
    common = {"d_in": WIDTH, "d_sae": SIZE, "dtype": "float32", "device": "cpu", "metadata": about}
    common |= {"apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none"}
    (folder / "cfg.json").write_text(json.dumps(common | cfg))
    save_file(tensors, folder / "sae_weights.safetensors")
    return folder


def sparsify(folder: Path, **cfg: Any) -> Path:
    """A folder as EleutherAI's sparsify leaves it."""
    folder.mkdir(exist_ok=True)
    common = {"activation": "topk", "expansion_factor": 32, "normalize_decoder": True, "num_latents": SIZE, "k": 5}
    common |= {"multi_topk": False, "skip_connection": False, "transcode": False, "d_in": WIDTH}
    (folder / "cfg.json").write_text(json.dumps(common | cfg))
    w = weights()
    tensors = {"encoder.weight": w["W_enc"].T.contiguous(), "encoder.bias": w["b_enc"]}
    save_file(tensors | {"W_dec": w["W_dec"], "b_dec": w["b_dec"]}, folder / "sae.safetensors")
    return folder


def gemma_scope(root: Path, below: str = "gemma-scope-2b-pt-res/layer_3/width_16k/average_l0_71", **extra: Any) -> Path:
    """A folder as Gemma Scope's repositories have it."""
    folder = root / below
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", **({name: tensor.numpy() for name, tensor in weights().items()} | extra))
    return folder


def pre(x: Tensor, centred: bool = True) -> Tensor:
    w = weights()
    return (x - w["b_dec"] * centred) @ w["W_enc"] + w["b_enc"]


def jumprelu(values: Tensor) -> Tensor:
    return values.relu() * (values > weights()["threshold"])


def topk(values: Tensor, k: int) -> Tensor:
    """By sorting, one row at a time."""
    out = torch.zeros_like(values)
    for row, line in enumerate(values):
        for place in line.argsort(descending=True)[:k]:
            out[row, place] = max(float(line[place]), 0.0)
    return out


def groupmax(values: Tensor, k: int) -> Tensor:
    out = torch.zeros_like(values)
    per = values.shape[1] // k
    for row, line in enumerate(values):
        for group in range(k):
            best = group * per + int(line[group * per : (group + 1) * per].argmax())
            out[row, best] = max(float(line[best]), 0.0)
    return out


def plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name != "threshold"}


CASES: dict[str, tuple[Callable[[Path], Path], Callable[[Tensor], Tensor], int, str]] = {
    "SAELens standard": (
        lambda root: saelens(root / "a", plain(weights()), architecture="standard"),
        lambda x: pre(x).relu(),
        2,
        "block.2",
    ),
    "SAELens jumprelu": (
        lambda root: saelens(root / "a", weights(), architecture="jumprelu"),
        lambda x: jumprelu(pre(x)),
        2,
        "block.2",
    ),
    "SAELens jumprelu, b_dec left on": (
        lambda root: saelens(root / "a", weights(), architecture="jumprelu", apply_b_dec_to_input=False),
        lambda x: jumprelu(pre(x, centred=False)),
        2,
        "block.2",
    ),
    "SAELens topk": (
        lambda root: saelens(root / "a", plain(weights()), architecture="topk", k=4),
        lambda x: topk(pre(x), 4),
        2,
        "block.2",
    ),
    "SAELens 3, topk by its activation": (
        lambda root: saelens(
            root / "a",
            plain(weights()),
            architecture="standard",
            activation_fn_str="topk",
            activation_fn_kwargs={"k": 4},
            hook_name="blocks.3.hook_resid_pre",
            hook_head_index=None,
            metadata=None,
        ),
        lambda x: topk(pre(x), 4),
        3,
        "block.3",
    ),
    "sparsify topk": (
        lambda root: sparsify(root / "layers.2"),
        lambda x: topk(pre(x), 5),
        3,
        "block.3",
    ),
    "sparsify groupmax": (
        lambda root: sparsify(root / "h.1.mlp", activation="groupmax"),
        lambda x: groupmax(pre(x), 5),
        2,
        "mlp.2",
    ),
    "Gemma Scope": (gemma_scope, lambda x: jumprelu(pre(x, centred=False)), 4, "block.4"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_format_gives_the_values_and_the_place_of_its_formula(case: str, tmp_path: Path):
    make, formula, layer, site = CASES[case]
    stored = read(make(tmp_path))
    x = states()
    expected = formula(x)
    assert 0 < (expected > 0).float().mean() < 0.6
    torch.testing.assert_close(stored.autoencoder.encode(x), expected, atol=1e-5, rtol=1e-5)
    rebuilt = expected @ weights()["W_dec"] + weights()["b_dec"]
    torch.testing.assert_close(stored.autoencoder.decode(expected), rebuilt, atol=1e-5, rtol=1e-5)
    assert (stored.layer, stored.site, stored.language_fingerprint) == (layer, site, None)


def test_values_rescaled_by_decoder_norms_are_folded_in(tmp_path: Path):
    folder = saelens(tmp_path / "a", plain(weights()), architecture="topk", k=4, rescale_acts_by_decoder_norm=True)
    autoencoder, x, w = read(folder).autoencoder, states(), weights()
    norms = w["W_dec"].norm(dim=-1)
    expected = topk(pre(x) * norms, 4)
    torch.testing.assert_close(autoencoder.encode(x), expected, atol=1e-4, rtol=1e-5)
    rebuilt = (expected / norms) @ w["W_dec"] + w["b_dec"]
    torch.testing.assert_close(autoencoder.decode(expected), rebuilt, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(autoencoder.w_dec.norm(dim=-1), torch.ones(SIZE))


@pytest.mark.parametrize(
    ("hook", "layer", "site"),
    [
        ("blocks.0.hook_resid_pre", 0, "hidden.0"),
        ("blocks.0.hook_resid_post", 1, "block.1"),
        ("blocks.7.hook_mlp_out", 8, "mlp.8"),
        ("blocks.7.hook_attn_out", 8, "attention.8"),
        ("hook_embed", 0, "hidden.0"),
    ],
)
def test_transformer_lens_places(hook: str, layer: int, site: str, tmp_path: Path):
    folder = saelens(tmp_path / "a", weights(), architecture="jumprelu", metadata={"hook_name": hook})
    stored = read(folder)
    assert (stored.layer, stored.site) == (layer, site)


@pytest.mark.parametrize(
    ("name", "layer", "site"),
    [
        ("layers.0", 1, "block.1"),
        ("transformer.h.4", 5, "block.5"),
        ("layers.11.self_attn", 12, "attention.12"),
        ("embed_tokens", 0, "hidden.0"),
    ],
)
def test_sparsify_places(name: str, layer: int, site: str, tmp_path: Path):
    stored = read(sparsify(tmp_path / name))
    assert (stored.layer, stored.site) == (layer, site)


def test_the_layer_can_be_named_where_the_path_does_not_say_it(tmp_path: Path):
    stored = read(sparsify(tmp_path / "layers.2"), layer=7)
    assert (stored.layer, stored.site) == (7, "block.7")


def test_a_file_stands_for_its_folder_and_half_precision_is_read(tmp_path: Path):
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in weights().items()}
    folder = saelens(tmp_path / "a", tensors, architecture="jumprelu")
    autoencoder = read(folder / "sae_weights.safetensors").autoencoder
    assert autoencoder.w_enc.dtype == torch.float32
    assert torch.equal(autoencoder.w_dec, tensors["W_dec"].float())


@pytest.mark.parametrize("rule", ["relu", "jumprelu", "topk"])
@pytest.mark.parametrize("centred", [True, False])
def test_what_is_written_is_read_back(rule: Any, centred: bool, tmp_path: Path):
    w = weights()
    threshold = w["threshold"] if rule == "jumprelu" else None
    k = 3 if rule == "topk" else 0
    ours = Autoencoder(w["W_enc"], w["b_enc"], w["W_dec"], w["b_dec"], rule, threshold, k, centred)
    write(tmp_path / "new", ours, 5, {"language_fingerprint": "abc"}, torch.float32)
    stored = read(tmp_path / "new")
    assert (stored.layer, stored.site, stored.language_fingerprint) == (5, "block.5", "abc")
    assert torch.equal(stored.autoencoder.encode(states()), ours.encode(states()))
    assert stored.autoencoder.digest() == ours.digest()
    assert (
        json.loads((tmp_path / "new" / "cfg.json").read_text())["metadata"]["hook_name"] == "blocks.4.hook_resid_post"
    )


def test_half_precision_files_hold_what_rounded_says(tmp_path: Path):
    w = weights()
    ours = Autoencoder(w["W_enc"], w["b_enc"], w["W_dec"], w["b_dec"], "jumprelu", w["threshold"])
    write(tmp_path / "new", ours, 0, {}, torch.float16)
    stored = read(tmp_path / "new")
    assert stored.site == "hidden.0"
    assert stored.autoencoder.digest() == ours.rounded().digest() != ours.digest()


BAD_CONFIG = {
    "gated": {"architecture": "gated"},
    "tanh-relu": {"architecture": "standard", "activation_fn_str": "tanh-relu"},
    "layer_norm": {"architecture": "jumprelu", "normalize_activations": "layer_norm"},
    "expected_average_only_in": {"architecture": "jumprelu", "normalize_activations": "expected_average_only_in"},
    "heads": {"architecture": "jumprelu", "reshape_activations": "hook_z"},
    "blocks.3.attn.hook_z": {"architecture": "jumprelu", "metadata": {"hook_name": "blocks.3.attn.hook_z"}},
    "''": {"architecture": "jumprelu", "metadata": {}},
    "k = 0": {"architecture": "topk", "k": 0},
    "k = 31": {"architecture": "topk", "k": SIZE + 1},
}


@pytest.mark.parametrize("word", BAD_CONFIG)
def test_a_variant_that_is_not_computed_exactly_is_refused_by_name(word: str, tmp_path: Path):
    folder = saelens(tmp_path / "a", weights(), **BAD_CONFIG[word])
    with pytest.raises(FeaturesUnreadable) as caught:
        read(folder)
    assert word in str(caught.value)
    assert_one_sentence(caught.value)


@pytest.mark.parametrize("cfg", [{"transcode": True}, {"skip_connection": True}, {"activation": "other"}, {"k": 99}])
def test_sparsify_variants_are_refused(cfg: dict[str, Any], tmp_path: Path):
    with pytest.raises(FeaturesUnreadable) as caught:
        read(sparsify(tmp_path / "layers.1", **cfg))
    assert_one_sentence(caught.value)


def test_groups_of_unequal_size_are_refused(tmp_path: Path):
    with pytest.raises(FeaturesUnreadable, match="unequal"):
        read(sparsify(tmp_path / "layers.1", activation="groupmax", k=7))


@pytest.mark.parametrize("below", ["gemma-scope-2b-pt-att/layer_3/w", "gemma-scope-2b-pt-res/embedding/w"])
def test_gemma_scope_of_other_places_is_refused(below: str, tmp_path: Path):
    with pytest.raises(FeaturesUnreadable, match="residual"):
        read(gemma_scope(tmp_path, below))


def broken_weights(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    def breaking(folder: Path) -> None:
        tensors = weights()
        change(tensors)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "sae_weights.safetensors")

    return breaking


BROKEN: dict[str, Callable[[Path], Any]] = {
    "no threshold": broken_weights(lambda w: w.pop("threshold")),
    "a shape": broken_weights(lambda w: w.update(b_enc=torch.zeros(SIZE + 1))),
    "a vector for a matrix": broken_weights(lambda w: w.update(W_enc=torch.zeros(SIZE))),
    "NaN": broken_weights(lambda w: w["W_dec"].fill_(torch.nan)),
    "rescaled latents": broken_weights(lambda w: w.update(scaling_factor=torch.full((SIZE,), 2.0))),
    "cut short": lambda folder: (folder / "sae_weights.safetensors").write_bytes(
        (folder / "sae_weights.safetensors").read_bytes()[:200]
    ),
    "no config": lambda folder: (folder / "cfg.json").unlink(),
    "half a config": lambda folder: (folder / "cfg.json").write_text('{"d_in": '),
    "a list for a config": lambda folder: (folder / "cfg.json").write_text("[]"),
    "no weights": lambda folder: (folder / "sae_weights.safetensors").unlink(),
}


@pytest.mark.parametrize("how", BROKEN)
def test_damaged_files_give_one_sentence(how: str, tmp_path: Path):
    folder = saelens(tmp_path / "a", weights(), architecture="jumprelu")
    read(folder)
    BROKEN[how](folder)
    with pytest.raises(FeaturesUnreadable) as caught:
        read(folder)
    assert_one_sentence(caught.value)


def test_a_pickle_in_an_npz_is_not_opened(tmp_path: Path):
    folder = gemma_scope(tmp_path, extra=np.array([{"a": 1}], dtype=object))
    with pytest.raises(FeaturesUnreadable) as caught:
        read(folder)
    assert_one_sentence(caught.value)


def test_bytes_that_are_no_npz(tmp_path: Path):
    folder = gemma_scope(tmp_path)
    (folder / "params.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(FeaturesUnreadable, match="can't be read"):
        read(folder)


def test_a_folder_of_several_names_them(tmp_path: Path):
    sparsify(tmp_path / "layers.2")
    with pytest.raises(FeaturesUnreadable, match=r"layers\.2"):
        read(tmp_path)


def test_a_path_that_does_not_say_the_layer_is_refused(tmp_path: Path):
    with pytest.raises(FeaturesUnreadable, match="layer"):
        read(sparsify(tmp_path / "somewhere"))
    with pytest.raises(FeaturesUnreadable, match="layer"):
        read(gemma_scope(tmp_path, "width_16k"))


def assert_one_sentence(error: Exception) -> None:
    text = str(error)
    assert text.endswith(".") and ". " not in text and "\n" not in text and len(text) < 420
