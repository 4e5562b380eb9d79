"""A build in a child process that is killed at an exact file-system step: what the resume tests run.

Every open, rename, removal and folder made below the index is a step, seen by an audit hook; at the step asked for the
process kills itself with SIGKILL, so nothing is tidied up. Killed while it opens a file to write, it leaves half of one.
Children are forked from a server that has everything imported.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import faiss
import torch
import transformers.models.llama.modeling_llama  # noqa: F401  (imported once, by the fork server)

import lens.latentlens.build  # noqa: F401  (likewise)
from lens.backend.catalog import ModelSpec

EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir")


def _child(model: str, corpus: str, out: str, kill_at: int, pipe: Connection) -> None:
    from lens.backend.corpus import open_corpus
    from lens.backend.loading import load
    from lens.latentlens.build import build_index

    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    loaded = load(ModelSpec(name="tiny", source=model))
    steps = 0

    def step(event: str, args: tuple) -> None:
        nonlocal steps
        if event in EVENTS and str(args[0]).startswith(out):
            steps += 1
            if steps == kill_at:
                if event == "open" and "w" in str(args[1]):
                    Path(args[0]).write_bytes(b"half")
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(step)
    build_index(loaded, open_corpus(corpus), out, layers=[1, 3], factory="SQ8", resume=True, shard_tokens=48)
    pipe.send(steps)


def build_until(model: Path, corpus: Path, out: Path, kill_at: int = 0) -> int | None:
    """Build or resume in a child; its number of steps, or ``None`` when it was killed (``kill_at`` 0: never)."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(str(model), str(corpus), str(out), kill_at, sender))
    process.start()
    sender.close()
    process.join()
    if process.exitcode == -signal.SIGKILL:
        return None
    assert process.exitcode == 0
    return receiver.recv()
