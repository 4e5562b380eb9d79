"""What the EmbedLens page computes, kept by content: moving a slider back or choosing another patch computes nothing.

Everything here reads the reader's trace, except the jobs (``*_work``), which run forwards and are started by a button.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import streamlit as st

from lens.backend.attention import attention_received
from lens.backend.cache import BoundedCache
from lens.backend.controlled import CausalResult
from lens.backend.encoding import visual_grid
from lens.backend.images import Picture, open_picture
from lens.backend.store import STORE
from lens.embedlens import agreement, causal, layers
from lens.embedlens.anchors import Anchors, anchors_for, own_file, write_anchors
from lens.embedlens.causal_folder import FolderEffect, prune_folder
from lens.embedlens.classes import CLASSES, TokenClasses, classify, groups
from lens.embedlens.discovery import discover
from lens.embedlens.folder import PictureFolder
from lens.embedlens.fractions import ClassFractions, class_fractions
from lens.embedlens.hubness import Hubness, hubness
from lens.embedlens.judging import judged
from lens.embedlens.layers import CrossImage, cross_image
from lens.embedlens.path import Step, classes_by_layer, token_path
from lens.embedlens.persistence import Persistence, TextControl, persistence, text_control
from lens.embedlens.plane import TokenPlane, pictures_plane
from lens.embedlens.probe import probe
from lens.errors import CapabilityMissing, LensError
from lens.gallery import gallery
from lens.progress import Report, part
from ui import state
from ui.folders import ask_folder
from ui.state import Reader
from ui.work import offered

MOVABLE = {
    "image_share": ("share of the images that an anchor must be in", 0.5, 1.0, 0.01),
    "sink_cosine": ("cosine across images above which an anchor is a sink", 0.5, 1.0, 0.01),
    "dead_cosine": ("cosine across images from which an anchor is dead", 0.5, 1.0, 0.01),
}
"""Thresholds of the anchors that a reader can move: meaning, lowest, highest, step."""
MANY = 100
"""Pictures of a folder in which a class is pruned on the page."""
CONTROL_TEXT = (
    "A brown dog and a small cat sleep on the green sofa beside an open window, while a girl in a yellow coat pours hot "
    "coffee from a silver pot into three white cups on the wooden kitchen table."
)
ENOUGH = 300
"""Images looked at when anchors are sought on the page."""
ATTENTION_BYTES = 16 << 20
_ATTENTION: BoundedCache[np.ndarray] = BoundedCache(ATTENTION_BYTES, lambda received: received.nbytes)


@dataclass(frozen=True)
class Rule:
    """How tokens are judged: the layer, how many best words are looked at, and the least cosine that counts."""

    layer: int
    top: int
    min_cosine: float


@dataclass(frozen=True)
class Answering:
    """Class fractions along one threshold: what it is, its values, by class the fraction at each, and the value in use."""

    along: str
    at: tuple[float, ...]
    fractions: dict[str, list[float]]
    mark: float


def anchors_of(reader: Reader) -> Anchors | None:
    """The model's anchors; ``None`` where there are none on file and none were found yet."""
    try:
        found = anchors_for(reader.loaded)
    except LensError as error:
        state.show_error(error)
        return None
    return found if found is not None else _find_anchors(reader)


def _find_anchors(reader: Reader) -> Anchors | None:
    """Offers to look for anchors in a folder of the computer that runs the app; keeps what is found."""
    st.info(
        "EmbedLens needs the model's anchors (the words that its sink and dead tokens are nearest to), and none were "
        "looked for in this model yet. Give a folder of at least 200 varied images, or run "
        f"`python -m lens embedlens anchors {reader.spec.name} IMAGES_FOLDER` and reload."
    )
    folder = ask_folder("Folder of images on the computer that runs TokenLens", "anchor-folder")
    if not folder:
        return None

    def work(report: Report) -> Anchors:
        found = discover(reader.loaded, PictureFolder(folder, ENOUGH), reader.encoded.prompt, report=report)
        write_anchors(found, own_file(reader.loaded))
        return found

    cost = f"Runs the model once on each of at most {ENOUGH} images, and keeps the result for next time."
    return offered("anchors", (reader.loaded.fingerprint, folder), "Find anchors", work, cost)


