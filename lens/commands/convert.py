"""``python -m lens convert CHECKPOINT``: LISA, SESAME, READ or Sa2VA, as published, into a model that loads."""

from __future__ import annotations

import argparse
from pathlib import Path

from lens.commands.terminal import printable, progress


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("convert", help="make a checkpoint of LISA, SESAME, READ or Sa2VA loadable")
    parser.add_argument("checkpoint", help="folder, hub id, or the name of a row of the catalog such as lisa-7b")
    parser.add_argument("--vision", metavar="FOLDER_OR_ID", help="the CLIP tower (default: the one its settings name)")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="the new folder (default: one of that name in the cache folder's models)",
    )
    parser.set_defaults(run=_run, interrupted="Stopped; the same command goes on after the last whole shard.")


def _run(args: argparse.Namespace) -> None:
    from lens.home import home
    from lens.segmaps.checkpointrows import PUBLISHED
    from lens.segmaps.checkpoints import convert

    published = PUBLISHED.get(args.checkpoint)
    source = published.source if published else args.checkpoint
    vision = args.vision or (published.vision if published else None)
    out = args.out or home() / "models" / Path(args.checkpoint).name.lower()
    with progress() as report:
        folder = convert(source, out, vision, report)
    print(printable(f"{folder} is ready: `python -m lens segmap IMAGE --query cat --model {folder}` uses it."))
