"""An index folder whose files were damaged opens and answers, or is refused in a sentence; the same for its manifest."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from lens.backend.corpus import Corpus
from lens.backend.folders import file_records, write_manifest
from lens.errors import LensError
from lens.latentlens.build import build_index
from lens.latentlens.index import open_index
from tests.fuzz.mutating import RUNS, damaged, damaged_json
from tests.helpers import tiny_llama

TEXTS = [f"A {animal} sat on the {place}." for animal in ("cat", "dog", "bird") for place in ("mat", "roof", "table")]
TABLES = ("contexts.parquet", "sentences.parquet", "statistics.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("index")
    return build_index(tiny_llama(root / "m"), Corpus("texts", lambda: TEXTS), root / "i", layers=[1, 3]).path


def used(folder: Path) -> bool:
    """Open the index and touch all of it; whether it was accepted."""
    try:
        index = open_index(folder)
        _ = index.info(), index.digest
        for layer in index.layers:
            _ = index.mean(layer), index.deviation(layer), index.vectors(layer), index.taken(layer, np.array([0]))
        found = index.contexts.take([0, index.rows - 1])
        assert len(index.sentences.take(found.column("sentence"))) == 2
    except LensError as error:
        assert str(error).endswith((".", ").")) and len(str(error)) < 600
        return False
    return True


@contextmanager
def kept(*paths: Path) -> Iterator[None]:
    """Put the files back afterwards."""
    before = {path: path.read_bytes() for path in paths}
    try:
        yield
    finally:
        for path, content in before.items():
            path.write_bytes(content)


def test_damaged_bytes_are_never_accepted(folder: Path) -> None:
    rng = random.Random(1)
    files = sorted(path for path in folder.iterdir() if path.is_file())
    with kept(*files):
        for _ in range(RUNS):
            path = rng.choice(files)
            content = path.read_bytes()
            path.write_bytes(new := damaged(content, rng))
            assert new == content or not used(folder) or path.name == "manifest.json"
            path.write_bytes(content)
    assert used(folder)


def test_tables_damaged_together_with_the_manifest(folder: Path) -> None:
    """What a wrong writer, or somebody, made consistent: the native readers see such bytes."""
    rng = random.Random(2)
    manifest = folder / "manifest.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    del content["checksum"]
    with kept(manifest, *(folder / name for name in TABLES)):
        for _ in range(RUNS):
            name = rng.choice(TABLES)
            before = (folder / name).read_bytes()
            (folder / name).write_bytes(damaged(before, rng) or b"x")
            record = asdict(file_records(folder, [name])[name])
            write_manifest(folder, {**content, "files": {**content["files"], name: record}})
            used(folder)
            (folder / name).write_bytes(before)
    assert used(folder)


def test_consistent_manifests_of_wild_values(folder: Path) -> None:
    rng = random.Random(3)
    manifest = folder / "manifest.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    del content["checksum"]
    with kept(manifest):
        for _ in range(RUNS):
            write_manifest(folder, json.loads(damaged_json(content, rng)))
            used(folder)
    assert used(folder)
