"""Checkpoints that can't be converted: each says why in one sentence, nothing half-made is left and nothing is run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from transformers import CLIPVisionConfig, CLIPVisionModel

from lens.errors import ConversionFailed
from lens.segmaps import checkpoints
from lens.segmaps.checkpointrows import PUBLISHED
from lens.segmaps.checkpoints import convert


class Shout:
    """What a pickle must not bring along."""

    def __reduce__(self) -> tuple:
        return print, ("unpickled",)


def _edit(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def _drop(folder: Path, name: str) -> None:
    for shard in folder.glob("*.bin"):
        content = torch.load(shard, weights_only=True)
        if content.pop(name, None) is not None:
            torch.save(content, shard)


DAMAGE = {
    "no settings": (lambda f: (f / "config.json").unlink(), "can't be read as the settings"),
    "settings are a list": (lambda f: (f / "config.json").write_text("[]"), "isn't the settings"),
    "another architecture": (
        lambda f: _edit(f / "config.json", architectures=["GPT"]),
        "architecture 'GPT', but only LISAForCausalLM, SESAMEForCausalLM, READForCausalLM",
    ),
    "no weights": (lambda f: (f / "pytorch_model.bin.index.json").unlink(), "has no weights in it"),
    "a missing shard": (
        lambda f: (f / "pytorch_model-00002-of-00003.bin").unlink(),
        r"lacks pytorch_model-00002-of-00003.bin \(1 of 3 shards",
    ),
    "a shard elsewhere": (
        lambda f: _edit(f / "pytorch_model.bin.index.json", weight_map={"lm_head.weight": "../../secret.bin"}),
        "has no weights in it",
    ),
    "half a shard": (
        lambda f: (f / "pytorch_model-00001-of-00003.bin").write_bytes(
            (f / "pytorch_model-00001-of-00003.bin").read_bytes()[:2000]
        ),
        "pytorch_model-00001-of-00003.bin can't be read",
    ),
    "a pickled call": (
        lambda f: torch.save({"lm_head.weight": Shout()}, f / "pytorch_model-00001-of-00003.bin"),
        "holds something other than tensors",
    ),
    "a number": (
        lambda f: torch.save({"lm_head.weight": 3}, f / "pytorch_model-00001-of-00003.bin"),
        "holds something other than tensors",
    ),
    "a foreign tensor": (
        lambda f: torch.save({"model.other.weight": torch.ones(2)}, f / "pytorch_model-00001-of-00003.bin"),
        "'model.other.weight', which the original LLaVA layout doesn't have",
    ),
    "a tensor too few": (lambda f: _drop(f, "model.norm.weight"), "No shard holds model.language_model.norm.weight"),
    "no SAM's neck": (lambda f: _drop(f, "model.visual_model.image_encoder.neck.0.weight"), "neck.conv1.weight"),
    "no projection": (lambda f: _drop(f, "model.text_hidden_fcs.0.2.bias"), "No shard holds 2.bias"),
    "another width": (lambda f: _edit(f / "config.json", intermediate_size=65), "has the shape .* settings ask for"),
    "another connector": (lambda f: _edit(f / "config.json", mm_projector_type="resampler"), "type 'resampler'"),
    "no [SEG]": (
        lambda f: (f / "added_tokens.json").write_text((f / "added_tokens.json").read_text().replace("[SEG]", "[GO]")),
        r"no token \[SEG\]",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.model").unlink(), "tokenizer.model missing"),
    "too many tokens": (lambda f: _edit(f / "config.json", vocab_size=400), "tokens, but the settings tell of 400"),
    "a broken tokenizer": (lambda f: (f / "tokenizer.model").write_bytes(b"\x00\x01"), "tokenizer in .* can't be read"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_wrong_is_told_in_one_sentence(
    original: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
):
    source = tmp_path / "checkpoint"
    shutil.copytree(original / "checkpoint", source)
    act, sentence = DAMAGE[damage]
    act(source)
    with pytest.raises(ConversionFailed, match=sentence) as caught:
        convert(str(source), tmp_path / "out", str(original / "clip"))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500 and str(caught.value).endswith(".")
    assert not (tmp_path / "out").exists() and "unpickled" not in capsys.readouterr().out


def test_towers_that_do_not_fit(original: Path, tmp_path: Path):
    source = str(original / "checkpoint")
    CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=48
        )
    ).save_pretrained(tmp_path / "narrow")
    for tower, sentence in ((tmp_path / "narrow", "is 16 wide, but .* one of 24"), (tmp_path, "can't be read")):
        with pytest.raises(ConversionFailed, match=sentence):
            convert(source, tmp_path / "out", str(tower))
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_told_and_a_folder_in_use_is_left_alone(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source, clip = str(original / "checkpoint"), str(original / "clip")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(ConversionFailed, match=r"is full .* GB are needed, 0.0 GB are free"):
        convert(source, tmp_path / "out", clip)
    monkeypatch.undo()
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("mine")
    with pytest.raises(ConversionFailed, match="already holds other files"):
        convert(source, tmp_path / "used", clip)
    assert (tmp_path / "used" / "mine.txt").read_text() == "mine"
    with FileLock(tmp_path / ".converting-out.lock"), pytest.raises(ConversionFailed, match="Another process"):
        convert(source, tmp_path / "out", clip)


def test_sources_that_are_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for source in ("nowhere", "./no/where", "/no/such/folder"):
        with pytest.raises(ConversionFailed, match=r"no folder .* lisa-7b"):
            convert(source, tmp_path / "out")
    assert set(PUBLISHED) >= {"lisa-7b", "read-7b"}
