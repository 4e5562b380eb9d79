"""Families of checkpoints that are converted, and where the catalog's rows of them come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lens.errors import ConversionFailed
from lens.segmaps.points import READ_7B, READ_13B, PointRule


@dataclass(frozen=True)
class Original:
    """A row: one family of checkpoints.

    Attributes:
        architecture: as ``config.json`` names it. layers: of the language model, where that matters.
        points: what SAM is prompted with beside <SEG>; ``None`` for <SEG> alone.
        layout: which of :data:`lens.segmaps.checkpoints.LAYOUTS` it has.
    """

    name: str
    architecture: str
    points: PointRule | None = None
    layers: int | None = None
    layout: str = "llava"


ORIGINALS = (
    Original("LISA", "LISAForCausalLM"),
    Original("SESAME", "SESAMEForCausalLM"),
    Original("READ-13B", "READForCausalLM", READ_13B, layers=40),
    Original("READ", "READForCausalLM", READ_7B),
    Original("Sa2VA", "Sa2VAChatModel", layout="internvl"),
)
"""The first that fits counts."""


@dataclass(frozen=True)
class Published:
    """Where a row of the catalog comes from: hub ids of the checkpoint and of the CLIP tower that it was trained with,
    where it has none of its own."""

    source: str
    vision: str | None = None


_CLIP, _CLIP_336 = "openai/clip-vit-large-patch14", "openai/clip-vit-large-patch14-336"
PUBLISHED = {
    "lisa-7b": Published("xinlai/LISA-7B-v1", _CLIP),
    "sesame-7b": Published("tsunghanwu/SESAME", _CLIP_336),
    "read-7b": Published("rui-qian/READ-LLaVA-v1.5-7B-for-ReasonSeg-valset", _CLIP_336),
    "sa2va-1b": Published("ByteDance/Sa2VA-1B"),
}
"""By the name of the catalog's row."""


def original(config: Mapping[str, Any]) -> Original:
    """The row that fits a ``config.json``; :class:`ConversionFailed` where none does."""
    found = (config.get("architectures") or ["none"])[0]
    for row in ORIGINALS:
        if row.architecture == found and row.layers in (None, config.get("num_hidden_layers")):
            return row
    known = ", ".join(dict.fromkeys(row.architecture for row in ORIGINALS))
    raise ConversionFailed(
        f"The checkpoint is of the architecture {str(found)[:60]!r}, but only {known} are converted; give one of these."
    )
