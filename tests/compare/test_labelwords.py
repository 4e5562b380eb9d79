"""When a word names a label."""

from __future__ import annotations

from pathlib import Path

import pytest

from lens.compare.labelwords import SYNONYMS, LabelWords, read_synonyms
from lens.compare.wordforms import forms, plural
from lens.errors import LabelsUnusable

LABELS = ["dog", "traffic light", "wine glasses", "person", "cup of coffee", "t-shirt", "Knife", "bus", "TV", "squash"]


@pytest.mark.parametrize(
    ("word", "labels"),
    [
        ("dog", ["dog"]),
        (" DOGS,", ["dog"]),
        ("puppies", ["dog"]),
        ("dogma", []),
        ("bulldog", ["dog"]),
        ("light", ["traffic light"]),
        ("lights", ["traffic light"]),
        ("TrafficLight", ["traffic light"]),
        ("traffic", []),
        ("glass", ["wine glasses"]),
        ("glasses", ["wine glasses"]),
        ("people", ["person"]),
        ("women", ["person"]),
        ("coffee", ["cup of coffee"]),
        ("cup", []),
        ("shirt", ["t-shirt"]),
        ("T-shirts", ["t-shirt"]),
        ("knives", ["Knife"]),
        ("buses", ["bus"]),
        ("television", ["TV"]),
        ("dog-like", ["dog"]),
        ("pumpkins", ["squash"]),
        ("", []),
        ("...", []),
        ("vehicle", []),
    ],
)
def test_what_names_what(word: str, labels: list[str]):
    words = LabelWords(LABELS)
    assert [words.labels[number] for number in words.named(word)] == labels


def test_rank_is_of_the_first_word_that_names():
    words = LabelWords(["dog", "cat"])
    assert words.ranks(["the", "kitten", "dog", "cat", "puppy"]) == {1: 2, 0: 3}


def test_one_word_may_name_two_labels():
    words = LabelWords(["bicycle", "motorcycle"])
    assert words.named("bike") == (0, 1)


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("box", "boxes"),
        ("berry", "berries"),
        ("day", "days"),
        ("wolf", "wolves"),
        ("mouse", "mice"),
        ("sheep", "sheep"),
    ],
)
def test_singular_and_plural_are_forms_of_one_another(one: str, many: str):
    assert many in forms(one) and one in forms(many)


def test_plural_of_short_words():
    assert plural("y") == "ys"
    assert "glas" not in forms("glass") and "bu" not in forms("bus")


def test_synonyms_are_single_lower_case_words():
    for noun, others in SYNONYMS.items():
        assert all(word == word.lower() and " " not in word for word in (noun, *others))


def test_a_readers_own_words(tmp_path: Path):
    file = tmp_path / "s.json"
    file.write_text('{"dog": ["Labrador"], "nothing here": ["x"]}')
    words = LabelWords(["dog"], read_synonyms(file))
    assert words.named("labradors") == (0,)
    for bad in ('["dog"]', '{"dog": "puppy"}', "{", ""):
        file.write_text(bad)
        with pytest.raises(LabelsUnusable, match="holds no synonyms"):
            read_synonyms(file)
