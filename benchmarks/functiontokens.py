"""What a corpus pass costs against the bare forward, whether its memory grows with the corpus, and what a redraw costs.

``python -m benchmarks.functiontokens [--model demo] [--repeats 5]``, from the project's top folder. The pass and the bare
forward (the text model alone, over the same padded batches, to its last block and to the last block that the pass needs)
take turns, so that whatever else the machine does hits both alike; times are medians. Memory is the highest resident size
during a pass less that before it, in a process of its own, for a corpus of :data:`SHARDS` shards and for one four times as
long (Linux only). Redraws are processor time from the opened graph of the model to a figure's JSON.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import plotly.graph_objects as go

from lens.backend.batches import pad
from lens.backend.building import Ledger
from lens.backend.catalog import find
from lens.backend.corpus import Corpus, joined
from lens.backend.folders import WORK
from lens.backend.loading import LoadedModel, load
from lens.backend.tracing import text_sites
from lens.backend.words import Reader
from lens.commands.functionoptions import usual_features
from lens.demo.corpus import sentences
from lens.figures import functiontokens as figures
from lens.functiontokens.basis import Features
from lens.functiontokens.counts import count_tokens
from lens.functiontokens.coverage import coverage, degree_plot, rarefaction
from lens.functiontokens.features import open_features
from lens.functiontokens.firings import BATCH_TOKENS, MAX_TOKENS, SHARD_SENTENCES, write_shards
from lens.functiontokens.graph import FeatureGraph, graphs_for, open_graph
from lens.functiontokens.matrix import token_matrix
from lens.functiontokens.neighbourhood import Neighbourhood, around_feature, around_token
from lens.progress import silent

JOINED = 4
"""Sentences of the demo's corpus that make one text."""
TEXTS = 80
"""Of a measurement of speed: about 4,000 tokens."""
SHARDS = 2
"""Of the shorter measurement of memory: about 12,000 tokens. Less than a shard would say nothing, since memory grows with
the first one."""
WANTED = {"pass": 0.7, "redraw": 0.3}
"""Targets: at least that share of the bare forward's rate, at most that many seconds."""


def text(count: int) -> Corpus:
    """The first ``count`` texts of the demo's corpus, which has about 1,600."""
    return joined(Corpus("demo", lambda: islice(sentences(), JOINED * count)), JOINED)


def bases(loaded: LoadedModel) -> list[Features]:
    """The features that a graph is built of unless others are named."""
    return [open_features(loaded, name) for name in usual_features(loaded)]


def bare(loaded: LoadedModel, corpus: Corpus, layer: int) -> int:
    """The text model over the corpus up to a layer; the number of tokens."""
    ids = sorted((t.ids for t in Reader(loaded.tokenizer, MAX_TOKENS)(list(corpus))), key=len, reverse=True)
    start = 0
    while start < len(ids):
        stop = start + max(1, BATCH_TOKENS // len(ids[start]))
        text_sites(loaded, *pad(ids[start:stop]), [f"hidden.{layer}"])
        start = stop
    return sum(map(len, ids))


def whole_pass(loaded: LoadedModel, corpus: Corpus, features: Sequence[Features]) -> None:
    """All that a build does with the model."""
    with tempfile.TemporaryDirectory() as folder:
        counts = count_tokens(corpus, loaded, cache=False)
        (Path(folder) / WORK).mkdir()
        write_shards(loaded, corpus, counts, features, Path(folder), Ledger(Path(folder)), silent)


def speeds(loaded: LoadedModel, features: Sequence[Features], repeats: int) -> dict[str, float]:
    """Median tokens a second of each case."""
    corpus, deepest = text(TEXTS), max(basis.layer for basis in features)
    cases: dict[str, Callable[[], object]] = {
        "bare forward, all blocks": lambda: bare(loaded, corpus, loaded.anatomy.depth),
        f"bare forward, {deepest} blocks": lambda: bare(loaded, corpus, deepest),
        f"corpus pass, {len(features)} bases": lambda: whole_pass(loaded, corpus, features),
    }
    tokens, taken = bare(loaded, corpus, 1), {name: [] for name in cases}
    for run in range(repeats + 1):
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            if run:  # the first round warms up
                taken[name].append(time.perf_counter() - start)
    return {name: tokens / statistics.median(values) for name, values in taken.items()}


def redraws(graph: FeatureGraph, repeats: int) -> dict[str, float]:
    """Median processor seconds from the graph to each figure's JSON."""
    ids = graph.counts.function_ids()
    token, feature = int(ids[0]), int(graph.firings.argmax())
    cases = {
        "counts": lambda: figures.counts(graph.counts, graph.is_function(ids)),
        "coverage": lambda: figures.coverage(coverage(graph, ids, 2)),
        "rarefaction": lambda: figures.rarefaction(rarefaction(graph, ids)),
        "degrees": lambda: figures.degrees(degree_plot(graph, ids, 2)),
        "matrix": lambda: figures.matrix(token_matrix(graph, ids)),
        "graph around a token": lambda: _walk(around_token(graph, token), ids),
        "graph around a feature": lambda: _walk(around_feature(graph, feature), ids),
    }
    taken = {}
    for name, case in cases.items():
        spent = []
        for _ in range(repeats + 1):
            start = time.process_time()
            case().to_json()
            spent.append(time.process_time() - start)
        taken[name] = statistics.median(spent[1:])
    return taken


def _walk(found: Neighbourhood, ids: np.ndarray) -> go.Figure:
    return figures.neighbourhood(found, np.isin(found.ids, ids))


def peak(model: str, dtype: str, times: int) -> float:
    """Megabytes that a pass takes above what is there after one of a few sentences, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.functiontokens", "--model", model, "--dtype", dtype]
    done = subprocess.run([*command, "--memory-of", str(times)], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def peak_here(loaded: LoadedModel, times: int) -> float:
    features = bases(loaded)
    whole_pass(loaded, text(4), features)
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to the present size
    before = _resident("VmRSS")
    whole_pass(loaded, text(SHARDS * SHARD_SENTENCES * times), features)
    return (_resident("VmHWM") - before) / 1e6


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field + ":")).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="demo", help="name in the catalog, or a folder")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    loaded = load(replace(find(options.model), dtype=options.dtype))
    if options.memory_of:
        print(peak_here(loaded, options.memory_of))
        return
    found = speeds(loaded, bases(loaded), options.repeats)
    first = next(iter(found.values()))
    print(f"{loaded.name} in {options.dtype}, {options.repeats} repeats; a pass should reach {WANTED['pass']}")
    print("\n| case | tokens/s | ratio |\n|---|---|---|")
    for name, speed in found.items():
        print(f"| {name} | {speed:,.0f} | {speed / first:.2f} |", flush=True)
    small, large = (peak(options.model, options.dtype, times) for times in (1, 4))
    print(f"\nPeak memory of a pass: {small:.0f} MB; of one four times as long: {large:.0f} MB", flush=True)
    folder = next(iter(graphs_for(loaded).values()), None)
    if folder is not None:
        graph = open_graph(folder, loaded=loaded)
        print(f"\nRedraws with {graph.matrix.nnz:,} edges behind them; each should take {WANTED['redraw']} s at most")
        print("\n| figure | seconds |\n|---|---|")
        for name, seconds in redraws(graph, options.repeats).items():
            print(f"| {name} | {seconds:.3f} |")


if __name__ == "__main__":
    main()
