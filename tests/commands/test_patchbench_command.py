"""``python -m lens embedlens patch-bench`` on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lens.compare.patchsummary import read_bench
from tests.commands.conftest import Shell
from tests.helpers import tiny_llama, tiny_llava


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")
    tiny_llava(folder / "llava")
    tiny_llama(folder / "llama")
    return folder


@pytest.fixture
def shell(models: Path, shell_for: Callable[..., Shell]) -> Shell:
    return shell_for("embedlens", "patch-bench", llava=models / "llava", llama=models / "llama")


def test_tables_json_and_figure(shell: Shell, tmp_path: Path):
    file, page = tmp_path / "bench.json", tmp_path / "bench.html"
    argv = ("{llava}", "--items", 60, "--asked", 2, "--layers", "0,4")
    status, out, _ = shell(*argv, "--json", file, "--html", page)
    assert status == 0
    assert "60 items, each in one patch of 8 x 8 of 48 x 48 pixels; 2 also drawn large" in out
    assert "LatentLens left out" in out and out.count("embedding probe") == 4
    bench = read_bench(file)
    assert (bench.items, bench.asked, bench.layers, bench.index) == (60, 2, (0, 4), None)
    assert "One item in one patch of 8 x 8 pixels" in page.read_text(encoding="utf-8")
    status, out, _ = shell(*argv, "--json", "-")
    assert status == 0 and json.loads(out)["rates"]["rows"]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (("{llama}",), "has no connector"),
        (("{llava}", "--items", "0"), "no number from 1 up"),
        (("{llava}", "--asked", "-1"), "no whole number from 0 up"),
        (("{llava}", "--layers", "0,x"), "no list of whole numbers"),
        (("{llava}", "--layers", "9"), "layer 9"),
        (("{llava}", "--index", "nowhere"), "There is no index at"),
        (("nonsense",), "There is no model 'nonsense'"),
    ],
)
def test_every_mistake_is_one_sentence(shell: Shell, argv: tuple[str, ...], sentence: str):
    assert sentence.lower() in shell.mistake(*argv).lower()
