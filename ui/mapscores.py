"""Section of the SEG maps page: the reader's mask, drawn or from a file, and how well the map finds it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import streamlit as st

from lens.backend.maskfiles import Mask, mask_png, read_mask
from lens.backend.tracing import Trace
from lens.errors import LensError, MaskUnusable
from lens.figures.segmaps import ScoreLine, score_curves, threshold_curves
from lens.segmaps.baselines import centre_prior, oracle
from lens.segmaps.maps import SimilarityMap, fine_boxes, scaled, smooth
from lens.segmaps.nulls import MovedScores, moved_scores
from lens.segmaps.scores import (
    LayerScores,
    Target,
    ciou,
    giou,
    pointing,
    raster_iou,
    score_layers,
    threshold_curve,
)
from lens.statistics import p_fraction, p_value
from ui import export, mapstate, mapviews, maskeditor, state
from ui.classcards import table
from ui.export import Exhibit
from ui.maps import Shown
from ui.mapstate import OwnMask
from ui.state import Reader

OVER_PICTURES = {"giou": "gIoU", "ciou": "cIoU"}
NOTHING = float("nan")
MASK_BYTES = 64 << 20
"""Memory for the masks that one session keeps, packed: thousands of drawn ones."""


def scores(shown: Shown) -> list[Exhibit]:
    """The editor of the mask beside the scores of the map in view; then the scores at every layer."""
    left, right = st.columns(2, gap="medium")
    with left:
        choose_mask(shown.reader)
    own, results = mapstate.mask(shown.reader), shown.reading.scores
    if own is None or results is None:
        right.info(
            "No mask yet. Paint what the map should find onto the picture, or give a file with its mask; then the map is "
            "scored at every layer.",
            icon=":material/brush:",
        )
        return []
    moved = _moved(shown.found, own.mask, (shown.key, own.key))
    target = _target(shown.found, own.mask, (shown.question.key, own.key))
    with right:
        st.html(_table(shown, own.mask, target, results, moved))
        by_threshold = _by_threshold(shown, own.mask, target, results)
        export.show(by_threshold)
    st.markdown("**Every layer** · dotted: the layer in view")
    by_layer = _by_layer(shown, own, results, moved)
    export.show(by_layer)
    st.caption(
        f"Moved: the same map, shifted over the grid by {moved.iou.shape[1]} other numbers of patches, so that it is as "
        "blobby but not where it belongs. A score inside their range says nothing. Oracle: the mask itself on this grid of "
        "patches."
    )
    return [by_threshold, by_layer, *_over_pictures(shown, results)]


def choose_mask(reader: Reader) -> None:
    """Draw the mask of the picture in view, or give its file."""
    picture = reader.picture
    st.markdown("**Your mask**")
    maskeditor.edit_mask("mask-editor", picture, _drawing(reader), lambda value: _take_drawing(reader, value))
    st.file_uploader(
        f"Or a file of {picture.width} x {picture.height} pixels: an image, or COCO JSON", key="mask-file",
        on_change=_take_file, args=(reader,),
    )  # fmt: skip
    if error := st.session_state.pop("mask-error", None):
        state.show_error(error)
    if own := mapstate.mask(reader):
        left, right = st.columns([3, 2], vertical_alignment="center")
        left.caption(f"{own.mask.inside.mean():.1%} of the picture are inside.")
        right.download_button(
            "Save mask", lambda: mask_png(own.mask.inside), "mask.png", "image/png", on_click="ignore", width="stretch"
        )


def _drawing(reader: Reader) -> maskeditor.Drawing:
    held = st.session_state.get("drawings", {}).get(reader.picture.digest)
    return held.drawing if held else maskeditor.blank((reader.picture.width, reader.picture.height))


def _keep(reader: Reader, drawing: maskeditor.Drawing) -> None:
    """For this picture from now on; :class:`MaskUnusable` where the session has no room for one more."""
    drawings = st.session_state.setdefault("drawings", {})
    kept = maskeditor.KeptDrawing.of(drawing)
    others = sum(one.nbytes for digest, one in drawings.items() if digest != reader.picture.digest)
    if kept.nbytes + others > MASK_BYTES:
        raise MaskUnusable(
            f"The masks of {len(drawings)} pictures take {others / 1e6:.0f} MB already, and this one "
            f"{kept.nbytes / 1e6:.0f} MB, of {MASK_BYTES / 1e6:.0f} that a session has room for; save one, and clear it."
        )
    drawings[reader.picture.digest] = kept
    mapstate.keep_mask(reader, drawing.mask)


def _take_drawing(reader: Reader, value: Mapping) -> None:
    try:
        _keep(reader, maskeditor.redrawn(_drawing(reader), value))
    except LensError as error:
        st.session_state["mask-error"] = error


def _take_file(reader: Reader) -> None:
    """A file's mask takes the place of what was drawn; one that can't be used changes nothing."""
    file = st.session_state["mask-file"]
    if file is None:
        return
    size = (reader.picture.width, reader.picture.height)
    try:
        mask = read_mask(file.getvalue(), size, reader.picture.name)
        _keep(reader, maskeditor.blank(size, mask, _drawing(reader).version + 1))
    except LensError as error:
        st.session_state["mask-error"] = error


def _table(shown: Shown, mask: Mask, target: Target, results: LayerScores, moved: MovedScores) -> str:
    """The scores at the layer in view, beside what the same map moved elsewhere gives."""
    at = results.at(shown.layer)
    chance = pointing(np.zeros(shown.found.boxes.shape[:2]), shown.found.boxes, mask.inside)
    rows = [("map at Otsu's threshold", _number(at.iou), _number(at.auc), f"{at.pointing:.0%}")]
    if shown.threshold[0] not in ("otsu", "head"):
        rows.append((f"map at {shown.raster.note}", _number(raster_iou(shown.raster, mask)), "", ""))
    rows.append((f"map at its best threshold ({max(at.best_threshold, 0):.2f})", _number(at.best_iou), "", ""))
    rows += [("the model's mask head", _number(raster_iou(head, mask)), "", "") for head in shown.reading.heads[:1]]
    spread, p = [], []
    for measure in ("iou", "auc"):
        null = moved.of(measure, shown.layer)
        if not np.isfinite(null).all():  # nothing of the mask was seen
            spread.append("–")
            p.append("–")
            continue
        spread.append(f"{null.mean():.3f} (95 % up to {np.quantile(null, 0.95):.3f})")
        p.append(p_fraction(p_value(getattr(at, measure), null, two_sided=False), len(null)))
    rows += [("the map moved elsewhere", *spread, f"{chance:.0%}"), ("p: moved maps score as high", *p, "")]
    seen = target.inside.sum() / target.total
    blind = "" if seen > 0.995 else f" The encoder saw {seen:.0%} of your mask; the rest counts as missed."
    note = f"Layer {shown.layer}. The best threshold knows the mask. Pointing: the highest patch lies inside.{blind}"
    return table(("", "IoU", "AUC", "pointing"), rows) + f'<p class="tl-how">{note}</p>'


def _number(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "–"


def _by_threshold(shown: Shown, mask: Mask, target: Target, results: LayerScores) -> Exhibit:
    fine = scaled(smooth(scaled(shown.found.at(shown.layer))))
    at_best = scaled(smooth(scaled(oracle(shown.asked.trace, mask).at(shown.layer))))
    curves = {}
    for name, values in (("this map", fine), ("oracle", at_best)):
        found = threshold_curve(values, target)
        curves[name] = (found.thresholds, found.iou)
    figure = threshold_curves(curves, mark=results.at(shown.layer).threshold)
    rows: list[dict[str, object]] = [
        {"map": name, "threshold": float(t), "IoU": float(iou)}
        for name, (thresholds, values) in curves.items()
        for t, iou in zip(thresholds, values, strict=True)
    ]
    title = "IoU of what lies above a threshold (dotted: Otsu's)"
    return Exhibit("thresholds", title, figure, lambda: rows, mapviews.scored(shown))


def _by_layer(shown: Shown, own: OwnMask, results: LayerScores, moved: MovedScores) -> Exhibit:
    chance = pointing(np.zeros(shown.found.boxes.shape[:2]), shown.found.boxes, own.mask.inside)
    bars = {name: np.quantile(getattr(moved, name), 0.95, axis=1) for name in ("iou", "auc")}
    means = {name: getattr(moved, name).mean(axis=1) for name in ("iou", "auc")}
    lines = [
        _line(mapviews.query_name(shown.found, shown.word), results),
        ScoreLine("moved, mean", moved.layers, {**means, "pointing": [chance] * len(moved.layers)}),
        ScoreLine("moved, 95 % lie below", moved.layers, {**bars, "pointing": [NOTHING] * len(moved.layers)}),
        *(
            _line(name, found)
            for name, found in _deaf(shown.asked.trace, own.mask, (shown.question.key, own.key)).items()
        ),
    ]
    figure = score_curves(lines, mark=shown.layer, width=mapviews.ACROSS)
    rows: list[dict[str, object]] = [
        {"map": line.name, "layer": layer, **{name: float(values[i]) for name, values in line.values.items()}}
        for line in lines
        for i, layer in enumerate(line.layers)
    ]
    return Exhibit("scores", "Scores at every layer beside their controls", figure, lambda: rows, _facts(shown))


def _line(name: str, found: LayerScores) -> ScoreLine:
    return ScoreLine(name, found.layers, {key: found.curve(key).tolist() for key in ("iou", "auc", "pointing")})


def _over_pictures(shown: Shown, results: LayerScores) -> list[Exhibit]:
    """gIoU and cIoU, which are over pictures: those that were scored in this session by the same kind of map."""
    kind = (shown.reader.loaded.fingerprint, shown.found.kind, shown.found.rule, shown.similarity)
    held: dict[str, LayerScores] = st.session_state.setdefault("scored pictures", {}).setdefault(kind, {})
    held[shown.reader.picture.digest] = results
    if len(held) < 2:
        st.caption("gIoU and cIoU are over pictures: mask a second one, and both stand here at every layer.")
        return []
    st.markdown(f"**Over the {len(held)} pictures that you masked** · this model, kind of query, state and similarity")
    pairs = [
        [(one.both, one.union) for one in row] for row in zip(*(each.scores for each in held.values()), strict=True)
    ]
    values = {
        name: [score([(both, union) for both, union in row if np.isfinite(both)] or [(0.0, 0.0)]) for row in pairs]
        for name, score in (("giou", giou), ("ciou", ciou))
    }
    line = ScoreLine(f"{len(held)} pictures", results.layers, values)
    figure = score_curves([line], measures=OVER_PICTURES, mark=shown.layer, width=mapviews.ACROSS, height=220)
    rows: list[dict[str, object]] = [
        {"layer": layer, "pictures": len(held), **{OVER_PICTURES[name]: of[i] for name, of in values.items()}}
        for i, layer in enumerate(results.layers)
    ]
    names = [f"sha256 {digest[:16]}" for digest in held]
    source = export.provenance(shown.reader, None, "all", "SEG map", names)
    del source["prompt"]  # each was asked for its own
    source |= {"kind of query": shown.found.kind, "state that is read": shown.found.rule or "none",
               "similarity": shown.similarity}  # fmt: skip
    drawn = Exhibit("over-pictures", "gIoU and cIoU at every layer", figure, lambda: rows, source)
    export.show(drawn)
    return [drawn]


def _facts(shown: Shown) -> dict[str, object]:
    return mapviews.scored(shown, "all")


@st.cache_resource(max_entries=32, show_spinner=False)
def _moved(_found: SimilarityMap, _mask: Mask, content: Hashable) -> MovedScores:
    return moved_scores(_found, _mask)


@st.cache_resource(max_entries=16, show_spinner=False)
def _target(_found: SimilarityMap, _mask: Mask, content: Hashable) -> Target:
    return Target.of(_mask, fine_boxes(_found.boxes))


@st.cache_resource(max_entries=32, show_spinner=False)
def _deaf(_trace: Trace, _mask: Mask, content: Hashable) -> dict[str, LayerScores]:
    """The scores of a map that doesn't look, and of one that knows the mask; both are the same at every layer."""
    found = {"centre of the picture": centre_prior(_trace), "oracle": oracle(_trace, _mask)}
    return {name: _same_everywhere(one, _mask) for name, one in found.items()}


def _same_everywhere(found: SimilarityMap, mask: Mask) -> LayerScores:
    first = score_layers(found.only(found.layers[0]), mask)
    return LayerScores(found.layers, first.scores * len(found.layers))
