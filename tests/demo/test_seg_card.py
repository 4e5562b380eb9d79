"""The card of ``demo-seg``: its numbers are those of the files that a run leaves."""

from __future__ import annotations

import json
from pathlib import Path

from lens.demo.seg_card import Facts, card
from lens.demo.seg_evaluate import PhotoQuality, SegQuality
from lens.demo.train_seg import ends, phases

FACTS: Facts = {
    "device": "one abacus", "minutes": 2.5, "icons": 1709, "photographs with a trusted outline": 579, "steps": [249, 1458],
    "vocabulary": {"names": 1337, "objects": 364, "extra": 230, "classes": 801, "broader": 64, "never named as absent": 161},
    "packs a step": 24, "seconds of each phase": [9.6, 142.3], "scenes composed": 41064, "rank": 16, "alpha": 32.0,
    "decision weight": 1.0, "seed": 0, "head parameters": 294451, "held-out objects": ["panda", "wolf"],
    "losses, first and last tenth": {"names": {"coarse": [1.4032, 1.1674]}, "scenes": {"decide": [1.4661, 0.602]}},
}  # fmt: skip
SPLITS = [
    SegQuality("new scenes", 120, 295, 0.578, 0.42, 0.56, 0.35, 0.01, 0.09, 0.75, 0.89, 0.61, 0.43),
    SegQuality("held-out objects", 120, 330, 0.33, 0.25, 0.32, 0.33, 0.0, 0.06, 0.62, 0.87, 0.62, 0.63),
]


def test_the_card_says_what_was_done_measured_and_where() -> None:
    text = card(FACTS, SPLITS, PhotoQuality(100, 0.935, 28, 0.964, 0.353, 0.929))
    assert "rank-16" in text and "294,451" in text and "| 249 x 24 | 10 | coarse 1.40 → 1.17 |" in text
    assert "| 1,458 x 24 | 142 | decide 1.47 → 0.60 |" in text and "41,064 scenes" in text and "1,337 names" in text
    assert "| new scenes | 120, 295 | **0.58** / 0.42 |" in text and "panda, wolf" in text
    assert "random reaches 50%, is 52% to 62%" in text and "**94%** (chance 50 %)" in text


def test_the_command_is_one_that_makes_such_weights() -> None:
    text = card(FACTS, SPLITS, PhotoQuality(100, 0.9))
    assert "lens.demo.train_seg --minutes 2.5 --photo-masks FILE --photos FOLDER --out FOLDER`" in text
    assert "152 s of training on one abacus" in text
    assert "bit for bit. By hand." in card(FACTS | {"note": "By hand."}, SPLITS, PhotoQuality(100, 0.9))
    without = card(FACTS | {"photographs with a trusted outline": 0}, SPLITS, PhotoQuality(100, 0.9))
    assert "--photo-masks" not in without and "along an outline" not in without


def test_losses_are_means_of_the_first_and_the_last_tenth_of_a_phases_steps(tmp_path: Path) -> None:
    rows = [{"phase": "names", "step": step, "seconds": 1.0, "cpu": 2, "fine": float(step)} for step in range(1, 21)]
    rows += [{"phase": "names", "step": 20, "seconds": 1.0, "cpu": 2, "fine": 40.0}]
    (tmp_path / "loss.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = phases(tmp_path / "loss.jsonl")
    assert [row["step"] for row in found["names"]] == list(range(1, 21)) and found["scenes"] == []
    assert ends(found["names"]) == {"fine": (1.5, 29.5)}, "a step that was done again counts once, as it went at last"
    assert ends([]) == {}
