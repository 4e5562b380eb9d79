"""Taking figures away: the camera button's format, and every figure as HTML, CSV and JSON with where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import date
from html import escape

import plotly.graph_objects as go
import streamlit as st

from lens import __version__
from lens.export import figure_html, file_name, plotly_config, table_csv, table_json
from lens.latentlens.index import Index
from ui.state import Reader

WIDE = 900
"""Pixels of width from which a figure isn't squeezed into less room but scrolls (``ui/style.css``)."""
FORMATS = {"png": "PNG", "svg": "SVG"}


@dataclass(frozen=True)
class Exhibit:
    """A figure on the page and what it was drawn from. ``rows`` is called when the reader asks for the data."""

    name: str
    title: str
    figure: go.Figure
    rows: Callable[[], list[dict[str, object]]]
    provenance: dict[str, object]

    @property
    def stem(self) -> str:
        """File name without its ending: model, image and layer where the figure depends on one, and the figure."""
        facts = self.provenance
        parts = [str(facts["image sha256"])[:8]] if "image sha256" in facts else []
        parts += [f"layer-{facts['layer']}"] if "layer" in facts else []
        return file_name(facts["model"], *parts, self.name)


def provenance(
    reader: Reader, index: Index | None, layer: int | str, lens: str, pictures: Sequence[str] | None = None
) -> dict[str, object]:
    """Where a figure comes from, for the file and for whoever reads it: it names what the figure depends on, and nothing
    else. ``pictures``: the names of those that it is of, where that isn't the one in view alone."""
    one = {"image": reader.picture.name, "image sha256": reader.picture.digest}
    return {
        **of_model(reader.spec.name, reader.loaded.fingerprint),
        **(one if pictures is None else {"pictures": f"{len(pictures)}: {', '.join(pictures)}"}),
        "prompt": reader.encoded.prompt,
        "layer": layer,
        "lens": lens,
        **({"index": f"{index.name} ({index.manifest.corpus}, {index.manifest.factory})"} if index else {}),
        **made(),
    }


def of_model(name: str, fingerprint: str) -> dict[str, object]:
    """The first lines of any provenance."""
    return {"model": name, "model fingerprint": fingerprint[:16]}


def made() -> dict[str, object]:
    """The last lines of any provenance."""
    return {"made with": f"TokenLens {__version__}", "date": date.today().isoformat()}


def headline(facts: dict[str, object], index: Index | None) -> str:
    """One line that names model, image, layer and index inside the figure itself."""
    text = f"{facts['lens']}, layer {facts['layer']} · {facts['model']} · image {str(facts['image sha256'])[:8]}"
    return f"{text} · index {index.name}" if index else text


def show(exhibit: Exhibit, on_select: str | Callable = "ignore", modes: Sequence[str] = ("points",)) -> None:
    """The figure at the width of its place, in its own colours, with a camera that saves what the reader chose.

    ``modes``: how points can be selected, of "points", "box" and "lasso".
    """
    wide = (exhibit.figure.layout.width or 0) >= WIDE
    with st.container(key=f"wide-{exhibit.name}") if wide else nullcontext():
        st.plotly_chart(
            exhibit.figure,
            key=exhibit.name,
            theme=None,
            on_select=on_select,
            selection_mode=list(modes),
            config=plotly_config(exhibit.stem, st.session_state.get("camera", "png")),
        )


def draw(exhibits: Iterable[Exhibit]) -> None:
    """The export menu."""
    with st.popover("Export", icon=":material/download:"):
        st.segmented_control(
            "The camera button of a figure saves",
            list(FORMATS),
            default="png",
            key="camera",
            format_func=FORMATS.get,
            required=True,
            help="The camera appears at a figure's upper right when you point at it.",
        )
        for exhibit in exhibits:
            _downloads(exhibit)


def _downloads(exhibit: Exhibit) -> None:
    st.html(f"<strong>{escape(exhibit.title)}</strong>")
    makers: dict[str, tuple[str, Callable[[], str]]] = {
        "HTML": (
            "text/html",
            lambda: figure_html(exhibit.figure, exhibit.provenance, caption=exhibit.title, name=exhibit.stem),
        ),
        "CSV": ("text/csv", lambda: table_csv(exhibit.rows(), exhibit.provenance)),
        "JSON": ("application/json", lambda: table_json(exhibit.rows(), exhibit.provenance)),
    }
    for column, (kind, (mime, make)) in zip(st.columns(3), makers.items(), strict=True):
        column.download_button(
            kind,
            make,
            f"{exhibit.stem}.{kind.lower()}",
            mime,
            key=f"save-{exhibit.name}-{kind}",
            on_click="ignore",
            width="stretch",
        )
