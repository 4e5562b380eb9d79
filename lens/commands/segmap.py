"""``python -m lens segmap IMAGE --query cat``: what a <SEG> token, a word or a patch is similar to in the image."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lens.backend.visible import visible
from lens.commands.numbers import count
from lens.commands.terminal import printable, progress, table, write_json

if TYPE_CHECKING:
    from lens.backend.images import Picture
    from lens.backend.loading import LoadedModel
    from lens.segmaps.asking import Asked
    from lens.segmaps.maps import Query, SimilarityMap
    from lens.segmaps.masks import Raster
    from lens.segmaps.reading import MapReading
    from lens.segmaps.sam import SamMasks
    from lens.segmaps.specificity import Specificity

MODEL = "demo-seg"
SHOWN = 5
"""Patches in the table; JSON has all."""


@dataclass(frozen=True)
class _Found:
    """A reading, what has to be said about it, and SAM's masks for its points, with SAM's name, where one was given."""

    model: str
    reading: MapReading
    notes: tuple[str, ...]
    sam: tuple[str, SamMasks] | None = None


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("segmap", help="what a <SEG> token, or any token, is similar to in an image")
    parser.add_argument("image", help="PNG, JPEG, WebP, BMP, TIFF or GIF")
    parser.add_argument("--query", required=True, help="the thing that is asked for, such as cat")
    parser.add_argument("--model", help=f"catalog name, folder or hub id (default: {MODEL})")
    parser.add_argument("--prompt", help="what the model is asked (default: 'Segment the QUERY.')")
    parser.add_argument(
        "--by",
        choices=("seg", "word", "typed"),
        help="compare the <SEG> of the answer, the query's word in the prompt, or the query typed by itself (default: seg "
        "where the model has it, else word)",
    )
    parser.add_argument(
        "--patch", type=_cell, metavar="ROW,COL", help="compare one patch with all, in place of a token"
    )
    parser.add_argument(
        "--seg", type=count, default=1, metavar="N", help="which <SEG> of the answer (default: the first)"
    )
    parser.add_argument(
        "--force", action="store_true", help="where the model doesn't say <SEG>, put an answer with it into its mouth"
    )
    parser.add_argument(
        "--layer", type=int, metavar="L", help="0 = input embeddings (default: the last, after the norm)"
    )
    parser.add_argument("--token-rule", choices=("p-1", "p"), help="the state that leads to the token, or its own")
    parser.add_argument("--similarity", choices=("dot", "cosine", "centred"), default="dot")
    parser.add_argument(
        "--scale", choices=("min-max", "z-score", "difference"), default="min-max",
        help="difference: the map's z-scores minus the mean of those of control words",
    )  # fmt: skip
    parser.add_argument(
        "--controls", metavar="WORDS",
        help="say whether the map is specific to the query, by the maps of these other words, with commas between them; one "
        "run each (with --scale difference by default: submarine,piano,giraffe)",
    )  # fmt: skip
    parser.add_argument(
        "--threshold", type=_threshold, default=("otsu", None), metavar="T", help="otsu, or a similarity from 0 to 1"
    )
    parser.add_argument("--sam", type=Path, metavar="FOLDER", help="prompt the SAM in FOLDER with the map's points")
    parser.add_argument("--mask", type=Path, metavar="FILE", help="score the map against a mask: PNG or COCO JSON")
    parser.add_argument("--json", metavar="FILE", help="write JSON to FILE (- for standard output) instead of a table")
    parser.add_argument("--png", type=Path, metavar="FILE", help="write the map over the image to FILE")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    from lens.segmaps.reading import as_json

    found = _read(args)
    if args.png:
        from lens.export import write_atomically

        write_atomically(args.png, _png(found, args))
    if args.json:
        table = {**as_json(found.reading, found.model), "sam": _sam_json(found), "notes": list(found.notes)}
        write_json(args.json, table)
        return
    for line in _lines(found):
        print(line)


def _read(args: argparse.Namespace) -> _Found:
    from lens.backend.catalog import find, prepare
    from lens.backend.images import open_picture
    from lens.backend.maskfiles import read_mask
    from lens.backend.store import STORE
    from lens.segmaps.maps import similarity_map
    from lens.segmaps.masks import open_head
    from lens.segmaps.reading import read_map

    picture = open_picture(args.image)
    wanted = read_mask(args.mask, (picture.width, picture.height), picture.name) if args.mask else None
    notes = []
    spec = find(args.model or MODEL)
    with progress() as report:
        prepare(spec, report)
    loaded = STORE.model(spec)
    loaded.anatomy.require("connector")
    layer = loaded.anatomy.depth if args.layer is None else loaded.anatomy.check_layer(args.layer)
    head = open_head(loaded)
    asked = _ask(args, loaded, picture, head.sites() if head else (), notes)
    query = _query(args, loaded, asked, notes)
    found = similarity_map(asked.trace, query, args.similarity)
    found, specific = _controls(args, loaded, asked, query, found, layer)
    heads: tuple[Raster, ...] = ()
    if query.kind == "seg" and spec.says_seg:
        notes.append(spec.says_seg)
    if head and query.kind == "seg" and query.position is not None:
        from lens.segmaps.masks import LITTLE, head_rasters

        heads = head_rasters(head, asked.trace, found, (query.position,))
        if heads[0].share < LITTLE and spec.masks_well:
            notes.append(spec.masks_well)
    reading = read_map(asked, found, layer, scale=args.scale, threshold=args.threshold, heads=heads, wanted=wanted)
    reading = replace(reading, specific=specific)
    return _Found(loaded.name, reading, tuple(notes), _sam(args.sam, picture, reading) if args.sam else None)


def _ask(
    args: argparse.Namespace, loaded: LoadedModel, picture: Picture, sites: tuple[str, ...], notes: list[str]
) -> Asked:
    """The question and its answer: the model's own, else with ``--force`` one with <SEG>, and a note that says so."""
    from lens.errors import QueryMissing
    from lens.segmaps.asking import ask, question, seg_token

    token = seg_token(loaded)
    if token and args.query.strip() == token.text:
        raise QueryMissing(
            f"--query is {token.text}, but what is asked for is expected, such as cat: the map is that of {token.text} then."
        )
    prompt = question(loaded, args.query) if args.prompt is None else args.prompt
    asked = ask(loaded, prompt, picture, sites=sites)
    if not args.force or asked.seg is None or asked.segs:
        return asked
    notes.append(f"{loaded.name} answered {asked.answer[:200]!r}; “{asked.seg.answer}” was put into its mouth.")
    return ask(loaded, prompt, picture, answer=asked.seg.answer, sites=sites)


