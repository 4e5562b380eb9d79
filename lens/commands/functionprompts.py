"""``python -m lens functiontokens prompt TEXT``: the features that a prompt's tokens fire; ``steer TEXT``: add some of them.

Which tokens are function tokens is taken from the model's graph, from a corpus that is given, or from the word list.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lens.commands.corpora import named_corpus
from lens.commands.functionoptions import (
    check_layer,
    function_ids,
    grouping,
    layer_of_features,
    load_model,
    output,
    shown,
    usual_features,
)
from lens.commands.terminal import printable, progress, table, write_json
from lens.errors import GraphMissing

if TYPE_CHECKING:
    import numpy as np

    from lens.backend.encoding import Encoded
    from lens.backend.loading import LoadedModel
    from lens.functiontokens.basis import Features
    from lens.functiontokens.prompt import PromptReading
    from lens.functiontokens.steering import Steering
    from lens.progress import Report

FEATURES = 4
"""Features of a token shown in the table; JSON has more."""


def add(actions: argparse._SubParsersAction) -> None:
    prompt = actions.add_parser("prompt", help="which features each token of a prompt fires, and which it fires again")
    _shared(prompt)
    prompt.set_defaults(run=_prompt)

    steer = actions.add_parser("steer", help="add features at a token of a prompt and see what the model says then")
    _shared(steer)
    steer.add_argument(
        "--push",
        type=_push,
        action="append",
        default=[],
        metavar="FEATURE=ALPHA",
        help="add ALPHA times a feature; may be given several times",
    )
    steer.add_argument(
        "--suppress",
        type=_number,
        action="append",
        default=[],
        metavar="FEATURE",
        help="take a feature out; may be repeated",
    )
    steer.add_argument(
        "--at",
        type=_number,
        action="append",
        metavar="POSITION",
        help="token to steer at (default: last function token)",
    )
    steer.add_argument("--controls", type=_number, default=20, metavar="N", help="controls of each kind (default: 20)")
    steer.add_argument("--seed", type=_number, default=0)
    steer.set_defaults(run=_steer)


def _shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("text", help="the prompt")
    parser.add_argument("--image", help="a picture that goes before it")
    parser.add_argument("--model", default="demo", help="catalog name, folder or hub id (default: demo)")
    parser.add_argument("--features", metavar="NAME", help="basis of features (default: the model's middle one)")
    layer_of_features(parser)
    parser.add_argument(
        "--corpus", help="count this for the function tokens (default: the corpus of the model's graph)"
    )
    grouping(parser)
    output(parser)


def _prompt(args: argparse.Namespace) -> None:
    from lens.functiontokens.prompt import read_prompt

    with progress() as report:
        loaded, encoded, features, ids = _opened(args, report)
    reading = read_prompt(loaded, encoded, features, ids)
    if args.json:
        write_json(args.json, reading.as_json())
    else:
        print("\n".join(_prompt_lines(reading)))


def _steer(args: argparse.Namespace) -> None:
    from lens.functiontokens.steering import last_function_token, steer, suppressing

    with progress() as report:
        loaded, encoded, features, ids = _opened(args, report)
        positions = args.at or [last_function_token(encoded.token_map, ids)]
        pushes = [*args.push, *suppressing(loaded, encoded, features, args.suppress, positions[0])]
        if not pushes:
            args.misuse("no feature was given; give --push FEATURE=ALPHA or --suppress FEATURE")
        options = {"controls": args.controls, "seed": args.seed, "report": report}
        found = steer(loaded, encoded, features, pushes, positions, **options)
    if args.json:
        write_json(args.json, found.as_json())
    else:
        print("\n".join(_steer_lines(found)))


def _opened(args: argparse.Namespace, report: Report) -> tuple[LoadedModel, Encoded, Features, np.ndarray]:
    """Model, prompt, features and the ids of the function tokens."""
    from lens.backend.encoding import encode
    from lens.backend.images import open_picture
    from lens.functiontokens.features import open_features

    check_layer(args, [args.features] if args.features else [])
    picture = open_picture(args.image) if args.image else None
    loaded = load_model(args.model, report)
    encoded = encode(loaded, args.text, picture)
    names = usual_features(loaded)
    features = open_features(loaded, args.features or names[len(names) // 2], args.layer)
    return loaded, encoded, features, _function_ids(args, loaded, report)


def _function_ids(args: argparse.Namespace, loaded: LoadedModel, report: Report) -> np.ndarray:
    from lens.functiontokens.counts import count_tokens, vocabulary_ids
    from lens.functiontokens.graph import graphs_for, open_graph

    if args.corpus:
        return function_ids(args, count_tokens(named_corpus(args.corpus, None, report), loaded, report=report))
    if args.closed_class:
        return vocabulary_ids(loaded)
    folder = next(iter(graphs_for(loaded).values()), None)
    if folder is None:
        raise GraphMissing(
            f"Which tokens are function tokens isn't known for the model {loaded.name!r}, since it has no graph; give a "
            "--corpus to count, or --closed-class for the word list."
        )
    return function_ids(args, open_graph(folder, loaded=loaded).counts)


def _prompt_lines(reading: PromptReading) -> Iterator[str]:
    yield printable(f"{reading.model}, {reading.features} (layer {reading.layer}). {reading.fires}")
    if reading.repetition.function is not None and reading.repetition.content is not None:
        yield (
            f"Fired before: {reading.repetition.function:.1%} of what function tokens fire, "
            f"{reading.repetition.content:.1%} of what content tokens fire"
            + ("" if reading.repetition.p is None else f" (labels shuffled: p = {reading.repetition.p:.3f})")
        )
    yield ""
    rows = [("", "token", "group", "loss", "active", "again", "strongest features (value, first fired at)")]
    for token in reading.tokens:
        features = ", ".join(f"{f.feature} ({f.value:.3g}, {f.first})" for f in token.top[:FEATURES])
        loss = "-" if token.loss is None else f"{token.loss:.2f}"
        rows.append(
            (str(token.position), shown(token.text), token.group, loss, str(token.active), str(token.again), features)
        )
    yield from table(rows, right=(0, 3, 4, 5))


def _steer_lines(found: Steering) -> Iterator[str]:
    from lens.statistics import p_fraction

    at = ", ".join(
        f"{position} ({shown(token)})" for position, token in zip(found.positions, found.tokens, strict=True)
    )
    pushes = ", ".join(f"{push.alpha:+.3g} x {push.feature} (there: {push.before:.3g})" for push in found.pushes)
    yield printable(f"{found.model}, {found.features} (layer {found.layer}): {pushes}; at {at}")
    yield f"Norm {found.norm:.3g}, of the states there {found.state_norm:.3g}. {found.note}".rstrip()
    yield printable(f"Before: {found.base.answer}")
    yield printable(f"After:  {found.treated.answer}")
    yield f"KL of the next token {found.treated.kl:.3f} nats"
    for control in found.controls:
        p = p_fraction(control.p_kl, len(control.kl))
        yield f"  {control.kind}: {control.kl.mean():.3f} on average over {len(control.kl)}, p = {p}"
    rows = [("next token", "before", "after")]
    rows += [(shown(change.token), f"{change.before:.3f}", f"{change.after:.3f}") for change in found.gains]
    yield from table(rows, right=(1, 2))


def _push(text: str) -> tuple[int, float]:
    feature, _, alpha = text.partition("=")
    try:
        number = float(alpha)
    except ValueError:
        number = float("nan")
    if not feature.isdecimal() or not abs(number) < float("inf"):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not of the form FEATURE=ALPHA; give a feature's number and a number"
        )
    return int(feature), number


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 up")
    return int(text)
