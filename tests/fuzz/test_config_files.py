"""Autoencoders, a user's catalog and corpora, damaged: read, or refused in a sentence."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lens.backend.catalog import catalog, find, on_disk
from lens.backend.corpus import open_corpus
from lens.errors import LensError
from lens.functiontokens.formats import read
from tests.backend.test_corpus import write
from tests.functiontokens.test_format_fields import SAELENS_5, SAELENS_6, SPARSIFY
from tests.functiontokens.test_formats import gemma_scope, saelens, sparsify, weights
from tests.fuzz.mutating import RUNS, damaged, damaged_json


def refused(reading: Callable[[], Any]) -> bool:
    """Whether the reading ended in a sentence; any other exception fails the test."""
    try:
        reading()
    except LensError as error:
        assert str(error).endswith((".", ").")) and "\n" not in str(error) and len(str(error)) < 700
        return True
    return False


def test_autoencoder_configurations(tmp_path: Path) -> None:
    rng = random.Random(1)
    folders = [(saelens(tmp_path / "a", weights(), architecture="jumprelu"), cfg) for cfg in (SAELENS_5, SAELENS_6)]
    folders += [(sparsify(tmp_path / "layers.2"), cfg) for cfg in SPARSIFY.values()]
    count = 0
    for number in range(RUNS):
        folder, cfg = folders[number % len(folders)]
        text = damaged_json(cfg, rng)
        (folder / "cfg.json").write_bytes(damaged(text.encode(), rng) if number % 5 == 0 else text.encode())
        count += refused(lambda folder=folder: read(folder))
    assert RUNS // 4 < count < RUNS


def test_autoencoder_weights(tmp_path: Path) -> None:
    rng = random.Random(2)
    files = [
        saelens(tmp_path / "a", weights(), architecture="jumprelu") / "sae_weights.safetensors",
        sparsify(tmp_path / "layers.2") / "sae.safetensors",
        gemma_scope(tmp_path) / "params.npz",
    ]
    with np.load(files[2]) as held:
        np.savez_compressed(files[2], **held)
    whole = [file.read_bytes() for file in files]
    for number in range(RUNS):
        file, content = files[number % 3], whole[number % 3]
        head = rng.choice((600, len(content)))  # half of the damage where the headers stand
        file.write_bytes(damaged(content[:head], rng) + content[head:])
        refused(lambda file=file: read(file.parent))


CATALOG = """
[mine]
source = "/models/llava-1.5-7b-hf"
title = "Ours"
dtype = "bfloat16"
trust_remote_code = false

["of another"]
source = "owner/model"
index = "mine"
"""


def test_catalogs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENLENS_HOME", str(tmp_path))
    rng = random.Random(3)

    def listed() -> None:
        for name, spec in catalog().items():
            on_disk(spec)
            assert find(name) == spec

    for _ in range(RUNS):
        (tmp_path / "catalog.toml").write_bytes(damaged(CATALOG.encode(), rng))
        refused(listed)


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "parquet", "arrow"])
def test_corpora(kind: str, tmp_path: Path) -> None:
    rng = random.Random(kind)
    corpus = write(tmp_path, kind)
    file = corpus if corpus.is_file() else corpus / "data-00000-of-00002.arrow"
    whole = file.read_bytes()
    for _ in range(RUNS // 2):
        file.write_bytes(damaged(whole, rng))
        refused(lambda: [sentence.encode() for sentence in open_corpus(corpus)])


def test_states_of_data_sets(tmp_path: Path) -> None:
    rng = random.Random(5)
    corpus = write(tmp_path, "arrow")
    state = json.loads((corpus / "state.json").read_text())
    for _ in range(RUNS):
        (corpus / "state.json").write_text(damaged_json(state, rng))
        refused(lambda: list(open_corpus(corpus)))
