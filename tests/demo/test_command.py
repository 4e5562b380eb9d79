"""The frame of the training commands: the device that is named, the time, one sentence where either can't be."""

from __future__ import annotations

import pytest
import torch

from lens.demo.command import training_device, training_parser
from lens.errors import DeviceUnusable

PLACES = ["--photos", "photos", "--out", "out"]


def test_without_a_name_the_device_is_the_accelerator_or_the_processor() -> None:
    found = torch.accelerator.current_accelerator(check_available=True)
    assert training_device(None) == (found or torch.device("cpu"))


def test_a_named_device_is_taken() -> None:
    assert training_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta", ""])
def test_a_device_that_cannot_compute_is_one_sentence(name: str) -> None:
    with pytest.raises(DeviceUnusable, match=r"can't be used here .* choose another, such as cpu") as raised:
        training_device(name)
    assert repr(name) in str(raised.value) and "\n" not in str(raised.value)


def test_minutes_have_the_commands_own_default() -> None:
    parse = training_parser("lens.demo.train", "a connector", seed=0, minutes=2.5)
    assert parse.parse_args(PLACES).minutes == 2.5
    assert parse.parse_args([*PLACES, "--minutes", "0.5", "--device", "cpu"]).minutes == 0.5


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon"])
def test_minutes_are_a_time(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        training_parser("lens.demo.train", "a connector", seed=0, minutes=3).parse_args([*PLACES, "--minutes", text])
    assert "is no number above 0" in capsys.readouterr().err
