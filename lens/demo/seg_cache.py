"""Composed scenes as cached vision states, so that training never runs the encoder.

A folder holds memory-mapped arrays: of each scene the encoder's feature maps at three resolutions (bfloat16 as int16) and
the objects' masks (bytes: the share of an 8 x 8 pixel cell that is covered, in 255ths), and a line of ``scenes.jsonl``
with names and styles. Invariants: row i of a split is the scene of seed ``split/seed/i``; a scene counts once its line
is written, so an interrupted pass goes on where it stopped; training pools and test pools share no held-out object, style
or photograph.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lens.demo.architecture import EfficientNetLite
from lens.demo.photos import as_tensor, pixels
from lens.demo.photos import held_out as held_out_classes
from lens.demo.scenes import FINE, MOST, Pool, Scene, Sources, compose, coverage
from lens.demo.seg_icons import SETS
from lens.demo.seg_objects import OBJECTS, alike, held_out_objects
from lens.progress import Report, silent

HELD_OUT_STYLE = "fluent-emoji-flat"
PHOTO_SHARE = 0.35
BATCH = 8
LEVELS = {"fine": 7, "middle": 15, "deep": 21}
"""Encoder blocks (counted from 1, as the trace's ``vision.j``) that the mask head reads: 48 channels at 48 x 48, 120 at
24 x 24, 352 at 12 x 12. The last is what the encoder's final layer, and so the connector, is computed from."""
SHAPES = {"fine": (48 * 48, 48), "middle": (24 * 24, 120), "deep": (12 * 12, 352)}


def pools(seed: int, names: list[str]) -> dict[str, Pool]:
    """The pools of every split: ``train`` and four to measure on; ``names`` are the photographs' class names."""
    kept = held_out_objects(seed)
    classes_kept = held_out_classes(seed)
    objects = tuple(name for name in OBJECTS if name not in kept)
    styles = tuple(style for style in SETS if style != HELD_OUT_STYLE)
    trained = tuple(
        label
        for label in range(len(names))
        if label not in classes_kept and not any(alike(names[label], name) for name in kept)
    )
    unseen = tuple(sorted(classes_kept))
    return {
        "train": Pool(objects, styles, trained, trained, PHOTO_SHARE),
        "trained objects and styles, new scenes": Pool(objects, styles, (), unseen),
        "held-out objects": Pool(tuple(sorted(kept)), styles, (), unseen),
        "held-out style": Pool(objects, (HELD_OUT_STYLE,), (), unseen),
        "cut-outs of photographs of held-out classes": Pool(objects, styles, unseen, unseen, 1.0),
    }


@dataclass(frozen=True, eq=False)
class Batch:
    """Some scenes: feature maps [b, cells, channels] in float32, masks [b, 4, 48, 48] in 0..1, and the objects' names."""

    levels: dict[str, Tensor]
    masks: Tensor
    names: list[tuple[str, ...]]


class Cache:
    """The scenes of one split in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __len__(self) -> int:
        path = self.folder / "scenes.jsonl"
        return len(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else 0

    def rows(self) -> list[dict[str, Any]]:
        """Names and styles of every scene."""
        text = (self.folder / "scenes.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def read(self, picked: list[int]) -> Batch:
        """Scenes by index."""
        held = {name: self._array(name, "r") for name in (*SHAPES, "masks")}
        rows = self.rows()
        levels = {name: as_tensor(held[name][picked]).float() for name in SHAPES}
        masks = torch.from_numpy(held["masks"][picked].astype(np.float32) / 255)
        return Batch(levels, masks, [tuple(rows[i]["names"]) for i in picked])

    def fill(
        self,
        count: int,
        split: str,
        seed: int,
        pool: Pool,
        sources: Sources,
        tower: EfficientNetLite,
        report: Report = silent,
    ) -> None:
        """Compose and encode scenes until there are ``count``."""
        done = len(self)
        if done >= count:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        arrays = {name: self._array(name, "r+" if done else "w+", count) for name in (*SHAPES, "masks")}
        encoder = cast(Any, tower).to(torch.bfloat16, memory_format=torch.channels_last)
        for start in range(done, count, BATCH):
            scenes = [compose(f"{split}/{seed}/{i}", pool, sources) for i in range(start, min(start + BATCH, count))]
            self._write(arrays, start, scenes, encoder)
            report(start + len(scenes), count, f"Scenes: {split}")

    def _write(self, arrays: dict[str, np.ndarray], start: int, scenes: list[Scene], encoder: Any) -> None:
        stop = start + len(scenes)
        for name, found in feature_maps(encoder, pixels([scene.image for scene in scenes])).items():
            arrays[name][start:stop] = found.to(torch.bfloat16).contiguous().view(torch.int16).numpy()
        for i, scene in enumerate(scenes, start):
            arrays["masks"][i, : len(scene.names)] = np.rint(255 * coverage(scene.masks, FINE))
        with (self.folder / "scenes.jsonl").open("a", encoding="utf-8") as lines:
            for scene in scenes:
                lines.write(json.dumps({"names": scene.names, "styles": scene.styles}) + "\n")

    def _array(self, name: str, mode: Any, count: int | None = None) -> np.ndarray:
        path = self.folder / f"{name}.npy"
        if mode != "w+":
            return np.load(path, mmap_mode=mode)
        shape = (MOST, FINE, FINE) if name == "masks" else SHAPES[name]
        kind = np.uint8 if name == "masks" else np.int16
        return np.lib.format.open_memmap(path, mode, kind, (cast(int, count), *shape))


@torch.inference_mode()
def feature_maps(tower: EfficientNetLite, pictures: Tensor) -> dict[str, Tensor]:
    """The feature maps of :data:`LEVELS`, [b, cells, channels], of pixels [b, 3, 384, 384]."""
    states = functional.relu6(tower.stem(pictures.to(tower.stem.weight.dtype, memory_format=torch.channels_last)))
    found = {}
    for number, block in enumerate(tower.blocks, 1):
        states = block(states)
        for name, wanted in LEVELS.items():
            if number == wanted:
                found[name] = states.flatten(2).transpose(1, 2)
    return found


def vision_states(tower: EfficientNetLite, deep: Tensor) -> Tensor:
    """What the connector reads, [b, 144, 1280], from the cached deepest feature map [b, 144, 352]."""
    weight = tower.head.weight.flatten(1).float()
    return functional.relu6(functional.linear(deep, weight, cast(Tensor, tower.head.bias).float()))
