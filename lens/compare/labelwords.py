"""When a word of a lens names a label of a picture.

The rules:

- only whole words count, whatever their case; a word with a hyphen counts as each of its parts and as all of them together;
- singular and plural count alike (:mod:`lens.compare.wordforms`);
- a label of several words counts by its last one, as English puts it (``traffic light``: light; ``cup of coffee``: coffee),
  or written together (``trafficlight``);
- so do the near synonyms and the kinds of a thing in :data:`SYNONYMS` (``puppy`` for dog), and what a reader adds. A broader
  word doesn't count (``bird`` for penguin, ``vehicle`` for car).

A vocabulary entry, as the logit and the embedding lens give it, may be the beginning or the end of a longer word (``car`` of
``carpet``): it counts as the word it looks like, for true labels and for controls alike.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from lens.compare.naming import NOUNS
from lens.compare.wordforms import OUTER, forms, head_noun, parts
from lens.errors import LabelsUnusable

SYNONYMS: dict[str, tuple[str, ...]] = {
    **NOUNS,
    "person": ("man", "woman", "boy", "girl", "child", "human", "guy", "lady", "player", "adult", "kid", "baby"),
    "bicycle": ("bike", "cycle"), "bike": ("bicycle", "cycle"), "motorcycle": ("motorbike", "bike", "scooter"),
    "car": (*NOUNS["car"], "suv", "taxi", "cab", "coupe", "hatchback", "minivan"),
    "airplane": ("aeroplane", "plane", "aircraft", "jet", "airliner"), "bus": ("coach", "minibus"),
    "train": ("locomotive", "tram", "subway"), "truck": ("lorry", "pickup", "van"), "tram": ("streetcar", "trolley"),
    "boat": (*NOUNS["boat"], "canoe", "kayak", "ferry", "vessel"), "hydrant": ("fireplug",), "bench": ("seat",),
    "bird": (*NOUNS["bird"], "sparrow", "eagle", "owl", "gull", "seagull", "pigeon", "parrot", "hawk", "finch", "goose"),
    "duck": ("drake", "duckling", "mallard"), "chicken": ("hen", "rooster", "cock"), "cat": (*NOUNS["cat"], "tabby"),
    "dog": ("puppy", "pup", "hound", "terrier", "spaniel", "poodle", "retriever", "shepherd", "bulldog", "pug"),
    "horse": ("pony", "mare", "stallion", "foal"), "sheep": ("lamb", "ram", "ewe"), "cow": ("bull", "calf", "cattle", "ox"),
    "fish": ("goldfish", "trout", "salmon", "shark", "carp"), "insect": ("beetle", "bug", "ant", "fly", "moth", "bee"),
    "spider": ("tarantula",), "butterfly": ("moth",), "bag": ("handbag", "purse", "backpack", "rucksack"),
    "backpack": ("rucksack", "knapsack", "bag"), "handbag": ("purse", "bag"), "suitcase": ("luggage", "baggage", "trunk"),
    "tie": ("necktie",), "frisbee": ("disc", "disk"), "ski": ("skiing",), "snowboard": ("board",),
    "glove": ("mitt",), "skateboard": ("board",), "surfboard": ("board",), "racket": ("racquet",),
    "bottle": ("flask", "vial"), "glass": ("goblet", "wineglass"), "cup": (*NOUNS["cup"], "glass"), "bowl": ("dish",),
    "sandwich": ("burger", "sub", "toast"), "donut": ("doughnut",), "doughnut": ("donut",),
    "cake": ("cupcake", "pie"), "couch": ("sofa", "settee"), "sofa": ("couch", "settee"), "plant": ("flower", "bush"),
    "table": ("desk", "countertop"), "toilet": ("lavatory",), "tv": ("television", "screen", "monitor"),
    "laptop": ("computer", "notebook"), "remote": ("controller",), "phone": ("cellphone", "telephone"),
    "oven": ("stove", "cooker"), "refrigerator": ("fridge",), "fridge": ("refrigerator",), "sink": ("basin", "washbasin"),
    "clock": ("watch",), "bear": ("teddy",), "drier": ("dryer", "hairdryer"), "toothbrush": ("brush",),
    "saxophone": ("sax",), "popsicle": ("lolly",), "teapot": ("kettle",), "forklift": ("truck",), "kart": ("gokart",),
    "squash": ("pumpkin", "gourd"), "starfish": ("seastar",),
}  # fmt: skip
"""Noun → other words for the thing, or for kinds of it; this project's own list, around COCO's 80 categories."""


class LabelWords:
    """The words of some labels.

    Attributes:
        labels: their names, each once.
        forms: by label, all words in lower case that name it.
    """

    def __init__(self, labels: Sequence[str], more: Mapping[str, Iterable[str]] | None = None) -> None:
        self.labels = tuple(dict.fromkeys(labels))
        self.forms = {label: frozenset(_forms(label, (more or {}).get(label, ()))) for label in self.labels}
        self._named: dict[str, tuple[int, ...]] = {}
        for number, label in enumerate(self.labels):
            for form in self.forms[label]:
                self._named[form] = (*self._named.get(form, ()), number)
        self.named = lru_cache(maxsize=1 << 16)(self._find)

    def _find(self, word: str) -> tuple[int, ...]:
        """Which labels, by number, a word names."""
        found = parts(word.strip(OUTER))
        looked_up = dict.fromkeys([*found, "".join(found)])
        return tuple(sorted({number for part in looked_up for number in self._named.get(part, ())}))

    def ranks(self, words: Sequence[str]) -> dict[int, int]:
        """Words, best first → label by number → the rank, from 1, of the first word that names it."""
        ranks: dict[int, int] = {}
        for rank, word in enumerate(words, 1):
            for number in self.named(word):
                ranks.setdefault(number, rank)
        return ranks


def _forms(label: str, more: Iterable[str]) -> set[str]:
    words = parts(label)
    if not words:  # a label of punctuation alone names nothing
        return set()
    head = head_noun(" ".join(words))
    known = {other for noun in {head} | (forms(head) & SYNONYMS.keys()) for other in SYNONYMS.get(noun, ())}
    nouns = {head, *("".join(parts(name)) for name in (label, *known, *more))}
    return {form for noun in nouns if noun for form in forms(noun)}


def read_synonyms(path: Path) -> dict[str, tuple[str, ...]]:
    """A reader's own words: a JSON object, label → list of words. :class:`LabelsUnusable` for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        lists = content.values() if isinstance(content, dict) else [None]
        if not all(isinstance(words, list) and all(isinstance(word, str) for word in words) for words in lists):
            raise ValueError("it is no object of lists of words")
        return {label: tuple(words) for label, words in content.items()}
    except (OSError, ValueError, RecursionError) as error:
        raise LabelsUnusable(
            f'{path.name} holds no synonyms ({str(error)[:80]}); give JSON of the form {{"dog": ["puppy", "hound"]}}.'
        ) from error
