"""Words as they are compared: case and punctuation left out, singulars and plurals, what a label's noun is."""

from __future__ import annotations

import re

OUTER = " \t\n.,;:!?\"'`“”‘’()[]{}*_-"
"""What stands around a word and isn't part of it."""
IRREGULAR = {
    "person": "people", "man": "men", "woman": "women", "child": "children", "mouse": "mice", "goose": "geese",
    "tooth": "teeth", "foot": "feet", "ox": "oxen", "knife": "knives", "leaf": "leaves", "loaf": "loaves",
    "shelf": "shelves", "wolf": "wolves", "calf": "calves", "half": "halves", "scarf": "scarves", "sheep": "sheep",
    "deer": "deer", "fish": "fish", "potato": "potatoes", "tomato": "tomatoes", "hero": "heroes", "bus": "buses",
}  # fmt: skip
"""Singular → plural, where the endings of :func:`plural` would be wrong."""
_SINGULAR = {plural: singular for singular, plural in IRREGULAR.items()}


def parts(text: str) -> list[str]:
    """The words in a text, in lower case: runs of letters and digits."""
    return re.findall(r"[^\W_]+", text.lower())


def plural(word: str) -> str:
    """The plural of an English noun in lower case, by its ending."""
    if word.endswith(("s", "x", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and len(word) > 1 and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"


def forms(word: str) -> set[str]:
    """A noun in lower case with what its singular and its plural may be. What looks like a plural is also taken for a
    singular (``bus``, ``glass``), so that some forms are no words; nobody writes those."""
    found = {word, IRREGULAR.get(word, plural(word)), _SINGULAR.get(word, word)}
    if word.endswith("ies") and len(word) > 4:
        found.add(word[:-3] + "y")
    if word.endswith("es") and word[:-2].endswith(("s", "x", "ch", "sh")):
        found.add(word[:-2])
    if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3:
        found.add(word[:-1])
    return found


def head_noun(name: str) -> str:
    """What a text must contain to have named the thing: the last word, or the thing measured out (``cup of coffee``)."""
    if " with " in name:
        name = name.split(" with ")[0]
    return name.split()[-1].lower()
