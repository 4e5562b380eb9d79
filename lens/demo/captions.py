"""What the connector is taught to say: questions and answers about pictures, and their token ids around the image's cells.

A training sequence is the demo's chat template exactly: ``<|im_start|>user\\n``, the cells, ``\\n``, a question, the turn
markers, the answer, ``<|im_end|>``. Invariants: ``before + 144 placeholders + after`` is what the processor makes of the
same question, so nothing differs between training and use but the number of cells; a class of ``unnamed`` is never named.

A part of a picture is called by its photograph's class only if the encoder's own head finds that class there too, or if the
crop is large; where the head is sure of another class, by that one; else it goes unmentioned (:meth:`Captions.labels`).
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence

import numpy as np
from jaxtyping import Float, Int
from transformers import PreTrainedTokenizerBase

from lens.compare.wordforms import head_noun
from lens.demo.names import MANY, MASS, broader, with_article
from lens.demo.pictures import BESIDE, COLOURS, FOUR, INSET, SHAPES, SINGLE, STACKED, Plan

NAME = ("What is this?", "What is in the image?", "What do you see?")
DESCRIBE = ("Describe the image.", "Describe this picture.")
KIND = ("What kind of thing is it?", "What sort of thing is this?")
COLOUR = ("What colour is the {}?", "What color is the {}?")
ASKED = {
    SINGLE: {"name": 0.47, "describe": 0.31, "presence": 0.12, "kind": 0.10},
    INSET: {"name": 0.46, "describe": 0.34, "presence": 0.20},
    BESIDE: {"name": 0.36, "describe": 0.27, "place": 0.27, "presence": 0.10},
    STACKED: {"name": 0.36, "describe": 0.27, "place": 0.27, "presence": 0.10},
    FOUR: {"name": 0.36, "describe": 0.27, "place": 0.27, "presence": 0.10},
}
"""How often each kind of question is asked about each layout."""
PLACES = {
    BESIDE: ("on the left", "on the right"),
    STACKED: ("at the top", "at the bottom"),
    FOUR: ("in the top left", "in the top right", "in the bottom left", "in the bottom right"),
}
SHAPE_ASKED = 0.8
"""Share of the pictures with a shape that are asked for its colour; the others whether something is there."""
TOP = 5
"""A class counts as seen by the head when it is among so many likeliest."""
SURE, SURER = 0.5, 0.6
"""Probability from which on the head's own class is said where the true one isn't seen, and from which on it contests
the true one where that is seen."""
LARGE = 0.6
"""Area of a single picture's crop, as a share of the largest square, from which on the true class is said in any case."""
RARE = 5
"""Tokens of a name from which on the broader word is said more often instead."""
MISLEADING = ("sea lion", "guinea pig")
"""Names whose last word means another thing."""
LONGEST = 48
"""Tokens of question and answer together; longer ones are left out."""


def listed(names: Sequence[str]) -> str:
    """``a cat, a dog and a fox``, each name once."""
    said = [with_article(name) for name in dict.fromkeys(names)]
    return " and ".join(filter(None, (", ".join(said[:-1]), said[-1])))


def answer(names: Sequence[str], described: bool = False) -> str:
    """The names as one short sentence: ``A cat.``, or described, ``A photo of a cat.``"""
    text = f"A photo of {listed(names)}." if described else f"{listed(names)}."
    return text[0].upper() + text[1:]


