"""What counts as naming an item, rule by rule."""

from __future__ import annotations

import pytest

from lens.compare.naming import NOUNS, SHADES, names_in_answer, names_in_words
from lens.compare.patchitems import COLOURS, KINDS


@pytest.mark.parametrize(
    ("word", "names"),
    [
        (" star", ["star"]),
        ("Stars,", ["star"]),
        ("BOXES", ["square"]),
        ("kitties", ["cat"]),
        ("star-shaped", ["star"]),
        ("star's", ["star"]),
        ("mug", ["cup"]),
        ("starting", []),
        ("catalogue", []),
        ("carpet", []),
        ("disc", ["circle"]),
        ("gray", ["grey"]),
        ("violets", ["purple"]),
        ("reddish", []),
        ("Ġred", []),
        (" a", ["A"]),
        ('"Q"', ["Q"]),
        ("é", []),
        ("7", ["7"]),
        ("seven", ["7"]),
        ("sixes", ["6"]),
        ("17", []),
        ("seventh", []),
        ("o", ["O"]),
        ("0", ["0"]),
        ("7-year", []),
        ("", []),
        ("...", []),
    ],
)
def test_a_word_names(word: str, names: list[str]):
    assert list(names_in_words([word])) == names


def test_ranks_are_those_of_the_first_word_that_names():
    assert names_in_words(["thing", "red", "Cat", "cats", "blue-green"]) == {"red": 2, "cat": 3, "blue": 5, "green": 5}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("This is a red star.", ["red", "star"]),
        ("A cat.", ["cat"]),
        ("I am a model.", []),
        ("I'm sure it's a house", ["house"]),
        ("The letter A", ["A"]),
        ("the letter “k” in green", ["green", "K"]),
        ("a letter in a box", ["square"]),
        ("It is an X.", ["X"]),
        ("It is I.", ["I"]),
        ("b", ["B"]),
        ("'T'", ["T"]),
        ("A T-shirt from the U.S.", []),
        ("An X-ray", []),
        ("A Python. A B", ["A", "B"]),
        ("the number 7", ["7"]),
        ("Number seven, in gray.", ["7", "grey"]),
        ("17 apples", []),
        ("Light-coloured, light blue", ["blue"]),
        ("a catalogue of carpets", []),
        ("", []),
    ],
)
def test_an_answer_names(text: str, names: list[str]):
    assert sorted(names_in_answer(text)) == sorted(names)


def test_no_word_names_two_things():
    tables = [name for names in KINDS.values() for name in names] + list(COLOURS)
    assert len(tables) == len(set(tables))
    nouns = [noun for name in KINDS["object"] for noun in NOUNS.get(name, (name,))]
    shades = [shade for colour in COLOURS for shade in SHADES.get(colour, (colour,))]
    assert len(nouns + shades) == len(set(nouns + shades))
    assert set(NOUNS) <= set(KINDS["object"]) and set(SHADES) <= set(COLOURS)


def test_every_identity_and_colour_names_itself():
    for name in (*(n for names in KINDS.values() for n in names), *COLOURS):
        assert names_in_words([name]) == {name: 1}
        assert name in names_in_answer(f"It is {name}.")
