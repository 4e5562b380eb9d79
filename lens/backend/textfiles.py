"""Sentences from plain text, JSON lines and CSV: every line and row is read, or the error names the line.

The text is UTF-8, with or without a byte-order mark. A line ends with LF, CR or CR LF; in plain text also with a form feed,
a vertical tab, U+2028 or U+2029. Lines are counted by the first three, from 1.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lens.errors import CorpusUnreadable

RECORD_CHARS = 1 << 24
"""Longest JSON line, CSV line or CSV field that is parsed; a longer one is refused as malformed."""
_HEAD = 1 << 16
"""Bytes by which UTF-16 is told."""
_SENTENCE_END = re.compile("[\n\f\v\u2028\u2029]")


def read_txt(path: Path, longest: int) -> Iterator[str]:
    """Sentences, one a line; of an over-long one at least the first ``longest`` characters, and little more is ever in
    memory.

    Raises:
        CorpusUnreadable: not UTF-8.
    """
    held = ""
    for _, piece in _pieces(path, longest, newline=None):
        *ended, rest = _SENTENCE_END.split(piece)
        for part in ended:
            yield held + part
            held = ""
        held = (held + rest).lstrip()[:longest]
    yield held


def read_jsonl(path: Path, column: str) -> Iterator[str]:
    """The field ``column`` of the object on each line.

    Raises:
        CorpusUnreadable: not UTF-8, or a line that isn't a JSON object with a text of that name.
    """
    for number, line in _pieces(path, RECORD_CHARS, newline=None):
        if not line.strip():
            continue
        where = f"line {number} of {path.name}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CorpusUnreadable(f"L{where[1:]} is not valid JSON; mend or remove it.") from error
        if not isinstance(record, dict):
            raise CorpusUnreadable(f"L{where[1:]} is JSON, but no object with named columns.")
        yield as_text(pick(record, column, where), column, where)


def read_csv(path: Path, column: str) -> Iterator[str]:
    """The fields under ``column``, by RFC 4180: a quote within a quoted field is doubled, and every row has as many fields
    as the header.

    Raises:
        CorpusUnreadable: not UTF-8, no such column or two, a quote that isn't closed, or a row of another length.
    """
    csv.field_size_limit(RECORD_CHARS)
    read = 0

    def lines() -> Iterator[str]:
        nonlocal read
        for number, line in _pieces(path, RECORD_CHARS, newline=""):
            read = number
            if len(line) == RECORD_CHARS:
                raise csv.Error(f"a line of more than {RECORD_CHARS:,} characters")
            yield line

    rows = csv.reader(lines(), strict=True)
    begun, header, place = 1, None, 0
    try:
        for row in rows:
            if header is None:
                header, place = row, _place(row, column, path)
            elif len(row) == len(header):
                yield row[place]
            elif any(field.strip() for field in row):
                raise CorpusUnreadable(
                    f"Line {begun} of {path.name} has {len(row)} fields, but the header has {len(header)}; mend that line, "
                    "and put a text that holds a comma in double quotes."
                )
            begun = read + 1
    except csv.Error as error:
        open_ = "unexpected end" in str(error)
        reason = "a double quote is opened and never closed" if open_ else str(error)
        raise CorpusUnreadable(
            f"{path.name} is not valid CSV from line {begun} on ({reason}); mend that line: a text with quotes, "
            "commas or line breaks stands in double quotes, and a quote within it is doubled."
        ) from error
    if header is None:
        pick({}, column, path.name)


def pick(record: dict[str, Any], column: str, where: str) -> Any:
    """``record[column]``, or :class:`CorpusUnreadable` with the names that there are."""
    if column not in record:
        names = ", ".join(str(name)[:60] for name in list(record)[:20]) or "none"
        raise CorpusUnreadable(f"There is no column {column!r} in {where}, which has: {names}; name one of these.")
    return record[column]


def as_text(value: object, column: str, where: str) -> str:
    """A column's value as text; a missing one counts as blank."""
    if value is None or isinstance(value, str):
        return value or ""
    raise CorpusUnreadable(f"Column {column!r} of {where} holds {type(value).__name__}, not text; name another one.")


def _place(header: list[str], column: str, path: Path) -> int:
    if header.count(column) > 1:
        raise CorpusUnreadable(f"{path.name} has {header.count(column)} columns named {column!r}; rename all but one.")
    return pick({name: i for i, name in enumerate(header)}, column, path.name)


def _pieces(path: Path, longest: int, newline: str | None) -> Iterator[tuple[int, str]]:
    """Lines with their line ends and numbers, without NULs; one of more than ``longest`` characters comes in pieces."""
    try:
        with path.open("rb") as raw:
            _refuse_utf16(path, raw.read(_HEAD))
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline) as file:
            number, ended = 0, True
            while piece := file.readline(longest):
                number += ended
                ended = piece[-1] in "\r\n"
                _check_utf8(path, number, piece)
                yield number, piece.replace("\0", "")
    except OSError as error:
        raise CorpusUnreadable(
            f"{path.name} can't be read ({error.strerror or error}); choose another file."
        ) from error


def _check_utf8(path: Path, number: int, piece: str) -> None:
    try:
        piece.encode()
    except UnicodeEncodeError as error:
        raise CorpusUnreadable(
            f"Line {number} of {path.name} is not UTF-8 (byte 0x{ord(piece[error.start]) - 0xDC00:02x}); convert the file "
            "first, for instance from Latin-1 with iconv."
        ) from error


def _refuse_utf16(path: Path, head: bytes) -> None:
    """UTF-16 and UTF-32 without a byte-order mark can be valid UTF-8, of other characters.

    In texts of one script below U+2000 every second byte, there the upper one, is a control character, NUL among them; in
    UTF-8 hardly any byte is one.
    """
    for upper in (head[::2], head[1::2]):
        if 0 in upper and sum(byte < 32 for byte in upper) > 0.8 * len(upper):
            raise CorpusUnreadable(
                f"{path.name} is not UTF-8 but, from line 1 on, UTF-16 or UTF-32; convert the file first, for instance with "
                "iconv."
            )
