"""The command that trains <SEG>: what a run leaves is what its card is made of."""

from __future__ import annotations

import json
from pathlib import Path

from lens.demo.scenes import Pool
from lens.demo.seg_card import card
from lens.demo.seg_evaluate import PhotoQuality, SegQuality
from lens.demo.seg_objects import held_out_objects
from lens.demo.seg_training import SegSettings
from lens.demo.train_seg import facts, parser, unnamed
from tests.demo.test_seg_compose import outlines, sources  # noqa: F401 (fixtures)
from tests.demo.test_seg_training import Kit, kit, new_trainer  # noqa: F401 (a fixture among them)


def test_a_runs_facts_make_its_card(kit: Kit, outlines, tmp_path: Path) -> None:  # noqa: F811
    trainer = new_trainer(kit, tmp_path / "run")
    trainer.run()
    about = json.loads(json.dumps(facts(trainer, outlines)))
    assert about["steps"] == [2, 2] and about["scenes composed"] == 2 * (2 + 2 + 1)
    assert about["photographs with a trusted outline"] == 2 and about["icons"] == len(trainer.drawer.words.icons)
    ends = about["losses, first and last tenth"]
    assert set(ends["names"]) == {"coarse", "fine"}
    assert set(ends["scenes"]) == {"answer", "decide", "right", "coarse", "fine", "similar"}
    split = SegQuality("new scenes", 1, 2, 0.5, 0.4, 0.5, 0.3, 0.0, 0.1, 0.7, 0.9, 0.6, 0.4)
    text = card(about, [split], PhotoQuality(1, 0.9))
    assert f"| 2 x 2 | {about['seconds of each phase'][1]:.0f} | answer" in text
    assert f"--minutes {trainer.settings.minutes:g} --scenes 2 --photo-masks FILE" in text
    assert all(name in text for name in held_out_objects(trainer.settings.seed))


def test_the_defaults_are_the_settings() -> None:
    given = parser().parse_args(["--photos", "photos", "--out", "out"])
    settings = SegSettings()
    assert (given.minutes, given.scenes, given.seed) == (settings.minutes, settings.scenes, settings.seed)
    assert given.photo_masks is None and given.device is None


def test_what_training_does_not_show_is_never_named_as_absent() -> None:
    pool = Pool(("cat",), ("noto",), (0, 2))
    assert unnamed(pool, ["tench", "shark", "ray"], frozenset({"panda"})) == ["panda", "shark"]
