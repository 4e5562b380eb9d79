"""A connector on labelled photographs: when an answer names a label, ceiling and chance, and cells in the real model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lens.backend.catalog import find
from lens.backend.loading import load
from lens.compare.labelfiles import Labels, read_labels
from lens.compare.labelwords import LabelWords
from lens.demo.architecture import Projector
from lens.demo.labelled import HEAD, QUESTIONS, kinds, measure_answers, measure_cells, score
from lens.demo.provision import CONNECTORS
from tests.demo.tinyconnector import (
    COLOURS,
    INPUTS,
    NAMES,
    WIDTH,
    photographs,
    tiny_examples,
    tiny_language,
    tiny_tower,
)


def labels_of(folder: Path, names: list[str]) -> Labels:
    """COCO labels of the photographs: each has the name of its class over all of it."""
    photographs(folder, noise=20)
    images = [{"id": i, "file_name": f"{i}.png", "width": 400, "height": 300} for i in range(len(COLOURS))]
    boxes = [{"id": i, "image_id": i, "category_id": i, "bbox": [0, 0, 400, 300]} for i in range(len(COLOURS))]
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    path = folder / "labels.json"
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    return read_labels(path, folder)


def test_kinds_of_a_label_are_classes_of_that_broader_word() -> None:
    names = [f"thing{i}" for i in range(1000)]
    names[207], names[282], names[292], names[300], names[340] = (
        "golden retriever",
        "tiger cat",
        "tiger",
        "tiger beetle",
        "zebra",
    )
    names[231], names[917] = "collie", "comic collie"  # a noun of another thing, too
    found = kinds(["dog", "cat", "horse", "potted plant"], names)
    assert "retriever" in found["dog"] and "collie" not in found["dog"] and "thing160" in found["dog"]
    assert "cat" in found["cat"] and "tiger" not in found["cat"] and "zebra" not in found["horse"]
    assert found["potted plant"] == ()


def test_an_answer_counts_when_it_names_anything_in_its_picture() -> None:
    words = LabelWords(["dog", "traffic light", "cat"], {"dog": ("collie",)})
    number = {name: i for i, name in enumerate(words.labels)}
    wanted = [{number["dog"], number["cat"]}, {number["traffic light"]}, {number["cat"]}, {number["cat"]}]
    texts = ["A photo of a collie.", "A dog.", "Two kittens and a traffic light.", "A catalogue."]
    found = score("What is this?", texts, wanted, words)
    assert found.named == 0.5  # the collie and the kittens
    assert found.chance == pytest.approx((1 + 1 + 4 + 0) / 16, abs=0.06)


def test_the_head_is_the_ceiling(tmp_path: Path) -> None:
    language = tiny_language()
    examples = tiny_examples(language, tmp_path)
    labels = labels_of(tmp_path, NAMES)
    torch.manual_seed(0)
    connector = Projector(INPUTS, 16, WIDTH)
    found = measure_answers(labels, language, connector, examples.captions, examples.head, tiny_tower())
    assert [each.question for each in found.answers] == [HEAD, *QUESTIONS]
    assert found.answers[0].named == 1.0 and found.answers[0].chance == pytest.approx(7 / 25, abs=0.05)
    assert found.pictures == 5 and found.samples[1][:2] == ("1.png", ("goldfish",))
    assert found.samples[1][2][0] == "A goldfish." and len(found.samples[1][2]) == 3


@pytest.mark.model
def test_cells_are_read_from_the_model_with_that_connector(demo_home: Path, tmp_path: Path) -> None:
    labels = labels_of(tmp_path, ["fish", "fish", "shark", "shark", "rooster"])
    one = replace(labels, pictures=labels.pictures[:1])
    scratch = CONNECTORS / "demo-scratch.safetensors"
    found = measure_cells("demo", scratch, one, tmp_path / "model", None)
    assert found.fingerprint == load(find("demo-scratch")).fingerprint
    assert found.index == "demo" and found.lenses == ("latent", "logit", "embedding") and found.patches == 144