def _sam(folder: Path, picture: Picture, reading: MapReading) -> tuple[str, SamMasks]:
    from lens.segmaps.sam import look, open_sam, sam_masks

    sam = open_sam(folder)
    return sam.name, sam_masks(look(sam, picture), reading.points)


def _sam_ious(found: _Found) -> list[float | None]:
    """The IoU of each of SAM's masks with the one that was given, if there is one."""
    from lens.segmaps.scores import overlap

    ious: list[float | None] = []
    for mask in found.sam[1].masks if found.sam else ():
        both, union = overlap(mask, found.reading.wanted) if found.reading.wanted else (0, 0)
        ious.append(both / union if union else None)
    return ious


def _sam_json(found: _Found) -> dict | None:
    from lens.backend.maskfiles import mask_runs

    if found.sam is None:
        return None
    name, answers = found.sam
    rows = zip(answers.masks, answers.estimates, _sam_ious(found), strict=True)
    return {
        "name": name,
        "masks": [
            {
                "expected_iou": round(float(estimate), 6),
                "iou": None if iou is None else round(iou, 6),
                "segmentation": mask_runs(mask),
            }
            for mask, estimate, iou in rows
        ],
    }


def _query(args: argparse.Namespace, loaded: LoadedModel, asked: Asked, notes: list[str]) -> Query:
    """What is compared with the patches; a note where it isn't what the default would be."""
    from lens.segmaps.asking import find_word, patch_query, seg_query, token_query, word_query

    if args.patch:
        return patch_query(asked, *args.patch)
    by = args.by or ("seg" if asked.seg else "word")
    if by == "typed":
        return word_query(loaded, args.query)
    if by == "seg":
        return seg_query(asked, args.seg - 1, args.token_rule)
    if args.by is None:
        notes.append(f"{loaded.name} has no <SEG> token: the map is that of the word {args.query!r} in the prompt.")
    return token_query(asked, find_word(asked, args.query), args.token_rule or "p")


def _controls(
    args: argparse.Namespace, loaded: LoadedModel, asked: Asked, query: Query, found: SimilarityMap, layer: int
) -> tuple[SimilarityMap, Specificity | None]:
    """The map, or with ``--scale difference`` what is left of it, and what the control words say, where they are tried."""
    from lens.segmaps.maps import similarity_map
    from lens.segmaps.specificity import WORDS, control_queries, control_words, difference, specificity

    if args.controls is None and args.scale != "difference":
        return found, None
    others = control_words(WORDS if args.controls is None else args.controls.split(","), query, args.query)
    with progress() as report:
        queries = control_queries(loaded, asked, query, args.query, others, report)
    maps = {
        other: similarity_map(asked.trace, one, args.similarity) for other, one in zip(others, queries, strict=True)
    }
    specific = specificity(found, args.query, maps, layer)
    return (difference(found, maps) if args.scale == "difference" else found), specific


