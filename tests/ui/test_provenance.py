"""A figure's export names what the figure depends on, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import plotly.graph_objects as go

from lens.compare.patchsummary import PatchBench
from lens.embedlens.anchors import Anchors
from lens.embedlens.causal_folder import FolderEffect, PictureEffect
from lens.embedlens.layers import CrossImage
from lens.embedlens.persistence import TextControl
from ui import classes, classviews
from ui.classcontrols import bench_facts
from ui.classes import Rule
from ui.export import Exhibit
from ui.state import Reader

OWN = ("image", "image sha256", "prompt")
"""What names the picture in view and what was asked about it."""


class Something:
    """A reader's model, picture and prompt, as far as a provenance reads them."""

    name, digest, fingerprint, prompt = "cat.jpg", "adafc52b" * 8, "f" * 64, "Describe the image."


def reader() -> Reader:
    one = Something()
    return Reader(one, one, one, one, one)  # type: ignore[arg-type]


ANCHORS = Anchors("m", "", "", 250, {}, (), (), "discovered", "")
RULE = Rule(3, 3, 0.0)
BENCH = PatchBench(
    "demo", "a" * 64, "demo", 2000, 200, 7, (0, 8, 30), 384, 32, (12, 12), {"identity": "What is it?"}, (), ()
)


def test_the_benchmark_names_itself_and_not_the_readers_photo():
    facts = bench_facts(BENCH, "patch", 5)
    text = " ".join(f"{key}: {value}" for key, value in facts.items())
    assert not set(OWN) & set(facts) and "cat.jpg" not in text
    for part in (
        "demo",
        "a" * 16,
        "2,000 synthetic items",
        "200 for",
        "seed 7",
        "0, 8, 30",
        "What is it?",
        "384 x 384",
    ):
        assert part in text
    large = bench_facts(replace(BENCH, index=None), "large", 1)
    assert large["index"] == "none" and large["drawn"] != facts["drawn"]
    shown = Exhibit("bench_patch_top-5", "", go.Figure(), list, facts)
    assert shown.stem == "demo_bench_patch_top-5"


def test_figures_of_many_pictures_name_them_and_not_the_one_in_view():
    effect = PictureEffect("a.png", 3, "", "", -1.0, 0.1, -0.5, 0.05)
    many = FolderEffect("dead", (effect, replace(effect, name="b.png")), 0, {}, {})
    drawn = classviews.many(reader(), ANCHORS, RULE, many)
    assert drawn.provenance["pictures"] == "2: a.png, b.png" and drawn.provenance["class"] == "dead"
    assert not {"image", "image sha256"} & set(drawn.provenance) and drawn.provenance["layer"] == 0
    cross = CrossImage(("a.png", "b.png"), {"dead": np.eye(2)})
    alike = classviews.cross(reader(), ANCHORS, RULE, cross, "dead")
    assert alike.provenance["pictures"] == "2: a.png, b.png" and "image" not in alike.provenance
    assert "anchors" in alike.provenance and alike.stem == "cat.jpg_layer-3_cross"


def test_a_figure_of_a_text_names_the_text():
    ones = np.ones(4)
    drawn = classviews.text_control(reader(), RULE, TextControl(4, (0, 1, 2, 3), ones, ones, {}))
    assert drawn.provenance["text"] == classes.CONTROL_TEXT and not set(OWN) & set(drawn.provenance)


def test_a_figure_without_classes_names_no_anchors():
    facts = classviews.unjudged(reader(), "all")
    assert set(OWN) <= set(facts) and not {"anchors", "rule", "index"} & set(facts)