def key(reader: Reader, anchors: Anchors) -> Hashable:
    """Names picture, prompt, model and anchors."""
    return reader.key, tuple((anchor.id, anchor.kind) for anchor in anchors.found)


def token_classes(reader: Reader, anchors: Anchors, rule: Rule) -> TokenClasses:
    """The class of every patch."""
    return _classes(reader, anchors, rule, key(reader, anchors))


def path(reader: Reader, anchors: Anchors, patch: tuple[int, int], rule: Rule) -> tuple[Step, ...]:
    """One patch at every layer."""
    return _path(reader, anchors, patch, rule.top, rule.min_cosine, key(reader, anchors))


def moved(anchors: Anchors, thresholds: Mapping[str, float]) -> Anchors:
    """The anchors under the reader's thresholds; published ones have no statistics to judge anew."""
    return judged(anchors, thresholds) if anchors.candidates else anchors


def answering_threshold(reader: Reader, anchors: Anchors, rule: Rule) -> list[Answering]:
    """How the class fractions of this picture answer each threshold, the others kept where the reader has them."""
    thresholds = tuple(anchors.thresholds.get(name, 0.0) for name in MOVABLE)
    return _answering(reader, anchors, rule, thresholds, key(reader, anchors))


def norms(reader: Reader, layer: int) -> np.ndarray:
    """Norm of each visual token's state, [rows, cols]."""
    grid = visual_grid(reader.trace.token_map)
    states = reader.trace.hidden(layer)[grid.positions.reshape(-1)].float()
    return states.norm(dim=-1).numpy().reshape(grid.rows, grid.cols)


@st.cache_resource(max_entries=128, show_spinner=False)
def _classes(_reader: Reader, _anchors: Anchors, rule: Rule, content: Hashable) -> TokenClasses:
    return classify(_reader.loaded, _reader.trace, _anchors, rule.layer, rule.top, rule.min_cosine)


@st.cache_resource(max_entries=128, show_spinner=False)
def _path(
    _reader: Reader, _anchors: Anchors, patch: tuple[int, int], top: int, min_cosine: float, content: Hashable
) -> tuple[Step, ...]:
    return token_path(_reader.loaded, _reader.trace, _anchors, patch, top, min_cosine)


@st.cache_resource(max_entries=64, show_spinner=False)
def _answering(
    _reader: Reader, _anchors: Anchors, rule: Rule, thresholds: Hashable, content: Hashable
) -> list[Answering]:
    positions = visual_grid(_reader.trace.token_map).positions.reshape(-1)
    words = probe(_reader.loaded, _reader.trace.hidden(rule.layer)[positions])

    def shares(anchors: Anchors, least: float) -> list[float]:
        member = groups(words, anchors, rule.top, least)
        label = np.select([member["sink"], member["dead"]], CLASSES[:2], CLASSES[2])
        return [float((label == name).mean()) for name in CLASSES]

    def answering(along: str, at: Sequence[float], found: Sequence[list[float]], mark: float) -> Answering:
        return Answering(along, tuple(at), {name: [f[i] for f in found] for i, name in enumerate(CLASSES)}, mark)

    steps = [round(0.05 * i, 2) for i in range(21)]
    curves = [
        answering(
            "least cosine of a token with its anchor", steps, [shares(_anchors, t) for t in steps], rule.min_cosine
        )
    ]
    if _anchors.candidates:
        for name, (title, low, high, step) in MOVABLE.items():
            at = [round(low + step * i, 3) for i in range(round((high - low) / step) + 1)]
            found = [shares(judged(_anchors, {name: t}), rule.min_cosine) for t in at]
            curves.append(answering(title, at, found, _anchors.thresholds[name]))
    return curves


