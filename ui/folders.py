"""Folders on the computer that runs the app, which a reader names: theirs on their own machine, a visitor's only where the
owner says so. To anyone else a path typed into a page would tell which files are there.
"""

from __future__ import annotations

import os
from pathlib import Path

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from lens.errors import FolderForbidden, LensError
from ui.state import show_error

ROOT = "TOKENLENS_FOLDERS"
"""The environment variable that names the folder below which visitors may read."""

FORWARDED = ("X-Forwarded-For", "X-Real-Ip", "Forwarded", "Via")
"""Headers of a proxy: who comes through one is a visitor, though the connection is this machine's own."""


def ask_folder(label: str, key: str, place: DeltaGenerator | None = None) -> str:
    """The folder that the reader typed, checked; ``""`` while there is none, or where they may name none."""
    root = os.environ.get(ROOT, "").strip()
    local = _is_local()
    if not local and not root:
        (place or st).caption(
            f"{label}: only for readers on that computer. Its owner can set `{ROOT}` to a folder that visitors may read."
        )
        return ""
    typed = (place or st).text_input(label if local else f"{label}, below {Path(root).name}", key=key).strip()
    try:
        return typed if local or not typed else below(Path(root), typed)
    except LensError as error:
        show_error(error)
        return ""


def below(root: Path, typed: str) -> str:
    """The folder ``typed``, which may be given from ``root``; :class:`FolderForbidden` for one outside, there or not."""
    try:
        base = root.resolve(strict=True)
        found = (base / typed).resolve()
    except (OSError, ValueError, RuntimeError):
        found = base = None
    if base is None or found is None or not found.is_relative_to(base):
        raise FolderForbidden(
            f"The folder {typed[:200]!r} is not below {root.name!r}, the one that visitors may read here; name one that is."
        )
    return str(found)


def _is_local() -> bool:
    headers = st.context.headers
    return st.context.ip_address is None and not any(name in headers for name in FORWARDED)
