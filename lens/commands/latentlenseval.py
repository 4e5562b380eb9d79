"""``python -m lens latentlens-eval``: how often each lens names what labelled patches show, beside its controls."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lens.commands.numbers import wholes
from lens.commands.terminal import printable, progress, table

if TYPE_CHECKING:
    from lens.compare.labelsummary import LabelEval, Rate

LENSES = {"latent": "LatentLens", "logit": "logit lens", "embedding": "embedding lens"}


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "latentlens-eval", help="share of labelled patches whose words name the label, per lens and layer"
    )
    parser.add_argument("folder", type=Path, help="folder of pictures")
    parser.add_argument(
        "--labels", type=Path, required=True, metavar="FILE",
        help="COCO JSON (boxes, polygons or run lengths), or YOLO: data.yaml, classes.txt or their folder",
    )  # fmt: skip
    parser.add_argument("--model", default="demo", help="catalog name, folder or hub id (default: demo)")
    parser.add_argument("--index", help="corpus index for LatentLens (default: the model's own; none leaves it out)")
    parser.add_argument(
        "--layers", type=wholes, metavar="L,L", help="layers of the visual tokens (default: quarters of the depth)"
    )
    parser.add_argument("--prompt", help="what the model is asked along with each picture")
    parser.add_argument(
        "--synonyms", type=Path, metavar="FILE", help='further words that name a label: JSON, {"dog": ["puppy"]}'
    )
    parser.add_argument("--partial", action="store_true", help="leave out labelled pictures that the folder hasn't")
    parser.add_argument("--json", metavar="FILE", help="write all shares as JSON to FILE (- for standard output)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the figure as one HTML file")
    parser.set_defaults(
        run=_run, interrupted="Stopped; what was read is kept, and the same command goes on from there."
    )


def _run(args: argparse.Namespace) -> None:
    from lens.backend.catalog import find, prepare
    from lens.backend.encoding import DEFAULT_PROMPT
    from lens.backend.loading import load
    from lens.compare.labelfiles import read_labels
    from lens.compare.labelled import Plan, evaluate
    from lens.compare.labelsummary import keep, to_text
    from lens.compare.labelwords import read_synonyms
    from lens.compare.patchbench import default_layers
    from lens.export import write_atomically
    from lens.latentlens.index import chosen_index

    labels = read_labels(args.labels, args.folder, args.partial)
    synonyms = read_synonyms(args.synonyms) if args.synonyms else None
    spec = find(args.model)
    with progress() as report:
        prepare(spec, report)
        loaded = load(spec)
        loaded.anatomy.require("connector")
        index = chosen_index(loaded, args.index)
        layers = args.layers or default_layers(loaded.anatomy.depth)
        plan = Plan(layers, DEFAULT_PROMPT if args.prompt is None else args.prompt, synonyms)
        found = evaluate(loaded, index, labels, plan, report)
    keep(found)
    if args.html:
        write_atomically(args.html, _page(found))
    if args.json == "-":
        print(to_text(found), end="")
        return
    if args.json:
        write_atomically(Path(args.json), to_text(found))
    for line in _lines(found, labels.left_out):
        print(line)


def _page(found: LabelEval) -> str:
    from lens.export import figure_html
    from lens.figures.labelled import by_layer, caption, provenance

    return figure_html(by_layer(found), provenance(found), caption=caption(found), name="labelled-patches")


def _lines(found: LabelEval, left_out: int) -> Iterator[str]:
    """A row a lens and layer: shares among five words with their controls, and by the first word."""
    from lens.compare.labelsummary import CONDITIONS

    yield printable(
        f"{found.model}, {found.labels}: {found.pictures:,} pictures, {found.shapes:,} shapes of {len(found.names):,} "
        f"labels, {found.patches:,} labelled patches, {found.background:,} of background"
    )
    if left_out:
        yield f"{left_out:,} labelled pictures left out: the folder hasn't got them."
    if found.unseen:
        yield f"{found.unseen:,} shapes have no patch: they cover half of none, or lie under smaller ones."
    yield printable(f"LatentLens: index {found.index}" if found.index else "LatentLens left out: no index.")
    yield ""
    rows: list[tuple[str, ...]] = [
        ("lens", "layer", "named, top 5", "95 %", *list(CONDITIONS.values())[1:], "top 1", "95 %")
    ]
    for lens in found.lenses:
        for layer in found.layers:
            five = {rate.condition: rate for rate in found.of(lens=lens, layer=layer, top=5)}
            (first,) = found.of(lens=lens, layer=layer, top=1, condition="labelled")
            controls = [_share(five[condition]) for condition in list(CONDITIONS)[1:]]
            own = five["labelled"]
            rows.append(
                (LENSES[lens], str(layer), _share(own), _interval(own), *controls, _share(first), _interval(first))
            )
    yield from table(rows, right=tuple(range(1, 9)))


def _share(rate: Rate) -> str:
    return "-" if rate.share is None else f"{rate.share:.1%}"


def _interval(rate: Rate) -> str:
    return "-" if rate.low is None or rate.high is None else f"{rate.low:.1%} to {rate.high:.1%}"