def attention(reader: Reader) -> np.ndarray | None:
    """Attention that each visual token receives from the text, [blocks, visual]; ``None`` if the model gives none. One
    forward the first time."""
    try:
        return _ATTENTION.get(reader.key, lambda: attention_received(reader.loaded, reader.encoded))
    except CapabilityMissing:
        return None


@dataclass(frozen=True, eq=False)
class ThroughLayers:
    """The classes at every layer, and the quantities of :func:`lens.embedlens.layers.quantities`."""

    classes: dict[int, TokenClasses]
    quantities: dict[str, tuple[int, np.ndarray]]


def layers_work(reader: Reader, anchors: Anchors, rule: Rule) -> Callable[[Report], ThroughLayers]:
    """Two products with the vocabulary a layer, and one forward for the attention; the same for every layer in view."""

    def work(report: Report) -> ThroughLayers:
        trace, loaded = reader.trace, reader.loaded
        classes = classes_by_layer(loaded, trace, anchors, rule.top, rule.min_cosine, part(report, 0, 0.45))
        words = layers.nearest_words(loaded, trace, part(report, 0.45, 0.9))
        report(0.9, 1, "Attention")
        return ThroughLayers(classes, layers.quantities(trace, attention(reader), words))

    return work


def curves(reader: Reader, anchors: Anchors, rule: Rule, found: ThroughLayers) -> dict[str, dict[str, layers.Curve]]:
    """How the tokens of each class, as judged at the layer in view, fare through the layers."""
    return _curves(reader, found, rule, key(reader, anchors))


@st.cache_resource(max_entries=64, show_spinner=False)
def _curves(
    _reader: Reader, _found: ThroughLayers, rule: Rule, content: Hashable
) -> dict[str, dict[str, layers.Curve]]:
    return layers.curves(_found.quantities, _found.classes[rule.layer].labels)


def pictures(reader: Reader) -> list[Picture]:
    """The gallery, and the reader's own picture if it isn't one of them."""
    found = [open_picture(photo.path, photo.title) for photo in gallery()]
    return found if reader.picture.digest in {p.digest for p in found} else [reader.picture, *found]


def pictures_work(
    reader: Reader, anchors: Anchors, rule: Rule
) -> Callable[[Report], tuple[ClassFractions, CrossImage]]:
    """Class fractions and cross-image similarity over the gallery."""

    def work(report: Report) -> tuple[ClassFractions, CrossImage]:
        many, prompt, loaded = pictures(reader), reader.encoded.prompt, reader.loaded
        how = {"layer": rule.layer, "rule": rule.top, "min_cosine": rule.min_cosine}
        fractions = class_fractions(loaded, many, prompt, anchors, **how, report=part(report, 0, 0.5))
        return fractions, cross_image(loaded, many, prompt, anchors, **how, report=part(report, 0.5, 1))

    return work


def map_work(reader: Reader, anchors: Anchors, rule: Rule) -> Callable[[Report], TokenPlane]:
    """The tokens of the gallery's pictures in one map, by PCA and by UMAP; those of the picture in view first."""

    def work(report: Report) -> TokenPlane:
        how = {"layer": rule.layer, "rule": rule.top, "min_cosine": rule.min_cosine}
        many = sorted(pictures(reader), key=lambda picture: picture.digest != reader.picture.digest)
        return pictures_plane(reader.loaded, many, reader.encoded.prompt, anchors, **how, report=report)

    return work


def positions(reader: Reader, classes: TokenClasses, name: str) -> list[int]:
    """Sequence positions of the patches of one class."""
    return visual_grid(reader.trace.token_map).positions[classes.labels == name].tolist()


