"""``python -m lens embedlens patch-bench``: one item in one patch; who can still name it, and its colour?"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lens.commands.numbers import count, whole, wholes
from lens.commands.terminal import printable, progress, table

if TYPE_CHECKING:
    from lens.compare.patchsummary import PatchBench

ACTION = "patch-bench"
NAMES = {"embedding": "embedding probe", "logit": "logit lens", "latent": "LatentLens", "answer": "answer"}


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        f"embedlens {ACTION}", help="draw letters, digits and objects into one patch each, and see who can name them"
    )
    parser.add_argument("model", help="catalog name, folder or hub id")
    parser.add_argument("--items", type=count, default=2000, metavar="N", help="items read by the lenses (2000)")
    parser.add_argument(
        "--asked", type=whole, default=240, metavar="N", help="items that are also drawn large, and asked about (240)"
    )
    parser.add_argument(
        "--layers", type=wholes, metavar="L,L", help="layers to be read (default: quarters of the depth)"
    )
    parser.add_argument("--seed", type=whole, default=0, help="of the order of the items (0)")
    parser.add_argument("--index", help="corpus index for LatentLens (default: the model's own; none leaves it out)")
    parser.add_argument("--json", metavar="FILE", help="write all rates as JSON to FILE (- for standard output)")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="write the figures as one HTML file, with PNG and SVG buttons"
    )
    parser.set_defaults(
        run=_run, interrupted="Stopped; what was read is kept, and the same command goes on from there."
    )


def _run(args: argparse.Namespace) -> None:
    from lens.backend.catalog import find, prepare
    from lens.backend.loading import load
    from lens.compare.patchbench import Plan, default_layers, run
    from lens.compare.patchsummary import keep, to_text
    from lens.export import write_atomically
    from lens.latentlens.index import chosen_index

    spec = find(args.model)
    with progress() as report:
        prepare(spec, report)
        loaded = load(spec)
        loaded.anatomy.require("connector")
        index = chosen_index(loaded, args.index)
        layers = args.layers or default_layers(loaded.anatomy.depth)
        bench = run(loaded, index, Plan(args.items, args.asked, layers, args.seed), report)
    keep(bench)
    if args.html:
        write_atomically(args.html, _page(bench))
    if args.json == "-":
        print(to_text(bench))
        return
    if args.json:
        write_atomically(Path(args.json), to_text(bench) + "\n")
    for line in _lines(bench):
        print(line)


def _page(bench: PatchBench) -> str:
    from lens.export import figure_html
    from lens.figures.patchbench import by_type

    provenance = {
        "model": bench.model,
        "fingerprint": bench.fingerprint,
        "index": bench.index,
        "items": bench.items,
        "asked": bench.asked,
        "seed": bench.seed,
    }
    caption = (
        f"One item in one patch of {bench.patch} x {bench.patch} pixels: share of {bench.items:,} items that a lens names "
        f"among its five best words, and of {bench.asked:,} that the answer names. Grey: chance, from shuffled labels."
    )
    return figure_html(by_type(bench), provenance, caption=caption, name="patch-bench")


def _lines(bench: PatchBench) -> Iterator[str]:
    """Two tables, identity and colour: a row a reader and layer, columns of shares."""
    from lens.compare.patchsummary import CONDITIONS

    yield printable(
        f"{bench.model}: {bench.items:,} items, each in one patch of {bench.patch} x {bench.patch} of {bench.canvas} x "
        f"{bench.canvas} pixels; {bench.asked:,} also drawn large, and asked about"
    )
    yield printable(
        f"LatentLens: index {bench.index}" if bench.index else "LatentLens left out: this model has no index."
    )
    for question in bench.questions:
        rows: list[tuple[str, ...]] = [
            (
                "reader",
                "layer",
                "letters",
                "digits",
                "objects",
                "all",
                "best word",
                "95 %",
                "chance",
                "large",
                "not drawn",
            )
        ]
        for first in bench.of(question=question, condition="patch", kind="all", top=1):
            own = {"question": question, "reader": first.reader, "layer": first.layer}
            top = 1 if first.reader == "answer" else 5

            def cell(kind: str, condition: str, own: dict = own, top: int = top) -> str:
                found = bench.of(**own, kind=kind, condition=condition, top=top)
                return f"{found[0].share:.1%}" if found else "-"

            best = bench.of(**own, kind="all", condition="patch", top=top)[0]
            shares = [cell(kind, "patch") for kind in ("letter", "digit", "object", "all")]
            interval = f"{best.low:.1%} to {best.high:.1%}"
            beside = [cell("all", condition) for condition in CONDITIONS if condition != "patch"]
            layer = "" if first.layer is None else str(first.layer)
            rows.append(
                (NAMES[first.reader], layer, *shares, f"{first.share:.1%}", interval, f"{best.chance:.1%}", *beside)
            )
        yield ""
        yield f"{question.capitalize()}, named among the five best words (the answer: in its text)"
        yield from (f"  {line}" for line in table(rows, right=(1, 2, 3, 4, 5, 6, 8, 9, 10)))
