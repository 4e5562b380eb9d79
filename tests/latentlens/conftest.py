"""What the LatentLens tests share: one tiny model, one corpus with repeats and shared prefixes, one exact index of them."""

from __future__ import annotations

from pathlib import Path

import faiss
import pytest
import torch

from lens.backend.corpus import Corpus
from lens.backend.loading import LoadedModel
from lens.latentlens.build import build_index
from lens.latentlens.index import Index
from tests.helpers import tiny_llama

SUBJECTS = ("A cat", "The old dog", "A white bird", "Nine red apples", "The motorcycle")
ENDINGS = ("sat on the mat.", "stands beside the river.", "was photographed yesterday, twice.", "isn't ice-cream.")
SENTENCES = [f"{subject} {ending}" for ending in ENDINGS for subject in SUBJECTS] + ["A cat sat on the mat."] * 2
LAYERS = (1, 2, 4)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny matrices gain nothing from threads, and lose much to them on a busy machine."""
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def llama_with_bos(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return tiny_llama(tmp_path_factory.mktemp("llama-bos"), bos=True)


@pytest.fixture
def corpus() -> Corpus:
    return Corpus("patterns", lambda: SENTENCES, "CC0-1.0")


@pytest.fixture(scope="session")
def index(llama: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Flat, so that similarities are exact; several shards."""
    folder: Path = tmp_path_factory.mktemp("indexes") / "patterns"
    patterns = Corpus("patterns", lambda: SENTENCES, "CC0-1.0")
    return build_index(llama, patterns, folder, layers=LAYERS, factory="Flat", shard_tokens=64)
