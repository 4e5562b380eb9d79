"""Corpora of every kind give the same sentences; bad ones are refused in a sentence that helps."""

from __future__ import annotations

import csv
import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lens.backend.corpus import MAX_CHARS, Corpus, open_corpus
from lens.errors import CorpusUnreadable

TEXTS = ["A cat sat.", 'She said "no", twice.', "Zürich, 東京 and 🍎.", "The end"]


def write(folder: Path, kind: str) -> Path:
    """The sentences of ``TEXTS`` in a corpus of some kind."""
    path = folder / f"texts.{kind}"
    table = pa.table({"id": list(range(len(TEXTS))), "text": TEXTS})
    if kind == "txt":
        path.write_text("\ufeff" + "\r\n\n  ".join(TEXTS), encoding="utf-8")
    elif kind == "jsonl":
        lines = [json.dumps({"id": i, "text": text}) for i, text in enumerate(TEXTS)]
        path.write_text("\n\n".join(lines), encoding="utf-8")
    elif kind == "csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["id", "text"], *enumerate(TEXTS)])
    elif kind == "parquet":
        pq.write_table(table, path, row_group_size=2)
    elif kind == "arrow":
        path.mkdir()
        names = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
        for name, piece in zip(names, (table.slice(0, 2), table.slice(2)), strict=True):
            with pa.OSFile(str(path / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
                stream.write_table(piece)
        (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
        (path / "dataset_info.json").write_text("{}")
    else:
        path.mkdir()
        pq.write_table(table, path / "train-00000.parquet")
    return path


KINDS = ("txt", "jsonl", "csv", "parquet", "arrow", "folder")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_sentences_and_digest(tmp_path: Path, kind: str) -> None:
    corpus = open_corpus(write(tmp_path, kind))
    assert list(corpus) == TEXTS
    assert list(corpus) == TEXTS, "a corpus can be read twice"
    assert corpus.digest == Corpus("memory", lambda: TEXTS).digest
    assert corpus.name == f"texts.{kind}"


def test_digest_depends_on_content_and_order() -> None:
    digests = {
        Corpus("c", lambda texts=texts: texts).digest for texts in (TEXTS, TEXTS[::-1], TEXTS[:-1], ["".join(TEXTS)])
    }
    assert len(digests) == 4


@pytest.mark.parametrize("kind", ("jsonl", "csv", "parquet", "arrow", "folder"))
def test_missing_column_names_those_that_exist(tmp_path: Path, kind: str) -> None:
    with pytest.raises(CorpusUnreadable, match=r"no column 'caption' .*id, text"):
        list(open_corpus(write(tmp_path, kind), "caption"))


@pytest.mark.parametrize("kind", ("jsonl", "parquet", "arrow"))
def test_column_without_text_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(CorpusUnreadable, match="holds int, not text"):
        list(open_corpus(write(tmp_path, kind), "id"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "no text at all"),
        ("a.txt", b"\n  \n\t\r\n\0\n", "no text at all"),
        ("a.txt", "fine\ncafé\n".encode("latin-1"), r"Line 2 of a.txt is not UTF-8 \(byte 0xe9\)"),
        ("a.txt", "fine".encode("utf-16"), "not UTF-8"),
        ("a.txt", b"\x89PNG\r\n\x1a\n\0\0", "not UTF-8"),
        ("a.csv", "text\ncafé\n".encode("latin-1"), "not UTF-8"),
        ("a.csv", b"", "no column 'text'"),
        ("a.csv", b'text\n"' + b"x" * (1 << 25), "not valid CSV"),
        ("a.jsonl", b'{"text": "a"}\n{"text": ', "Line 2 of a.jsonl is not valid JSON"),
        ("a.jsonl", b'["text"]', "no object"),
        ("a.parquet", b"PAR1 nonsense", "can't be read as Parquet"),
        ("a.docx", b"x", "no known kind"),
    ],
)
def test_bad_content(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusUnreadable, match=message):
        list(open_corpus(tmp_path / name))


ROWS = [f"sentence number {i}" for i in range(300)]
UNCLOSED = "id,text\n" + "".join(f"{i},{chr(34) * (i == 10)}{row}\n" for i, row in enumerate(ROWS))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (UNCLOSED, "valid CSV from line 12 on .*never closed"),
        (UNCLOSED + '300,"said, or so"\n', "valid CSV from line 12 on"),
        ("id,text\n1,fine\n2,Hello, world and more\n", "Line 3 of a.csv has 3 fields, but the header has 2"),
        ("text\nfine\nHello, world", "Line 3 of a.csv has 2 fields, but the header has 1"),
        ("id,text\n1,fine\n2\n3,fine", "Line 3 of a.csv has 1 field"),
        ('id,text\n1,"two\nlines"\n2\n', "Line 4 of a.csv has 1 field"),
        ("id,text,note\n1,fine,\n2,short\n", "Line 3 of a.csv has 2 fields"),
        ('id,text\n1,"he said \\"hi\\", then left"\n2,fine\n', "valid CSV from line 2 on"),
        ("text,text\na,b\n", "2 columns named 'text'"),
        ("id\ttext\n1\tfine\n", "no column 'text'"),
        ("id;text\n1;fine\n", "no column 'text'"),
        ("id,text\n", "no text at all"),
    ],
)
def test_a_csv_that_would_lose_rows_is_refused_by_its_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(content, encoding="utf-8")
    with pytest.raises(CorpusUnreadable, match=message):
        list(open_corpus(tmp_path / "a.csv"))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_row_is_read_whatever_ends_a_line(tmp_path: Path, end: str) -> None:
    (tmp_path / "a.txt").write_text(end.join(ROWS), encoding="utf-8", newline="")
    (tmp_path / "a.jsonl").write_text(end.join(json.dumps({"text": row}) for row in ROWS), newline="")
    (tmp_path / "a.csv").write_text(
        end.join(["id,text", *(f"{i},{row}" for i, row in enumerate(ROWS)), ""]), newline=""
    )
    for name in ("a.txt", "a.jsonl", "a.csv"):
        assert list(open_corpus(tmp_path / name)) == ROWS, name


