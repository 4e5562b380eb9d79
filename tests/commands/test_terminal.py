"""What the commands write for a human: widths, tables, progress."""

from __future__ import annotations

import time

import pytest

from lens.commands.terminal import columns, cut, printable, progress, table


def test_printable_is_one_line_without_control_characters() -> None:
    assert printable("a\x1b[31m  red\r\ncat\u202e\x00 猫\t🐈 ") == "a [31m red cat 猫 🐈"


def test_columns_and_cutting() -> None:
    assert [columns(text) for text in ("cat", "猫", "🐈", "e\u0301", "")] == [3, 2, 2, 1, 0]
    assert cut("a cat sat", 9) == "a cat sat"
    assert cut("a cat sat", 5) == "a ca…"
    assert cut("猫猫猫", 4) == "猫…"
    assert list(table([("a", "1"), ("bcd", "22")], right=[1])) == ["a     1", "bcd  22"]


def test_progress_is_sparse_where_no_one_watches(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with progress() as report:
        for second in range(26):
            now[0] = float(second)
            report(second, 50, f"Reading\n{second}")
    # After one second, then every ten.
    assert capsys.readouterr().err == "2% Reading 1\n22% Reading 11\n42% Reading 21\n"