class Captions:
    """Checks labels, asks and answers.

    Attributes:
        names: of the classes; ``before``: token ids ahead of the image's cells.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, names: Sequence[str], unnamed: Collection[int] = ()) -> None:
        self.tokenizer, self.names, self.unnamed = tokenizer, list(names), frozenset(unnamed)
        self.before = self.ids("<|im_start|>user\n")
        self._broader = broader()
        self._nouns = plain_nouns(names, self._broader)
        self._rare = [len(ids) >= RARE for ids in self.all_ids([f" {name}" for name in names])]
        self._namable = [label for label in range(len(names)) if label not in self.unnamed]

    def ids(self, text: str) -> list[int]:
        """Token ids of ``text``, nothing added."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def all_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of many texts at once, nothing added."""
        return self.tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []  # type: ignore[return-value]

    def after(self, questions: Sequence[str]) -> list[list[int]]:
        """The ids from the image's last cell to the assistant's turn."""
        return self.all_ids([f"\n{question}<|im_end|>\n<|im_start|>assistant\n" for question in questions])

    def labels(
        self, plan: Plan, likeliest: Int[np.ndarray, "n 4 5"], probability: Float[np.ndarray, "n 4"]
    ) -> Int[np.ndarray, "n 4"]:
        """What each part may be called, -1 where nothing is sure enough.

        ``likeliest`` are the head's classes for each part, best first; ``probability`` the first one's.
        """
        first = likeliest[..., 0]
        seen = (likeliest == plan.photo[..., None]).any(-1)
        large = (plan.layout == SINGLE)[:, None] & (plan.area >= LARGE)
        contested = seen & (first != plan.photo) & (probability > SURER)
        heads = (probability > SURE) & ~np.isin(first, list(self.unnamed))
        label = np.where(large | (seen & ~contested), plan.photo, np.where(heads, first, -1))
        return np.where(plan.exists, label, -1)

    def texts(
        self, plan: Plan, labels: Int[np.ndarray, "n 4"], most: int, rng: random.Random
    ) -> list[tuple[int, list[int], list[int]]]:
        """(picture, ids after the cells, ids of the answer) for up to ``most`` pictures, the shortest texts first."""
        asked = [self.ask(plan, row, mine, rng) for row, mine in enumerate(labels.tolist())]
        rows = [row for row, pair in enumerate(asked) if pair is not None]
        pairs = [pair for pair in asked if pair is not None]
        questions = self.after([question for question, _ in pairs])
        answers = self.all_ids([f"{said}<|im_end|>" for _, said in pairs])
        found = list(zip(rows, questions, answers, strict=True))
        kept = [each for each in found if len(each[1]) + len(each[2]) <= LONGEST][:most]
        return sorted(kept, key=lambda each: len(each[1]) + len(each[2]))

    def ask(self, plan: Plan, row: int, labels: Sequence[int], rng: random.Random) -> tuple[str, str] | None:
        """A question about one picture and its answer; ``None`` if more than one part of it has no label, or all."""
        layout, parts = int(plan.layout[row]), int(plan.parts[row])
        known = [label for label in labels if label >= 0]
        if len(known) < max(1, parts - 1):
            return None
        shape = int(plan.shape[row])
        if shape and rng.random() < SHAPE_ASKED:
            form, colour = SHAPES[shape - 1], list(COLOURS)[plan.colour[row]]
            return rng.choice(COLOUR).format(form), f"The {form} is {colour}."
        asked = "presence" if shape else rng.choices(*zip(*ASKED[layout].items(), strict=True))[0]
        found = None
        if asked == "place":
            found = self._place(layout, labels[:parts], rng)
        elif asked == "kind" and known[0] in self._broader:
            found = rng.choice(KIND), answer([self._broader[known[0]]])
        elif asked == "presence":
            found = self._presence(known, len(known) == parts, rng)
        if found is not None:
            return found
        described = asked == "describe"
        said = [self.call(label, rng, shorter=layout == FOUR) for label in known]
        return rng.choice(DESCRIBE if described else NAME), answer(said, described)

    def call(self, label: int, rng: random.Random, shorter: bool = False) -> str:
        """A name for a class: mostly its own, sometimes its noun alone or its broader word, more often so if the name is
        rare or the answer is to be short."""
        drawn, noun, wide = rng.random(), self._nouns.get(label), self._broader.get(label)
        own, nouns = (0.45, 0.70) if self._rare[label] or shorter else (0.80, 0.91)
        if drawn < own:
            return self.names[label]
        return (noun if drawn < nouns else wide) or noun or self.names[label]

    def _place(self, layout: int, labels: Sequence[int], rng: random.Random) -> tuple[str, str] | None:
        part = rng.randrange(len(labels))
        if labels[part] < 0:
            return None
        return f"What is {PLACES[layout][part]}?", answer([self.call(labels[part], rng)])

    def _presence(self, known: Sequence[int], complete: bool, rng: random.Random) -> tuple[str, str] | None:
        """Whether something is there; that it isn't is only said of what no part could be called."""
        there = rng.random() < 0.5
        name = self.call(rng.choice(known if there else self._namable), rng)
        if name in MANY or not (there or (complete and not self._could_mean(name, known))):
            return None
        thing = with_article(name)
        return f"Is there {thing} in the image?", f"Yes, there is {thing}." if there else f"No, there is no {name}."

    def _could_mean(self, name: str, labels: Iterable[int]) -> bool:
        words = {
            word
            for label in labels
            for word in (self.names[label], head_noun(self.names[label]), self._broader.get(label))
        }
        return name in words or head_noun(name) in words


def plain_nouns(names: Sequence[str], wide: dict[int, str]) -> dict[int, str]:
    """By class, the last word of its name, where that is plain: the class's broader word itself (``tiger shark`` is no case,
    ``tree frog`` is), or the last word of several names, most of which have this class's broader word (``shark``)."""
    nouns = [head_noun(name) for name in names]
    votes: dict[str, Counter[str | None]] = defaultdict(Counter)
    for label, noun in enumerate(nouns):
        votes[noun][wide.get(label)] += 1
    found = {}
    for label, noun in enumerate(nouns):
        own = wide.get(label)
        shared = own is not None and votes[noun].total() > 1 and own == votes[noun].most_common(1)[0][0]
        if noun != names[label] and noun not in MASS and names[label] not in MISLEADING and (noun == own or shared):
            found[label] = noun
    return found
