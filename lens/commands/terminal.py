"""What the commands write: results to stdout, progress and one-sentence errors to stderr.

Text from corpora, files and models is untrusted: everything printed for a human goes through :func:`printable`, so that
no control sequence reaches the terminal.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from lens.progress import Report

PATIENCE = 1.0
"""Seconds of work before the first sign of progress: what takes less needs none."""
SPARSE = 10.0
"""Seconds between two lines of progress where stderr is no terminal."""
SMOOTH = 0.1
"""Seconds between two updates of the line on a terminal."""


def printable(text: str) -> str:
    """``text`` on one line without control characters; blanks are kept single."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def columns(text: str) -> int:
    """Columns that ``text`` takes on a terminal: wide East Asian characters and emoji two, combining marks none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def cut(text: str, width: int) -> str:
    """``text`` in at most ``width`` columns, with an ellipsis where something is left out."""
    if columns(text) <= width:
        return text
    used, kept = 1, ""
    for c in text:
        used += columns(c)
        if used > width:
            break
        kept += c
    return kept + "…"


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> Iterator[str]:
    """Lines of a table whose columns are as wide as their widest cell; those in ``right`` are flush right.

    The last column is cut where the line would be wider than the terminal, if stdout is one.
    """
    widths = [max(columns(cell) for cell in column) for column in zip(*rows, strict=True)]
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for row in rows:
        cells = []
        for number, (cell, width) in enumerate(zip(row, widths, strict=True)):
            blank = " " * (width - columns(cell))
            cells.append(blank + cell if number in right else cell + blank)
        line = "  ".join(cells).rstrip()
        yield cut(line, room) if room else line


def write_json(target: str, content: object) -> None:
    """``content`` as JSON into the file ``target``, or to stdout for ``-``."""
    from lens.export import write_atomically

    text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
    if target == "-":
        sys.stdout.write(text)
    else:
        write_atomically(Path(target), text)


@contextmanager
def progress() -> Iterator[Report]:
    """A report that writes to stderr: one line that is updated on a terminal, else a line now and then."""
    line = _Line(sys.stderr)
    try:
        yield line.report
    finally:
        line.close()


class _Line:
    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.live = stream.isatty()
        self.due = time.monotonic() + PATIENCE
        self.shown = False

    def report(self, done: float, total: float, message: str) -> None:
        """See :data:`lens.progress.Report`."""
        now = time.monotonic()
        if now < self.due:
            return
        self.due = now + (SMOOTH if self.live else SPARSE)
        text = (f"{done / total:.0%} " if total else "") + printable(message)
        if self.live:
            text = f"\r\x1b[2K{cut(text, shutil.get_terminal_size().columns - 1)}"
        self.stream.write(text if self.live else text + "\n")
        self.stream.flush()
        self.shown = True

    def close(self) -> None:
        """Leave no half line behind."""
        if self.live and self.shown:
            self.stream.write("\r\x1b[2K")
            self.stream.flush()
