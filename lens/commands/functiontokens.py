"""``python -m lens functiontokens stats | graph | prompt | steer``: what the page of function tokens shows.

``stats`` counts the tokens of a corpus; ``graph`` builds the graph of tokens and features, or shows one that is there;
``prompt`` and ``steer`` (:mod:`lens.commands.functionprompts`) read and steer a prompt.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lens.commands import functionprompts
from lens.commands.corpora import HELP, named_corpus
from lens.commands.functionoptions import (
    check_layer,
    function_ids,
    grouping,
    layer_of_features,
    load_model,
    output,
    share,
    shown,
    usual_features,
)
from lens.commands.terminal import printable, progress, table, write_json
from lens.errors import GraphMissing

if TYPE_CHECKING:
    import numpy as np

    from lens.backend.corpus import Corpus
    from lens.functiontokens.counts import TokenCounts
    from lens.functiontokens.coverage import Coverage
    from lens.functiontokens.graph import FeatureGraph
    from lens.progress import Report

SHOWN = 30
"""Tokens shown in a table; JSON has more."""
DRAWN = 1000
"""Occurrences, at most, at which a table compares the groups: at many more, everything is reached."""


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("functiontokens", help="function tokens and the features they fire")
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    stats = actions.add_parser("stats", help="how often each token of a corpus occurs, and which are function tokens")
    stats.add_argument("corpus", help=HELP)
    stats.add_argument("--model", default="demo", help="whose tokenizer counts (default: demo)")
    _corpus_options(stats)
    grouping(stats)
    output(stats)
    stats.set_defaults(run=_stats, interrupted="Stopped; nothing was kept.")

    graph = actions.add_parser("graph", help="build the graph of tokens and features, or show one that is there")
    graph.add_argument("model", nargs="?", default="demo", help="catalog name, folder or hub id (default: demo)")
    graph.add_argument("--corpus", help=f"build it from this: {HELP}")
    graph.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for it, new or empty (default: the cache folder)"
    )
    graph.add_argument("--graph", metavar="DIR", help="show this one: folder or name (default: the model's own)")
    graph.add_argument(
        "--features",
        action="append",
        metavar="NAME",
        help="basis: an autoencoder's name, folder or hub id, or neurons-BLOCK; several when building (default: the "
        "model's autoencoders, else the neurons of three blocks)",
    )
    layer_of_features(graph)
    graph.add_argument(
        "--min-firings", type=_count, default=1, metavar="N", help="firings that make an edge (default: 1)"
    )
    graph.add_argument(
        "--permutations", type=_count, metavar="N", help="shuffles of the null when building (default: 39)"
    )
    graph.add_argument("--dtype", help="load the model in this for the pass, such as bfloat16")
    graph.add_argument(
        "--resume", action="store_true", help="show a graph that is done rather than refuse to build it again"
    )
    _corpus_options(graph)
    grouping(graph)
    output(graph)
    graph.set_defaults(run=_graph, interrupted="Stopped; the same command goes on from here.")

    functionprompts.add(actions)


def _corpus_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--column", help="column that holds the text, where the corpus has columns (default: text)")
    parser.add_argument("--sample", type=share, metavar="SHARE", help="take only this share of its sentences")
    parser.add_argument(
        "--join", type=_count, metavar="N", help="read every N sentences that follow one another as one"
    )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 up")
    return int(text)


def _stats(args: argparse.Namespace) -> None:
    from lens.functiontokens.counts import count_tokens

    with progress() as report:
        corpus = _corpus(args, report)
        counts = count_tokens(corpus, load_model(args.model, report), report=report)
    function = counts.is_function(function_ids(args, counts))
    if args.json:
        write_json(args.json, _stats_json(args, counts, function))
        return
    reached = counts.counts[function].sum() / counts.total
    print(
        f"{printable(counts.corpus)}: {counts.total:,} tokens of {len(counts):,} kinds in {counts.documents:,} sentences"
    )
    print(f"{int(function.sum())} function tokens make up {reached:.1%} of them; Zipf slope {counts.zipf():.2f}")
    rows = [("rank", "token", "count", "cumulative", "documents", "group")]
    for rank, cumulative, documents in zip(range(SHOWN), counts.cumulative(), counts.document_share(), strict=False):
        group = "function" if function[rank] else "content"
        count = f"{counts.counts[rank]:,}"
        rows.append((str(rank + 1), shown(counts.texts[rank]), count, f"{cumulative:.1%}", f"{documents:.1%}", group))
    print("\n".join(table(rows, right=(0, 2, 3, 4))))


def _stats_json(args: argparse.Namespace, counts: TokenCounts, function: np.ndarray) -> dict:
    columns = (counts.ids, counts.texts, counts.counts, counts.cumulative(), counts.document_share(), function)
    tokens = [
        {"id": int(i), "token": text, "count": int(count), "cumulative": float(cumulative), "documents": float(documents),
         "group": "function" if inside else "content"}
        for i, text, count, cumulative, documents, inside in zip(*columns, strict=True)
    ]  # fmt: skip
    return {
        "corpus": counts.corpus,
        "corpus_digest": counts.corpus_digest,
        "tokenizer_hash": counts.tokenizer_hash,
        "cut": None if args.closed_class else args.cut,
        "sentences": counts.documents,
        "total": counts.total,
        "function": int(function.sum()),
        "zipf": counts.zipf() if len(counts) > 1 else None,
        "tokens": tokens,
    }


def _graph(args: argparse.Namespace) -> None:
    from lens.functiontokens.coverage import as_json, coverage

    check_layer(args, (args.features or []) if args.corpus else [])
    with progress() as report:
        graph = _built(args, report) if args.corpus else _found(args, report)
    ids = function_ids(args, graph.counts)
    found = coverage(graph, ids, args.min_firings)
    if args.json:
        write_json(args.json, as_json(graph, found))
        return
    print("\n".join(_graph_lines(graph, ids, found)))


def _built(args: argparse.Namespace, report: Report) -> FeatureGraph:
    """Build, and show the middle one of the bases."""
    from lens.functiontokens.build import build_graph
    from lens.functiontokens.features import open_features
    from lens.functiontokens.nulls import PERMUTATIONS
    from lens.home import home

    corpus = _corpus(args, report)
    loaded = load_model(args.model, report, args.dtype)
    names = args.features or usual_features(loaded)
    features = [open_features(loaded, name, args.layer) for name in dict.fromkeys(names)]
    plain = re.sub(r"[^\w.-]+", "-", f"{loaded.name}-{corpus.name}").strip("-.")
    options = {"permutations": args.permutations or PERMUTATIONS, "resume": args.resume or None, "report": report}
    graphs = build_graph(loaded, corpus, features, args.out or home() / "graphs" / plain, **options)
    return list(graphs.values())[len(graphs) // 2]


def _found(args: argparse.Namespace, report: Report) -> FeatureGraph:
    """A graph that is there: the one named, else the model's own."""
    from lens.functiontokens.graph import graph_folders, graphs_for, open_graph
    from lens.functiontokens.manifest import read_manifest

    loaded = load_model(args.model, report)
    if args.graph:
        folder = graph_folders().get(args.graph, Path(args.graph))
    else:
        folder = next(iter(graphs_for(loaded).values()), None)
    if folder is None:
        raise GraphMissing(
            f"There is no graph of the model {loaded.name!r} yet; build one with `python -m lens functiontokens graph "
            f"{args.model} --corpus FILE`."
        )
    names = [record.name for record in read_manifest(folder).bases]
    return open_graph(folder, args.features[0] if args.features else names[len(names) // 2], loaded)


def _graph_lines(graph: FeatureGraph, ids: np.ndarray, found: Coverage) -> Iterator[str]:
    from lens.functiontokens.coverage import rarefaction, reach_by_type

    manifest, record = graph.manifest, graph.features
    yield printable(
        f"{graph.model}, {record.name} (layer {graph.layer}, {graph.size:,} features, {found.active:,} of them active), "
        f"{manifest.corpus}: {graph.positions:,} positions, {manifest.dtype}"
    )
    yield f"{graph.edges(found.n).nnz:,} edges of at least {found.n} firings, {record.firings:,} firings in all"
    rarefied, types = rarefaction(graph, ids), reach_by_type(graph, ids)
    if len(rarefied.sample):
        at = int((rarefied.sample <= DRAWN).sum()) - 1
        yield (
            f"At {rarefied.sample[at]:,} occurrences each, function tokens reach {rarefied.function[at]:.1%} of the active "
            f"features, content tokens {rarefied.content[at]:.1%}, shuffled labels {rarefied.shuffled[at]:.1%}"
        )
    if types.function.any() and not types.function.all():
        yield (
            f"Tokens at {types.sample} occurrences each: function {types.function_mean:,.0f} features, content "
            f"{types.content_mean:,.0f}, shuffled labels {types.shuffled:,.0f}"
        )
    yield ""
    rows = [("rank", "token", "count", "group", "degree", "coverage", "shuffled labels")]
    degree = graph.degrees(found.n)[0]
    for rank in range(min(SHOWN, len(found.share))):
        group = "function" if found.function[rank] else "content"
        band = "-" if found.low is None or found.high is None else f"{found.low[rank]:.1%} to {found.high[rank]:.1%}"
        numbers = (f"{graph.counts.counts[rank]:,}", group, f"{degree[rank]:,}", f"{found.share[rank]:.1%}", band)
        rows.append((str(rank + 1), shown(found.texts[rank]), *numbers))
    yield from table(rows, right=(0, 2, 4, 5))


def _corpus(args: argparse.Namespace, report: Report) -> Corpus:
    from lens.backend.corpus import joined, sampled

    corpus = named_corpus(args.corpus, args.column, report)
    corpus = sampled(corpus, args.sample) if args.sample else corpus
    return joined(corpus, args.join) if args.join else corpus
