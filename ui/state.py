"""The reader's state: model, picture, prompt, layer and patch, one for all pages.

It lives in the URL, so that a copied address restores all of it. Widgets that Streamlit can bind (layer, prompt, lens)
bind themselves by their key; the picture and the patch, which no widget holds, are written here. An uploaded picture is
named by its hash in the URL and found again by it while this server holds it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from lens.backend.cache import BoundedCache
from lens.backend.catalog import ModelSpec
from lens.backend.encoding import DEFAULT_PROMPT, Encoded
from lens.backend.images import Picture, open_picture
from lens.backend.loading import LoadedModel
from lens.backend.regions import region_cells, region_text
from lens.backend.tracing import Trace
from lens.errors import LensError
from lens.gallery import gallery

UPLOAD_BYTES = 512 << 20
"""Memory for uploaded files of all sessions; the least recently used go first."""

SHARED = ("model", "image", "prompt", "layer", "view", "patch", "region")
"""What all pages share, by its name in the address; other names are a page's own."""

PLAIN = ("image", "prompt", "patch", "region")
"""Of the address, what no bound widget holds."""

URL_PROMPT = 2000
"""Longest prompt that goes into the address: servers and proxies refuse longer request lines."""


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
    """Called first in every run. A switch of pages empties the address and forgets the widgets: what all pages share is
    put back, and what the page itself was last set to."""
    if st.session_state.get("page", page) != page:
        for key in ("model", "layer", "view", "prompt_box"):
            st.session_state.pop(key, None)  # Streamlit would carry over what the former page usually shows
        chosen = st.session_state.get("chosen")
        shared = {**st.session_state.get("shared", {}), **({"model": (chosen, chosen)} if chosen else {})}
        kept = {**st.session_state.get(f"own-{page}", {}), **shared}
        for key in kept.keys() - st.query_params.keys():
            st.query_params[key], value = kept[key]
            if key not in PLAIN:
                st.session_state[key] = value
    st.session_state["page"] = page


def remember() -> None:
    """Note what the address says, for the page that is turned to next. Called where it may have changed, after the
    widgets. A widget bound to the address is in it only while it isn't at its default."""
    now = {key: (text, st.session_state.get(key)) for key, text in st.query_params.items()}
    now = {key: held for key, held in now.items() if key in PLAIN or held[1] is not None}
    st.session_state["shared"] = {key: now[key] for key in now if key in SHARED and key != "model"}
    st.session_state[f"own-{st.session_state['page']}"] = {key: now[key] for key in now if key not in SHARED}


def held(key: str, default: str) -> str:
    """What the address says, else the session: for a page's own state that no widget holds."""
    return str(st.query_params.get(key, st.session_state.get(key, default)))


def put(key: str, value: str) -> None:
    """Write a page's own state to both."""
    st.session_state[key] = value
    st.query_params[key] = value


def drop(key: str) -> None:
    """Take it out of both."""
    st.session_state.pop(key, None)
    st.query_params.pop(key, None)


def adopt(keys: Iterable[str]) -> None:
    """Take over what a copied address says, so that a switch of pages keeps it."""
    for key in keys:
        if key in st.query_params:
            st.session_state[key] = st.query_params[key]


def gallery_key() -> str | None:
    """The key of the gallery photo in view, ``None`` while an upload is."""
    name = st.query_params.get("image", gallery()[0].key)
    return name if any(photo.key == name for photo in gallery()) else None


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
    """The picture in view, and a sentence when the address names one that isn't to be had."""
    name = st.query_params.get("image", gallery()[0].key)
    if name.startswith("upload-"):
        held = _uploads()
        if (digest := name.removeprefix("upload-")) in held:
            found = held.get(digest, _gone)
            return replace(found, name=st.session_state.get("upload-names", {}).get(digest, found.name)), None
        first = gallery()[0]
        _set_image(first.key)
        return _gallery_picture(first.key), (
            f"The address names an uploaded picture that this server no longer holds, so {first.title} is shown; "
            "upload yours again."
        )
    key = gallery_key()
    if key is None:
        key = gallery()[0].key
        _set_image(key)
    return _gallery_picture(key), None


def patch(rows: int, cols: int) -> tuple[int, int]:
    """The patch in view; the middle of the grid while none has been chosen, or when the address names none of it."""
    found = re.fullmatch(r"(\d{1,4}),(\d{1,4})", st.query_params.get("patch", ""))
    if found:
        row, col = int(found[1]), int(found[2])
        if row < rows and col < cols:
            return row, col
    return rows // 2, cols // 2


def note_model(name: str, usual: str) -> None:
    """Keep the model that the reader chose, for all pages. A page's ``usual`` one is a choice only after another was."""
    if name != usual or "chosen" in st.session_state:
        st.session_state["chosen"] = name


def prompt(usual: str = DEFAULT_PROMPT) -> str:
    """The prompt in use, right or wrong: the one last typed, else the address's, else what the page ``usual``ly asks."""
    return st.session_state.get("prompt", st.query_params.get("prompt", usual))


def choose_prompt(text: str, usual: str = DEFAULT_PROMPT) -> None:
    """Use a prompt on every page; the ``usual`` one of the page in view is no choice. One too long for an address is kept
    in the session alone."""
    st.session_state["prompt"] = text
    st.query_params.pop("prompt", None)
    if text == usual:
        del st.session_state["prompt"]
    elif len(text) <= URL_PROMPT:
        st.query_params["prompt"] = text


def choose_patch(row: int, col: int) -> None:
    """Put a patch in view on every page. Patch and region are one selection: it takes the region away."""
    st.query_params["patch"] = f"{row},{col}"
    st.query_params.pop("region", None)
    remember()


def region(rows: int, cols: int) -> tuple[tuple[int, int], ...]:
    """The patches of the region in view, in reading order; none while none has been chosen for this grid."""
    return region_cells(st.query_params.get("region", ""), (rows, cols))


def choose_region(cells: Collection[tuple[int, int]], rows: int, cols: int) -> None:
    """Put a region in view on every page; no cells take it away."""
    text = region_text(cells, (rows, cols))
    if text:
        st.query_params["region"] = text
    else:
        st.query_params.pop("region", None)
    remember()


def show_error(error: LensError) -> None:
    """An error a reader can cause, as a message; its text may hold what they typed, so it is never Markdown."""
    with st.container(key="lens-error"):
        st.error("That didn't work:", icon=":material/error:")
        st.text(str(error))


def _unnamed(digest: str) -> str:
    """What an upload is called for a reader who has only its address."""
    return f"upload {digest[:8]}"


def _set_image(name: str) -> None:
    st.query_params["image"] = name
    for key in ("patch", "region"):
        st.query_params.pop(key, None)


def _gone() -> Picture:
    raise LensError("The uploaded picture is no longer held; upload it again.")
