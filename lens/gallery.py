"""The photos that come with TokenLens: freely licensed, each with its author, licence and source.

``assets/gallery/gallery.toml`` is the only list of them; its order is the order on the page.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lens.home import project_root


@dataclass(frozen=True)
class GalleryPhoto:
    """One photo. ``key`` is short, stable and safe in a URL; ``thing`` is what it shows, in one word."""

    key: str
    title: str
    thing: str
    path: Path
    author: str
    licence: str
    source: str

    @property
    def credit(self) -> str:
        """One line naming what a licence wants named."""
        return f"{self.title}: {self.author}, {self.licence} ({self.source})"


@cache
def gallery() -> tuple[GalleryPhoto, ...]:
    """All photos, in the order of the list."""
    folder = project_root() / "assets" / "gallery"
    rows = tomllib.loads((folder / "gallery.toml").read_text(encoding="utf-8"))
    return tuple(
        GalleryPhoto(
            key, row["title"], row["thing"], folder / row["file"], row["author"], row["licence"], row["source"]
        )
        for key, row in rows.items()
    )
