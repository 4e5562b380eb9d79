"""An editor of points over a map: dragged, added and taken away, by pointer, finger or keys; and reset.

A component of the page itself, of one make with :mod:`ui.maskeditor`. What the reader made of the points stays in the
session, by the points that it was made of: another map, layer or rule has points of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import streamlit as st
from PIL import Image
from streamlit.components.v2 import component

from lens.backend.regions import Size
from lens.segmaps.points import LABELS
from ui.maskeditor import STYLE, data_uri, mount, script

Place = tuple[float, float, int]
"""x, y in pixels of the picture, and a label of :data:`lens.segmaps.points.LABELS`."""
MOST = 200
_EDITOR = component("tokenlens_points", css=STYLE, js=script("points.js"))


def moved(own: Sequence[Place], about: str) -> tuple[Place, ...]:
    """The points as the reader left them: ``own`` while none was touched. ``about`` names picture and map."""
    made = _held(_subject(own, about))[1]
    return tuple(own) if made is None else made


def edit_points(key: str, image: Image.Image, size: Size, own: Sequence[Place], about: str) -> None:
    """The editor: ``own`` points of a map, or what the reader made of them, over an ``image`` of a picture of ``size``."""
    subject = _subject(own, about)
    version, made = _held(subject)

    def take(value: Mapping) -> None:
        read = None if value["points"] is None else _read(value["points"], size)
        # A reset is news to the editor as well, which shows the moved points until it is told.
        st.session_state.setdefault("moved points", {})[subject] = (int(value["version"]) + (read is None), read)

    data = {"subject": subject, "version": version, "width": size[0], "height": size[1], "own": made is None}
    mount(
        _EDITOR, key, take, {**data, "image": data_uri(image, "jpeg"), "points": [list(p) for p in moved(own, about)]}
    )


def _subject(own: Sequence[Place], about: str) -> str:
    return hashlib.sha256(
        repr((about, [(round(x, 1), round(y, 1), label) for x, y, label in own])).encode()
    ).hexdigest()


def _held(subject: str) -> tuple[int, tuple[Place, ...] | None]:
    return st.session_state.get("moved points", {}).get(subject, (0, None))


def _read(value: list, size: Size) -> tuple[Place, ...]:
    """Points as the browser sends them; those that the editor never makes are left out."""
    places = ((float(x), float(y), int(label)) for x, y, label in value[:MOST])
    return tuple(p for p in places if 0 <= p[0] <= size[0] and 0 <= p[1] <= size[1] and p[2] in LABELS)
