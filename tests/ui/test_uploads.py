"""Uploaded pictures: kept for whoever has their address, each named by the reader who uploaded it."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

WAIT = 30


def script(data: bytes, name: str) -> None:
    """A page that takes an upload where there is one, and says what the picture in view is called."""
    import streamlit as st

    from ui import state

    if data and "taken" not in st.session_state:
        st.session_state["taken"] = True
        state.keep_upload(data, name)
    picture, notice = state.picture()
    st.text(picture.name)
    st.text(notice or "")


def png(colour: str = "red", size: tuple[int, int] = (30, 20)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def opened(data: bytes, name: str, image: str | None = None) -> AppTest:
    page = AppTest.from_function(script, args=(data, name), default_timeout=WAIT)
    if image:
        page.query_params["image"] = image
    page.run()
    assert not page.exception
    return page


def test_each_reader_reads_the_name_that_they_gave():
    first = opened(png(), "mine.png")
    second = opened(png(), "yours.png")
    assert (first.text[0].value, second.text[0].value) == ("mine.png", "yours.png")
    assert first.run().text[0].value == "mine.png"
    assert first.query_params["image"] == second.query_params["image"]


def test_who_has_only_the_address_is_told_nobodys_file_name():
    address = opened(png("blue"), "secret.png").query_params["image"]
    visitor = opened(b"", "", address)
    assert visitor.text[0].value == f"upload {address.removeprefix('upload-')[:8]}"
    assert visitor.text[1].value == ""


MEASURE = """
import io, resource, sys
from PIL import Image
from lens.backend import images
from lens.backend.cache import BoundedCache
from lens.backend.tracing import Trace

def rss():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

images._DECODED.limit = 100 << 20
uploads = BoundedCache(64 << 20, lambda picture: picture.nbytes)
traces = BoundedCache(64 << 20, lambda trace: trace.nbytes)

def keep(shade):
    file = io.BytesIO()
    Image.new("RGB", (3000, 3000), (shade, 0, 0)).save(file, "PNG")
    picture = images.open_picture(file.getvalue(), "x.png")
    uploads.get(picture.digest, lambda: picture)
    traces.get(picture.digest, lambda: Trace("key", {}, None, 4, picture))
    assert picture.image.size == (3000, 3000)

keep(0)
before = rss()
for shade in range(1, 20):
    keep(shade)
print(rss() - before, images._DECODED.nbytes + uploads.nbytes + traces.nbytes)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_budgets_count_what_they_hold():
    """20 pictures of 9 megapixels are 720 MB decoded: the process grows by what the budgets say, not by that."""
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    grown, counted = map(int, done.stdout.split())
    assert 50 << 20 < counted < 120 << 20
    assert grown < counted + (80 << 20)


def masks() -> None:
    """Keeps a mask of noise of each of three pictures, in a session that has room for two."""
    from types import SimpleNamespace

    import numpy as np
    import streamlit as st

    from lens.backend.maskfiles import mask_of
    from lens.errors import MaskUnusable
    from ui import mapscores, mapstate, maskeditor

    mapscores.MASK_BYTES = 50_000
    for name in "abc":
        noise = np.random.default_rng(0).random((300, 300)) > 0.5
        reader = SimpleNamespace(picture=SimpleNamespace(digest=name, width=300, height=300))
        try:
            mapscores._keep(reader, maskeditor.blank((300, 300), mask_of(noise)))
        except MaskUnusable as error:
            st.text(str(error))
        else:
            st.text(f"{name} {bool((mapstate.mask(reader).mask.inside == noise).all())}")


def test_a_session_keeps_masks_up_to_a_bound_and_loses_none():
    page = AppTest.from_function(masks, default_timeout=WAIT).run()
    assert not page.exception
    first, second, third = (text.value for text in page.text)
    assert (first, second) == ("a True", "b True")
    assert third.startswith("The masks of 2 pictures take") and third.endswith("save one, and clear it.")
