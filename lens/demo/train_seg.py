"""``python -m lens.demo.train_seg``: train <SEG> on the offline demo model, measure it, write its card.

Needs the provisioned demo (assembled when missing), the four icon sets (fetched by npm when no folder is given) and a
folder of 1,000 photographs named ``<wnid>_<class>.jpg``. The run is seeded, writes a line of ``loss.jsonl`` a step, saves
as it goes and goes on from its checkpoint when called again with the same output folder.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, PreTrainedTokenizerFast

from lens.backend.files import write_json
from lens.commands.numbers import count
from lens.demo import architecture
from lens.demo.command import leave, run, show, training_device, training_parser
from lens.demo.names import names as class_names
from lens.demo.photos import photographs
from lens.demo.provision import CONNECTORS, TOWER, provision
from lens.demo.scenes import HELD_OUT_STYLE, TRAIN, Pool, Scene, Sources, compose, pools
from lens.demo.seg_card import Facts, card
from lens.demo.seg_compose import Composer, read_bank
from lens.demo.seg_draw import TURNS, Drawer
from lens.demo.seg_evaluate import PhotoQuality, SegQuality, measure, measure_photos
from lens.demo.seg_head import read_seg
from lens.demo.seg_icons import SETS, Icons, fetch_set
from lens.demo.seg_language import LONGEST, SegLanguage, Turns
from lens.demo.seg_models import SegModels, seg_models
from lens.demo.seg_objects import held_out_objects
from lens.demo.seg_outlines import Outlines, no_outlines, read_outlines
from lens.demo.seg_provision import with_seg
from lens.demo.seg_training import PHASES, SegSettings, SegTrainer
from lens.demo.seg_vocabulary import vocabulary
from lens.demo.train import machine
from lens.demo.training import open_language, read_connector
from lens.progress import Report

BOXES = Path(__file__).parent / "seg" / "boxes.json"
"""Boxes drawn by hand on some of the photographs: file name → [name, [x0, y0, x1, y1] as shares of the centre square]."""


def open_models(base: Path, settings: SegSettings, scratch: Path, device: torch.device) -> SegModels:
    """The demo's parts from its assembled folder: the language model in bfloat16, tower and connector in float32."""
    tower = architecture.EfficientNetLite(AutoConfig.from_pretrained(base).vision_config)
    tower.load_state_dict(
        {k.removeprefix("model.vision_tower."): v.float() for k, v in load_file(base / TOWER).items()}
    )
    scratch.mkdir(parents=True, exist_ok=True)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        text = (base / file).read_text(encoding="utf-8")
        text = json.dumps(with_seg(json.loads(text)), ensure_ascii=False) if file == "tokenizer.json" else text
        (scratch / file).write_text(text, encoding="utf-8")
    turns = Turns(PreTrainedTokenizerFast.from_pretrained(scratch))
    torch.manual_seed(settings.seed)
    updated = SegLanguage(open_language(base), turns, settings.rank, settings.alpha, settings.first)
    return seg_models(tower, read_connector(CONNECTORS / "demo.safetensors"), updated, device)


def open_sources(photos: Path, icons: Path | None) -> Sources:
    """Icon sets and photographs."""
    files = photographs(photos)
    return Sources({name: Icons(fetch_set(name, show, icons)) for name in SETS}, files, class_names(files))


def unnamed(pool: Pool, classes: list[str], kept: frozenset[str]) -> list[str]:
    """The names of what training doesn't show: held-out objects, and classes outside its pool."""
    return [*kept, *(name for label, name in enumerate(classes) if label not in pool.classes)]


def open_trainer(
    models: SegModels, sources: Sources, outlines: Outlines, settings: SegSettings, folder: Path
) -> SegTrainer:
    """A trainer over the training pool's icons and photographs."""
    pool = pools(settings.seed, list(sources.names))[TRAIN]
    kept = unnamed(pool, list(sources.names), held_out_objects(settings.seed))
    words = vocabulary(pool, sources, kept, lambda name: models.language.turns.longest(name) <= LONGEST)
    bank, sizes = read_bank(words.icons, sources, outlines, show)
    return SegTrainer(models, Composer(bank.to(models.device)), Drawer(words, sizes, outlines), settings, folder)


def measured_scenes(split: str, pool: Pool, sources: Sources, tests: int, seed: int, report: Report) -> Iterator[Scene]:
    """The scenes of a split that it is measured on: scene i is that of the seed ``split/seed/i``."""
    for i in range(tests):
        yield compose(f"{split}/{seed}/{i}", pool, sources)
        report(i + 1, tests, f"Measuring: {split}")


