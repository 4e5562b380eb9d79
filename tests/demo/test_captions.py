"""Questions and answers: labels that the encoder's head agrees with, what may be said of each layout, the ids."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest

from lens.demo import captions
from lens.demo.captions import Captions, answer, listed, plain_nouns
from lens.demo.names import broader, with_article
from lens.demo.pictures import BESIDE, COLOURS, FOUR, INSET, SHAPES, SINGLE, STACKED, Plan, plan_pictures
from tests.demo.tinyconnector import LetterTokenizer, one_part

NAMES = [f"thing {label}" for label in range(1000)]
NAMES[2:5] = ["great white shark", "tiger shark", "hammerhead shark"]
NAMES[150], NAMES[338], NAMES[281], NAMES[837], NAMES[404] = (
    "sea lion",
    "guinea pig",
    "tabby cat",
    "sunglasses",
    "airplane",
)
TIGER, CAT, PLANE, GLASSES = 3, 281, 404, 837
TURN = "<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def said() -> Captions:
    return Captions(LetterTokenizer(), NAMES)  # type: ignore[arg-type]


def layout_of(layout: int) -> Plan:
    """One picture of a layout, without a shape."""
    rng = np.random.default_rng(0)
    while True:
        plan = plan_pictures(np.array([(400, 300)] * 1000), range(1000), 1, rng, True)
        if plan.layout[0] == layout and not plan.shape[0]:
            return plan


def asked(said: Captions, plan: Plan, labels: list[int], count: int = 400) -> set[tuple[str, str]]:
    """Every question and answer that ``count`` draws give."""
    rng = random.Random(0)
    found = [said.ask(plan, 0, labels, rng) for _ in range(count)]
    return {pair for pair in found if pair is not None}


def test_answers_are_short_sentences() -> None:
    assert answer(["tabby cat"]) == "A tabby cat."
    assert answer(["airplane", "sunglasses"], described=True) == "A photo of an airplane and sunglasses."
    assert answer(["airplane", "airplane"]) == "An airplane."
    assert listed(["urchin", "hourglass", "European fox"]) == "an urchin, an hourglass and a European fox"
    assert with_article("food") == "food"


def test_the_last_word_is_said_where_it_is_plain() -> None:
    nouns = plain_nouns(NAMES, broader())
    assert nouns[TIGER] == "shark" and nouns[CAT] == "cat"
    assert 150 not in nouns and 338 not in nouns and PLANE not in nouns


@pytest.mark.parametrize(
    ("likeliest", "probability", "area", "wanted"),
    [
        ([CAT, 9, 8, 7, 6], 0.2, 0.3, CAT),  # the head agrees
        ([9, 8, CAT, 7, 6], 0.55, 0.3, CAT),  # it sees it too
        ([9, 8, CAT, 7, 6], 0.65, 0.3, 9),  # but is surer of another
        ([9, 8, CAT, 7, 6], 0.65, 0.6, CAT),  # in a large crop that doesn't count
        ([9, 8, 7, 6, 5], 0.55, 0.3, 9),  # it doesn't see it, and is sure of another
        ([9, 8, 7, 6, 5], 0.45, 0.3, -1),  # it doesn't see it, and is sure of nothing
        ([9, 8, 7, 6, 5], 0.99, 0.6, CAT),
        ([13, 8, 7, 6, 5], 0.99, 0.3, -1),  # sure of a class that may not be named
    ],
)
def test_the_head_checks_labels(likeliest: list[int], probability: float, area: float, wanted: int) -> None:
    held = Captions(LetterTokenizer(), NAMES, {13})  # type: ignore[arg-type]
    plan = one_part(photo=CAT, area=np.full((1, 4), area))
    found = held.labels(plan, np.array([[likeliest] * 4]), np.full((1, 4), probability))
    assert found.tolist() == [[wanted, -1, -1, -1]]


def test_only_a_single_crop_is_trusted_for_its_size() -> None:
    plan = layout_of(BESIDE)
    plan.photo[:], plan.area[:] = CAT, 1.0
    found = Captions(LetterTokenizer(), NAMES).labels(plan, np.full((1, 4, 5), 9), np.full((1, 4), 0.1))  # type: ignore[arg-type]
    assert found.tolist() == [[-1] * 4]


def test_a_single_picture_is_named_described_and_classed(said: Captions) -> None:
    found = asked(said, layout_of(SINGLE), [TIGER, -1, -1, -1])
    assert ("What is this?", "A tiger shark.") in found and ("What do you see?", "A shark.") in found
    assert ("Describe the image.", "A photo of a tiger shark.") in found
    assert ("What kind of thing is it?", "A fish.") in found
    assert ("Is there a tiger shark in the image?", "Yes, there is a tiger shark.") in found


@pytest.mark.parametrize(
    ("layout", "places"),
    [(BESIDE, ["on the left", "on the right"]), (STACKED, ["at the top", "at the bottom"]),
     (FOUR, ["in the top left", "in the top right", "in the bottom left", "in the bottom right"])],
)  # fmt: skip
def test_parts_are_asked_for_by_their_place(said: Captions, layout: int, places: list[str]) -> None:
    labels = [CAT, PLANE, 500, 600][: len(places)] + [-1] * (4 - len(places))
    found = asked(said, layout_of(layout), labels)
    answers = {question: text for question, text in found if question.startswith("What is") and "the " in question}
    for place, label in zip(places, labels, strict=False):
        options = {
            (f"What is {place}?", answer([name])) for name in (NAMES[label], "cat", broader().get(label)) if name
        }
        assert options & found, (place, answers)
    assert not {q for q, _ in found if q.startswith("What is") and re.search("left|right|top|bottom", q)} - {
        f"What is {place}?" for place in places
    }


def test_a_part_without_a_label_is_neither_named_nor_denied(said: Captions) -> None:
    found = asked(said, layout_of(BESIDE), [CAT, -1, -1, -1])
    assert found and not any(text.startswith("No") for _, text in found)
    assert not any(question == "What is on the right?" for question, _ in found)
    assert asked(said, layout_of(FOUR), [CAT, PLANE, -1, -1]) == set()
    assert asked(said, layout_of(SINGLE), [-1] * 4) == set()


def test_what_is_denied_is_not_there(said: Captions) -> None:
    found = asked(said, layout_of(INSET), [TIGER, CAT, -1, -1], 4000)
    denied = {text[len("No, there is no ") : -1] for _, text in found if text.startswith("No")}
    assert len(denied) > 50
    assert not denied & {"tiger shark", "shark", "fish", "great white shark", "cat", "tabby cat", "sunglasses"}


def test_nobody_asks_whether_there_are_sunglasses(said: Captions) -> None:
    assert not any(
        "Is there" in q and "sunglasses" in q for q, _ in asked(said, layout_of(SINGLE), [GLASSES] + [-1] * 3)
    )


def test_a_shape_is_asked_for_its_colour(said: Captions) -> None:
    plan = one_part(shape=np.array([2]), colour=np.array([3]))
    found = asked(said, plan, [CAT, -1, -1, -1])
    assert ("What colour is the circle?", "The circle is yellow.") in found
    assert SHAPES[1] == "circle" and list(COLOURS)[3] == "yellow"
    assert all("circle" in q or "Is there" in q or "?" in q for q, _ in found)


def test_a_class_that_is_not_to_be_named_never_is() -> None:
    held = Captions(LetterTokenizer(), NAMES, range(500, 1000))  # type: ignore[arg-type]
    found = asked(held, layout_of(SINGLE), [CAT, -1, -1, -1], 2000)
    numbers = {int(number) for pair in found for text in pair for number in re.findall(r"thing (\d+)", text)}
    assert numbers and max(numbers) < 500


def test_texts_are_ids_around_the_cells_shortest_first(said: Captions) -> None:
    plan = plan_pictures(np.array([(400, 300)] * 1000), range(1000), 60, np.random.default_rng(0), True)
    labels = np.where(plan.exists, plan.photo, -1)
    labels[::7] = -1
    monkey = random.Random(1)
    pairs = {row: said.ask(plan, row, mine, monkey) for row, mine in enumerate(labels.tolist())}
    found = said.texts(plan, labels, 60, random.Random(1))
    lengths = [len(after) + len(ids) for _, after, ids in found]
    assert lengths == sorted(lengths) and max(lengths) <= captions.LONGEST
    assert not any(row % 7 == 0 for row, _, _ in found)
    for row, after, ids in found:
        question, text = pairs[row] or ("", "")
        assert after == said.ids(f"\n{question}{TURN}") and ids == said.ids(f"{text}<|im_end|>")
    assert len(said.texts(plan, labels, 3, random.Random(1))) <= 3


@pytest.mark.model
def test_the_sequence_is_the_processors(demo_home: Path) -> None:
    from PIL import Image
    from transformers import AutoProcessor

    import lens.demo.architecture  # noqa: F401  (registers the model)

    processor = AutoProcessor.from_pretrained(demo_home / "models" / "demo")
    said = Captions(processor.tokenizer, NAMES)
    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}]
    text = processor.apply_chat_template(message, add_generation_prompt=True)
    ids = processor(text=text, images=Image.new("RGB", (384, 384)), return_tensors="pt")["input_ids"][0].tolist()
    image = processor.tokenizer.convert_tokens_to_ids("<image>")
    assert ids == said.before + [image] * 144 + said.after(["What is this?"])[0]
