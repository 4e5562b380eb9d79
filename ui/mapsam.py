"""Section of the SEG maps page: masks by a segment-anything model that is on disk, prompted by the map's points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import streamlit as st

from lens.backend.regions import sampled
from lens.errors import LensError
from lens.figures.segmaps import Drawn, Layer, map_overlay, painted_photo
from lens.progress import Report
from lens.segmaps.maps import fine_boxes, scaled, smooth
from lens.segmaps.points import LABELS, Point
from lens.segmaps.sam import Sam, SamMasks, Seen, find_sam, look, open_sam, sam_masks
from lens.segmaps.scores import overlap
from ui import export, mapstate, mapviews, pointeditor, state
from ui.classcards import table
from ui.export import Exhibit
from ui.maps import Shown
from ui.work import offered


def prompted(shown: Shown) -> list[Exhibit]:
    """The points, which can be moved; and what SAM makes of them, where there is one."""
    left, right = st.columns(2, gap="medium")
    with left:
        st.markdown("**Points** · green circle: inside · red cross: outside · grey: no statement")
        points = _points(shown)
    with right:
        return _answers(shown, points)


def _points(shown: Shown) -> tuple[Point, ...]:
    """The map's points as the reader left them, in their editor."""
    found, picture = shown.found, shown.reader.picture
    own = [(point.x, point.y, point.label) for point in shown.points]
    values = scaled(found.at(shown.layer))
    photo = painted_photo(picture.image, Layer(smooth(values), fine_boxes(found.boxes)), 0.4)
    pointeditor.edit_points("point-editor", photo, (picture.width, picture.height), own, picture.digest)
    moved = pointeditor.moved(own, picture.digest)
    counts = {name: sum(label == value for *_, label in moved) for value, name in LABELS.items()}
    st.caption(
        " · ".join(f"{count} {name}" for name, count in counts.items()) + ". The sliders above choose the map's own."
    )
    return tuple(
        Point(x, y, label, float(sampled(values, found.boxes, np.array([x]), np.array([y]))[0, 0]))
        for x, y, label in moved
    )


def _answers(shown: Shown, points: Sequence[Point]) -> list[Exhibit]:
    try:
        folder = find_sam()
    except LensError as error:
        st.markdown("**Masks by SAM**")
        with st.container(key="sam-missing"):
            st.info("There is no segmenter here yet.", icon=":material/download:")
            st.text(str(error))
        return []
    st.markdown(f"**Masks by SAM** · {folder.name}")
    picture = shown.reader.picture
    seen = offered(
        "sam", (str(folder), picture.digest), "Let SAM look at the picture", _work(folder, shown),
        "Loads the checkpoint and runs its image encoder once; each prompt after that is quick.",
    )  # fmt: skip
    if seen is None:
        return []
    try:
        found = sam_masks(seen, points)
    except LensError as error:
        state.show_error(error)
        return []
    names = {number: f"{number + 1} ({estimate:.2f})" for number, estimate in enumerate(found.estimates)}
    which = st.segmented_control(
        "Answer, with the IoU that SAM expects of it", list(names), default=0, key="sam-answer", format_func=names.get,
        required=True, help="Points can mean a part, a thing or a group: SAM gives three answers, best first.",
    )  # fmt: skip
    drawn = _mask(shown, points, found, which)
    export.show(drawn)
    if own := mapstate.mask(shown.reader):
        pairs = [overlap(mask, own.mask) for mask in found.masks]
        rows = [(names[i], f"{both / union:.3f}") for i, (both, union) in enumerate(pairs)]
        st.html(table(("answer", "IoU with your mask"), rows))
    return [drawn]


def _work(folder: Path, shown: Shown) -> Callable[[Report], Seen]:
    def work(report: Report) -> Seen:
        report(0, 2, "Loading SAM")
        sam = _sam(str(folder))
        report(1, 2, "SAM looks at the picture")
        return look(sam, shown.reader.picture)

    return work


@st.cache_resource(max_entries=1, show_spinner=False)
def _sam(folder: str) -> Sam:
    return open_sam(Path(folder))


def _mask(shown: Shown, points: Sequence[Point], found: SamMasks, which: int) -> Exhibit:
    """One answer over the map."""
    own = mapstate.mask(shown.reader)
    drawn = Drawn(
        points=[(point.x, point.y, LABELS[point.label]) for point in points],
        found=found.masks[which],
        wanted=own.mask.inside if own else None,
    )
    source = {**mapviews.of_picture(shown), "segmenter": "SAM", "estimate": float(found.estimates[which])}
    figure = map_overlay(
        shown.reader.picture.image, shown.found.boxes, shown.reading.shown, name=shown.similarity, opacity=0.25,
        drawn=drawn, width=mapviews.WIDTH,
    )  # fmt: skip
    rows: list[dict[str, object]] = [
        {"x": point.x, "y": point.y, "label": LABELS[point.label], "similarity": point.similarity} for point in points
    ]
    return Exhibit("sam", "SAM's mask for these points", figure, lambda: rows, source)
