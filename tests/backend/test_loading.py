"""Models from folders: what is refused and how it is said, and what a fingerprint tells apart."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from lens.backend.catalog import ModelSpec, find
from lens.backend.loading import LoadedModel, assemble, load
from lens.backend.tracing import hidden_sites, text_states
from lens.errors import LensError, ModelMissing, ModelUnreadable
from tests.backend.conftest import noise_picture
from tests.helpers import tiny_gpt2, tiny_llama, tiny_llava


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test here may reach a hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A loadable tiny Llama to be damaged."""
    tiny_llama(tmp_path / "model")
    return tmp_path / "model"


def refusal(folder: Path, kind: type[LensError] = ModelUnreadable) -> str:
    """The sentence with which a folder is refused: one line of bearable length."""
    with pytest.raises(kind) as caught:
        load(ModelSpec(name="mine", source=str(folder)))
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 600
    return text


def test_a_loaded_model_is_ready_for_looking(case):
    loaded = case.loaded
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert (loaded.name, loaded.dtype, loaded.device.type) == (loaded.spec.name, torch.float32, "cpu")
    assert loaded.nbytes == sum(p.numel() * 4 for p in loaded.model.parameters())
    assert (loaded.processor is not None) == loaded.anatomy.sees_images


def test_tied_weights_count_once(gpt2: LoadedModel):
    assert gpt2.anatomy.unembedding.weight is gpt2.anatomy.embeddings.weight
    files = sum(t.numel() * 4 for t in load_file(Path(gpt2.spec.source) / "model.safetensors").values())
    assert gpt2.nbytes == files


def test_the_weights_are_the_files(llama: LoadedModel, folder: Path):
    stored = load_file(folder / "model.safetensors")
    loaded = load(find(str(folder)))
    for name, tensor in stored.items():
        assert torch.equal(loaded.model.state_dict()[name], tensor)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_dtype_is_the_specs(folder: Path, dtype: str):
    assert load(ModelSpec(name="x", source=str(folder), dtype=dtype)).dtype == getattr(torch, dtype)


@pytest.mark.parametrize("dtype", ["int8", "float", "nn", "", "__name__"])
def test_unknown_dtypes_are_refused(folder: Path, dtype: str):
    if dtype == "float":
        assert load(ModelSpec(name="x", source=str(folder), dtype=dtype)).dtype == torch.float32
        return
    with pytest.raises(ModelUnreadable, match="float32, bfloat16 and float16"):
        load(ModelSpec(name="x", source=str(folder), dtype=dtype))


@pytest.mark.parametrize("device", ["cuda:99", "nowhere", "meta:x"])
def test_devices_that_are_not_there_are_refused(folder: Path, device: str):
    with pytest.raises(ModelUnreadable, match=f"{device}.*cpu"):
        load(ModelSpec(name="x", source=str(folder), device=device))


def test_a_missing_folder(tmp_path: Path):
    text = refusal(tmp_path / "nowhere", ModelMissing)
    assert str(tmp_path / "nowhere") in text
    (tmp_path / "empty").mkdir()
    assert "config.json" in refusal(tmp_path / "empty", ModelMissing)


def test_a_hub_id_without_a_hub():
    with pytest.raises(ModelMissing, match=r"'nobody-at-all/no-such-model'.*network.*demo"):
        load(find("nobody-at-all/no-such-model"))


def test_truncated_weights(folder: Path):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    assert str(folder) in refusal(folder)


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"PK\x03\x04 not safetensors", b"\xff" * 4096])
def test_weights_that_are_none(folder: Path, content: bytes):
    (folder / "model.safetensors").write_bytes(content)
    refusal(folder)


def test_missing_weights(folder: Path):
    (folder / "model.safetensors").unlink()
    refusal(folder)


def test_a_pickled_checkpoint_is_refused_and_never_opened(folder: Path):
    """Unpickling runs what the file says; this one would leave a mark."""

    class Mark:
        def __reduce__(self):
            return (Path.touch, (folder / "ran",))

    (folder / "model.safetensors").unlink()
    torch.save({"x": Mark()}, folder / "pytorch_model.bin")
    assert "safetensors" in refusal(folder)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"model_type": "llama", "hidden_size": "x"}'])
def test_a_broken_configuration(folder: Path, text: str):
    (folder / "config.json").write_text(text)
    refusal(folder)


def test_an_unknown_model_type(folder: Path):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "no-such-thing"}))
    assert "no-such-thing" in refusal(folder)


def test_a_known_type_without_a_row(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    text = refusal(tmp_path)
    assert "'bert'" in text
    assert "LLaVA" in text


def test_a_configuration_of_another_size_than_its_weights(folder: Path):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))
    refusal(folder)


def test_weights_that_lack_a_part_are_refused(folder: Path):
    """A missing tensor would be filled with random numbers, and every view of it would show noise."""
    from safetensors.torch import save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert "model.layers.1.mlp.up_proj.weight" in refusal(folder)


def test_a_broken_tokenizer(folder: Path):
    (folder / "tokenizer.json").write_text("{")
    refusal(folder)


def test_remote_code_is_not_run(folder: Path):
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "evil"
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    refusal(folder)
    assert not (folder / "ran").exists()


