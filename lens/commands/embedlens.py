"""``python -m lens embedlens IMAGE``: the classes of an image's visual tokens. Over a folder of images ``embedlens anchors``
finds what they rest on, ``fractions`` how large they are, ``prune`` what the answers lose without one of them.

These words, and that of :mod:`lens.commands.patchbench`, stand where an image's path would; an image of such a name is
given as ``./anchors``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lens.backend.visible import visible
from lens.commands import patchbench
from lens.commands.numbers import count, whole
from lens.commands.terminal import printable, progress, table, write_json

if TYPE_CHECKING:
    from lens.backend.loading import LoadedModel
    from lens.embedlens.anchors import Anchors
    from lens.embedlens.causal_folder import FolderEffect
    from lens.embedlens.classes import TokenClasses
    from lens.embedlens.folder import PictureFolder
    from lens.progress import Report

ACTIONS = ("anchors", "fractions", "prune", patchbench.ACTION)
WORDS = 3
"""Words of a patch shown in the table; JSON has all five."""


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("embedlens", help="which of an image's visual tokens are sink, dead and alive")
    parser.add_argument("image", help="PNG, JPEG, WebP, BMP, TIFF or GIF")
    parser.add_argument("--model", default="demo", help="catalog name, folder or hub id (default: demo)")
    parser.add_argument("--prompt", help="what the model is asked along with the image")
    _layer(parser)
    _rule(parser)
    parser.add_argument("--json", metavar="FILE", help="write JSON to FILE (- for standard output) instead of a table")
    parser.set_defaults(run=_classes)

    anchors = commands.add_parser(
        "embedlens anchors", help="find a model's sink and dead anchors in a folder of images"
    )
    _folder(anchors)
    anchors.add_argument("--out", type=Path, metavar="FILE", help="where to write them (default: the cache folder)")
    anchors.add_argument(
        "--threshold",
        type=_threshold,
        action="append",
        metavar="NAME=VALUE",
        help="another value for a number of the rule, such as dead_cosine=0.7; may be given several times",
    )
    anchors.set_defaults(run=_anchors, interrupted="Stopped; no anchors were written.")

    fractions = commands.add_parser("embedlens fractions", help="how large the classes are over a folder of images")
    _folder(fractions)
    _layer(fractions)
    _rule(fractions)
    fractions.set_defaults(run=_fractions)

    prune = commands.add_parser("embedlens prune", help="what the answers to a folder of images lose without a class")
    prune.add_argument("images", type=Path, metavar="IMAGES_FOLDER", help="images to be asked about")
    prune.add_argument("--class", dest="kind", required=True, choices=("sink", "dead", "alive"), help="what is pruned")
    prune.add_argument("--model", default="demo", help="catalog name, folder or hub id (default: demo)")
    _some(prune)
    _rule(prune)
    prune.add_argument(
        "--controls", type=count, default=20, metavar="N", help="random sets of equal size an image (20)"
    )
    prune.add_argument("--spatial", action="store_true", help="draw controls near the pruned patches")
    prune.add_argument("--seed", type=whole, default=0, help="of the controls (0)")
    prune.add_argument("--json", metavar="FILE", help="write JSON to FILE (- for standard output) instead of a table")
    prune.set_defaults(run=_prune)

    patchbench.add(commands)


def _layer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--layer", type=int, default=0, help="layer of the visual tokens (default: 0, the connector's)")


def _rule(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rule", type=int, choices=(1, 3), default=3, help="look at the best word or the best three")
    parser.add_argument("--min-cosine", type=_cosine, default=0.0, help="least cosine at which an anchor counts")
    parser.add_argument("--anchors", type=Path, metavar="FILE", help="anchors of this model (default: its own)")


def _folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="catalog name, folder or hub id")
    parser.add_argument("images", type=Path, metavar="IMAGES_FOLDER", help="at least 200 varied photographs serve best")
    _some(parser)


def _some(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=count, metavar="N", help="take only N of them, spread evenly over the folder")
    parser.add_argument("--prompt", help="what the model is asked along with each image")


def _classes(args: argparse.Namespace) -> None:
    from lens.backend.encoding import encode
    from lens.backend.images import open_picture
    from lens.backend.tracing import trace
    from lens.embedlens.classes import as_json, classify

    picture = open_picture(args.image)
    with progress() as report:
        loaded = _load(args.model, report)
    anchors = _anchors_of(loaded, args.anchors)
    layer = loaded.anatomy.check_layer(args.layer)
    held = trace(loaded, encode(loaded, _prompt(args), picture), [f"hidden.{layer}"])
    classes = classify(loaded, held, anchors, layer, args.rule, args.min_cosine)
    if args.json:
        write_json(args.json, as_json(classes, anchors))
        return
    size = f"{picture.width} x {picture.height} pixels, {classes.rows} x {classes.cols} patches"
    print(f"{printable(loaded.name)}, layer {layer}, {printable(picture.name)} ({size})")
    for line in _lines(classes, anchors):
        print(line)


def _anchors(args: argparse.Namespace) -> None:
    from lens.embedlens.anchors import own_file, write_anchors
    from lens.embedlens.discovery import DEFAULTS, discover
    from lens.embedlens.folder import PictureFolder

    pictures = PictureFolder(args.images, args.limit)
    with progress() as report:
        loaded = _load(args.model, report)
        anchors = discover(loaded, pictures, _prompt(args), thresholds=dict(args.threshold or ()), report=report)
    target = args.out or own_file(loaded)
    write_anchors(anchors, target)
    print(printable(anchors.note))
    rows = [("id", "token", "kind", "origin", "images", "cosine", "tokens per image")]
    for a in anchors.found:
        token = printable(visible(a.token))
        rows.append((str(a.id), token, a.kind, a.origin, f"{a.share:.1%}", f"{a.cosine:.4f}", f"{a.count:.1f}"))
    if anchors.found:
        for line in table(rows, right=(0, 4, 5, 6)):
            print(f"  {line}")
    numbers = ", ".join(f"{key} {anchors.thresholds[key]:g}" for key in DEFAULTS)
    print(f"Thresholds: {numbers}.")
    _tell_skipped(pictures)
    print(f"Written to {printable(str(target))}.")


def _fractions(args: argparse.Namespace) -> None:
    from lens.embedlens.classes import CLASSES
    from lens.embedlens.folder import PictureFolder
    from lens.embedlens.fractions import class_fractions

    pictures = PictureFolder(args.images, args.limit)
    with progress() as report:
        loaded = _load(args.model, report)
        anchors = _anchors_of(loaded, args.anchors)
        options = {"layer": loaded.anatomy.check_layer(args.layer), "rule": args.rule, "min_cosine": args.min_cosine}
        found = class_fractions(loaded, pictures, _prompt(args), anchors, report=report, **options)
    print(f"{printable(loaded.name)}, layer {found.layer}, {found.images:,} images, best {found.rule} of each token")
    rows = [("class", "share", "95 % interval")]
    for name in CLASSES:
        low, high = found.interval[name]
        rows.append((name, f"{found.mean[name]:.1%}", f"{low:.1%} to {high:.1%}"))
    for line in table(rows, right=(1,)):
        print(f"  {line}")
    print(f"Both sink and dead: {found.overlaps.mean():.1%} (labelled sink).")
    _tell_skipped(pictures)


def _prune(args: argparse.Namespace) -> None:
    from lens.embedlens.causal_folder import as_json, prune_folder
    from lens.embedlens.folder import PictureFolder

    pictures = PictureFolder(args.images, args.limit)
    with progress() as report:
        loaded = _load(args.model, report)
        anchors = _anchors_of(loaded, args.anchors)
        options = {"rule": args.rule, "min_cosine": args.min_cosine, "controls": args.controls, "seed": args.seed}
        found = prune_folder(
            loaded, pictures, _prompt(args), anchors, args.kind, spatial=args.spatial, report=report, **options
        )
    if args.json:
        table_of = {"model": loaded.name, "prompt": _prompt(args), **options, "spatial": args.spatial, **as_json(found)}
        write_json(args.json, table_of)
        return
    for line in _effect_lines(found, loaded.name, args.controls):
        print(line)
    _tell_skipped(pictures)


def _effect_lines(found: FolderEffect, model: str, controls: int) -> Iterator[str]:
    """What pruning does on average, beside the controls, and the difference of the two."""
    used = len(found.pictures) - found.empty
    changed = sum(picture.answer != picture.treated_answer for picture in found.pictures)
    yield f"{printable(model)}: {found.kind} tokens pruned in {used:,} of {len(found.pictures):,} images"
    if not used:
        yield "No image has a token of that class, so that nothing changes."
        return
    tokens = sum(picture.tokens for picture in found.pictures) / used
    yield f"{tokens:.1f} tokens an image, {controls} controls of equal size each; other answers: {changed:,}"
    rows: list[tuple[str, ...]] = [("in nats, mean over images (95 % interval)", "pruned", "controls", "difference")]
    for name, words in (("logprob", "log-probability of the answer"), ("kl", "KL of the next token")):
        cells = (_mean(found, key) for key in (name, f"control_{name}", f"beyond_{name}"))
        rows.append((words, *cells))
    yield from (f"  {line}" for line in table(rows))


def _mean(found: FolderEffect, name: str) -> str:
    if name not in found.mean:
        return "-"
    low, high = found.interval[name]
    return f"{found.mean[name]:+.3f} ({low:+.3f} to {high:+.3f})"


def _load(name: str, report: Report) -> LoadedModel:
    """The model, which must see images."""
    from lens.backend.catalog import find, prepare
    from lens.backend.loading import load

    spec = find(name)
    prepare(spec, report)
    loaded = load(spec)
    loaded.anatomy.require("connector")
    return loaded


def _anchors_of(loaded: LoadedModel, file: Path | None) -> Anchors:
    from lens.embedlens.anchors import anchors_for, read_anchors
    from lens.errors import AnchorsUnreadable

    anchors = read_anchors(file, loaded) if file else anchors_for(loaded)
    if anchors is None:
        raise AnchorsUnreadable(
            f"No anchors are known for the model {loaded.name!r}; find them with `python -m lens embedlens anchors "
            f"{loaded.name} IMAGES_FOLDER`."
        )
    return anchors


def _prompt(args: argparse.Namespace) -> str:
    from lens.backend.encoding import DEFAULT_PROMPT

    return DEFAULT_PROMPT if args.prompt is None else args.prompt


def _lines(classes: TokenClasses, anchors: Anchors) -> Iterator[str]:
    """Fractions, anchors, then a row for each patch."""
    shares = ", ".join(f"{name} {share:.1%}" for name, share in classes.fractions.items())
    yield f"{shares}; {classes.overlap} patches are both sink and dead (labelled sink)"
    named = [f"{printable(visible(a.token))} ({' '.join((a.origin, a.kind)).strip()})" for a in anchors.found]
    yield f"Anchors: {', '.join(named)}" if named else printable(anchors.note)
    yield ""
    rows = [("patch", "class", "margin", "words")]
    for i, words in enumerate(classes.words):
        row, col = divmod(i, classes.cols)
        shown = ", ".join(f"{printable(visible(word))} {cosine:.3f}" for word, cosine in words[:WORDS])
        margin = f"{classes.margin[row, col]:+.3f}" if anchors.found else "-"
        rows.append((f"{row},{col}", str(classes.labels[row, col]), margin, shown))
    yield from table(rows, right=(2,))


def _tell_skipped(pictures: PictureFolder) -> None:
    if pictures.skipped:
        name, reason = pictures.skipped[0]
        print(f"Files skipped: {len(pictures.skipped)}, such as {printable(name)}: {printable(reason)}")


def _threshold(text: str) -> tuple[str, float]:
    from lens.embedlens.discovery import DEFAULTS

    name, _, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if name not in DEFAULTS or not number >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no threshold; give NAME=VALUE with one of {', '.join(DEFAULTS)}")
    return name, number


def _cosine(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not -1 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no cosine; give a number from -1 to 1")
    return number
