"""What EmbedLens costs: probe and classes of one traced picture, and a folder's rate against the bare forward.

``python -m benchmarks.embedlens [--model demo] [--images 12] [--repeats 5]``, from the project's top folder. The folder is
the gallery's photos, in turn; both passes open, encode and run each picture, interleaved, so that whatever else the machine
does hits them alike. The bare pass runs the whole model, the stream as far as classes need it: to layer 0. Memory is the
resident size gained over the second half of the pictures, which shows whether it grows with them (Linux only).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from lens.backend.catalog import find
from lens.backend.encoding import DEFAULT_PROMPT, encode
from lens.backend.images import open_picture
from lens.backend.loading import LoadedModel, load
from lens.backend.tracing import trace
from lens.embedlens.anchors import Anchors, anchors_for
from lens.embedlens.classes import classify
from lens.embedlens.fractions import class_fractions
from lens.gallery import gallery

WANTED = {"classes": 1.0, "rate": 0.9}
"""Targets: at most that many seconds, at least that share of the bare forward's rate."""


def bare(loaded: LoadedModel, path: Path) -> None:
    """One picture through the model alone."""
    encoded = encode(loaded, DEFAULT_PROMPT, open_picture(path))
    with torch.inference_mode():
        loaded.model(**encoded.inputs, use_cache=False, logits_to_keep=1)


def streamed(loaded: LoadedModel, path: Path, anchors: Anchors) -> None:
    """One picture as a folder's are classified."""
    class_fractions(loaded, [open_picture(path)], DEFAULT_PROMPT, anchors)


def taken(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def classes_of_one(loaded: LoadedModel, anchors: Anchors, repeats: int) -> float:
    """Median seconds for probe and classes of a picture that is traced already."""
    held = trace(loaded, encode(loaded, DEFAULT_PROMPT, open_picture(gallery()[0].path)), ["hidden.0"])
    classify(loaded, held, anchors)  # warms up
    return statistics.median(taken(lambda: classify(loaded, held, anchors)) for _ in range(repeats))


def rates(loaded: LoadedModel, anchors: Anchors, images: int) -> tuple[float, float, float]:
    """Median seconds per picture bare and streamed, and megabytes gained over the second half."""
    paths = [entry.path for entry in gallery()]
    bare(loaded, paths[0]), streamed(loaded, paths[0], anchors)
    alone, stream, middle = [], [], 0
    for number in range(images):
        path = paths[number % len(paths)]
        alone.append(taken(lambda path=path: bare(loaded, path)))
        stream.append(taken(lambda path=path: streamed(loaded, path, anchors)))
        middle = _resident() if number == images // 2 else middle
    return statistics.median(alone), statistics.median(stream), (_resident() - middle) / 1e6


def _resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmRSS:")).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="demo", help="name in the catalog, or a folder")
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    loaded = load(find(options.model))
    anchors = anchors_for(loaded) or Anchors(loaded.name, "", "", 0, {}, (), (), "discovered", "")
    alone, stream, grown = rates(loaded, anchors, options.images)
    one = classes_of_one(loaded, anchors, options.repeats)
    print(f"{loaded.name}: {len(anchors.found)} anchors, {options.images} pictures")
    print("| what | measured | wanted |\n|---|---|---|")
    print(f"| probe and classes of one traced picture | {one:.2f} s | <= {WANTED['classes']} s |")
    print(f"| folder: bare forward | {alone:.3f} s per picture | |")
    print(f"| folder: classified | {stream:.3f} s per picture | |")
    print(f"| folder: rate against the bare forward | {alone / stream:.2f} | >= {WANTED['rate']} |")
    print(f"| memory gained over the second half | {grown:.0f} MB | |")


if __name__ == "__main__":
    main()
