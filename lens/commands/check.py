"""``python -m lens check MODEL``: a model checked against itself, and what it can't give."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from lens.commands.terminal import printable, progress, table, write_json
from lens.errors import ModelUnreadable

if TYPE_CHECKING:
    from lens.backend.checking import Report

OUTCOMES = {True: "passed", False: "failed", None: "not asked"}


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("check", help="check a model against itself: which views it can give")
    parser.add_argument("model", help="catalog name, folder or hub id")
    parser.add_argument("--image", help="picture that the model is shown (default: soft coloured noise)")
    parser.add_argument("--json", metavar="FILE", help="write JSON to FILE (- for standard output) instead of a table")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    from lens.backend.catalog import find, prepare
    from lens.backend.checking import check
    from lens.backend.images import open_picture
    from lens.backend.selfcheck import keep
    from lens.backend.store import STORE

    picture = open_picture(args.image) if args.image else None
    spec = find(args.model)
    with progress() as report:
        prepare(spec, report)
        loaded = STORE.model(spec)
        found = check(loaded, picture, report)
    if picture is None:
        keep(loaded, found)
    if args.json:
        write_json(args.json, {**asdict(found), "passed": found.passed, "off": list(found.off)})
    else:
        for line in _lines(found):
            print(line)
    if not found.passed:
        failed = [check.name for check in found.checks if check.passed is False]
        raise ModelUnreadable(
            f"{found.model} fails {len(failed)} of {len(found.checks)} checks ({', '.join(failed)}); "
            f"what is off: {', '.join(found.off)}."
        )


def _lines(found: Report) -> Iterator[str]:
    yield printable(f"{found.model}: {found.family} family, model type {found.model_type}")
    yield from table([(check.name, OUTCOMES[check.passed], printable(check.why)) for check in found.checks])
