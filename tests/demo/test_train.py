"""The command from its arguments to its files, with small models; what can't be done is one sentence before anything is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from lens.demo import train
from lens.demo.captions import Captions
from lens.demo.convert import CELLS
from lens.demo.photos import held_out
from lens.demo.schedule import Settings
from lens.demo.start import head_of
from lens.demo.training import embeddings, read_connector
from lens.errors import DeviceUnusable, ImagesMissing, LabelsUnusable
from tests.demo.tinyconnector import CPU, INPUTS, LetterTokenizer, tiny_language, tiny_tower


def small_workshop(folder: Path, settings: Settings) -> train.Workshop:
    """A thousand small photographs, a random head of as many classes."""
    path = folder / "small.png"
    Image.effect_noise((40, 30), 80).convert("RGB").save(path)
    language = tiny_language()
    kept_out = held_out(settings.seed) if settings.hold_out else frozenset()
    captions = Captions(LetterTokenizer(), [f"thing{i}" for i in range(1000)], kept_out)  # type: ignore[arg-type]
    weight = torch.randn(1000, INPUTS, generator=torch.Generator().manual_seed(0))
    head = head_of(weight, torch.zeros(1000), embeddings(language), captions.all_ids(captions.names))
    return train.Workshop(CPU, language, captions, head, tiny_tower(), [path] * 1000, kept_out)


@pytest.mark.parametrize("options", [["--scratch"], ["--scratch", "--hold-out"]])
def test_it_leaves_weights_log_figures_and_a_card(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        train, "open_workshop", lambda photos, wheels, settings, device: small_workshop(tmp_path, settings)
    )
    monkeypatch.setattr(train, "UNSEEN_CROPS", 4)
    monkeypatch.setattr(train, "held_out", lambda seed: frozenset(range(7, 12)))
    places = ["--photos", str(tmp_path), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert train.main([*places, "--steps", "3", "--batch", "4", *options]) == 0
    report = json.loads((tmp_path / "out" / "quality.json").read_text())
    assert report["made"]["steps"] == 3 and 0 < report["made"]["samples"] <= 3 * 4
    assert report["settings"]["hold_out"] is ("--hold-out" in options) and report["labelled"] is None
    held, crops = report["photographs"]
    assert (held["count"], crops["count"]) == (5, 4)
    assert held["source"].startswith("photographs of held-out" if "--hold-out" in options else "photographs trained on")
    assert read_connector(tmp_path / "out" / "connector.safetensors").linear_1.in_features == INPUTS
    assert len((tmp_path / "out" / "loss.jsonl").read_text().splitlines()) == 3
    card = (tmp_path / "out" / "card.md").read_text()
    assert f"{' '.join(options)} --steps 3 --batch 4 --photos FOLDER" in card and card in capsys.readouterr().out


def test_held_out_classes_are_measured_and_not_trained_on(tmp_path: Path) -> None:
    workshop = small_workshop(tmp_path, Settings(hold_out=True))
    assert set(workshop.classes) == set(range(1000)) - held_out(0)
    (_, wholes, away), (_, crops, rest) = train.examination(workshop, Settings(hold_out=True))
    assert set(away) == held_out(0) and not set(rest) & held_out(0) and len(wholes) == len(crops) == len(rest) == 100
    assert train.seen(workshop, crops[:3]).shape == (3, CELLS, INPUTS)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--device", "abacus"], DeviceUnusable),
        (["--labels", "nowhere.json"], LabelsUnusable),
        ([], ImagesMissing),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is(
    options: list[str], error: type[Exception], tmp_path: Path
) -> None:
    with pytest.raises(error):
        train.main(["--photos", str(tmp_path), "--out", str(tmp_path / "out"), *options])
