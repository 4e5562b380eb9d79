"""The card says what was set, measured and logged, and the command that does it again; the shipped ones too."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from lens.demo.card import Made, card, command, tenths
from lens.demo.evaluate import Quality
from lens.demo.labelled import Answers, LabelledQuality
from lens.demo.provision import CONNECTORS, NAMES
from lens.demo.schedule import Settings
from lens.demo.train import parser

QUALITY = Quality("photographs", 2, 0.5, 1.0, 0.75, 0.8, 0.1, 0.2, (("cat", "A cat."), ("dog", "A car.")))
MADE = Made("one Abacus", 177.2, 185_879, 849)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Twenty steps with the loss of their number; the first is there twice, from a run that was killed."""
    rows = [{"step": 1, "caption": 99.0}, *({"step": step, "caption": float(step)} for step in range(1, 21))]
    path = tmp_path / "loss.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_loss_is_told_in_tenths(log: Path) -> None:
    assert tenths(log) == [1.5, 3.5, 5.5, 7.5, 9.5, 11.5, 13.5, 15.5, 17.5, 19.5]
    log.write_text('{"step": 1, "caption": 2.5}\n')
    assert tenths(log) == [2.5]


@pytest.mark.parametrize(
    "settings",
    [Settings(), Settings(minutes=2.95), Settings(steps=40, batch=8), Settings(scratch=True, hold_out=True, seed=3)],
)
def test_the_command_is_the_one_that_makes_it(settings: Settings) -> None:
    said = shlex.split(command(settings))
    assert said[:3] == ["python", "-m", "lens.demo.train"]
    given = parser().parse_args(said[3:])
    for name in ("steps", "batch", "seed", "scratch", "hold_out"):
        assert getattr(given, name) == getattr(settings, name)
    assert settings.steps or given.minutes == settings.minutes


def test_it_says_where_and_how_long_and_how_good(log: Path) -> None:
    text = card(Settings(), MADE, [QUALITY], log)
    assert "one Abacus in 177 s: 185,879 examples in 849 steps" in text
    assert "| photographs | 2 | 50.0% / 100.0% | 75.0% / 80.0% | 10.0% / 20.0% |" in text
    assert "- dog: A car." in text and "word embeddings at layer 0 by" in text and "so none is held out" in text
    assert "0.3 x the alignment loss" in text


def test_what_was_not_done_is_not_said(log: Path) -> None:
    text = card(Settings(scratch=True, hold_out=True), MADE, [QUALITY], log)
    assert "alignment loss" not in text and "The start is random" in text
    assert "were held out" in text and "none is held out" not in text and "labelled photographs" not in text


def test_labelled_photographs_have_their_ceiling_and_chance(log: Path) -> None:
    answers = (Answers("the encoder's head", 0.45, 0.04), Answers("What is this?", 0.43, 0.05))
    found = LabelledQuality("labels.json", "f" * 64, 1, answers, (("a.jpg", ("cat", "dog"), ("A dog.", "A cat.")),))
    text = card(Settings(), MADE, [QUALITY], log, labelled=found)
    assert "| the encoder's head | 45.0% | 4.0% |" in text and "| What is this? | 43.0% | 5.0% |" in text
    assert "- cat, dog: A cat." in text


@pytest.mark.parametrize("name", NAMES)
def test_the_shipped_cards_name_a_command_that_exists(name: str) -> None:
    text = (CONNECTORS / f"{name}.md").read_text(encoding="utf-8")
    (said,) = re.findall(r"`python -m lens\.demo\.train (.*?)`", text)
    given = parser().parse_args(shlex.split(said))
    assert given.scratch is (name == "demo-scratch")
    assert command(replace(Settings(), minutes=given.minutes, scratch=given.scratch)).endswith(said)
