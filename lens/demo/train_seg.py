"""``python -m lens.demo.train_seg``: train <SEG> on the offline demo model, measure it, write its card.

Needs the provisioned demo (assembled when missing), the four icon sets (fetched by npm when no folder is given) and a
folder of 1,000 photographs named ``<wnid>_<class>.jpg``. The run is seeded, writes a line of ``loss.jsonl`` a step, saves
as it goes and goes on from its checkpoint when called again with the same output folder. Cached scenes (0.5 MB each) can
be shared between runs with ``--states``.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM, PreTrainedTokenizerFast

from lens.demo import architecture
from lens.demo.command import leave, run, show, training_parser
from lens.demo.names import names as class_names
from lens.demo.photos import photographs
from lens.demo.provision import CONNECTORS, LANGUAGE, TOWER, provision
from lens.demo.scenes import Pool, Sources
from lens.demo.seg_cache import Cache, pools
from lens.demo.seg_card import card
from lens.demo.seg_evaluate import PhotoQuality, SegQuality, measure, measure_photos
from lens.demo.seg_head import MaskHead
from lens.demo.seg_icons import SETS, Icons, fetch_set
from lens.demo.seg_language import SegLanguage, Turns
from lens.demo.seg_objects import alike, held_out_objects
from lens.demo.seg_provision import with_seg
from lens.demo.seg_training import SegModels, SegSettings, SegTrainer
from lens.demo.training import read_connector

BOXES = Path(__file__).parent / "seg" / "boxes.json"
"""Boxes drawn by hand on some of the photographs: file name → [name, [x0, y0, x1, y1] as shares of the centre square]."""


def open_language(base: Path) -> LlamaForCausalLM:
    """The language model of an assembled folder in bfloat16, its rotary frequencies in float32 as in the app: rounded,
    they would turn a query 150 tokens on by angles that the model never saw."""
    config = AutoConfig.from_pretrained(base).text_config
    language = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)  # casting a model rounds its buffers too
    weights = {k.replace("model.language_model.", "model."): v for k, v in load_file(base / LANGUAGE).items()}
    language.load_state_dict(weights, strict=False)  # the head is tied
    return language


def open_models(base: Path, settings: SegSettings, scratch: Path) -> SegModels:
    """The demo's parts from its assembled folder: the language model in bfloat16, tower and connector in float32."""
    config = AutoConfig.from_pretrained(base)
    language = open_language(base)
    tower = architecture.EfficientNetLite(config.vision_config).eval().requires_grad_(False)
    tower.load_state_dict(
        {k.removeprefix("model.vision_tower."): v.float() for k, v in load_file(base / TOWER).items()}
    )
    scratch.mkdir(parents=True, exist_ok=True)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        text = (base / file).read_text(encoding="utf-8")
        text = json.dumps(with_seg(json.loads(text)), ensure_ascii=False) if file == "tokenizer.json" else text
        (scratch / file).write_text(text, encoding="utf-8")
    turns = Turns(PreTrainedTokenizerFast.from_pretrained(scratch))
    connector = read_connector(CONNECTORS / "demo.safetensors").requires_grad_(False)
    torch.manual_seed(settings.seed)
    updated = SegLanguage(language, turns, settings.rank, settings.alpha, settings.first)
    return SegModels(tower, connector, updated)


def open_sources(photos: Path, icons: Path | None) -> Sources:
    """Icon sets and photographs."""
    files = photographs(photos)
    return Sources({name: Icons(fetch_set(name, show, icons)) for name in SETS}, files, class_names(files))


def namable(pool: Pool, classes: list[str], kept: frozenset[str]) -> list[str]:
    """What may be named as absent: nothing that could mean a held-out object or class."""
    unnamed = [*kept, *(name for label, name in enumerate(classes) if label not in pool.classes)]
    shown = {*pool.objects, *(classes[label] for label in pool.classes)}
    return sorted(name for name in shown if not any(alike(name, other) for other in unnamed))


def slug(split: str) -> str:
    """A split's folder."""
    return split.replace(",", "").replace(" ", "-")


def fill(folder: Path, seed: int, scenes: int, tests: int, sources: Sources, models: SegModels) -> dict[str, Cache]:
    """The cached scenes of every split."""
    caches = {}
    for split, pool in pools(seed, list(sources.names)).items():
        caches[split] = Cache(folder / slug(split))
        caches[split].fill(scenes if split == "train" else tests, split, seed, pool, sources, models.tower, show)
    models.tower.float()
    return caches


def qualities(
    models: SegModels, head: MaskHead, caches: dict[str, Cache], sources: Sources, tests: int, seed: int
) -> tuple[list[SegQuality], PhotoQuality]:
    """Measure on every test split and on photographs."""
    held = {split: pool for split, pool in pools(seed, list(sources.names)).items() if split != "train"}
    found = []
    for split, pool in held.items():
        asked = pool.objects if pool.photo_share < 1 else tuple(sources.names[label] for label in pool.classes)
        found.append(measure(split, models, head, caches[split], asked, min(tests, len(caches[split])), seed))
        print(found[-1], flush=True)
    labels = held["held-out objects"].backgrounds
    boxes = json.loads(BOXES.read_text(encoding="utf-8")) if BOXES.is_file() else None
    return found, measure_photos(models, head, sources, labels, tests, boxes, seed)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    defaults = SegSettings()
    parse = training_parser("lens.demo.train_seg", "<SEG>", defaults.seed, 3.0)
    parse.add_argument("--states", type=Path, help="folder of cached scenes (default: OUT/states)")
    parse.add_argument("--icons", type=Path, help="folder with the icon sets' archives (default: fetch them)")
    parse.add_argument("--scenes", type=int, default=defaults.scenes)
    parse.add_argument("--tests", type=int, default=150, help="scenes of each split to measure on")
    parse.add_argument("--steps", type=int, nargs=2, default=defaults.steps, metavar=("NAMES", "SCENES"))
    return parse


def main(arguments: list[str] | None = None) -> int:
    """Train, measure, write ``demo-seg.safetensors``, ``quality.json`` and ``card.md`` into the output folder."""
    given = parser().parse_args(arguments)
    settings = SegSettings(scenes=given.scenes, steps=tuple(given.steps), seed=given.seed)
    given.out.mkdir(parents=True, exist_ok=True)
    models = open_models(provision("demo", show), settings, given.out / "tokenizer")
    sources = open_sources(given.photos, given.icons)
    caches = fill(given.states or given.out / "states", settings.seed, settings.scenes, given.tests, sources, models)
    kept = held_out_objects(settings.seed)
    names = namable(pools(settings.seed, list(sources.names))["train"], list(sources.names), kept)
    trainer = SegTrainer(models, caches["train"], names, settings, given.out)
    trainer.resume()
    trainer.run(show)
    found, photos = qualities(models, trainer.head.eval(), caches, sources, given.tests, settings.seed)
    report = {"scenes": [asdict(quality) for quality in found], "photographs": asdict(photos)}
    parameters = sum(p.numel() for p in trainer.head.parameters())
    leave(given.out, report, card(settings, found, photos, given.out / "loss.jsonl", parameters, sorted(kept)))
    return 0


if __name__ == "__main__":
    run(main)