@pytest.mark.parametrize("end", ["\f", "\v", "\u2028", "\u2029", "\f\n"])
def test_separators_end_a_sentence_of_plain_text_but_not_a_field(tmp_path: Path, end: str) -> None:
    (tmp_path / "a.txt").write_text(end.join(ROWS * 9), encoding="utf-8")
    assert list(open_corpus(tmp_path / "a.txt")) == ROWS * 9
    if end != "\f\n":
        (tmp_path / "a.csv").write_text(f"text\none{end}two\nthree\n", encoding="utf-8")
        assert list(open_corpus(tmp_path / "a.csv")) == [f"one{end}two", "three"]


def test_rows_that_csv_allows(tmp_path: Path) -> None:
    content = 'id,text,note\n1,a 5" nail,\n\n,,,\n2,"two\nlines, ""quoted""",x\n  \n3,last,'
    (tmp_path / "a.csv").write_text(content, encoding="utf-8")
    assert list(open_corpus(tmp_path / "a.csv")) == ['a 5" nail', 'two\nlines, "quoted"', "last"]


WIDE = ("plain words", "Привет всем", "مرحبا بالجميع", "नमस्ते दुनिया", "สวัสดีชาวโลก", "日本語の文章です", "Zürich, “so”")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("text", WIDE)
def test_wide_encodings_are_refused(tmp_path: Path, encoding: str, text: str) -> None:
    (tmp_path / "a.txt").write_bytes("\n".join([text] * 9).encode(encoding))
    (tmp_path / "a.jsonl").write_bytes("\n".join([f'{{"text": "{text}"}}'] * 9).encode(encoding))
    (tmp_path / "a.csv").write_bytes("\n".join(["text", *[f'"{text}"'] * 9]).encode(encoding))
    for name in ("a.txt", "a.jsonl", "a.csv"):
        with pytest.raises(CorpusUnreadable, match=r"(?i)not UTF-8.* convert"):
            list(open_corpus(tmp_path / name))


def test_the_line_of_a_byte_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    for name, head in (("a.txt", ""), ("a.csv", "text"), ("a.jsonl", "")):
        content = "\n".join([head, *['{"text": "x"}' if name == "a.jsonl" else "fine"] * 5000, "caf\xe9", "fine"])
        (tmp_path / name).write_bytes(content.encode("cp1252"))
        with pytest.raises(CorpusUnreadable, match=rf"Line 5002 of {name} is not UTF-8 \(byte 0xe9\)"):
            list(open_corpus(tmp_path / name))


def test_truncated_parquet_and_arrow_are_refused(tmp_path: Path) -> None:
    for kind in ("parquet", "arrow"):
        path = write(tmp_path, kind)
        file = path if path.is_file() else path / "data-00001-of-00002.arrow"
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        with pytest.raises(CorpusUnreadable, match="can't be read"):
            list(open_corpus(path))


def test_bad_places(tmp_path: Path) -> None:
    (tmp_path / "splits" / "train").mkdir(parents=True)
    (tmp_path / "splits" / "dataset_dict.json").write_text("{}")
    for path, message in ((tmp_path / "no.txt", "no corpus at"), (tmp_path, "neither a saved data set nor Parquet")):
        with pytest.raises(CorpusUnreadable, match=message):
            open_corpus(path)
    with pytest.raises(CorpusUnreadable, match=r"several splits \(train\)"):
        open_corpus(tmp_path / "splits")
    with pytest.raises(CorpusUnreadable, match="has no column"):
        open_corpus(write(tmp_path, "txt"), "text")


def test_nul_bytes_surrogates_and_endless_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a\0b\n" + "é".encode() * 500_001 + b"\nlast")
    assert list(open_corpus(tmp_path / "a.txt")) == ["ab", "é" * MAX_CHARS, "last"]
    (tmp_path / "a.jsonl").write_text('{"text": "lone \\ud800 surrogate\\u0000"}')
    assert list(open_corpus(tmp_path / "a.jsonl")) == ["lone ? surrogate"]


def test_text_is_streamed(tmp_path: Path) -> None:
    """10.6 MB in many short lines and one endless one, read in well under 2 MB."""
    path = tmp_path / "long.txt"
    path.write_bytes(b"a short line\n" * 50_000 + b"x" * 10_000_000)
    tracemalloc.start()
    count = sum(1 for _ in open_corpus(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 50_001
    assert peak < 2_000_000


def test_corpus_that_changes_between_passes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n")
    corpus = open_corpus(path)
    assert list(corpus) == ["one", "two"]
    path.write_text("one\nthree\n")
    with pytest.raises(CorpusUnreadable, match="changed"):
        list(corpus)
