"""``python -m lens latentlens-null``: what the lenses find for states without content, measured once for model and index."""

from __future__ import annotations

import argparse
from pathlib import Path

from lens.commands.terminal import printable, progress, table


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "latentlens-null", help="measure the null of a model's lenses: random vectors and other pictures"
    )
    parser.add_argument("--model", default="demo", help="catalog name, folder or hub id (default: demo)")
    parser.add_argument("--index", help="folder or name of an index (default: the model's own)")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="other pictures (default: those of the gallery)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write it (default: into the cache folder)")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    from lens.backend.catalog import find, prepare
    from lens.backend.images import open_picture
    from lens.backend.loading import load
    from lens.embedlens.folder import PictureFolder
    from lens.gallery import gallery
    from lens.latentlens.index import find_index, open_index
    from lens.latentlens.nullfile import save_null
    from lens.latentlens.nulls import KINDS, measure, reference_of
    from lens.progress import part

    spec = find(args.model)
    with progress() as report:
        prepare(spec, report)
        loaded = load(spec)
        name = args.index or spec.index
        index = open_index(find_index(name), loaded) if name else None
        pictures = PictureFolder(args.images) if args.images else [open_picture(photo.path) for photo in gallery()]
        reference = reference_of(loaded, pictures, report=part(report, 0.0, 0.2))
        null = measure(loaded, index, reference, report=part(report, 0.2, 1.0))
    path = save_null(null, args.out)
    rows = [("layer", *KINDS)]
    lens = "latent/raw" if index is not None else "embedding"
    for layer in null.measured:
        bands = null.bands(lens, layer)
        rows.append((str(layer), *(f"{low:.3f} to {high:.3f}" for low, high in bands.values())))
    print(f"{lens}: best score of each state without content, 5th to 95th percentile")
    for line in table(rows, right=(0,)):
        print(f"  {line}")
    print(f"Kept in {printable(str(path))}.")
