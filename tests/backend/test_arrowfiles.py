"""Damaged Arrow and Parquet files: an error in one sentence, in a process that lives on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from lens.backend.corpus import open_corpus
from lens.errors import CorpusUnreadable
from tests.backend.test_corpus import write

DAMAGED = 300

READING = f'''
"""Read {DAMAGED} data sets with one to four damaged bytes of metadata; a crash ends this process."""
import json, random, sys
from pathlib import Path
import pyarrow as pa
from lens.backend.corpus import open_corpus
from lens.errors import CorpusUnreadable

folder, rng = Path(sys.argv[1]), random.Random(0)
table = pa.table({{"id": list(range(40)), "text": [f"sentence {{i}}" for i in range(40)], "tags": [["a", "b"]] * 40}})
file = folder / "data-00000-of-00001.arrow"
with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
    stream.write_table(table, max_chunksize=20)
(folder / "state.json").write_text(json.dumps({{"_data_files": [{{"filename": file.name}}]}}))
whole, read, refused = file.read_bytes(), 0, 0
metadata = [*range(8, 900), *range(1500, 1900)]
for _ in range({DAMAGED}):
    data = bytearray(whole)
    for _ in range(rng.randint(1, 4)):
        data[rng.choice(metadata)] = rng.choice((0, 1, 127, 255, rng.randrange(256)))
    file.write_bytes(data)
    try:
        read += len(list(open_corpus(folder))) >= 0
    except CorpusUnreadable as error:
        refused += len(str(error)) < 400
print(read, refused)
'''


def test_no_damaged_header_ends_the_process(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", READING, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    read, refused = map(int, done.stdout.split())
    assert read + refused == DAMAGED and refused > 100


@pytest.mark.parametrize(
    "state",
    [
        {"_data_files": [{"filename": 3}]},
        {"_data_files": [{"filename": ""}]},
        {"_data_files": [{"filename": ".."}]},
        {"_data_files": [{"filename": "../data.arrow"}]},
        {"_data_files": [{"filename": None}]},
        {"_data_files": [3]},
        {"_data_files": []},
        {"_data_files": {}},
        {"_data_files": None},
        [],
        "x",
        3,
    ],
)
def test_a_state_that_names_no_files_is_refused(state: object, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(json.dumps(state))
    with pytest.raises(CorpusUnreadable, match="names no data files"):
        list(open_corpus(tmp_path))


@pytest.mark.parametrize("content", [b"[" * 100_000, b"{", b"\xff\xfe", b"", b'{"_data_files": NaN}'])
def test_a_state_that_is_no_json_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_bytes(content)
    with pytest.raises(CorpusUnreadable, match="names no data files"):
        list(open_corpus(tmp_path))


def test_a_choice_of_rows_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, "arrow")
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | {"_indices_data_files": [{"filename": "indices.arrow"}]}))
    with pytest.raises(CorpusUnreadable, match="choice of rows"):
        list(open_corpus(folder))


def test_a_missing_file_and_two_columns_of_a_name_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, "arrow")
    table = pa.table([["a"], ["b"]], names=["text", "text"])
    file = folder / "data-00000-of-00002.arrow"
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    with pytest.raises(CorpusUnreadable, match="2 columns named 'text'"):
        list(open_corpus(folder))
    file.unlink()
    with pytest.raises(CorpusUnreadable, match="can't be read as Arrow"):
        list(open_corpus(folder))
