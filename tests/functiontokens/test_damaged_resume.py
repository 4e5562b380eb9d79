"""A graph whose build was interrupted, and whose files were damaged before it goes on, ends as an undisturbed one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lens.backend.corpus import Corpus
from lens.errors import Cancelled
from lens.functiontokens.build import build_graph
from lens.functiontokens.manifest import read_manifest
from lens.functiontokens.neurons import open_neurons
from tests.functiontokens.planted_graph import SENTENCES
from tests.helpers import tiny_llama
from tests.latentlens.test_damaged_resume import HOW, exchanged

FILES = ("0-edges.parquet", "0-null.parquet", "tokens.parquet", "building/basis-0.json", "building/done.txt",
         "building/shards/0000000.safetensors")  # fmt: skip


def test_what_was_damaged_is_made_anew(tmp_path: Path) -> None:
    model, corpus = tiny_llama(tmp_path / "model"), Corpus("planted", lambda: SENTENCES)
    bases = [open_neurons(model, block) for block in (1, 2)]
    build_graph(model, corpus, bases, tmp_path / "whole", permutations=2)
    wanted = read_manifest(tmp_path / "whole").files

    def stop(done: float, total: float, message: str) -> None:
        if (tmp_path / "stopped" / "building" / "basis-0.json").exists():
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        build_graph(model, corpus, bases, tmp_path / "stopped", permutations=2, report=stop)
    ways = [*((name, how) for name in FILES for how in HOW.values()), (FILES[-1], exchanged)]
    for number, (name, damage) in enumerate(ways):
        folder = Path(shutil.copytree(tmp_path / "stopped", tmp_path / str(number)))
        damage(folder / name)
        build_graph(model, corpus, bases, folder, permutations=2, resume=True)
        assert read_manifest(folder).files == wanted, name
