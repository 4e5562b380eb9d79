"""Readings of the picture in view, kept so that moving the slider back or choosing another patch computes nothing."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from lens.errors import IndexMismatch, LensError
from lens.latentlens.index import Index, find_index, index_folders, indexes_for, open_index
from lens.latentlens.reading import LENSES, SCORES, PatchReading, Reading, read
from lens.latentlens.trajectory import Trajectory, trajectory
from ui import addresses, state
from ui.setup import gives
from ui.state import Reader

K = 5
UNITS = {lens: "logit" if name == "logit" else "cosine" for lens, name in SCORES.items()}
"""What each lens's score is called on a figure."""


@dataclass(frozen=True, eq=False)
class View:
    """What the LatentLens page shows: the reader's model and picture, and what was chosen to look at.

    Attributes:
        index: ``None`` where the model has none.
        layer: of the visual tokens.
        lens: the one drawn over the picture, see :data:`lens.latentlens.reading.LENSES`.
        patch: (row, col).
    """

    reader: Reader
    index: Index | None
    layer: int
    lens: str
    patch: tuple[int, int]


WITHOUT = (
    "LatentLens needs an index of a text corpus that was built with this model's own language model, and there is none yet. "
    "Build one with `python -m lens index build CORPUS --model MODEL --out DIR`. Logit lens and embedding lens work without."
)


@addresses.attended
def choose_index(reader: Reader) -> Index | None:
    """The index in use, chosen from those there are, at first the usual one of the model's row, else one that fits the
    model; ``None`` (and a message) when none does."""
    names, usual = list(index_folders()), reader.spec.index
    fitting = indexes_for(reader.loaded)
    names.sort(key=lambda name: (name != usual, name not in fitting))
    if not names:
        st.info(WITHOUT)
        return None
    name = addresses.select_if_any("Text index", names, "index")
    try:
        return _open(name, reader.loaded.fingerprint, reader)
    except LensError as error:
        if isinstance(error, IndexMismatch) and name not in (usual, addresses.get("index")):
            st.info(WITHOUT)  # nobody chose it
        else:
            state.show_error(error)
        return None


def lenses(index: Index | None, reader: Reader) -> tuple[str, ...]:
    """The lenses that can be shown: the logit lens only where the model passed its check."""
    off = {"latent"} if index is None else set()
    if not gives(reader.loaded, "logits"):
        off.add("logit")
    return tuple(lens for lens in LENSES if lens not in off)


def whole_picture(reader: Reader, index: Index | None, layer: int, lens: str) -> Reading:
    """Every patch at one layer by one lens."""
    return _read(reader, index, layer, lens, content(reader, index))


def one_patch(reader: Reader, index: Index | None, layer: int, patch: tuple[int, int]) -> PatchReading:
    """One patch at one layer by every lens there is: cheap enough to follow each click."""
    return _read_patch(reader, index, layer, patch, content(reader, index)).patches[0]


def through_layers(reader: Reader, index: Index | None, patch: tuple[int, int]) -> Trajectory:
    """One patch at every layer by every lens there is."""
    return _trajectory(reader, index, patch, content(reader, index))


def content(reader: Reader, index: Index | None) -> tuple[str, str]:
    """Names model, picture, prompt and index, on which what is kept depends."""
    return reader.key, str(index.path) if index else ""


@st.cache_resource(max_entries=4, show_spinner="Opening the text index")
def _open(name: str, fingerprint: str, _reader: Reader) -> Index:
    return open_index(find_index(name), _reader.loaded)


@st.cache_resource(max_entries=256, show_spinner=False)
def _read(_reader: Reader, _index: Index | None, layer: int, lens: str, key: tuple[str, str]) -> Reading:
    return read(_reader.loaded, _reader.trace, _index, layer, None, (lens,), K)


@st.cache_resource(max_entries=256, show_spinner=False)
def _read_patch(
    _reader: Reader, _index: Index | None, layer: int, patch: tuple[int, int], key: tuple[str, str]
) -> Reading:
    return read(_reader.loaded, _reader.trace, _index, layer, [patch], lenses(_index, _reader), K)


@st.cache_resource(max_entries=64, show_spinner=False)
def _trajectory(_reader: Reader, _index: Index | None, patch: tuple[int, int], key: tuple[str, str]) -> Trajectory:
    return trajectory(_reader.loaded, _reader.trace, _index, patch, lenses(_index, _reader))


def recall(index: Index | None) -> str:
    """How approximate the index is, as measured when it was built."""
    if index is None:
        return "the vocabulary alone (no index is in use)"
    measured = [record.recall_at_5 for record in index.manifest.layers if record.recall_at_5 is not None]
    worst = min(measured, default=1.0)
    return (
        f"the index *{index.name}* ({index.rows:,} contexts a layer, stored as `{index.manifest.factory}`), which finds at "
        f"least {worst:.1%} of the true five nearest (measured when it was built)"
    )
