"""What the tests of commands share: a shell in this process, with a cache folder of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lens.cli import main
from lens.commands import terminal


class Shell:
    """Runs one command; ``{name}`` in an argument stands for the file of that name, which is an attribute besides."""

    def __init__(self, command: tuple[str, ...], files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
        self._command, self._capsys = command, capsys
        vars(self).update({name: str(path) for name, path in files.items()})

    def __call__(self, *argv: object) -> tuple[int, str, str]:
        """Exit status, stdout, stderr."""
        self._capsys.readouterr()
        status = main([*self._command, *(str(argument).format(**vars(self)) for argument in argv)])
        captured = self._capsys.readouterr()
        return status, captured.out, captured.err

    def mistake(self, *argv: object) -> str:
        """The one sentence of a command that is refused."""
        status, out, err = self(*argv)
        assert (status, out) == (2, "")
        assert err.count("\n") == 1 and "Traceback" not in err
        return err


@pytest.fixture
def shell_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Shell]:
    """Makes a :class:`Shell` from the words of a command and its files by name."""
    monkeypatch.setattr(terminal, "PATIENCE", 1e9)  # no progress on stderr, however slow the machine
    return lambda *command, **files: Shell(command, files, capsys)
