"""The frame of the commands that train a part of the offline model: arguments, progress, what they leave behind."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lens.backend.files import replacing, write_json
from lens.errors import LensError


def training_parser(module: str, trained: str, seed: int) -> argparse.ArgumentParser:
    """The arguments that every training has: ``--photos``, ``--out``, ``--seed``."""
    parse = argparse.ArgumentParser(f"python -m {module}", description=f"Train {trained} of the offline model.")
    parse.add_argument(
        "--photos", type=Path, required=True, help="folder of <wnid>_<class>.jpg, one per ImageNet class"
    )
    parse.add_argument("--out", type=Path, required=True, help="folder for checkpoint, log, weights and card")
    parse.add_argument("--seed", type=int, default=seed)
    return parse


def show(done: float, total: float, message: str) -> None:
    """Report to the terminal, one line that is overwritten."""
    print(f"\r{message}: {done:.0f} of {total:.0f}  ", end="", file=sys.stderr, flush=True)


def leave(out: Path, qualities: Any, card: str) -> None:
    """Write ``quality.json`` and ``card.md`` into the output folder, and show the card."""
    write_json(out / "quality.json", qualities, indent=1)
    with replacing(out / "card.md") as part:
        part.write_text(card, encoding="utf-8")
    print(f"\n{card}")


def run(main: Callable[[], int]) -> None:
    """The program: its status, or the one sentence of an error."""
    try:
        sys.exit(main())
    except LensError as error:
        sys.exit(f"error: {error}")
