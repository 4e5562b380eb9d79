"""Manifests of a graph that are consistent and still can't be: refused when they are read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lens.backend.corpus import Corpus
from lens.errors import GraphDamaged
from lens.functiontokens.build import build_graph
from lens.functiontokens.graph import open_graph
from lens.functiontokens.neurons import open_neurons
from tests.functiontokens.planted_graph import SENTENCES
from tests.helpers import edit_manifest, tiny_llama


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph of two bases."""
    root = tmp_path_factory.mktemp("graph")
    loaded = tiny_llama(root / "model")
    bases = [open_neurons(loaded, block) for block in (1, 2)]
    build_graph(loaded, Corpus("planted", lambda: SENTENCES), bases, root / "graph", permutations=2)
    return root / "graph"


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "copy"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"positions": True}, "positions is 'True'"),
        ({"tokens": 0}, "a size that is none"),
        ({"permutations": -1}, "a number below 0"),
        ({"format_version": True}, "format version 'True'"),
    ],
)
def test_sizes_that_cannot_be_are_refused(folder: Path, changes: dict, sentence: str) -> None:
    edit_manifest(folder, **changes)
    with pytest.raises(GraphDamaged, match=sentence):
        open_graph(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"layer": -5},
        {"layer": True},
        {"size": 0},
        {"active": -1},
        {"edges": 0},
        {"kind": "other"},
        {"firings": 1},
        {"site": 3},
    ],
)
def test_a_basis_that_cannot_be_is_refused(folder: Path, changes: dict) -> None:
    bases = json.loads((folder / "manifest.json").read_text())["bases"]
    edit_manifest(folder, bases=[{**bases[0], **changes}, *bases[1:]])
    with pytest.raises(GraphDamaged, match="not of the expected form"):
        open_graph(folder)
    edit_manifest(folder, bases=[bases[1], *bases[1:]])
    with pytest.raises(GraphDamaged, match="names of their own"):
        open_graph(folder)
