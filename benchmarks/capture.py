"""What looking costs: all layers captured, or a run left at half depth, against the bare forward. One run, ratios.

``python -m benchmarks.capture [--model demo] [--repeats 15]``, from the project's top folder. Times are medians of
interleaved repetitions, so that whatever else the machine does hits every case alike. Memory is measured in a process
per case: the highest resident size during one run, less that of the loaded model before it (Linux only).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from lens.backend.catalog import find
from lens.backend.encoding import DEFAULT_PROMPT, Encoded, encode
from lens.backend.images import open_picture
from lens.backend.loading import LoadedModel, load
from lens.backend.tracing import hidden_sites, trace
from lens.gallery import gallery

Case = Callable[[LoadedModel, Encoded], object]


def forward(loaded: LoadedModel, encoded: Encoded, **options: object) -> object:
    """The model's own forward, without a trace."""
    with torch.inference_mode():
        return loaded.model(**encoded.inputs, use_cache=False, **options)


def every_layer(loaded: LoadedModel) -> tuple[str, ...]:
    return hidden_sites(loaded.anatomy.depth)


CASES: dict[str, Case] = {
    "bare forward": forward,
    "output_hidden_states=True": lambda loaded, encoded: forward(loaded, encoded, output_hidden_states=True),
    "trace: every layer and logits": lambda loaded, encoded: trace(loaded, encoded, [*every_layer(loaded), "logits"]),
    "trace: every layer": lambda loaded, encoded: trace(loaded, encoded, every_layer(loaded)),
    "trace: half of the layers": lambda loaded, encoded: trace(
        loaded, encoded, every_layer(loaded)[: loaded.anatomy.depth // 2 + 1]
    ),
}


def prepared(name: str) -> tuple[LoadedModel, Encoded]:
    """The model, and an input with a gallery photo if the model sees."""
    loaded = load(find(name))
    picture = open_picture(gallery()[0].path) if loaded.anatomy.sees_images else None
    return loaded, encode(loaded, DEFAULT_PROMPT, picture)


def times(loaded: LoadedModel, encoded: Encoded, repeats: int) -> dict[str, float]:
    """Median seconds of each case."""
    taken: dict[str, list[float]] = {name: [] for name in CASES}
    for run in range(repeats + 1):
        for name, case in CASES.items():
            start = time.perf_counter()
            case(loaded, encoded)
            if run:  # the first round warms up
                taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def memory(model: str, case: str) -> float:
    """Megabytes that one run of a case takes above the loaded model, measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.capture", "--model", model, "--memory-of", case]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def peak_of(model: str, case: str) -> float:
    """Run a case once in this process; the peak of its resident size less what it was before, in megabytes."""
    loaded, encoded = prepared(model)
    trace(loaded, encode(loaded, DEFAULT_PROMPT), ["logits"])  # weights are in memory, libraries set up
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to the present size
    before = _resident("VmRSS")
    CASES[case](loaded, encoded)
    return (_resident("VmHWM") - before) / 1e6


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field + ":")).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="demo", help="name in the catalog, or a folder")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--memory-of", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print(peak_of(options.model, options.memory_of))
        return
    loaded, encoded = prepared(options.model)
    seconds = times(loaded, encoded, options.repeats)
    bare = seconds["bare forward"]
    print(f"{loaded.name}: {loaded.anatomy.depth} blocks, {len(encoded.token_map)} tokens, {options.repeats} repeats")
    print("| case | time | ratio | peak memory |\n|---|---|---|---|")
    for name, taken in seconds.items():
        print(f"| {name} | {taken:.3f} s | {taken / bare:.2f} | {memory(options.model, name):.0f} MB |")


if __name__ == "__main__":
    main()
