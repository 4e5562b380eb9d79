"""Exports carry their provenance, and no foreign text gets out of its place."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import stat
import threading
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from lens.errors import ExportFailed
from lens.export import figure_html, file_name, plotly_config, table_csv, table_json, write_atomically

FROM = {"model": "demo", "image sha256": "ab" * 32, "layer": 8, "prompt": "What is this?", "index": "demo-index"}
EVIL = "</script><script>alert('x')</script><!-- &lt;"


class Page(HTMLParser):
    """Collects a page's tags, its table, and its scripts by id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.scripts: dict[str, str] = {}
        self.script: str | None = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.script = dict(attrs).get("id", "") if tag == "script" else None

    def handle_endtag(self, tag):
        self.script = None

    def handle_data(self, data):
        if self.script is None:
            self.texts.append(data)
        else:
            self.scripts[self.script] = data


def figure(title: str = "t") -> go.Figure:
    return go.Figure(go.Scatter(x=[1, 2], y=[1, 2], name="a"), {"title": title, "width": 500, "height": 300})


def test_html_shows_and_embeds_the_provenance():
    page = Page(figure_html(figure(), FROM, caption="Patches of a cat", name="cat"))
    assert json.loads(page.scripts["provenance"]) == FROM
    for value in [*FROM, "demo", "8", "Patches of a cat"]:
        assert value in page.texts


def test_html_needs_no_network():
    text = figure_html(figure(), FROM)
    assert len(text) > 1_000_000
    assert not [attrs for tag, attrs in Page(text).tags if "src" in attrs or tag == "link"]
    assert figure_html(figure(), FROM) == text


def test_html_lets_no_foreign_text_out():
    clean = len(Page(figure_html(figure(), FROM)).tags)
    evil = {**FROM, EVIL: EVIL}
    page = Page(figure_html(figure(EVIL), evil, caption=EVIL, name=EVIL))
    assert len(page.tags) == clean + 3  # one more row: tr, th, td
    assert json.loads(page.scripts["provenance"]) == evil
    assert page.texts.count(EVIL) >= 3


@pytest.mark.browser
def test_html_downloads_png_and_svg_without_a_network(tmp_path, browser):
    path = tmp_path / "figure.html"
    write_atomically(path, figure_html(figure(EVIL), {**FROM, "x": EVIL}, caption=EVIL, name="my cat"))
    errors: list[str] = []
    page = browser.new_page()
    page.set_default_timeout(120_000)  # a shared machine parses 5 MB of script slowly
    page.route(re.compile("^https?://"), lambda route: (errors.append(route.request.url), route.abort()))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: (errors.append(dialog.message), dialog.dismiss()))
    page.goto(path.as_uri())
    page.wait_for_selector(".main-svg")
    found = {}
    for kind in ("PNG", "SVG"):
        with page.expect_download() as download:
            page.get_by_role("button", name=kind, exact=True).click()
        found[download.value.suggested_filename] = download.value.path().read_bytes()
    page.close()
    assert not errors
    png, svg = found["my-cat.png"], found["my-cat.svg"]
    assert png[:4] == b"\x89PNG" and png[16:24] == (1500).to_bytes(4, "big") + (900).to_bytes(4, "big")
    assert svg.startswith(b"<svg") and b'width="500"' in svg


def test_config_names_the_file_and_the_format():
    assert plotly_config("a b/c")["toImageButtonOptions"] == {"format": "png", "filename": "a-b-c", "scale": 3}
    assert plotly_config("a", "svg")["toImageButtonOptions"] == {"format": "svg", "filename": "a", "scale": 1}
    json.dumps(plotly_config("a"))


ROWS = [
    {"word": 'cat, or\n"kitten"', "similarity": np.float32(0.5), "layer": np.int64(8)},
    {"word": "=HYPERLINK(1)", "similarity": -0.25, "layer": 9, "extra": None},
]


def test_csv_reads_back_below_its_provenance():
    text = table_csv(ROWS, FROM)
    lines = text.splitlines()
    assert lines[: len(FROM)] == [f"# {key}: {value}" for key, value in FROM.items()]
    table = pd.read_csv(io.StringIO(text), comment="#")
    assert list(table.columns) == ["word", "similarity", "layer", "extra"]
    assert (
        table.word[0] == ROWS[0]["word"]
        and table.similarity.tolist() == [0.5, -0.25]
        and table.layer.tolist() == [8, 9]
    )


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "  =1", "\n=1"])
def test_csv_cells_and_headers_are_no_formulas(text):
    header, row = list(csv.reader(io.StringIO(table_csv([{text: text, "n": -1.5}], {}), newline="")))
    assert header[0] == row[0] == "'" + text.replace("\r", "\n")
    assert row[1] == "-1.5"


def test_csv_provenance_stays_on_its_line_and_is_no_formula():
    lines = table_csv([], {"prompt": 'a\n=1,=2;@x\t-"3"'}).splitlines()
    assert len(lines) == 2 and lines[0].startswith("# prompt: a =1")
    assert not re.search(r"[,;\t]\s*[=+\-@]", lines[0])
    assert '"' not in lines[0]


def test_json_holds_rows_and_provenance_and_is_strict():
    rows = [*ROWS, {"word": "x", "similarity": float("nan"), "box": np.array([1.5, 2.0]), "pair": (1, 2)}]
    found = json.loads(table_json(rows, FROM), parse_constant=lambda name: pytest.fail(name))
    assert found["provenance"] == FROM
    assert found["rows"][0] == {"word": ROWS[0]["word"], "similarity": 0.5, "layer": 8}
    assert found["rows"][2] == {"word": "x", "similarity": None, "box": [1.5, 2.0], "pair": [1, 2]}


@pytest.mark.parametrize(
    ("parts", "wanted"),
    [
        (("demo", "my cat.jpg", "layer 8"), "demo_my-cat.jpg_layer-8.csv"),
        (("../../etc/passwd",), "etc-passwd.csv"),
        (("..", "."), "tokenlens.csv"),
        (("日本",), "tokenlens.csv"),
        (("<script>", "Ünï\0"), "script_Uni.csv"),
        (("a" * 500,), "a" * 120 + ".csv"),
    ],
)
def test_file_names_are_safe(parts, wanted):
    assert file_name(*parts, suffix=".csv") == wanted


def test_write_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    write_atomically(path, "old")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644

    def full(_handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ExportFailed, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old" and [file.name for file in tmp_path.iterdir()] == ["a.csv"]


def test_write_says_what_is_wrong(tmp_path):
    with pytest.raises(ExportFailed, match="choose a folder"):
        write_atomically(tmp_path / "none" / "a.csv", b"x")


def test_readers_never_see_half_a_file(tmp_path):
    path, bodies = tmp_path / "a.bin", [bytes([value]) * 200_000 for value in range(4)]
    write_atomically(path, bodies[0])
    writers = [threading.Thread(target=write_atomically, args=(path, body)) for body in bodies for _ in range(5)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert path.read_bytes() in bodies
    assert [file.name for file in tmp_path.iterdir()] == ["a.bin"]
