"""One tiny model and one answered question for all tests of the room."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lens.backend.loading import LoadedModel
from lens.segmaps.asking import Asked, ask
from tests.segmaps.originals import tiny_parts, write_original
from tests.segmaps.seghelpers import ANSWER, PROMPT, noise, seg_llava


@pytest.fixture(scope="session")
def seg_model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    torch.set_num_threads(1)
    return seg_llava(tmp_path_factory.mktemp("seg-llava"))


@pytest.fixture(scope="session")
def asked(seg_model: LoadedModel) -> Asked:
    return ask(seg_model, PROMPT, noise(90, 60), answer=ANSWER)


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An original ``checkpoint`` of SESAME and its ``clip`` tower, tiny, to be copied and damaged."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("original")
    write_original(folder, tiny_parts(False), "SESAMEForCausalLM")
    return folder
