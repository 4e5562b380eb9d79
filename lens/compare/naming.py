"""When a word of a lens, or an answer, names an item's identity or its colour.

The rules, for lens words and answers alike:

- case doesn't matter, and plurals count: ``Stars``, ``BOXES``;
- an object counts by its noun or one of the near synonyms of :data:`NOUNS`; a colour by its basic term, in either
  spelling of grey, and purple also as violet;
- a digit counts as a symbol (``7``) or spelt out (``seven``), not as part of a larger number (``17``) and not as an
  ordinal (``seventh``);
- only whole words count (``catalogue`` is no cat), and a word with a hyphen counts as each of its parts (``star-shaped``);
- a letter is named by that letter alone. O and 0, I and 1 are told apart, although they may look alike.

A lens gives single words, so a letter counts there in either case (``a``, ``A``); the article being a frequent word is part
of chance. In an answer the letter must stand in upper case or after the word "letter", and what is the article or the
pronoun ("A cat", "I am") doesn't count, nor do abbreviations and compounds ("U.S.", "T-shirt"); unless the letter is the
whole answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lens.compare.patchitems import COLOURS, KINDS
from lens.compare.wordforms import OUTER, parts, plural

NOUNS = {
    "circle": ("circle", "disc", "disk", "dot", "ball"),
    "square": ("square", "box"),
    "cross": ("cross", "plus"),
    "ring": ("ring", "hoop", "donut", "doughnut"),
    "moon": ("moon", "crescent"),
    "house": ("house", "home", "hut", "cottage", "cabin"),
    "tree": ("tree", "pine", "fir"),
    "flower": ("flower", "blossom", "daisy"),
    "cat": ("cat", "kitten", "kitty"),
    "bird": ("bird", "duck", "duckling"),
    "boat": ("boat", "sailboat", "ship", "yacht"),
    "car": ("car", "automobile", "sedan"),
    "cup": ("cup", "mug", "teacup"),
    "umbrella": ("umbrella", "parasol"),
    "mushroom": ("mushroom", "toadstool"),
}
"""Objects that have more names than their own."""
SPELT = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SHADES = {"grey": ("grey", "gray"), "purple": ("purple", "violet")}
QUESTIONS = ("identity", "colour")


def names_in_words(words: Sequence[str]) -> dict[str, int]:
    """What a lens's words, best first, name: identity or colour → the rank, from 1, of the first word that does."""
    ranks: dict[str, int] = {}
    for rank, word in enumerate(words, 1):
        for name in _names_in_word(word):
            ranks.setdefault(name, rank)
    return ranks


def names_in_answer(text: str) -> tuple[str, ...]:
    """What an answer names, identities and colours, each once."""
    found = [_FORMS[part] for part in parts(text) if part in _FORMS]
    alone = text.strip(OUTER)
    found += [match.upper() for match in re.findall(r"\b(?i:letters?)\b\W{1,3}([A-Za-z])\b(?!['’-]\w)", text)]
    found += [
        match[1] for match in re.finditer(r"(?<![\w'’.-])([A-Z])\b(?!['’.-]\w)", text) if not _is_word(text, match)
    ]
    found += [alone.upper()] if alone.upper() in KINDS["letter"] else []
    return tuple(dict.fromkeys(found))


def _is_word(text: str, match: re.Match[str]) -> bool:
    """Whether an upper-case A or I is the article or the pronoun: a word follows it, and not another single letter."""
    return match[1] in "AI" and bool(re.match(r"\s+([a-z]|\w[\w'’-])", text[match.end() :]))


def _names_in_word(word: str) -> list[str]:
    alone = word.strip(OUTER)
    if len(alone) == 1:
        return [alone.upper()] if alone.upper() in KINDS["letter"] else [alone] if alone in KINDS["digit"] else []
    return [_FORMS[part] for part in parts(alone) if len(part) > 1 and part in _FORMS]


def _forms() -> dict[str, str]:
    """Word in lower case → what it names; letters, which have rules of their own, left out."""
    table: dict[str, str] = {}
    for name in KINDS["object"]:
        table |= {form: name for noun in NOUNS.get(name, (name,)) for form in (noun, plural(noun))}
    for digit, word in zip(KINDS["digit"], SPELT, strict=True):
        table |= {digit: digit, word: digit, plural(word): digit}
    for colour in COLOURS:
        table |= {form: colour for shade in SHADES.get(colour, (colour,)) for form in (shade, plural(shade))}
    return table


_FORMS = _forms()
