"""Tiny models and inputs shared by the backend's tests; made once, never changed by a test."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, LlavaProcessor

from lens.backend.catalog import ModelSpec
from lens.backend.encoding import Encoded, encode
from lens.backend.images import Picture, open_picture
from lens.backend.loading import LoadedModel, load
from tests.helpers import CHAT, llama_config, tiny_gpt2, tiny_llama, tiny_llava, tiny_tokenizer

PROMPT = "Describe the image."

# Tiny matrices gain nothing from threads, and lose much to them on a machine that is busy with something else.
torch.set_num_threads(1)


@dataclass(frozen=True)
class Case:
    """A tiny model with an input of its kind."""

    loaded: LoadedModel
    encoded: Encoded

    @property
    def depth(self) -> int:
        return self.loaded.anatomy.depth

    @property
    def length(self) -> int:
        return len(self.encoded.token_map)


def noise_picture(width: int, height: int, seed: int = 0, name: str = "noise.png") -> Picture:
    """A picture of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return png_picture(Image.fromarray(pixels), name)


def png_picture(image: Image.Image, name: str = "picture.png", **options: object) -> Picture:
    """An image in memory by the way every file takes: written, then opened."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return open_picture(buffer.getvalue(), name)


def tiny_demo(folder: Path, seed: int = 0) -> LoadedModel:
    """The offline model's own classes in small: a convolutional tower of stride 32, 64 x 64 input, 2 x 2 tokens."""
    from lens.demo.architecture import DemoConfig, DemoForConditionalGeneration, EfficientNetLiteConfig

    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    stages = [(1, 3, 1, 1, 8), (2, 3, 2, 2, 8), (1, 5, 2, 2, 12), (1, 3, 2, 2, 16), (1, 5, 2, 2, 20)]
    config = DemoConfig(
        vision_config=EfficientNetLiteConfig(stem_channels=8, stages=stages, hidden_size=24, image_size=64),
        text_config=llama_config(len(tokenizer)),
        projector_hidden_size=40,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )
    DemoForConditionalGeneration(config).save_pretrained(folder)
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}),
        tokenizer=tokenizer,
        patch_size=32,
        vision_feature_select_strategy="full",
        chat_template=CHAT,
    ).save_pretrained(folder)
    return load(ModelSpec(name="tiny-demo", source=str(folder), register="lens.demo.architecture"))


def with_gains(loaded: LoadedModel) -> LoadedModel:
    """The same model with a final norm as uneven as trained ones are: with gains of one, a norm applied twice is the
    norm applied once, and no test could tell."""
    weight = loaded.anatomy.final_norm.weight
    weight.data = torch.rand(weight.shape, generator=torch.Generator().manual_seed(5)) * 3 + 0.2
    return loaded


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return with_gains(tiny_llama(tmp_path_factory.mktemp("llama")))


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return with_gains(tiny_gpt2(tmp_path_factory.mktemp("gpt2")))


@pytest.fixture(scope="session")
def llava(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return with_gains(tiny_llava(tmp_path_factory.mktemp("llava")))


@pytest.fixture(scope="session")
def demo_like(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return with_gains(tiny_demo(tmp_path_factory.mktemp("demo-like")))


@pytest.fixture(scope="session")
def cases(llama: LoadedModel, gpt2: LoadedModel, llava: LoadedModel, demo_like: LoadedModel) -> Callable[[str], Case]:
    """A case by family name."""
    picture = noise_picture(90, 60)
    made = {
        "llama": Case(llama, encode(llama, PROMPT)),
        "gpt2": Case(gpt2, encode(gpt2, PROMPT)),
        "llava": Case(llava, encode(llava, PROMPT, picture)),
        "demo": Case(demo_like, encode(demo_like, PROMPT, picture)),
    }
    return made.__getitem__


@pytest.fixture(params=["llama", "gpt2", "llava", "demo"])
def case(request: pytest.FixtureRequest, cases: Callable[[str], Case]) -> Case:
    """Every family in turn."""
    return cases(request.param)


@pytest.fixture
def seeing(cases: Callable[[str], Case]) -> Case:
    """The LLaVA with a picture."""
    return cases("llava")
