"""The frame of the commands that train a part of the offline model: arguments, progress, what they leave behind."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lens.backend.files import replacing, write_json
from lens.commands.numbers import positive
from lens.errors import DeviceUnusable, LensError


def training_parser(module: str, trained: str, seed: int, minutes: float) -> argparse.ArgumentParser:
    """The arguments that every training has: ``--photos``, ``--out``, ``--seed``, ``--device``, ``--minutes``.

    ``seed`` and ``minutes`` are the defaults.
    """
    parse = argparse.ArgumentParser(f"python -m {module}", description=f"Train {trained} of the offline model.")
    parse.add_argument(
        "--photos", type=Path, required=True, help="folder of <wnid>_<class>.jpg, one per ImageNet class"
    )
    parse.add_argument("--out", type=Path, required=True, help="folder for checkpoint, log, weights and card")
    parse.add_argument("--seed", type=int, default=seed)
    parse.add_argument("--device", help="where it runs: cpu, cuda, cuda:1, mps (default: the accelerator, else cpu)")
    parse.add_argument(
        "--minutes", type=positive, default=minutes,
        help=f"time for the training itself, which its schedule is laid out over (default: {minutes:g})",
    )  # fmt: skip
    return parse


def training_device(name: str | None) -> torch.device:
    """The device that ``--device`` names; without a name the accelerator where there is one, else the processor.

    Raises:
        DeviceUnusable: torch knows no such device, wasn't built for it, or can't compute on it.
    """
    if name is None:
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        found = " ".join(str(error).split())[:120]
        raise DeviceUnusable(
            f"The device {name!r} can't be used here ({found}); choose another, such as cpu, or leave --device out."
        ) from error
    return device


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
    except KeyboardInterrupt:
        sys.exit("\nStopped; what was saved is kept, and the same command goes on from there.")
