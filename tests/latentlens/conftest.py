"""What the LatentLens tests share: one tiny model, one corpus with repeats and shared prefixes, one exact index of them."""

from __future__ import annotations

import io
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from PIL import Image

from lens.backend.corpus import Corpus
from lens.backend.encoding import Encoded, encode
from lens.backend.images import Picture, open_picture
from lens.backend.loading import LoadedModel
from lens.backend.tracing import Trace, hidden_sites, trace
from lens.latentlens.build import build_index
from lens.latentlens.index import Index
from tests.helpers import TEXT, tiny_llama, tiny_llava

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


def noise(seed: int = 3) -> Picture:
    """A picture of 90 x 60 pixels in which every patch differs."""
    pixels = np.random.default_rng(seed).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return open_picture(buffer.getvalue(), f"noise-{seed}.png")


@pytest.fixture(scope="session")
def llava(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """6 x 6 patches, four blocks."""
    return tiny_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="session")
def looking(llava: LoadedModel) -> Encoded:
    return encode(llava, "What is this?", noise())


@pytest.fixture(scope="session")
def held(llava: LoadedModel, looking: Encoded) -> Trace:
    return trace(llava, looking, hidden_sites(llava.anatomy.depth))


@pytest.fixture(scope="session")
def lines(llava: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """An exact index of the same language model."""
    corpus = Corpus("lines", lambda: TEXT.splitlines())
    return build_index(llava, corpus, tmp_path_factory.mktemp("lines") / "lines", layers=[1, 3], factory="Flat")