def prune_work(
    reader: Reader, classes: TokenClasses, kinds: Sequence[str], spatial: bool
) -> Callable[[Report], dict[str, CausalResult]]:
    """Prune each of some classes, beside 20 controls of equal size."""

    def work(report: Report) -> dict[str, CausalResult]:
        answer = STORE.answer(reader.loaded, reader.encoded)
        return {
            kind: causal.prune(
                reader.loaded, reader.encoded, positions(reader, classes, kind), spatial=spatial, answer=answer,
                report=part(report, number / len(kinds), (number + 1) / len(kinds)),
            )
            for number, kind in enumerate(kinds)
        }  # fmt: skip

    return work


def skip_work(
    reader: Reader, classes: TokenClasses, kind: str, blocks: range, sublayers: Sequence[str]
) -> Callable[[Report], dict[str, CausalResult]]:
    """Skip sublayers for the tokens of a class, beside 20 controls."""

    def work(report: Report) -> dict[str, CausalResult]:
        answer = STORE.answer(reader.loaded, reader.encoded)
        chosen = positions(reader, classes, kind)
        found = causal.skip_sublayers(
            reader.loaded, reader.encoded, chosen, blocks, sublayers, answer=answer, report=report
        )
        return {kind: found}

    return work


def inject_work(reader: Reader, layer: int) -> Callable[[Report], dict[str, CausalResult]]:
    """Let the visual tokens enter before block ``layer``."""

    def work(report: Report) -> dict[str, CausalResult]:
        report(0, 1, "Two runs")
        answer = STORE.answer(reader.loaded, reader.encoded)
        return {"all": causal.inject(reader.loaded, reader.encoded, layer, answer)}

    return work


def norm_work(reader: Reader) -> Callable[[Report], causal.NormSweep]:
    """Scale all visual tokens."""

    def work(report: Report) -> causal.NormSweep:
        answer = STORE.answer(reader.loaded, reader.encoded)
        return causal.scale_norm(reader.loaded, reader.encoded, answer=answer, report=report)

    return work


def rules_work(reader: Reader, layer: int) -> Callable[[Report], agreement.Rules]:
    """Every other rule's scores: one forward that keeps more sites, and one for the attention."""

    def work(report: Report) -> agreement.Rules:
        report(0, 2, "Attention")
        received = attention(reader)
        report(1, 2, "The sites that the other rules read")
        held = STORE.trace(reader.loaded, reader.encoded, agreement.sites(reader.loaded))
        return agreement.rules(reader.loaded, held, received, layer=layer)

    return work


@dataclass(frozen=True, eq=False)
class Controls:
    """The three controls of the classes of one picture."""

    hubness: Hubness
    persistence: tuple[Persistence, ...]
    text: TextControl


def controls_work(reader: Reader, anchors: Anchors, rule: Rule) -> Callable[[Report], Controls]:
    """Anchors without content, moved windows, and text whose words are known."""

    def work(report: Report) -> Controls:
        loaded, prompt = reader.loaded, reader.encoded.prompt
        how = {"rule": rule.top, "min_cosine": rule.min_cosine}
        states = reader.trace.hidden(0)[visual_grid(reader.trace.token_map).positions.reshape(-1)]
        hubs = hubness(loaded, anchors, states, prompt=prompt, images=3, report=part(report, 0, 0.4))
        moved = persistence(loaded, reader.picture, prompt, anchors, **how, report=part(report, 0.4, 0.8))
        report(0.8, 1, "Text tokens")
        return Controls(hubs, moved, text_control(loaded, CONTROL_TEXT, anchors, **how))

    return work


def many_work(reader: Reader, anchors: Anchors, rule: Rule, kind: str, folder: str) -> Callable[[Report], FolderEffect]:
    """Prune a class in every picture of a folder, or of the gallery."""

    def work(report: Report) -> FolderEffect:
        many = PictureFolder(folder, MANY) if folder else pictures(reader)
        prompt = reader.encoded.prompt
        return prune_folder(
            reader.loaded, many, prompt, anchors, kind, rule=rule.top, min_cosine=rule.min_cosine, report=report
        )

    return work