def qualities(trainer: SegTrainer, sources: Sources, tests: int, seed: int) -> tuple[list[SegQuality], PhotoQuality]:
    """Measure what ships, rounded as it is, on every test split and on photographs."""
    models, head = trainer.models, trainer.head.eval()
    tensors, language, _ = read_seg(trainer.folder / "demo-seg.safetensors")
    head.load_state_dict(tensors)
    models.language.load(language)
    held = {split: pool for split, pool in pools(seed, list(sources.names)).items() if split != TRAIN}
    found = []
    for split, pool in held.items():
        asked = pool.objects if pool.photo_share < 1 else tuple(sources.names[label] for label in pool.classes)
        scenes = measured_scenes(split, pool, sources, tests, seed, show)
        found.append(measure(split, models, head, scenes, asked, seed))
        print(found[-1], flush=True)
    labels = held["held-out objects"].backgrounds
    boxes = json.loads(BOXES.read_text(encoding="utf-8"))
    return found, measure_photos(models, head, sources, labels, tests, boxes, seed)


def facts(trainer: SegTrainer, outlines: Outlines) -> Facts:
    """What the run was and did, for the card."""
    settings, words, log = trainer.settings, trainer.drawer.words, phases(trainer.folder / "loss.jsonl")
    steps = [len(rows) for rows in log.values()]
    return {
        "device": machine(trainer.models.device),
        "minutes": settings.minutes,
        "vocabulary": words.facts(),
        "icons": len(words.icons),
        "photographs with a trusted outline": int(outlines.good.sum()),
        "steps": steps,
        "packs a step": settings.scenes,
        "seconds of each phase": [rows[-1]["seconds"] if rows else 0.0 for rows in log.values()],
        "scenes composed": settings.scenes * (sum(steps) + settings.aligned),
        "rank": settings.rank,
        "alpha": settings.alpha,
        "rates": settings.rate,
        "decision weight": settings.decision,
        "turns of a pack": TURNS,
        "seed": settings.seed,
        "losses, first and last tenth": {phase: ends(rows) for phase, rows in log.items()},
        "head parameters": sum(parameter.numel() for parameter in trainer.head.parameters()),
        "held-out style": HELD_OUT_STYLE,
        "held-out objects": sorted(held_out_objects(settings.seed)),
        "torch": torch.__version__,
    }


def phases(log: Path) -> dict[str, list[dict]]:
    """The rows of ``loss.jsonl`` by phase, in order; of a step that was done again after a resume, the last."""
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    by_phase = {phase: {row["step"]: row for row in rows if row["phase"] == phase} for phase in PHASES}
    return {phase: [held[step] for step in sorted(held)] for phase, held in by_phase.items()}


def ends(rows: list[dict]) -> dict[str, tuple[float, float]]:
    """Means of each loss over the first and over the last tenth of some rows."""
    tenth = max(1, len(rows) // 10)
    names = [name for name in rows[0] if name not in ("phase", "step", "seconds", "cpu")] if rows else []

    def mean(part: list[dict], name: str) -> float:
        return round(sum(row[name] for row in part) / len(part), 4)

    return {name: (mean(rows[:tenth], name), mean(rows[-tenth:], name)) for name in names}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    defaults = SegSettings()
    parse = training_parser("lens.demo.train_seg", "<SEG>", defaults.seed, defaults.minutes)
    parse.add_argument("--icons", type=Path, help="folder with the icon sets' archives (default: fetch them)")
    parse.add_argument(
        "--photo-masks", type=Path, metavar="FILE",
        help=".npz of the photographs' outlines, to cut some along them (default: ellipses and rounded rectangles)",
    )  # fmt: skip
    parse.add_argument(
        "--scenes", type=count, default=defaults.scenes,
        help=f"scenes a step (default: {defaults.scenes}; a processor manages a few)",
    )  # fmt: skip
    parse.add_argument("--tests", type=count, default=120, help="scenes of each split to measure on")
    return parse


def main(arguments: list[str] | None = None) -> int:
    """Train, measure, write ``demo-seg.safetensors``, ``facts.json``, ``quality.json`` and ``card.md`` into ``--out``."""
    given = parser().parse_args(arguments)
    settings = SegSettings(minutes=given.minutes, scenes=given.scenes, seed=given.seed)
    device = training_device(given.device)
    given.out.mkdir(parents=True, exist_ok=True)
    sources = open_sources(given.photos, given.icons)
    number = len(sources.photos)
    outlines = read_outlines(given.photo_masks, number) if given.photo_masks else no_outlines(number)
    models = open_models(provision("demo", show), settings, given.out / "tokenizer", device)
    trainer = open_trainer(models, sources, outlines, settings, given.out)
    trainer.resume()
    trainer.run(show)
    about = facts(trainer, outlines)
    write_json(given.out / "facts.json", about, indent=1)
    found, photos = qualities(trainer, sources, given.tests, settings.seed)
    report = {"scenes": [asdict(quality) for quality in found], "photographs": asdict(photos)}
    leave(given.out, report, card(about, found, photos))
    return 0


if __name__ == "__main__":
    run(main)
