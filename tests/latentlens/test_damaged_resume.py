"""A build that was interrupted, and whose files were damaged before it goes on: it ends with an undisturbed one's files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lens.backend.building import Ledger
from lens.backend.corpus import Corpus
from lens.backend.loading import LoadedModel
from lens.errors import Cancelled
from lens.latentlens.build import build_index
from lens.latentlens.index import Index, open_index
from tests.helpers import tiny_llama

OPTIONS = {"layers": [1, 3], "factory": "SQ8", "shard_tokens": 24}
PLACES = ("mat", "roof", "table", "wet sand")
TEXTS = [f"A {animal} sat on the {place}." for animal in ("cat", "dog", "bird") for place in PLACES]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return tiny_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus("texts", lambda: TEXTS)


@pytest.fixture(scope="module")
def whole(model: LoadedModel, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return build_index(model, corpus, tmp_path_factory.mktemp("whole") / "i", **OPTIONS)


@pytest.fixture(scope="module")
def stopped(model: LoadedModel, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build with all its shards and the first of two layers."""

    def stop(done: float, total: float, message: str) -> None:
        if message.startswith("Packing layer 3"):
            raise Cancelled("enough")

    folder = tmp_path_factory.mktemp("stopped") / "i"
    with pytest.raises(Cancelled):
        build_index(model, corpus, folder, **OPTIONS, report=stop)
    return folder


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)


def exchanged(path: Path) -> None:
    """Other numbers in a file that is as sound as before."""
    held = load_file(path)
    save_file({name: np.roll(array, 1, axis=0).copy() for name, array in held.items()}, path)


HOW: dict[str, Callable[[Path], object]] = {
    "flipped": flipped,
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "empty": lambda path: path.write_bytes(b""),
    "gone": Path.unlink,
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
}
FILES = ("contexts.parquet", "sentences.parquet", "statistics.safetensors", "layer-01.faiss", "building/ids.parquet",
         "building/layer-01.json", "building/done.txt", "building/shards/000000.safetensors",
         "building/shards/000001.safetensors")  # fmt: skip


@pytest.mark.parametrize("how", HOW)
def test_what_was_damaged_is_made_anew(
    how: str, whole: Index, stopped: Path, model: LoadedModel, corpus: Corpus, tmp_path: Path
) -> None:
    assert all((stopped / name).is_file() for name in FILES)
    for number, name in enumerate(FILES):
        folder = Path(shutil.copytree(stopped, tmp_path / str(number)))
        HOW[how](folder / name)
        built = build_index(model, corpus, folder, **OPTIONS, resume=True)
        assert built.manifest.files == whole.manifest.files, name


def test_sound_shards_of_other_numbers_are_made_anew(
    whole: Index, stopped: Path, model: LoadedModel, corpus: Corpus, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(stopped, tmp_path / "i"))
    exchanged(folder / "building/shards/000001.safetensors")
    assert build_index(model, corpus, folder, **OPTIONS, resume=True).manifest.files == whole.manifest.files
    assert open_index(folder).manifest.rows == whole.manifest.rows


def test_a_ledger_whose_last_line_was_cut_short_goes_on(tmp_path: Path) -> None:
    (tmp_path / "building").mkdir()
    files = [tmp_path / name for name in ("a", "b", "c")]
    for file in files:
        file.write_text(file.name)
    ledger = Ledger(tmp_path)
    ledger.add(*files[:2])
    note = tmp_path / "building" / "done.txt"
    note.write_bytes(note.read_bytes()[:-4])
    ledger = Ledger(tmp_path)
    assert ledger.has(files[0]) and not ledger.has(files[1])
    ledger.add(files[2])
    assert Ledger(tmp_path).has(files[0], files[2]) and not Ledger(tmp_path).has(*files)
    files[0].write_text("other")
    assert not ledger.has(files[0])
