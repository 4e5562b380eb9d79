"""``python -m lens latentlens IMAGE``: what the LatentLens page shows, as a table or as JSON."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from lens.commands.terminal import printable, progress, table, write_json
from lens.errors import IndexMissing

if TYPE_CHECKING:
    from lens.backend.catalog import ModelSpec
    from lens.backend.encoding import PatchGrid
    from lens.backend.images import Picture
    from lens.latentlens.reading import Reading, VocabularyWord
    from lens.latentlens.search import Neighbour

MOST_NEIGHBOURS = 1000


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("latentlens", help="the words that an image's visual tokens are nearest to")
    parser.add_argument("image", help="PNG, JPEG, WebP, BMP, TIFF or GIF")
    parser.add_argument("--model", default="demo", help="catalog name, folder or hub id (default: demo)")
    parser.add_argument("--index", help="folder or name of an index (default: the model's own)")
    parser.add_argument("--prompt", help="what the model is asked along with the image")
    parser.add_argument("--layer", type=int, help="layer of the visual tokens, 0 = as they enter the language model")
    parser.add_argument(
        "--patch", type=_numbers(2), action="append", metavar="ROW,COL", help="one patch; may be given several times"
    )
    parser.add_argument(
        "--region", type=_numbers(4), action="append", metavar="R0,C0,R1,C1", help="a rectangle, corners included"
    )
    parser.add_argument("--lens", choices=("latent", "logit", "embedding", "all"), default="latent")
    parser.add_argument(
        "--top-k", type=_count, default=5, metavar="K", help="neighbours per patch and lens (default: 5)"
    )
    parser.add_argument("--json", metavar="FILE", help="write JSON to FILE (- for standard output) instead of a table")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    from lens.backend.catalog import find
    from lens.backend.images import open_picture
    from lens.latentlens.reading import LENSES, as_json

    picture = open_picture(args.image)
    spec = find(args.model)
    lenses = LENSES if args.lens == "all" else (args.lens,)
    name = args.index or spec.index
    if "latent" in lenses and not name:
        raise IndexMissing(
            f"The model {spec.name!r} has no index of its own: build one with `python -m lens index build CORPUS --model "
            f"{args.model} --out DIR` and give --index DIR, or choose --lens logit or --lens embedding."
        )
    reading = _read(args, spec, picture, name if "latent" in lenses else None, lenses)
    if args.json:
        write_json(args.json, as_json(reading))
    else:
        for line in _lines(reading, picture.name):
            print(line)


def _read(
    args: argparse.Namespace, spec: ModelSpec, picture: Picture, index: str | None, lenses: Sequence[str]
) -> Reading:
    from lens.backend.catalog import prepare
    from lens.backend.encoding import DEFAULT_PROMPT, encode, visual_grid
    from lens.backend.loading import load
    from lens.backend.tracing import trace
    from lens.latentlens.index import find_index, open_index
    from lens.latentlens.reading import default_layer, read

    with progress() as report:
        prepare(spec, report)
    folder = find_index(index) if index else None
    loaded = load(spec)
    encoded = encode(loaded, DEFAULT_PROMPT if args.prompt is None else args.prompt, picture)
    layer = default_layer(loaded.anatomy.depth) if args.layer is None else loaded.anatomy.check_layer(args.layer)
    patches = _patches(args, visual_grid(encoded.token_map))
    opened = open_index(folder, loaded) if folder else None
    return read(loaded, trace(loaded, encoded, [f"hidden.{layer}"]), opened, layer, patches, lenses, args.top_k)


def _patches(args: argparse.Namespace, grid: PatchGrid) -> list[tuple[int, int]] | None:
    """The union of all patches and regions asked for; ``None`` (all) where there is neither."""
    if not args.patch and not args.region:
        return None
    corners = [(row, col, row, col) for row, col in args.patch or ()] + list(args.region or ())
    return [patch for region in corners for patch in grid.region(*region)]


def _lines(reading: Reading, picture: str) -> Iterator[str]:
    """The reading as a table; in sentences, what the causal model had not read yet stands after a bar."""
    width, height = reading.size
    index = f", index {reading.index}" if reading.index else ""
    yield printable(
        f"{reading.model}{index}, layer {reading.layer}, {picture} ({width} x {height} pixels, {reading.rows} x "
        f"{reading.cols} patches)"
    )
    yield ""
    context = ("layer", "sentence (seen | not yet seen)") if reading.index else ("", "")
    rows: list[tuple[str, ...]] = [("patch", "lens", "score", "word", *context)]
    for patch in reading.patches:
        name = f"{patch.row},{patch.col}"
        for lens in reading.lenses:
            for found in patch.neighbours[lens]:
                rows.append((name, lens, *_cells(found)))
                name = ""
    yield from table(rows, right=(2, 4))


def _cells(found: Neighbour | VocabularyWord) -> tuple[str, str, str, str]:
    """Score, word, layer and sentence of one neighbour; the last two blank where there is no context."""
    from lens.latentlens.search import Neighbour

    word = printable(found.shown)
    if not isinstance(found, Neighbour):
        return f"{found.score:.3f}", word, "", ""
    sentence = f"{found.sentence[: found.seen]} | {found.sentence[found.seen :]}"
    return f"{found.similarity:.3f}", word, str(found.layer), printable(sentence).removesuffix(" |")


def _numbers(count: int) -> Callable[[str], tuple[int, ...]]:
    """An argument of that many comma-separated whole numbers."""

    def parse(text: str) -> tuple[int, ...]:
        parts = text.split(",")
        try:
            numbers = tuple(int(part) for part in parts)
        except ValueError:
            numbers = ()
        if len(numbers) != count:
            form = "ROW,COL" if count == 2 else "R0,C0,R1,C1"
            raise argparse.ArgumentTypeError(f"{text!r} is not of the form {form}; give {count} whole numbers")
        return numbers

    return parse


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_NEIGHBOURS:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to {MOST_NEIGHBOURS}")
    return int(text)
