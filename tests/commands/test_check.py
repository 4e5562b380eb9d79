"""``python -m lens check`` on tiny models: the table, JSON, and a failed check."""

from __future__ import annotations

import json

import pytest

from lens.cli import main
from tests.families import tiny
from tests.helpers import tiny_llama


def test_a_vision_language_model_is_told_check_by_check(tmp_path, capsys):
    tiny("qwen2_vl", tmp_path)
    assert main(["check", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "Qwen2-VL family, model type qwen2_vl" in lines[0]
    assert [line.split("  ")[0] for line in lines[1:]] == [
        "places", "tokens", "layers", "logits", "visual positions", "patches"
    ]  # fmt: skip
    assert all("passed" in line for line in lines[1:])


def test_json_has_every_check(tmp_path, capsys):
    tiny("blip_2", tmp_path)
    assert main(["check", str(tmp_path), "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["family"], found["passed"], found["off"]) == ("BLIP-2", True, [])
    assert found["checks"][-1]["name"] == "patches" and found["checks"][-1]["passed"] is None


def test_a_failed_check_is_told_and_exits_with_2(tmp_path, capsys, monkeypatch: pytest.MonkeyPatch):
    tiny_llama(tmp_path)
    monkeypatch.setattr("lens.backend.checking._tolerance", lambda _states: -1.0)
    assert main(["check", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert "failed" in captured.out
    assert "fails 2 of 4 checks (layers, logits); what is off: every view of layers, the logit lens." in captured.err


def test_a_model_that_is_not_there_is_one_sentence(capsys):
    assert main(["check", "no-such-model"]) == 2
    assert "There is no model 'no-such-model'" in capsys.readouterr().err
