"""The app's pages, the addresses at which they are found, and what stands around each of them."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from ui import addresses

ROOT = Path(__file__).parents[1]
TITLES = {
    "latentlens": ("LatentLens", ":material/image_search:"),
    "embedlens": ("EmbedLens", ":material/category:"),
    "functiontokens": ("Function tokens", ":material/hub:"),
    "segmaps": ("SEG maps", ":material/center_focus_strong:"),
}
"""The pages by the name of their file: title and icon. The first is found at the app's own address, too."""
SHORT = {
    "latent": "latentlens",
    "embed": "embedlens",
    "functions": "functiontokens",
    "seg": "segmaps",
    "segmap": "segmaps",
}
"""What people call them in an address, besides their names in any case and with any hyphens."""
PATHS = 8
"""Addresses of a session, other than the pages' own, that lead somewhere."""
SLOW = "ui.state"
"""The module that stands for all that takes seconds to import."""
SKELETON = """<div class="tl-skeleton" role="status" aria-label="TokenLens is starting">
<p>Starting: the first page of a server takes some seconds</p><div></div><div></div><div></div></div>"""
_INSIDE: ContextVar[bool] = ContextVar("inside", default=False)


def run() -> None:
    """Draw the page that the address names."""
    st.set_page_config(page_title="TokenLens", page_icon=str(ROOT / "assets" / "icon.png"), layout="wide")
    st.html(ROOT / "ui" / "style.css")
    with st.container(key="history"):
        st.html(
            f"<script>{(ROOT / 'ui' / 'history.js').read_text(encoding='utf-8')}</script>", unsafe_allow_javascript=True
        )
    asked = _asked()
    pages = _pages(asked)
    page = st.navigation(list(pages.values()), position="top")
    _import()
    if asked and asked not in pages:  # of several parts: Streamlit knows no such path
        _missing(asked, pages)
        return
    st.session_state["path"] = page.url_path
    name = page_of(page.url_path)
    if name is None:
        page.run()
        return
    with around(name):
        page.run()


def _import() -> None:
    """Import what takes seconds, in the first run of a server, while the reader sees that the page comes."""
    if SLOW in sys.modules:
        return
    place = st.empty()
    place.html(SKELETON)
    importlib.import_module(SLOW)
    place.empty()


def page_of(path: str) -> str | None:
    """The page that is meant by a path below the app's address, if one is."""
    known = re.sub(r"[\s_-]", "", path.lower()) or next(iter(TITLES))
    known = SHORT.get(known, known)
    return known if known in TITLES else None


def _asked() -> str:
    """The path by which the app was opened; empty in later runs, which name a page by its hash."""
    context = get_script_run_ctx()
    return (context.pages_manager.intended_page_name or "") if context else ""


def _pages(asked: str) -> dict[str, st.Page]:
    """By path: the four pages, and hidden the other paths by which this session came. The one in view is the visible one of
    its page."""
    first, *others = TITLES
    own = {"": first, **dict.fromkeys(others)}
    paths = st.session_state.setdefault("paths", [])
    if asked and asked not in own and "/" not in asked and asked == asked.strip():
        paths[:] = [*(path for path in paths if path != asked), asked][-PATHS:]
    here = asked or st.session_state.get("path", "")
    pages: dict[str, st.Page] = {}
    for path in (*own, *paths):
        name = page_of(path)
        if name is None:
            pages[path] = st.Page(partial(_missing, path, pages), title="Not found", url_path=path, visibility="hidden")
            continue
        shown = path == here or (path in own and not (here in paths and page_of(here) == name))
        title, icon = TITLES[name]
        pages[path] = st.Page(
            ROOT / "pages" / f"{name}.py", title=title, icon=icon, url_path=path, default=not path,
            visibility="visible" if shown else "hidden",
        )  # fmt: skip
    return dict(sorted(pages.items(), key=lambda item: list(TITLES).index(page_of(item[0]) or first)))


def _missing(path: str, pages: dict[str, st.Page]) -> None:
    """What stands at an address where no page is."""
    st.markdown("### There is no such page")
    st.text(f"Nothing is found at /{path[:100]}. TokenLens has four pages:")
    for page in pages.values():
        if page_of(page.url_path) and page.visibility == "visible":
            st.page_link(page)


@contextmanager
def around(page: str) -> Iterator[None]:
    """What every page is drawn in: the address is taken over before, and written afterwards."""
    from ui import state  # here, since it takes seconds when it is the first

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