def test_adds_bos_is_what_the_tokenizer_does(tmp_path: Path):
    assert not tiny_llama(tmp_path / "without").adds_bos
    assert tiny_llama(tmp_path / "with", bos=True).adds_bos


def test_the_same_weights_have_the_same_fingerprint(tmp_path: Path, llava: LoadedModel):
    one, two, other = (tiny_llava(tmp_path / str(i), seed=seed) for i, seed in enumerate((0, 0, 1)))
    assert one.fingerprint == two.fingerprint != other.fingerprint
    assert one.language_fingerprint == two.language_fingerprint != other.language_fingerprint
    shutil.copytree(one.spec.source, tmp_path / "copy")
    copied = load(ModelSpec(name="renamed", source=str(tmp_path / "copy")))
    assert copied.fingerprint == one.fingerprint


def test_a_vlm_shares_its_language_fingerprint_with_its_language_model_alone(tmp_path: Path):
    vlm = tiny_llava(tmp_path / "vlm")
    text = LlamaForCausalLM(vlm.model.config.text_config)
    text.model = vlm.model.model.language_model
    text.lm_head = vlm.model.lm_head
    text.save_pretrained(tmp_path / "text")
    vlm.tokenizer.save_pretrained(tmp_path / "text")
    alone = load(ModelSpec(name="text", source=str(tmp_path / "text")))
    assert alone.language_fingerprint == vlm.language_fingerprint
    assert alone.fingerprint != vlm.fingerprint
    assert alone.tokenizer_hash == vlm.tokenizer_hash
    ids = torch.tensor([[9, 8, 7]])
    layers = range(vlm.anatomy.depth + 1)
    a, b = (text_states(loaded, ids, torch.ones_like(ids), layers) for loaded in (alone, vlm))
    assert all(torch.equal(a[layer], b[layer]) for layer in layers), "what the shared fingerprint promises"


def test_another_connector_is_another_model_with_the_same_language(tmp_path: Path):
    one, two = (tiny_llava(tmp_path / name) for name in "ab")
    torch.nn.init.normal_(two.anatomy.connector.linear_2.weight)
    two = assemble(two.spec, two.model, two.tokenizer, two.processor)
    assert one.fingerprint != two.fingerprint
    assert one.language_fingerprint == two.language_fingerprint


def test_every_part_of_the_language_model_is_in_its_fingerprint(tmp_path: Path):
    """A small nudge of any one tensor, as the gentlest fine-tuning gives, is another language model."""
    loaded = tiny_gpt2(tmp_path)
    seen = {loaded.language_fingerprint}
    tensors = loaded.anatomy.text_model.state_dict()
    for name, tensor in tensors.items():
        kept = tensor.clone()
        tensor.mul_(1.02).add_(0.01)
        seen.add(assemble(loaded.spec, loaded.model, loaded.tokenizer).language_fingerprint)
        tensor.copy_(kept)
        assert len(seen) > 1, name
    assert len(seen) == len(tensors) + 1


def test_the_end_of_a_tensor_is_in_the_fingerprint(tmp_path: Path):
    """Evenly spaced means up to the end, also where a tensor has little more values than are sampled."""
    loaded = tiny_llama(tmp_path)
    weight = loaded.anatomy.embeddings.weight.data
    assert 4096 < weight.numel() < 4 * 4096
    weight[-1] += 1
    changed = assemble(loaded.spec, loaded.model, loaded.tokenizer)
    assert changed.language_fingerprint != loaded.language_fingerprint


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_a_checkpoint_has_one_fingerprint_in_float32_and_bfloat16(tmp_path: Path, stored: str):
    original = tiny_llava(tmp_path)
    original.model.to(getattr(torch, stored)).save_pretrained(tmp_path)
    one, two = (load(dataclasses.replace(original.spec, dtype=dtype)) for dtype in ("float32", "bfloat16"))
    assert (one.dtype, two.dtype) == (torch.float32, torch.bfloat16)
    assert one.fingerprint == two.fingerprint
    assert one.language_fingerprint == two.language_fingerprint


def test_the_tokenizers_hash_is_its_vocabulary(tmp_path: Path):
    plain, padded = tiny_llama(tmp_path / "a"), tiny_llama(tmp_path / "b", padding_side="left")
    assert plain.tokenizer_hash == padded.tokenizer_hash
    padded.tokenizer.add_tokens(["zyzzyva"])
    assert assemble(padded.spec, padded.model, padded.tokenizer).tokenizer_hash != plain.tokenizer_hash


def test_a_bfloat16_model_is_traced_in_its_dtype(tmp_path: Path):
    from lens.backend.answers import generate
    from lens.backend.encoding import encode
    from lens.backend.readouts import embedding_lens, logit_lens
    from lens.backend.tracing import trace

    loaded = load(dataclasses.replace(tiny_llava(tmp_path).spec, dtype="bfloat16"))
    encoded = encode(loaded, "What is this?", noise_picture(48, 48))
    states = trace(loaded, encoded, hidden_sites(loaded.anatomy.depth))
    assert {tensor.dtype for tensor in states.states.values()} == {torch.bfloat16}
    for words in (logit_lens(loaded, states.hidden(1), 1), embedding_lens(loaded, states.hidden(1))):
        assert words.scores.dtype == "float32"
    generate(loaded, encoded, 2)
