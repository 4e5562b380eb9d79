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