def _lines(found: _Found) -> Iterator[str]:
    """The reading as text: notes, what was read, scores, the most similar patches."""
    reading, shown = found.reading, found.reading.found
    for note in found.notes:
        print(printable(note), file=sys.stderr)
    rows, cols = reading.shown.shape
    rule = f", read at {shown.rule}" if shown.rule else ""
    yield printable(f"{found.model}, layer {reading.layer}, {shown.similarity} similarity, {rows} x {cols} patches")
    yield printable(f"Asked: {reading.asked.encoded.prompt} Answered: {reading.asked.answer or '(nothing)'}")
    yield printable(f"Query: {visible(shown.name)}{rule}")
    if len(reading.asked.segs) > 1:
        yield f"The answer has {len(reading.asked.segs)} <SEG>, each with a map of its own; --seg N chooses one."
    if reading.specific:
        alike = ", ".join(f"{word} {r:.2f}" for word, r in reading.specific.alike.items())
        yield printable(f"{reading.specific.question} {reading.specific.answer} r by control word: {alike}")
    labels = [point.label for point in reading.points]
    yield f"Points: {labels.count(1)} positive, {labels.count(0)} negative, {labels.count(-1)} neutral"
    share = reading.raster.mask.mean()
    yield f"Mask: {share:.1%} of the image ({reading.raster.note}, {reading.raster.threshold:.3f} of the min-max map)"
    if reading.heads:
        own = reading.heads[0]
        empty = "" if own.cells.any() else f" (nothing: its highest logit is {own.values.max():.2f})"
        yield f"The model's mask head: {own.mask.mean():.1%} of the image{empty}"
    yield from _score_lines(reading)
    yield from _sam_lines(found)
    yield ""
    cells = sorted(((float(v), r, c) for (r, c), v in _cells(reading)), reverse=True)[:SHOWN]
    yield from table([("patch", reading.scale), *((f"{r},{c}", f"{v:.3f}") for v, r, c in cells)], right=(1,))


def _cells(reading: MapReading) -> Iterator[tuple[tuple[int, int], float]]:
    rows, cols = reading.shown.shape
    for row in range(rows):
        for col in range(cols):
            yield (row, col), reading.shown[row, col]


def _score_lines(reading: MapReading) -> Iterator[str]:
    from lens.segmaps.scores import raster_iou

    if reading.scores is None or reading.wanted is None:
        return
    at = reading.scores.at(reading.layer)
    pointed = {0.0: "outside", 1.0: "inside"}.get(at.pointing, f"{at.pointing:.0%} inside")
    yield (
        f"Against the mask: IoU {raster_iou(reading.raster, reading.wanted):.3f} (at best {at.best_iou:.3f}), AUC "
        f"{at.auc:.3f}, most similar patch {pointed}"
    )
    if reading.heads:
        yield f"The model's mask head: IoU {raster_iou(reading.heads[0], reading.wanted):.3f}"


def _sam_lines(found: _Found) -> Iterator[str]:
    if found.sam is None:
        return
    name, answers = found.sam
    for mask, estimate, iou in zip(answers.masks, answers.estimates, _sam_ious(found), strict=True):
        score = "" if iou is None else f", IoU {iou:.3f}"
        yield printable(f"{name}: {mask.mean():.1%} of the image (IoU that it expects: {estimate:.3f}{score})")


def _png(found: _Found, args: argparse.Namespace) -> bytes:
    from lens.figures.mapimage import map_png
    from lens.figures.segmaps import Drawn, Layer
    from lens.segmaps.maps import fine_boxes, smooth
    from lens.segmaps.points import LABELS

    reading = found.reading
    picture = reading.asked.encoded.picture
    assert picture is not None  # a map was made of it
    mask = found.sam[1].masks[0] if found.sam else (reading.heads[0] if reading.heads else reading.raster).mask
    drawn = Drawn(
        points=[(point.x, point.y, LABELS[point.label]) for point in reading.points if point.label >= 0],
        found=mask,
        wanted=reading.wanted.inside if reading.wanted else None,
    )
    fine = reading.raster.values if reading.scale == "min-max" else smooth(reading.shown)
    paint = Layer(fine, fine_boxes(reading.found.boxes))
    less = f" minus {', '.join(reading.found.minus)}" if reading.found.minus else ""
    title = f"{found.model}, layer {reading.layer}: {reading.found.name} ({args.query}){less}"
    name = reading.scale if reading.found.minus else reading.found.similarity
    return map_png(picture.image, paint, title=title, name=name, drawn=drawn)


def _cell(text: str) -> tuple[int, int]:
    try:
        row, col = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form ROW,COL; give 2 whole numbers") from None
    return row, col


def _threshold(text: str) -> tuple[str, float | None]:
    if text == "otsu":
        return "otsu", None
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no threshold; give otsu or a similarity from 0 to 1")
    return "value", number
