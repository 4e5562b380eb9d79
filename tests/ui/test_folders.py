"""Which folders of the server a reader may name."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from lens.errors import FolderForbidden
from ui.folders import ROOT, below


@pytest.fixture
def opened(tmp_path: Path) -> Path:
    """A folder that visitors may read, beside one that they may not."""
    for name in ("open/birds", "open-not", "closed"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "open" / "out").symlink_to(tmp_path / "closed")
    return tmp_path / "open"


@pytest.mark.parametrize("typed", ["birds", "./birds", "birds/../birds", ".", "not there", "~", "x" * 5000])
def test_what_lies_below_is_named_from_there(opened: Path, typed: str):
    assert below(opened, typed) == str((opened / typed).resolve())
    assert below(opened, str(opened / typed)) == str((opened / typed).resolve())


@pytest.mark.parametrize("typed", ["..", "../closed", "../open-not", "../nothing", "out", "/", "/etc", "a\0b"])
def test_what_lies_elsewhere_is_refused_alike_whether_it_is_there_or_not(opened: Path, typed: str):
    with pytest.raises(FolderForbidden, match="is not below 'open'"):
        below(opened, typed)


def test_a_root_that_is_gone_opens_nothing(tmp_path: Path):
    with pytest.raises(FolderForbidden):
        below(tmp_path / "gone", ".")


def page(address: str | None, headers: dict[str, str]) -> None:
    """A page with one field for a folder, for a reader from that address."""
    from unittest.mock import PropertyMock, patch

    import streamlit as st

    from ui.folders import ask_folder

    kind = type(st.context)
    with (
        patch.object(kind, "ip_address", PropertyMock(return_value=address)),
        patch.object(kind, "headers", PropertyMock(return_value=headers)),
    ):
        st.text(f"folder: {ask_folder('Folder', 'folder')}")


FROM_AFAR = [("192.0.2.7", {}), (None, {"X-Forwarded-For": "192.0.2.7"}), (None, {"Forwarded": "for=127.0.0.1"})]


def shown(address: str | None, headers: dict[str, str]) -> AppTest:
    app = AppTest.from_function(page, args=(address, headers), default_timeout=30).run()
    assert not app.exception
    return app


def test_a_reader_on_the_machine_names_any_folder(opened: Path):
    app = shown(None, {})
    app.text_input(key="folder").set_value(str(opened.parent / "closed")).run()
    assert app.text[0].value == f"folder: {opened.parent / 'closed'}"


@pytest.mark.parametrize(("address", "headers"), FROM_AFAR)
def test_a_visitor_has_no_field(address: str | None, headers: dict[str, str]):
    app = shown(address, headers)
    assert not app.text_input and "only for readers on that computer" in app.caption[0].value
    assert app.text[0].value == "folder:"


@pytest.mark.parametrize(("address", "headers"), FROM_AFAR)
def test_a_visitor_names_folders_below_the_one_that_is_opened(
    address: str | None, headers: dict[str, str], opened: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(ROOT, str(opened))
    app = shown(address, headers)
    app.text_input(key="folder").set_value("birds").run()
    assert app.text[0].value == f"folder: {opened / 'birds'}"
    app.text_input(key="folder").set_value("../closed").run()
    assert "is not below 'open'" in app.text[0].value and app.text[1].value == "folder:"
