"""Figures and tables as files: self-contained HTML, CSV, JSON, each carrying where its numbers come from.

The provenance is a flat mapping (model, image hash, layer, index, prompt, version, date, ...) given by the caller and
written into every export. All foreign text is escaped for the place it goes to: HTML, a script, a spreadsheet.
PNG and SVG are made by the browser: from the mode bar of a figure (:func:`plotly_config`), and by the two buttons of the
HTML file, so that no Chrome is needed on the server.
"""

from __future__ import annotations

import csv
import html
import io
import json
import math
import os
import re
import tempfile
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import plotly.graph_objects as go

from lens.errors import ExportFailed

Provenance = Mapping[str, object]
Row = Mapping[str, object]

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.45 Arial, Helvetica, sans-serif; color: #1f2328; background: #fff; margin: 24px auto; max-width: {width}px; padding: 0 16px; }}
button {{ font: inherit; margin-right: 8px; padding: 4px 14px; border: 1px solid #1f2328; border-radius: 4px; background: #fff; cursor: pointer; }}
button:focus-visible {{ outline: 3px solid #0072B2; }}
.figure {{ overflow-x: auto; }}
table {{ border-collapse: collapse; margin-top: 20px; font-size: 13px; }}
th, td {{ text-align: left; vertical-align: top; padding: 2px 14px 2px 0; overflow-wrap: anywhere; }}
th {{ font-weight: normal; color: #57606a; white-space: nowrap; }}
</style>
</head>
<body>
<div class="figure">{figure}</div>
<p>{caption}</p>
<p><button type="button" data-format="png">PNG</button><button type="button" data-format="svg">SVG</button></p>
<table>{rows}</table>
<script type="application/json" id="provenance">{provenance}</script>
<script>
for (const button of document.querySelectorAll("button[data-format]")) {{
  button.addEventListener("click", () => {{
    const figure = document.getElementById("figure");
    const format = button.dataset.format;
    Plotly.downloadImage(figure, {{
      format: format, filename: {name}, scale: format === "png" ? 3 : 1,
      width: figure.layout.width, height: figure.layout.height,
    }});
  }});
}}
</script>
</body>
</html>
"""  # noqa: E501


def figure_html(figure: go.Figure, provenance: Provenance, *, caption: str = "", name: str = "tokenlens") -> str:
    """A figure as one HTML file that needs no network: Plotly inside (about 5 MB), caption, provenance, PNG and SVG buttons.

    The provenance is shown as a table and embedded as JSON in the element ``#provenance``. ``name`` is the stem of the
    files that the buttons download.
    """
    inner = figure.to_html(full_html=False, include_plotlyjs=True, div_id="figure", config=plotly_config(name))
    rows = "".join(
        f"<tr><th>{html.escape(str(key))}</th><td>{html.escape(_text(value))}</td></tr>"
        for key, value in provenance.items()
    )
    return _PAGE.format(
        title=html.escape(caption or name),
        width=max(figure.layout.width or 0, 640),
        figure=inner,
        caption=html.escape(caption),
        rows=rows,
        provenance=_script_safe(_dumps(dict(provenance), indent=1)),
        name=_script_safe(json.dumps(file_name(name))),
    )


def _script_safe(text: str) -> str:
    """JSON that may stand inside ``<script>``: nothing in it can end the element or open a comment."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def plotly_config(name: str, image_format: Literal["png", "svg"] = "png", scale: int = 3) -> dict[str, object]:
    """Plotly's configuration for ``st.plotly_chart(..., config=...)``: the camera saves ``name`` in ``image_format``.

    Plotly's camera knows one format a chart and Streamlit can't carry a further button (a function isn't JSON), so the
    page lets the reader choose the format. ``scale`` multiplies the pixels of a PNG; an SVG has none.
    """
    options = {"format": image_format, "filename": file_name(name), "scale": scale if image_format == "png" else 1}
    return {"displaylogo": False, "scrollZoom": False, "toImageButtonOptions": options}


def table_csv(rows: Sequence[Row], provenance: Provenance) -> str:
    """Rows as CSV (columns in order of first appearance), after one ``# key: value`` line for each provenance entry.

    Text that a spreadsheet would run as a formula gets a leading apostrophe; numbers are left as they are. Read it with
    ``pandas.read_csv(path, comment="#")`` where no cell holds a ``#``, else ``skiprows=`` the number of such lines.
    """
    out = io.StringIO()
    for key, value in provenance.items():
        out.write(f"# {_comment(str(key))}: {_comment(_text(value))}\n")
    writer = csv.writer(out, lineterminator="\n")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer.writerow([_cell(column) for column in columns])
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    return out.getvalue()


def _comment(text: str) -> str:
    """One line; and no formula, should a spreadsheet split the line at its separators."""
    line = " ".join(text.split()).replace('"', "'")
    return re.sub(r"([,;|]\s*)(?=[=+\-@])", r"\1'", line)


def _cell(value: object) -> object:
    value = _plain(value)
    if isinstance(value, str):
        value = value.replace("\r\n", "\n").replace("\r", "\n")  # Python's writer doesn't quote a lone \r
        # The characters that OWASP's "CSV injection" names, also behind leading blanks.
        return f"'{value}" if value.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\n")) else value
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False)
    return "" if value is None else value


def table_json(rows: Sequence[Row], provenance: Provenance) -> str:
    """``{"provenance": {...}, "rows": [...]}``; NaN and infinities, which JSON hasn't, become null."""
    return _dumps({"provenance": dict(provenance), "rows": [dict(row) for row in rows]}, indent=1)


def _dumps(value: object, indent: int) -> str:
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, indent=indent)


def _plain(value: object) -> object:
    """Numpy and containers as what JSON knows; anything else as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)


def _text(value: object) -> str:
    plain = _plain(value)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def file_name(*parts: object, suffix: str = "") -> str:
    """A file name from foreign text (model, image, layer, ...), safe on every system: ``demo_my-cat_layer-8.csv``.

    ASCII letters, digits, ``-``, ``_`` and inner dots; at most 120 characters before the suffix; never empty or hidden.
    """
    cleaned = []
    for part in parts:
        ascii_only = unicodedata.normalize("NFKD", str(part)).encode("ascii", "ignore").decode()
        cleaned.append(re.sub(r"[^A-Za-z0-9_.]+", "-", ascii_only).strip("-._"))
    stem = re.sub(r"\.{2,}", ".", "_".join(part for part in cleaned if part))[:120].strip("-._")
    return f"{stem or 'tokenlens'}{suffix}"


def write_atomically(path: Path, data: str | bytes) -> None:
    """Write a file so that it is there whole or not at all, also if the process dies; replaces what was there.

    Raises ExportFailed when the folder is missing, not writable or full.
    """
    body = data.encode("utf-8") if isinstance(data, str) else data
    beside = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name[:60]}.", delete=False) as handle:
            beside = Path(handle.name)
            handle.write(body)
            handle.flush()
            os.fsync(handle.fileno())
        beside.chmod(0o644)
        beside.replace(path)
    except OSError as error:
        if beside is not None:
            beside.unlink(missing_ok=True)
        reason = error.strerror or error
        raise ExportFailed(
            f"“{path}” could not be written ({reason}); choose a folder that is there and writable."
        ) from error
