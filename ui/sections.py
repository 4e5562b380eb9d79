"""The lower part of every page: one section at a time, so that nobody pays for what isn't in view."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import streamlit as st

from ui import addresses, work
from ui.export import Exhibit

View = TypeVar("View")


def one_section(
    parameter: str, usual: str, sections: Mapping[str, tuple[str, Callable[[View], list[Exhibit]]]], view: View
) -> list[Exhibit]:
    """Draw the section that the reader chose, and above it the work that goes on elsewhere; the section's figures.

    ``parameter``: its name in the address. ``sections``: title and drawing by the key that stands there.
    """
    names = {name: title for name, (title, _draw) in sections.items()}
    section = addresses.segmented("More", names, parameter, usual, names)
    running = st.container()
    with work.slot(f"section-{parameter}", section, f"section-{section}"):
        exhibits = sections[section][1](view)
    with running:
        work.elsewhere()
    return exhibits
