"""Which text index the LatentLens page opens for a model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from streamlit.testing.v1 import AppTest

from lens.backend.corpus import Corpus
from lens.backend.loading import LoadedModel
from lens.latentlens.build import build_index
from tests.helpers import tiny_llama


def script(reader) -> None:  # its source alone is run: no name from this module
    from ui import readings

    readings.choose_index(reader)


def opened(loaded: LoadedModel, usual: str | None = None, **address: str) -> AppTest:
    page = AppTest.from_function(script, args=(SimpleNamespace(spec=SimpleNamespace(index=usual), loaded=loaded),))
    for key, value in address.items():
        page.query_params[key] = value
    page.run()
    assert not page.exception
    return page


@pytest.fixture
def one(tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> LoadedModel:
    """A model with an index, which is the only one there is."""
    monkeypatch.setattr("lens.backend.folders.project_root", lambda: tmp_path / "project")
    loaded = tiny_llama(tmp_path / "one")
    build_index(
        loaded, Corpus("two", lambda: ["A cat sat.", "Two dogs ran."], "CC0-1.0"), own_home / "indexes" / "mine"
    )
    return loaded


def test_the_models_own_index_is_opened_without_a_word(one: LoadedModel) -> None:
    page = opened(one)
    assert not page.info and not page.error


def test_of_several_one_that_fits_is_the_first(one: LoadedModel, own_home: Path, tmp_path: Path) -> None:
    two = tiny_llama(tmp_path / "two", seed=1)
    build_index(two, Corpus("two", lambda: ["A cat sat.", "Two dogs ran."], "CC0-1.0"), own_home / "indexes" / "yours")
    for loaded, name in ((one, "mine"), (two, "yours")):
        page = opened(loaded)
        assert page.selectbox(key="index").value == name and not page.info and not page.error


def test_another_models_index_that_nobody_chose_is_no_error(one: LoadedModel, tmp_path: Path) -> None:
    page = opened(tiny_llama(tmp_path / "two", seed=1))
    assert not page.error and "there is none yet" in page.info[0].value


@pytest.mark.parametrize(("usual", "address"), [("mine", {}), (None, {"index": "mine"})])
def test_one_that_was_chosen_is(one: LoadedModel, tmp_path: Path, usual: str | None, address: dict[str, str]) -> None:
    page = opened(tiny_llama(tmp_path / "two", seed=1), usual, **address)
    assert page.error and "was built from" in page.text[0].value
