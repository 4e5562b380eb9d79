"""The sidebar of every page: model, picture, prompt, and what the model itself answers."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable

import streamlit as st

from lens.backend.catalog import ModelSpec, catalog
from lens.backend.encoding import DEFAULT_PROMPT, Encoded, encode, in_view
from lens.backend.images import KINDS, open_picture
from lens.backend.selfcheck import PATCHES
from lens.backend.store import STORE
from lens.backend.tracing import hidden_sites
from lens.errors import LensError
from lens.gallery import gallery
from ui import addresses, state
from ui.setup import ready_model, require
from ui.state import Reader

THUMBNAIL = 96
VIEWS = {False: "Whole", True: "Tiles"}
"""The first view is the coarse one of the whole picture."""


@addresses.attended
def draw(model: str | None = None, prompt: Callable[[ModelSpec], str] = lambda _: DEFAULT_PROMPT) -> ModelSpec:
    """The widgets; the model in use. ``model``: what the page shows while none was chosen, if that isn't the catalog's
    first; ``prompt``: what it asks a model while nothing was typed."""
    with st.sidebar:
        spec = _choose_model(model)
        _choose_picture()
        _choose_prompt(prompt(spec))
    return spec


@addresses.attended
def open_reader(spec: ModelSpec) -> Reader:
    """Model, picture and prompt, traced once; where something is wrong the page says what and ends here."""
    loaded = ready_model(spec)
    require(loaded, "What shows visual tokens in the picture", PATCHES)
    try:
        picture, notice = state.picture()
        if notice:
            st.warning(notice)
        encoded = choose_view(encode(loaded, state.prompt(), picture))
        with st.spinner("Running the model once, keeping every layer"):
            trace = STORE.trace(loaded, encoded, hidden_sites(loaded.anatomy.depth))
    except LensError as error:
        state.show_error(error)
        st.stop()
    return Reader(spec, loaded, picture, encoded, trace)


def _choose_model(usual: str | None) -> ModelSpec:
    rows = catalog()
    names = list(rows)
    usual = usual or names[0]
    name = addresses.select(
        "Model",
        names,
        "model",
        usual,
        kept="chosen" in st.session_state,
        help="More models: add rows to catalog.toml in the cache folder (README, “Your own models”).",
    )
    state.note_model(name, usual)
    st.caption(f"**{rows[name].title}.** {rows[name].note}")
    return rows[name]


def choose_view(encoded: Encoded) -> Encoded:
    """The input in the view of the picture that is looked at, chosen where there are several."""
    grids = encoded.token_map.grids
    if len(grids) < 2:
        return encoded
    names = {str(i): f"{VIEWS[i > 0]} ({grid.rows} × {grid.cols})" for i, grid in enumerate(grids)}
    with st.sidebar:
        chosen = addresses.segmented(
            "View of the picture",
            names,
            "view",
            "0",
            names,
            help="This model sees the picture more than once: small as a whole, and cut into tiles, which are put together "
            "here. Each view has visual tokens of its own.",
        )
    return in_view(encoded, int(chosen))


def _choose_picture() -> None:
    st.html(f"<style>{_thumbnail_css()}</style>")
    st.markdown("Image")
    current = state.gallery_key()
    with st.container(key="gallery", horizontal=True, gap="small"):
        for photo in gallery():
            st.button(
                photo.title,
                key=f"pick-{photo.key}",
                help=photo.credit,
                type="primary" if photo.key == current else "secondary",
                on_click=_take_photo,
                args=(photo.key,),
            )
    # Of any ending, or none: what a file is, its content says.
    file = st.file_uploader("Or your own", key="upload", on_change=_take_upload, help=f"{KINDS}, whatever its name.")
    about, sentence = st.session_state.get("upload_error", (None, ""))
    if file is not None and file.file_id == about:
        with st.container(key="upload-error"):
            st.error("This file can't be used.", icon=":material/broken_image:")
            st.text(sentence)


def _take_photo(key: str) -> None:
    st.session_state.pop("upload_error", None)
    state.choose_gallery(key)


def _take_upload() -> None:
    st.session_state.pop("upload_error", None)
    file = st.session_state["upload"]
    if file is None:
        return
    try:
        state.keep_upload(file.getvalue(), file.name)
    except LensError as error:
        st.session_state["upload_error"] = (file.file_id, str(error))


def _choose_prompt(usual: str) -> None:
    asked = state.prompt(usual)
    if st.session_state.get("prompt_box") != asked:  # another picture or model is asked in other words
        st.session_state["prompt_box"] = asked
    st.text_area(
        "Prompt",
        key="prompt_box",
        height=80,
        placeholder=usual,
        on_change=lambda: state.choose_prompt(st.session_state["prompt_box"], usual),
    )


@st.cache_resource
def _thumbnail_css() -> str:
    """Gallery buttons show their photo; their label stays for screen readers."""
    rules = []
    for photo in gallery():
        image = open_picture(photo.path).image
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side)).resize((THUMBNAIL, THUMBNAIL))
        buffer = io.BytesIO()
        square.save(buffer, "JPEG", quality=80)
        data = base64.b64encode(buffer.getvalue()).decode()
        rules.append(f".st-key-pick-{photo.key} button{{background-image:url(data:image/jpeg;base64,{data})}}")
    return "".join(rules)
