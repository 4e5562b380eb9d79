"""The patch-compression benchmark: one object, letter or digit in exactly one patch; who can still name it, and its colour?

After the benchmark of EmbedLens (arXiv 2603.00510), regenerated with drawings of our own. Readers are the embedding probe,
the logit lens and LatentLens at the item's patch, at several layers, and the model's own greedy answers to two questions.
Lenses read every item; the first ``asked`` of them (a balanced part: items come in rounds over all identities) are also
drawn over the whole picture, and the model is asked about those, small, large and not drawn. A picture drawn large is read
at the patch that holds most of the item.

Work goes in chunks, and each chunk is written to a file of lines as soon as it is done: whoever stops, or asks for more
items later, goes on where it stopped. One file per model, index, layers and seed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens.backend.answers import generate
from lens.backend.encoding import PatchGrid, encode, visual_grid
from lens.backend.loading import LoadedModel
from lens.backend.readouts import logit_lens
from lens.backend.tracing import trace
from lens.compare.kept import Kept
from lens.compare.naming import names_in_answer, names_in_words
from lens.compare.patchitems import KINDS, Item, as_picture, blank, draw_items, inkiest, large, small
from lens.compare.patchsummary import PatchBench, Reading, labels_of, rates
from lens.embedlens.probe import probe
from lens.home import home
from lens.latentlens.index import Index, check_model
from lens.latentlens.search import search
from lens.progress import Report, silent

ASKED = {"identity": "What is this?", "colour": "What colour is this?"}
"""The prompt of each question."""
WORDS = 5
TOKENS = 12
"""Longest answer, in tokens."""
CHUNK = 16
"""Pictures read at once by the lenses, and lost at most when the work is stopped."""
PROBED = 384
"""Side of the first picture that is shown to a model, to learn the side of its input."""
EXAMPLES = 36


@dataclass(frozen=True)
class Plan:
    """What is to be done; see the module."""

    items: int
    asked: int
    layers: tuple[int, ...]
    seed: int = 0


def default_layers(depth: int) -> tuple[int, ...]:
    """Quarters of a model's depth: 0, about N/4, N/2, 3N/4 and N, where the logit lens is the model's own head."""
    return tuple(sorted({round(depth * quarter / 4) for quarter in range(5)}))


def run(loaded: LoadedModel, index: Index | None, plan: Plan, report: Report = silent) -> PatchBench:
    """Read and ask what the plan says and isn't done yet, then sum up.

    Raises:
        CapabilityMissing: the model takes no pictures.
        LayerMissing: a layer that the model hasn't.
        IndexMismatch: the index belongs to another language model.
        Cancelled: raised by ``report``; what was done is kept.
    """
    loaded.anatomy.require("connector")
    if index is not None:
        check_model(index.name, index.manifest, loaded)
    layers = tuple(sorted({loaded.anatomy.check_layer(layer) for layer in plan.layers}))
    plan = Plan(plan.items, min(plan.asked, plan.items), layers, plan.seed)
    bench = _Bench(loaded, index, plan)
    done = Kept(bench.file())
    jobs = [job for job in bench.jobs() if job.key not in done.found]
    total = sum(job.cost for job in jobs)
    spent = 0
    for chunk in _chunks(jobs):

        def tell(picture: int, at: int = spent, chunk: tuple[Job, ...] = chunk) -> None:
            report(at + picture, total, f"Patch benchmark: {chunk[picture].what}")

        found = bench.work(chunk, tell)
        done.add({job.key: result for job, result in zip(chunk, found, strict=True)})
        spent += sum(job.cost for job in chunk)
    report(total, total, "Summing up")
    return bench.result(done)


@dataclass(frozen=True)
class Job:
    """One picture to be read by the lenses (``question`` empty) or asked about.

    ``item``: whose picture; for an empty picture, any item with that background and patch.
    """

    item: Item
    condition: str
    question: str = ""

    @property
    def key(self) -> str:
        """What is the same for jobs whose result is the same."""
        if self.condition != "empty":
            return f"{self.item.number} {self.condition} {self.question}"
        place = "" if self.question else f"{self.item.row},{self.item.col}"
        return f"{self.item.background} {place} empty {self.question}"

    @property
    def cost(self) -> int:
        """In units of a forward: an answer is a few."""
        return 3 if self.question else 1

    @property
    def what(self) -> str:
        where = {"patch": "in one patch", "large": "large", "empty": "not drawn"}[self.condition]
        return f"{'asked about' if self.question else 'reading'} {self.item.colour} {self.item.name} {where}"


def _chunks(jobs: Sequence[Job]) -> Iterator[tuple[Job, ...]]:
    """Jobs of one sort together, a few at a time; an answer alone, since it takes long."""
    for question in dict.fromkeys(job.question for job in jobs):
        same = [job for job in jobs if job.question == question]
        size = 1 if question else CHUNK
        yield from (tuple(same[start : start + size]) for start in range(0, len(same), size))


class _Bench:
    """The model, the geometry of its pictures, and the items."""

    def __init__(self, loaded: LoadedModel, index: Index | None, plan: Plan) -> None:
        self.loaded, self.index, self.plan = loaded, index, plan
        self.side, self.grid = geometry(loaded)
        self.items = draw_items(self.grid, plan.items, plan.seed)

    def file(self) -> Path:
        """Where the work is kept: a name for everything that its results depend on, but for how much is wanted."""
        content = self.index.manifest.files if self.index else {}
        first = draw_items(self.grid, sum(map(len, KINDS.values())), self.plan.seed)
        drawn = [pixels for item in first for pixels in (small(item, self.grid, self.side), large(item, self.side))]
        parts = {
            "drawings": [hashlib.sha256(pixels.tobytes()).hexdigest() for pixels in drawn],
            "model": [self.loaded.fingerprint, self.loaded.tokenizer_hash, str(self.loaded.dtype)],
            "index": {name: asdict(record) for name, record in content.items()},
            "layers": self.plan.layers,
            "seed": self.plan.seed,
            "asked": [ASKED, TOKENS, WORDS],
        }
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        return home() / "patchbench" / f"{digest[:16]}.jsonl"

    def jobs(self) -> list[Job]:
        """All that the plan wants, each once: lenses first."""
        asked = self.items[: self.plan.asked]
        reads = [Job(item, condition) for condition in ("patch", "empty") for item in self.items]
        reads += [Job(item, "large") for item in asked]
        questions = [
            Job(item, condition, q) for item in asked for condition in ("patch", "large", "empty") for q in ASKED
        ]
        return list({job.key: job for job in reads + questions}.values())

    def work(self, chunk: Sequence[Job], tell: Callable[[int], None]) -> list[dict[str, Any]]:
        """What each job of a chunk of one sort gives, as plain JSON; ``tell`` is called before each."""
        if not chunk[0].question:
            return self._readings(chunk, tell)
        found = []
        for number, job in enumerate(chunk):
            tell(number)
            encoded = encode(self.loaded, ASKED[job.question], self._picture(job))
            found.append({"text": generate(self.loaded, encoded, TOKENS).text})
        return found

    def _picture(self, job: Job) -> Any:
        item = job.item
        if job.condition == "empty":
            pixels = blank(item.background, self.side)
        else:
            pixels = large(item, self.side) if job.condition == "large" else small(item, self.grid, self.side)
        return as_picture(pixels, f"{job.condition} {item.kind} {item.name}")

    def _readings(self, chunk: Sequence[Job], tell: Callable[[int], None]) -> list[dict[str, Any]]:
        """By ``lens@layer``, its words, best first: what they name is decided later, so that a rule can change."""
        states: dict[int, list[Tensor]] = {layer: [] for layer in self.plan.layers}
        for number, job in enumerate(chunk):
            tell(number)
            cell = inkiest(job.item, self.grid, self.side) if job.condition == "large" else (job.item.row, job.item.col)
            encoded = encode(self.loaded, ASKED["identity"], self._picture(job))
            held = trace(self.loaded, encoded, [f"hidden.{layer}" for layer in self.plan.layers])
            for layer, rows in states.items():
                rows.append(held.hidden(layer)[visual_grid(held.token_map).position(*cell)])
        found: list[dict[str, Any]] = [{} for _ in chunk]
        for layer, rows in states.items():
            for lens, words in self._words(torch.stack(rows), layer).items():
                for entry, row in zip(found, words, strict=True):
                    entry[f"{lens}@{layer}"] = row
        return found

    def _words(self, states: Float[Tensor, "n d"], layer: int) -> dict[str, list[list[str]]]:
        """By lens, the best words of each state."""
        probed, logits = probe(self.loaded, states, WORDS), logit_lens(self.loaded, states, layer, WORDS)
        words = {"embedding": list(map(list, probed.tokens)), "logit": list(map(list, logits.tokens))}
        if self.index is not None:
            rows = search(self.index, states.float().numpy(), WORDS).rows
            words["latent"] = [[neighbour.word for neighbour in row] for row in rows]
        return words

    def result(self, done: Kept) -> PatchBench:
        plan, loaded = self.plan, self.loaded
        box = self.grid.boxes[self.items[0].row, self.items[0].col]
        return PatchBench(
            model=loaded.name,
            fingerprint=loaded.fingerprint,
            index=self.index.name if self.index else None,
            items=plan.items,
            asked=plan.asked,
            seed=plan.seed,
            layers=plan.layers,
            canvas=self.side,
            patch=round(float(box[2] - box[0])),
            grid=(self.grid.rows, self.grid.cols),
            questions=dict(ASKED),
            rates=rates(self.items, self._all_readings(done), plan.seed),
            answers=tuple(self._examples(done)),
        )

    def _all_readings(self, done: Kept) -> Iterator[Reading]:
        for item in self.items:
            for condition in ("patch", "large", "empty"):
                if condition == "large" and item.number >= self.plan.asked:
                    continue
                for reader, words in done.found[Job(item, condition).key].items():
                    lens, _, layer = reader.partition("@")
                    yield Reading(item.number, condition, lens, int(layer), labels_of(names_in_words(words)))
                if item.number < self.plan.asked:
                    texts = {q: done.found[Job(item, condition, q).key]["text"] for q in ASKED}
                    said = {q: labels_of(dict.fromkeys(names_in_answer(text), 1))[q] for q, text in texts.items()}
                    yield Reading(item.number, condition, "answer", None, said)

    def _examples(self, done: Kept) -> Iterator[tuple[str, str, str, str]]:
        for item in self.items[: min(self.plan.asked, EXAMPLES // 4)]:
            for condition in ("patch", "large"):
                for question in ASKED:
                    words = f"{item.colour} {item.name} on {item.background}"
                    yield words, condition, question, done.found[Job(item, condition, question).key]["text"]


def geometry(loaded: LoadedModel) -> tuple[int, PatchGrid]:
    """Side of a square picture that the model's processor needn't scale, as far as that can be known from its input; and the
    patches of such a picture."""

    def shown(side: int) -> Any:
        return encode(loaded, ASKED["identity"], as_picture(blank("grey", side), "blank"))

    pixels = shown(PROBED).inputs.get("pixel_values")
    side = int(pixels.shape[-1]) if pixels is not None and pixels.ndim >= 4 else PROBED
    return side, visual_grid(shown(side).token_map)
