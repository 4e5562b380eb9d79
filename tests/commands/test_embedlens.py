"""``python -m lens embedlens`` on a tiny model: output, files, one sentence per error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.commands.conftest import Shell
from tests.helpers import tiny_llama, tiny_llava


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("embedlens")
    tiny_llava(folder / "llava")
    tiny_llava(folder / "other", seed=1)
    tiny_llama(folder / "llama")
    (folder / "photos").mkdir()
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (60, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{seed}.png")
    (folder / "photos" / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture
def shell(made: Path, shell_for: Callable[..., Shell]) -> Shell:
    models = {"model": made / "llava", "other": made / "other", "text_only": made / "llama"}
    return shell_for("embedlens", **models, photos=made / "photos", image=made / "photos" / "0.png")


def test_anchors_are_found_kept_and_used(shell: Shell, tmp_path: Path):
    """Random weights give tokens that hardly differ from image to image: anchors of some kind, found again later."""
    status, out, err = shell("anchors", shell.model, shell.photos, "--threshold", "dead_cosine=0.5")
    assert (status, err) == (0, "")
    assert "found in 3 images" in out and "dead_cosine 0.5" in out
    assert "Files skipped: 1, such as broken.png" in out
    (kept,) = (tmp_path / "home" / "anchors").glob("*.json")
    table = json.loads(kept.read_text(encoding="utf-8"))
    assert table["images"] == 3 and table["thresholds"]["dead_cosine"] == 0.5
    assert str(shell.photos) not in kept.read_text(encoding="utf-8")

    status, out, err = shell(shell.image, "--model", shell.model, "--json", "-")
    assert (status, err) == (0, "")
    result = json.loads(out)
    assert [anchor["id"] for anchor in result["anchors"]] == [anchor["id"] for anchor in table["found"]]
    assert set(result["fractions"]) == {"sink", "dead", "alive"}
    assert len(result["patches"]) == 36
    assert set(result["patches"][0]) == {"row", "col", "class", "words", "tokens"}

    status, out, _ = shell(shell.image, "--model", shell.model, "--layer", 2, "--rule", 1)
    assert status == 0 and "layer 2, 0.png (90 x 60 pixels, 6 x 6 patches)" in out
    assert sum(line.split()[1:2] != [] and "," in line.split()[0] for line in out.splitlines()[4:]) == 36

    status, out, _ = shell("fractions", shell.model, shell.photos, "--limit", 3)
    assert status == 0 and "3 images" in out and "95 % interval" in out


def test_pruning_a_class_over_a_folder(shell: Shell, tmp_path: Path):
    assert shell("anchors", shell.model, shell.photos, "--threshold", "dead_cosine=0.5")[0] == 0
    argv = ("prune", shell.photos, "--class", "alive", "--model", shell.model, "--controls", 2, "--limit", 3)
    status, out, err = shell(*argv)
    assert (status, err) == (0, "")
    assert "alive tokens pruned in" in out and "controls of equal size" in out
    assert "log-probability of the answer" in out and "KL of the next token" in out
    status, out, _ = shell(*argv, "--json", "-")
    result = json.loads(out)
    assert (status, result["class"], result["images"], result["controls"]) == (0, "alive", 3, 2)
    effects, pictures = result["effects"], result["pictures"]
    for name in ("logprob", "kl"):
        pairs = [(p[name], p[f"control_{name}"]) for p in pictures if p["tokens"] and p[f"control_{name}"] is not None]
        assert pairs, "random weights leave both some tokens alive and some not"
        assert effects[f"beyond_{name}"]["mean"] == pytest.approx(np.mean([one - other for one, other in pairs]))
        low, high = effects[f"beyond_{name}"]["interval"]
        assert low <= effects[f"beyond_{name}"]["mean"] <= high
    assert [p["name"] for p in pictures] == ["0.png", "1.png", "2.png"]


def test_pruning_a_class_that_nothing_has_says_so(shell: Shell, tmp_path: Path):
    none = tmp_path / "none.json"
    assert shell("anchors", shell.model, shell.photos, "--out", none, "--threshold", "image_share=2")[0] == 0
    argv = ("prune", shell.photos, "--class", "dead", "--model", shell.model, "--anchors", none, "--limit", 2)
    status, out, err = shell(*argv)
    assert (status, err) == (0, "")
    assert "pruned in 0 of 2 images" in out and "nothing changes" in out


def test_anchors_go_to_a_file_and_to_no_other_model(shell: Shell, tmp_path: Path):
    file = tmp_path / "anchors.json"
    assert shell("anchors", shell.model, shell.photos, "--out", file)[0] == 0
    assert shell(shell.image, "--model", shell.model, "--anchors", file)[0] == 0
    assert "ids mean nothing to another model" in shell.mistake(shell.image, "--model", shell.other, "--anchors", file)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (("{image}", "--model", "{model}"), "No anchors are known for the model"),
        (("{image}", "--model", "{text_only}"), "has no connector"),
        (("anchors", "{text_only}", "{photos}"), "has no connector"),
        (("anchors", "{model}", "{model}"), "holds no images"),
        (("anchors", "{model}", "nowhere"), "There is no folder 'nowhere'"),
        (("anchors", "{model}", "{photos}", "--limit", "1"), "Readable images given: 1;"),
        (("anchors", "{model}", "{photos}", "--limit", "0"), "no number from 1 up"),
        (("anchors", "{model}", "{photos}", "--threshold", "size=3"), "no threshold"),
        (("anchors", "{model}", "{photos}", "--threshold", "top=x"), "no threshold"),
        (("{image}", "--min-cosine", "nan"), "no cosine"),
        (("prune", "{photos}"), "required: --class"),
        (("prune", "{photos}", "--class", "asleep"), "invalid choice"),
        (("prune", "{photos}", "--class", "dead", "--seed", "-1"), "no whole number"),
        (("prune", "nowhere", "--class", "dead"), "There is no folder 'nowhere'"),
        (("{image}", "--rule", "2"), "invalid choice"),
        (("missing.png",), "does not exist"),
        (("{image}", "--model", "{model}", "--anchors", "missing.json"), "missing.json is not there"),
        (("anchors", "nonsense", "{photos}"), "There is no model 'nonsense'"),
    ],
)
def test_every_mistake_is_one_sentence(shell: Shell, argv: tuple[str, ...], sentence: str):
    assert sentence in shell.mistake(*argv)


def test_a_picture_named_like_a_command_is_given_with_its_folder(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "anchors").write_bytes(Path(shell.image).read_bytes())
    assert "required" in shell("anchors")[2], "the command"
    assert "No anchors are known" in shell("./anchors", "--model", shell.model)[2], "the picture"
