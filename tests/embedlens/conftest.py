"""What the EmbedLens tests share: the planted model and the anchors discovered in it."""

from __future__ import annotations

import pytest
import torch

from lens.backend.loading import LoadedModel
from lens.embedlens.anchors import Anchors
from lens.embedlens.discovery import discover
from tests.embedlens.planted import PROMPT, Planted, pictures, plant
from tests.helpers import tiny_llama, tiny_llava


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny matrices gain nothing from threads, and lose much to them on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return plant(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="session")
def anchors(planted: Planted) -> Anchors:
    return discover(planted.loaded, pictures(12), PROMPT)


@pytest.fixture(scope="session")
def llava(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A model of random weights, in which nothing was planted."""
    return tiny_llava(tmp_path_factory.mktemp("llava"), seed=3)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return tiny_llama(tmp_path_factory.mktemp("llama"))
