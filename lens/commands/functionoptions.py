"""What the commands of function tokens share: their options, the model, its usual features, its function tokens."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lens.backend.visible import visible
from lens.commands.terminal import printable

if TYPE_CHECKING:
    import numpy as np

    from lens.backend.loading import LoadedModel
    from lens.functiontokens.counts import TokenCounts
    from lens.progress import Report


def grouping(parser: argparse.ArgumentParser) -> None:
    """Options that say which tokens are function tokens."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--cut", type=share, default=0.4, help="share of all occurrences that function tokens make up (default: 0.4)"
    )
    group.add_argument(
        "--closed-class", action="store_true", help="take the closed-class words of English and punctuation instead"
    )


def output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", metavar="FILE", help="write JSON to FILE (- for standard output) instead of a table")


def layer_of_features(parser: argparse.ArgumentParser) -> None:
    """``--layer``, for the autoencoder given by ``--features``; see :func:`check_layer`."""
    parser.add_argument(
        "--layer",
        type=int,
        metavar="L",
        help="the layer of the residual stream that the autoencoder given by --features reads, where its files don't say it",
    )
    parser.set_defaults(misuse=parser.error)


def check_layer(args: argparse.Namespace, names: Sequence[str]) -> None:
    """End the command where ``--layer`` doesn't go with the one basis given by ``--features``."""
    if args.layer is not None and len(names) != 1:
        args.misuse("--layer goes with one autoencoder, given by --features")


def share(text: str) -> float:
    """An argument that is a share: above 0, at most 1."""
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share; give a number above 0 and at most 1, such as 0.4")
    return number


def load_model(name: str, report: Report, dtype: str | None = None) -> LoadedModel:
    from lens.backend.catalog import find, prepare
    from lens.backend.loading import load

    spec = find(name)
    prepare(spec, report)
    return load(replace(spec, dtype=dtype) if dtype else spec)


def function_ids(args: argparse.Namespace, counts: TokenCounts) -> np.ndarray:
    """The function tokens that the options of :func:`grouping` ask for."""
    return counts.closed_class_ids() if args.closed_class else counts.function_ids(args.cut)


def usual_features(loaded: LoadedModel) -> list[str]:
    """The model's autoencoders; without any, the neurons at 1/6, 1/2 and 5/6 of its depth."""
    from lens.functiontokens.features import features_for, left_out

    for sentence in left_out(loaded):
        print(printable(sentence), file=sys.stderr)
    autoencoders = [spec.name for spec in features_for(loaded) if spec.kind == "sae"]
    depth = loaded.anatomy.depth
    return autoencoders or [f"neurons-{block}" for block in sorted({max(1, round(depth * n / 6)) for n in (1, 3, 5)})]


def shown(token: str) -> str:
    """A token for a table."""
    return printable(visible(token))
