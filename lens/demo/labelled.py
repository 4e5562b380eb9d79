"""A connector measured on photographs that it never saw, with labels in COCO's or YOLO's form.

Two questions: does the greedy answer name anything that is labelled in the picture, and do the lenses name what a cell
shows? The first is measured here; the second by :mod:`lens.compare.labelled`, as ``python -m lens latentlens-eval`` does, on
the offline model with this connector. When a word names a label is said in :mod:`lens.compare.labelwords`; in answers the
kinds that ImageNet has of a label (``collie`` for dog) count too. The ceiling is the same score for the class that the
encoder's own head finds likeliest; chance is the score against labels shuffled among the pictures.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from lens.backend.catalog import find
from lens.backend.images import open_picture
from lens.backend.loading import load
from lens.compare.labelfiles import Labels
from lens.compare.labelled import Plan, evaluate
from lens.compare.labelsummary import LabelEval
from lens.compare.labelwords import LabelWords
from lens.compare.patchbench import default_layers
from lens.compare.wordforms import forms, head_noun
from lens.demo.architecture import EfficientNetLite, Projector
from lens.demo.captions import DESCRIBE, NAME, Captions
from lens.demo.evaluate import SHUFFLES, caption_all, heads_answers
from lens.demo.names import broader
from lens.demo.photos import encode, pixels, whole
from lens.demo.provision import with_connector
from lens.demo.start import Head
from lens.latentlens.index import chosen_index
from lens.progress import Report, silent

QUESTIONS = (NAME[0], DESCRIBE[0])
HEAD = "the encoder's head"
WILD = frozenset(("zebra", "cougar", "lynx", "leopard", "jaguar", "lion", "tiger", "cheetah"))
"""Nouns whose broader word (horse, cat) is their family, not what one calls them."""
BATCH = 16


@dataclass(frozen=True)
class Answers:
    """How often the answers to one question (or the encoder's head) name a label of their picture, and by chance."""

    question: str
    named: float
    chance: float


@dataclass(frozen=True)
class LabelledQuality:
    """Scores on labelled photographs.

    Attributes:
        labels: name of the labels' file; ``digest``: SHA-256 of them.
        answers: the head's first, then those to :data:`QUESTIONS`.
        samples: (picture, its labels, what each of ``answers`` said), for a reader's own judgement.
    """

    labels: str
    digest: str
    pictures: int
    answers: tuple[Answers, ...]
    samples: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]


def kinds(labels: Sequence[str], names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """By label, nouns of the classes that are kinds of it: their broader word is the label's noun, and no class with
    another broader word has their noun."""
    wide = broader()
    noun_of: dict[str, set[str | None]] = {}
    for index, name in enumerate(names):
        noun_of.setdefault(head_noun(name), set()).add(wide.get(index))
    return {
        label: tuple(
            sorted(n for n, of in noun_of.items() if len(of) == 1 and of <= forms(head_noun(label)) and n not in WILD)
        )
        for label in labels
    }


def measure_answers(
    labels: Labels,
    language: LlamaForCausalLM,
    connector: Projector,
    captions: Captions,
    head: Head,
    tower: EfficientNetLite,
    report: Report = silent,
) -> LabelledQuality:
    """Ask about every labelled picture.

    Raises:
        ImageUnreadable, ImageTooLarge: a labelled picture that can't be opened.
    """
    states = _encode_all(labels, tower, report)
    said = {HEAD: heads_answers(captions, head, states)}
    for question in QUESTIONS:
        report(len(said), 1 + len(QUESTIONS), "Asking about labelled photographs")
        said[question] = caption_all(language, connector, captions, states, question)
    words = LabelWords(labels.names, kinds(labels.names, captions.names))
    wanted = [{words.labels.index(shape.name) for shape in picture.shapes} for picture in labels.pictures]
    return LabelledQuality(
        labels=labels.source,
        digest=labels.digest,
        pictures=len(labels.pictures),
        answers=tuple(score(question, texts, wanted, words) for question, texts in said.items()),
        samples=tuple(
            (picture.name, tuple(sorted({shape.name for shape in picture.shapes})), tuple(texts))
            for picture, *texts in zip(labels.pictures, *said.values(), strict=True)
        ),
    )


def score(question: str, texts: Sequence[str], wanted: Sequence[set[int]], words: LabelWords) -> Answers:
    """Share of texts that name a wanted label, by its number in ``words``."""
    named = [{number for word in text.split() for number in words.named(word)} for text in texts]

    def hits(labels: Sequence[set[int]]) -> float:
        return sum(bool(own & there) for own, there in zip(named, labels, strict=True)) / len(texts)

    rng = random.Random(0)
    shuffled = [hits(rng.sample(wanted, len(wanted))) for _ in range(SHUFFLES)]
    return Answers(question, hits(wanted), sum(shuffled) / SHUFFLES)


def measure_cells(
    name: str, connector: Path, labels: Labels, folder: Path, wheels: Path | None, report: Report = silent
) -> LabelEval:
    """Every labelled cell by every lens, of the offline model ``name`` with this connector, assembled in ``folder``.

    Raises:
        LabelsUnusable: not one cell has a label.
    """
    spec = find(name)
    made = with_connector(connector, folder, report, wheels)
    loaded = load(replace(spec, source=str(made), setup=None))
    return evaluate(loaded, chosen_index(loaded, None), labels, Plan(default_layers(loaded.anatomy.depth)), report)


def _encode_all(labels: Labels, tower: EfficientNetLite, report: Report) -> Tensor:
    """Vision states of every labelled picture as the processor shows it, [pictures, 144, 1280]."""
    states, count = [], len(labels.pictures)
    for start in range(0, count, BATCH):
        report(start, count, "Encoding labelled photographs")
        chunk = [whole(open_picture(each.path).image) for each in labels.pictures[start : start + BATCH]]
        states.append(encode(tower, pixels(chunk)))
    return torch.cat(states)
