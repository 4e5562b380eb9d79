"""Do the lenses name what is there? Every patch of labelled pictures, by every lens, at several layers.

A patch belongs to the smallest shape that covers at least half of it; a patch that no shape touches is background; what lies
between is left out. One picture is in memory at a time, and of each only counts are kept, in a file of lines: whoever stops
goes on where it stopped. See :mod:`lens.compare.labelwords` for when a word names a label and
:mod:`lens.compare.labelsummary` for the controls.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lens.backend.encoding import DEFAULT_PROMPT, PatchGrid, encode, visual_grid
from lens.backend.images import Picture, open_picture
from lens.backend.loading import LoadedModel
from lens.backend.readouts import embedding_lens, logit_lens
from lens.backend.regions import areas, cells_of, covered
from lens.backend.tracing import trace
from lens.compare.kept import Kept
from lens.compare.labelfiles import LabelledPicture, Labels
from lens.compare.labelsummary import TOPS, LabelEval, Name, PictureCounts, kept_folder, rates
from lens.compare.labelwords import LabelWords
from lens.errors import LabelsUnusable
from lens.latentlens.index import Index, check_model
from lens.latentlens.search import search
from lens.progress import Estimate, Report, duration, silent

WORDS = max(TOPS)
VECTORS = 512
"""Random vectors a layer."""


@dataclass(frozen=True)
class Plan:
    """What is to be evaluated. ``synonyms``: further words by label; ``vectors``: random ones a layer."""

    layers: tuple[int, ...]
    prompt: str = DEFAULT_PROMPT
    synonyms: Mapping[str, Sequence[str]] | None = None
    vectors: int = VECTORS
    seed: int = 0


def evaluate(
    loaded: LoadedModel, index: Index | None, labels: Labels, plan: Plan, report: Report = silent
) -> LabelEval:
    """Read every labelled picture that isn't read yet, then sum up. Without an index LatentLens is left out.

    Raises:
        CapabilityMissing: the model takes no pictures, or has no grid of patches.
        LayerMissing, IndexMismatch: a layer that the model hasn't, an index of another model.
        LabelsUnusable: a shape outside its picture, a picture of another size, or not one patch with a label.
        ImageUnreadable, ImageTooLarge: a labelled picture that can't be opened.
        Cancelled: raised by ``report``; what was done is kept.
    """
    loaded.anatomy.require("connector")
    if index is not None:
        check_model(index.name, index.manifest, loaded)
    layers = tuple(sorted({loaded.anatomy.check_layer(layer) for layer in plan.layers}))
    work = _Evaluation(loaded, index, labels, plan, layers)
    done, estimate = Kept(work.file()), Estimate()
    total = len(labels.pictures)
    counts = []
    for number, labelled in enumerate(labels.pictures):
        left = estimate.left(number, total)
        ending = "" if left is None else f", {duration(left)} left"
        report(number, total, f"Picture {number + 1:,} of {total:,}: {labelled.name}{ending}")
        picture = open_picture(labelled.path)
        key = f"{labelled.name} {picture.digest[:16]}"
        if key not in done.found:
            done.add({key: asdict(work.count(labelled, picture))})
        counts.append(PictureCounts(**done.found[key]))
    report(total, total, "Random vectors")
    return work.result(counts)


class _Evaluation:
    def __init__(
        self, loaded: LoadedModel, index: Index | None, labels: Labels, plan: Plan, layers: tuple[int, ...]
    ) -> None:
        self.loaded, self.index, self.labels, self.plan, self.layers = loaded, index, labels, plan, layers
        self.words = LabelWords(labels.names, plan.synonyms)
        self.numbers = {name: number for number, name in enumerate(self.words.labels)}
        self.lenses = (*(("latent",) if index else ()), "logit", "embedding")
        self.shapes = Counter(shape.name for picture in labels.pictures for shape in picture.shapes)

    def file(self) -> Any:
        """Where the counts are kept: a name for everything that they depend on."""
        parts = {
            "model": [self.loaded.fingerprint, self.loaded.tokenizer_hash, str(self.loaded.dtype)],
            "index": {name: asdict(r) for name, r in self.index.manifest.files.items()} if self.index else {},
            "labels": [self.labels.digest, [picture.name for picture in self.labels.pictures]],
            "words": {label: sorted(forms) for label, forms in self.words.forms.items()},
            "layers": self.layers,
            "prompt": self.plan.prompt,
        }
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        return kept_folder() / "unfinished" / f"{digest[:16]}.jsonl"

    def count(self, labelled: LabelledPicture, picture: Picture) -> PictureCounts:
        """One picture through the model and every lens."""
        encoded = encode(self.loaded, self.plan.prompt, picture)
        held = trace(self.loaded, encoded, [f"hidden.{layer}" for layer in self.layers])
        grid = visual_grid(held.token_map)
        owner, background, unseen = patches_of(labelled, picture, grid)
        names = [shape.name for shape in labelled.shapes]
        own = np.array([self.numbers[names[i]] for i in owner[owner >= 0]], dtype=np.int64)
        here = sorted({self.numbers[name] for name in names})
        others = self._others(names)
        chosen = np.concatenate([grid.positions[owner >= 0], grid.positions[background]])
        named, background_named, shuffled, norms = {}, {}, {}, {}
        for layer in self.layers:
            visual = held.hidden(layer)
            norms[str(layer)] = float(visual[grid.positions.ravel()].float().norm(dim=-1).mean())
            for lens in self.lenses:
                key = f"{lens}@{layer}"
                ranks = self._ranks(lens, visual[chosen], layer)
                first, rest = ranks[: len(own)], ranks[len(own) :]
                right = first[np.arange(len(own)), own]
                named[key] = {
                    self.words.labels[n]: tuple(int((right[own == n] <= top).sum()) for top in TOPS)
                    for n in np.unique(own)
                }
                background_named[key] = tuple(int((rest[:, here].min(1, initial=99) <= top).sum()) for top in TOPS)
                if others.any():
                    shuffled[key] = tuple(float(((first <= top) @ others).sum()) for top in TOPS)
        patches = {
            self.words.labels[n]: int(count) for n, count in zip(*np.unique(own, return_counts=True), strict=True)
        }
        return PictureCounts(patches, named, int(background.sum()), background_named, shuffled, norms, unseen)

    def _others(self, names: Sequence[str]) -> Float[np.ndarray, " labels"]:
        """How often each label stands in other pictures; none that this picture has."""
        weights = np.array([self.shapes[label] * (label not in names) for label in self.words.labels], float)
        return weights / (weights.sum() or 1.0)

    def _ranks(self, lens: str, states: Float[Tensor, "n d"], layer: int) -> Int[np.ndarray, "n labels"]:
        """The rank of the first word that names each label; 99 where none does."""
        ranks = np.full((len(states), len(self.words.labels)), 99, dtype=np.int64)
        if not len(states):
            return ranks
        for row, words in zip(ranks, self._read(lens, states, layer), strict=True):
            for number, rank in self.words.ranks(words).items():
                row[number] = rank
        return ranks

    def _read(self, lens: str, states: Float[Tensor, "n d"], layer: int) -> Sequence[Sequence[str]]:
        """The best words of each state."""
        if lens == "latent":
            assert self.index is not None
            rows = search(self.index, states.float().numpy(), WORDS).rows
            return [[neighbour.word for neighbour in row] for row in rows]
        k = min(WORDS, self.loaded.anatomy.vocab_size)
        found = logit_lens(self.loaded, states, layer, k) if lens == "logit" else embedding_lens(self.loaded, states, k)
        return found.tokens

    def result(self, counts: Sequence[PictureCounts]) -> LabelEval:
        labelled = sum(count.labelled for count in counts)
        if not labelled:
            raise LabelsUnusable(
                f"No shape of {self.labels.source} covers half a patch of its picture, so no patch has a label; give larger "
                "shapes or a model with finer patches."
            )
        return LabelEval(
            model=self.loaded.name,
            fingerprint=self.loaded.fingerprint,
            index=self.index.name if self.index else None,
            labels=self.labels.source,
            labels_digest=self.labels.digest,
            prompt=self.plan.prompt,
            pictures=len(counts),
            shapes=self.shapes.total(),
            unseen=sum(count.unseen for count in counts),
            patches=labelled,
            background=sum(count.background for count in counts),
            vectors=self.plan.vectors,
            layers=self.layers,
            lenses=self.lenses,
            names=tuple(self._name(name, counts) for name in self.words.labels),
            rates=rates(counts, self.lenses, self.layers, self._random(counts)),
        )

    def _name(self, name: str, counts: Sequence[PictureCounts]) -> Name:
        patches = sum(count.patches.get(name, 0) for count in counts)
        shares = {}
        for key in (f"{lens}@{layer}" for lens in self.lenses for layer in self.layers):
            hits = np.sum([count.named[key].get(name, (0, 0)) for count in counts], axis=0)
            shares[key] = (float(hits[0] / (patches or 1)), float(hits[1] / (patches or 1)))
        return Name(name, self.shapes[name], patches, tuple(sorted(self.words.forms[name])), shares if patches else {})

    def _random(self, counts: Sequence[PictureCounts]) -> dict[str, Float[np.ndarray, "vectors 2"]]:
        """How much of the labelled patches each random vector would name."""
        weights = np.array([sum(count.patches.get(name, 0) for count in counts) for name in self.words.labels], float)
        weights /= weights.sum()
        generator = torch.Generator().manual_seed(self.plan.seed)
        found = {}
        for layer in self.layers:
            norm = float(np.mean([count.norms[str(layer)] for count in counts]))
            drawn = torch.randn((self.plan.vectors, self.loaded.anatomy.width), generator=generator)
            drawn *= norm / drawn.norm(dim=-1, keepdim=True)
            for lens in self.lenses:
                ranks = self._ranks(lens, drawn, layer)
                found[f"{lens}@{layer}"] = np.stack([(ranks <= top) @ weights for top in TOPS], axis=1)
        return found


def patches_of(
    labelled: LabelledPicture, picture: Picture, grid: PatchGrid
) -> tuple[Int[np.ndarray, "rows cols"], Bool[np.ndarray, "rows cols"], int]:
    """By patch, the number of the smallest shape that covers at least half of it, -1 where none does; the patches that no
    shape touches; and how many shapes are left without a patch.

    Raises:
        LabelsUnusable: the picture has another size than the labels say, or a shape leaves it.
    """
    size = (picture.width, picture.height)
    if labelled.size not in (None, size):
        turned = labelled.size == size[::-1]
        hint = "it is shown turned, as its EXIF entry says" if turned else "give the picture that was labelled"
        raise LabelsUnusable(
            f"{labelled.name} has {size[0]} x {size[1]} pixels, but its labels are for {labelled.size[0]} x "  # type: ignore[index]
            f"{labelled.size[1]}: {hint}."  # type: ignore[index]
        )
    owner = np.full((grid.rows, grid.cols), -1, dtype=np.int64)
    smallest = np.full(owner.shape, np.inf)
    touched = np.zeros(owner.shape, dtype=bool)
    for number, shape in enumerate(labelled.shapes):
        mask = shape.mask(size)
        pixels = int(mask.sum())
        touched |= covered(mask, grid.boxes) > 0
        wins = cells_of(mask, grid.boxes) & (pixels < smallest)
        owner[wins], smallest[wins] = number, pixels
    background = ~touched & (areas(grid.boxes) > 0)
    return owner, background, len(labelled.shapes) - len(np.unique(owner[owner >= 0]))
