"""The app's pages and what stands around each of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import streamlit as st

from ui import addresses, state

ROOT = Path(__file__).parents[1]
_INSIDE: ContextVar[bool] = ContextVar("inside", default=False)


def run() -> None:
    """Draw the page that the address names."""
    st.set_page_config(page_title="TokenLens", page_icon=str(ROOT / "assets" / "icon.png"), layout="wide")
    st.html(ROOT / "ui" / "style.css")
    pages = ROOT / "pages"
    page = st.navigation(
        [
            st.Page(pages / "latentlens.py", title="LatentLens", icon=":material/image_search:", default=True),
            st.Page(pages / "embedlens.py", title="EmbedLens", icon=":material/category:"),
            st.Page(pages / "functiontokens.py", title="Function tokens", icon=":material/hub:"),
            st.Page(pages / "segmaps.py", title="SEG maps", icon=":material/center_focus_strong:"),
        ],
        position="top",
    )
    with around(page.url_path):
        page.run()


@contextmanager
def around(page: str) -> Iterator[None]:
    """What every page is drawn in: the address is taken over before, and written afterwards."""
    state.follow(page)
    outside = _INSIDE.set(True)
    try:
        with addresses.attending():
            yield
    finally:
        _INSIDE.reset(outside)
        addresses.opened()


def enter() -> None:
    """First line of every page. The address of a page, when it is the first that a fresh server is asked for, makes
    Streamlit run the file in ``pages`` by itself, without ``app.py``; then the whole app is run instead."""
    if not _INSIDE.get():
        run()
        st.stop()
