"""The PyPI package ``latentlens`` as :mod:`benchmarks.latentlens` measures it: a program of its own, for an environment that
has that package. It imports nothing of this project and is run by its path.

Vectors come and go as ``layer-NN.npy`` (float32 or float16, one row a context). Times leave out loading, peaks of memory
are those of the whole process. Every command prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from latentlens import ContextualIndex, build_index, load_model


def peak() -> int:
    """Bytes: the process's highest resident size since it was last set back (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])


def build(options: argparse.Namespace) -> dict[str, object]:
    """Build as the package does by default, in float32."""
    sentences = Path(options.sentences).read_text(encoding="utf-8").splitlines()
    model, tokenizer = load_model(options.model, device="cpu", trust_remote_code=False)
    start = time.perf_counter()
    layers = [int(layer) for layer in options.layers.split(",")]
    index = build_index(options.model, sentences, layers, model=model, tokenizer=tokenizer, show_progress=False)
    seconds = time.perf_counter() - start
    highest = peak()
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    for layer in index.available_layers:
        np.save(out / f"layer-{layer:02d}.npy", index._layers_data[layer]["embeddings"].numpy())
    rows = index._layers_data[layers[0]]["metadata"]
    (out / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    return {"seconds": seconds, "rows": len(rows), "peak": highest}


def search(options: argparse.Namespace) -> dict[str, object]:
    """Search, with the vectors in memory as ``from_directory`` leaves them: float32, and a dict a row and layer."""
    folder = Path(options.out)
    rows = folder / "rows.json"
    layers_data = {}
    for path in sorted(folder.glob("layer-*.npy")):
        vectors = torch.from_numpy(np.load(path)).float()
        known = json.loads(rows.read_text(encoding="utf-8")) if rows.exists() else None
        metadata = known or [
            {"token_str": str(row), "token_id": 0, "caption": "a sentence", "position": row}
            for row in range(len(vectors))
        ]
        vectors /= vectors.norm(dim=-1, keepdim=True)
        layers_data[int(path.stem[6:])] = {"embeddings": vectors, "metadata": metadata}
    index = ContextualIndex(layers_data)
    queries = torch.from_numpy(np.load(options.queries))
    held = peak()
    times = []
    found = []
    for run in range(options.repeats + 1):
        start = time.perf_counter()
        found = index.search(queries, top_k=5)
        if run:  # the first one warms up
            times.append(time.perf_counter() - start)
    if options.results:
        lists = [[[n.contextual_layer, n.caption, n.position, n.similarity] for n in row] for row in found]
        Path(options.results).write_text(json.dumps(lists), encoding="utf-8")
    return {"seconds": statistics.median(times), "peak": peak(), "held": held}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=("build", "search"))
    parser.add_argument("--out", required=True, help="folder of vectors")
    parser.add_argument("--model")
    parser.add_argument("--sentences")
    parser.add_argument("--layers")
    parser.add_argument("--queries")
    parser.add_argument("--results")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    before = peak()
    made = build(options) if options.command == "build" else search(options)
    print(json.dumps({**made, "before": before}))


if __name__ == "__main__":
    main()
