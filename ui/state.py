"""The reader's state: model, picture, prompt and patch, one for all pages.

It lives in the address (:mod:`ui.addresses`), so that a copied one restores all of it; what else an address holds is a
page's own. An uploaded picture is named by its hash and found again by it while this server holds it.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from lens.backend.cache import BoundedCache
from lens.backend.catalog import ModelSpec, catalog
from lens.backend.encoding import DEFAULT_PROMPT, Encoded
from lens.backend.images import Picture, open_picture
from lens.backend.loading import LoadedModel
from lens.backend.regions import region_cells, region_text
from lens.backend.tracing import Trace
from lens.errors import LensError
from lens.gallery import gallery
from ui import addresses
from ui.addressforms import listed

UPLOAD_BYTES = 512 << 20
"""Memory for uploaded files of all sessions; the least recently used go first."""

SHARED = ("model", "image", "prompt", "view", "patch", "region")
"""What all pages share, by its name in the address; other names are a page's own."""


@dataclass(frozen=True, eq=False)
class Reader:
    """What every page draws from: one model, one picture, one prompt, one trace."""

    spec: ModelSpec
    loaded: LoadedModel
    picture: Picture
    encoded: Encoded
    trace: Trace

    @property
    def key(self) -> str:
        """Names model, picture and prompt; the picture by what this reader calls it, which exports repeat."""
        return f"{self.encoded.key} {self.picture.name}"


@st.cache_resource
def _uploads() -> BoundedCache[Picture]:
    return BoundedCache(UPLOAD_BYTES, lambda picture: picture.nbytes)


@st.cache_resource
def _gallery_picture(key: str) -> Picture:
    return open_picture(next(photo.path for photo in gallery() if photo.key == key))


def session() -> str:
    """Names the reader's session; the same for all their runs of the page."""
    context = get_script_run_ctx()
    return context.session_id if context else ""


def follow(page: str) -> None:
    """Called first in every run. An address that the reader went to is taken over; on a switch of pages what all pages share
    comes along, and what the page itself was last set to comes back."""
    before = st.session_state.get("page", page)
    if addresses.travelled():
        addresses.load()
        _follow_address()
    elif before != page:
        now = addresses.held()
        st.session_state[f"own-{before}"] = {name: text for name, text in now.items() if name not in SHARED}
        shared = {name: text for name, text in now.items() if name in SHARED}
        addresses.turn({**st.session_state.get(f"own-{page}", {}), **shared, **st.query_params})
    st.session_state["page"] = page


def _follow_address() -> None:
    st.session_state.pop("chosen", None)
    if (model := addresses.get("model")) in catalog():
        st.session_state["chosen"] = model


def gallery_key() -> str | None:
    """The key of the gallery photo in view, ``None`` while an upload is."""
    name = addresses.get("image")
    if name.startswith("upload-") and name.removeprefix("upload-") in _uploads():
        return None
    return name if any(photo.key == name for photo in gallery()) else gallery()[0].key


def choose_gallery(key: str) -> None:
    """Put a gallery photo in view."""
    _set_image(key)


def keep_upload(data: bytes, name: str) -> None:
    """Put an upload in view; a :class:`LensError` leaves the former picture in view. The file is kept for all who know
    its address, its name for this reader alone."""
    picture = open_picture(data, name)
    _uploads().get(picture.digest, lambda: replace(picture, name=_unnamed(picture.digest)))
    st.session_state.setdefault("upload-names", {})[picture.digest] = name
    _set_image(f"upload-{picture.digest}")


def picture() -> tuple[Picture, str | None]:
    """The picture in view, and a sentence when the address names an upload that isn't to be had."""
    name, key = addresses.get("image"), gallery_key()
    if key is None:
        digest = name.removeprefix("upload-")
        found = _uploads().get(digest, _gone)
        return replace(found, name=st.session_state.get("upload-names", {}).get(digest, found.name)), None
    shown = next(photo for photo in gallery() if photo.key == key)
    if name.startswith("upload-"):
        return _gallery_picture(key), (
            f"The address names an uploaded picture that this server no longer holds, so {shown.title} is shown; "
            "upload yours again."
        )
    if name not in ("", key):
        wanted = listed([photo.key for photo in gallery()])
        addresses.unknown("image", f"one of {wanted}, or an uploaded picture", shown.title)
    return _gallery_picture(key), None


def patch(rows: int, cols: int) -> tuple[int, int]:
    """The patch in view; the middle of the grid while none has been chosen, or when the address names none of it."""
    asked = addresses.get("patch")
    found = re.fullmatch(r"([0-9]{1,4}),([0-9]{1,4})", asked)
    if found and int(found[1]) < rows and int(found[2]) < cols:
        return int(found[1]), int(found[2])
    if asked:
        wanted = f"a patch of this picture's {rows} rows and {cols} columns, counted from 0"
        addresses.unknown("patch", wanted, f"patch {rows // 2},{cols // 2}")
    return rows // 2, cols // 2


def note_model(name: str, usual: str) -> None:
    """Keep the model that the reader chose, for all pages. A page's ``usual`` one is a choice only after another was."""
    if name != usual or "chosen" in st.session_state:
        st.session_state["chosen"] = name


def prompt(usual: str = DEFAULT_PROMPT) -> str:
    """The prompt in use, right or wrong: the one last typed, else what the page ``usual``ly asks."""
    return addresses.get("prompt") or usual


def choose_prompt(text: str, usual: str = DEFAULT_PROMPT) -> None:
    """Use a prompt on every page; the ``usual`` one of the page in view is no choice."""
    addresses.put(prompt=None if text in ("", usual) else text)


def choose_patch(row: int, col: int) -> None:
    """Put a patch in view on every page. Patch and region are one selection: it takes the region away."""
    addresses.put(patch=f"{row},{col}", region=None)


def region(rows: int, cols: int) -> tuple[tuple[int, int], ...]:
    """The patches of the region in view, in reading order; none while none has been chosen for this grid."""
    cells = region_cells(asked := addresses.get("region"), (rows, cols))
    if asked and not cells:
        addresses.unknown("region", f"a region of this picture's {rows} rows and {cols} columns", "no region")
    return cells


def choose_region(cells: Collection[tuple[int, int]], rows: int, cols: int) -> None:
    """Put a region in view on every page; no cells take it away."""
    addresses.put(region=region_text(cells, (rows, cols)) or None)


def show_error(error: LensError) -> None:
    """An error a reader can cause, as a message; its text may hold what they typed, so it is never Markdown."""
    with st.container(key="lens-error"):
        st.error("That didn't work:", icon=":material/error:")
        st.text(str(error))


def _unnamed(digest: str) -> str:
    """What an upload is called for a reader who has only its address."""
    return f"upload {digest[:8]}"


def _set_image(name: str) -> None:
    addresses.put(image=name, patch=None, region=None)


def _gone() -> Picture:
    raise LensError("The uploaded picture is no longer held; upload it again.")
