"""What the tests of pages share: the SEG maps page on tiny models, run by Streamlit without a browser."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from streamlit.testing.v1 import AppTest

from lens.backend import catalog
from lens.backend.answers import Answer
from lens.backend.encoding import Encoded, encode
from lens.backend.images import open_picture
from lens.backend.loading import LoadedModel
from lens.backend.store import STORE
from lens.backend.tracing import Trace
from lens.gallery import gallery
from tests.helpers import tiny_llama, tiny_llava
from tests.segmaps.seghelpers import seg_llava

Open = Callable[..., AppTest]
MASKS_WELL = "It finds halves."
SAYS_SEG = "It says so for half of all things, there or not."


class Halves:
    """A mask head that calls the left half of every picture the object, at twice the patches' resolution."""

    def sites(self) -> tuple[str, ...]:
        return ("vision.1",)

    def logits(self, trace: Trace, positions: tuple[int, ...]) -> np.ndarray:
        assert "vision.1" in trace.states
        one = np.where(np.arange(12) < 6, 1.0, -1.0)
        return np.broadcast_to(one, (len(positions), 12, 12))


def open_halves(_loaded: LoadedModel) -> Halves:
    return Halves()


def script() -> None:
    """The page as the navigation runs it."""
    import runpy

    from ui import navigation

    with navigation.around("segmaps"):
        runpy.run_path("pages/segmaps.py")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("page")
    seg_llava(folder / "seg")
    tiny_llava(folder / "plain")
    tiny_llama(folder / "text")
    rows = [f'["tiny-{name}"]\nsource = "{folder / name}"\n' for name in ("plain", "text", "seg")]
    rows.append(
        f'["tiny-head"]\nsource = "{folder / "seg"}"\nmask_head = "{__name__}:open_halves"\n'
        f'says_seg = "{SAYS_SEG}"\nmasks_well = "{MASKS_WELL}"\n'
    )
    (folder / "catalog.toml").write_text("\n".join(rows), encoding="utf-8")
    return folder


@pytest.fixture
def opened(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Opens the page at an address. What :func:`says` made a model say is forgotten afterwards."""
    monkeypatch.setenv("TOKENLENS_HOME", str(tmp_path))
    monkeypatch.setattr(catalog, "SHIPPED", models / "catalog.toml")

    def run(**address: str) -> AppTest:
        page = AppTest.from_function(script, default_timeout=300)
        for key, value in address.items():
            page.query_params[key] = value
        return page.run()

    yield run
    STORE.answers.clear()


def says(name: str, prompt: str, answer: str, photo: int = 0) -> Encoded:
    """Let a model's answer to a prompt about a photo be what a trained one would say; the question as it is encoded."""
    loaded = STORE.model(catalog.find(name))
    encoded = encode(loaded, prompt, open_picture(gallery()[photo].path))
    ids = tuple(loaded.tokenizer(answer, add_special_tokens=False)["input_ids"])
    key = (encoded.key, str(loaded.dtype), str(loaded.device))
    held = STORE.answers.get(key, lambda: Answer(ids, answer, True))
    assert held.text == answer, "another test asked this before"
    return encoded


def figure(page: AppTest, name: str) -> dict[str, Any]:
    """A figure of the page by its key."""
    (found,) = [chart for chart in page.get("plotly_chart") if str(chart.key) == name]
    return json.loads(found.proto.spec)


def title(page: AppTest) -> str:
    return figure(page, "segmap")["layout"]["title"]["text"]


def values(page: AppTest) -> list[str]:
    """What the map says of each patch."""
    (patches,) = [trace for trace in figure(page, "segmap")["data"] if trace["name"] == "patches"]
    return patches["text"]


def texts(page: AppTest) -> str:
    """Everything that the page says."""
    assert not page.exception
    return "\n".join(element.value for kind in ("caption", "info", "text", "markdown") for element in page.get(kind))
