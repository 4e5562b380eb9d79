"""``python -m lens convert``: from an original checkpoint to masks, and one sentence per error."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lens.backend.catalog import catalog, prepare
from lens.cli import main
from lens.commands import terminal
from lens.errors import ConversionFailed
from lens.segmaps.checkpointrows import PUBLISHED
from tests.segmaps.originals import tiny_parts, write_original


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.set_num_threads(1)
    monkeypatch.setenv("TOKENLENS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(terminal, "PATIENCE", 1e9)
    return tmp_path / "home"


def test_a_converted_checkpoint_gives_maps_and_masks(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = write_original(tmp_path / "original", tiny_parts(False), "READForCausalLM")
    capsys.readouterr()
    assert main(["convert", str(source), "--vision", str(tmp_path / "original" / "clip")]) == 0
    said = capsys.readouterr()
    folder = home / "models" / "checkpoint"
    assert str(folder) in said.out and said.err == "" and (folder / "config.json").is_file()
    shutil.rmtree(tmp_path / "original")  # nothing of it is needed any more
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    argv = ["segmap", str(tmp_path / "photo.png"), "--model", str(folder), "--query", "cat", "--by", "word"]
    assert main([*argv, "--json", "-"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert table["prompt"] == "Please segment the cat in this image." and np.shape(table["map"]) == (6, 6)


def test_mistakes_are_told_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for argv, sentence in (
        (["convert"], "required: checkpoint"),
        (["convert", "nowhere"], "no folder 'nowhere'"),
        (["convert", str(tmp_path)], "can't be read as the settings"),
    ):
        assert main(argv) == 2
        said = capsys.readouterr()
        assert sentence in said.err and said.err.count("\n") == 1 and said.out == ""


def test_the_catalogs_rows_are_converted_when_first_used(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    rows = catalog()
    for name in PUBLISHED:
        spec = rows[name]
        assert spec.setup and not spec.trust_remote_code
        assert bool(spec.mask_head) == (name != "sa2va-1b")
        assert spec.source == str(home / "models" / name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(ConversionFailed, match=r"neither on this machine nor to be had from the hub .* lens convert"):
        prepare(rows["lisa-7b"])
