"""The pruning test over a folder of pictures: what taking a class away does on average, beside random sets as large.

The picture is the unit: intervals are bootstrapped over pictures. One picture is in memory at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float

from lens.backend.encoding import visual_grid
from lens.backend.images import Picture
from lens.backend.loading import LoadedModel
from lens.embedlens.anchors import Anchors
from lens.embedlens.causal import prune
from lens.embedlens.folder import classified
from lens.progress import Report, silent
from lens.statistics import bootstrap_interval


@dataclass(frozen=True)
class PictureEffect:
    """The test on one picture: changes of the unchanged answer's log-probability (nats, negative: less likely) and KL
    divergences of the next token; those of the controls are means over them, NaN where there are none."""

    name: str
    tokens: int
    answer: str
    treated_answer: str
    logprob: float
    kl: float
    control_logprob: float
    control_kl: float

    @property
    def beyond_logprob(self) -> float:
        """How much less (negative) or more likely the answer became than under the controls of the same picture."""
        return self.logprob - self.control_logprob

    @property
    def beyond_kl(self) -> float:
        """How much more the next token moved than under the controls of the same picture."""
        return self.kl - self.control_kl


@dataclass(frozen=True)
class FolderEffect:
    """The test on a folder.

    Attributes:
        pictures: one entry per picture, those included that have no token of the class.
        empty: pictures without a token of the class: nothing changed there, and means leave them out.
        mean, interval: by name of :data:`QUANTITIES` over the other pictures, the interval the 95 % bootstrap; a quantity
            that no picture has is left out. Those beyond the controls are paired: a picture's effect minus its controls'.
    """

    kind: str
    pictures: tuple[PictureEffect, ...]
    empty: int
    mean: dict[str, float]
    interval: dict[str, tuple[float, float]]


QUANTITIES = ("logprob", "control_logprob", "beyond_logprob", "kl", "control_kl", "beyond_kl")


def prune_folder(
    loaded: LoadedModel,
    pictures: Iterable[Picture],
    prompt: str,
    anchors: Anchors,
    kind: str,
    *,
    rule: int = 3,
    min_cosine: float = 0.0,
    controls: int = 20,
    seed: int = 0,
    spatial: bool = False,
    report: Report = silent,
) -> FolderEffect:
    """Prune the tokens labelled ``kind`` (at layer 0) in every picture.

    Raises:
        ImagesMissing: no picture could be read.
        Cancelled: raised by ``report``.
    """
    found: list[PictureEffect] = []
    for each, classes in classified(loaded, pictures, prompt, anchors, 0, rule, min_cosine, report):
        positions = visual_grid(each.held.token_map).positions[classes.labels == kind].tolist()
        result = prune(loaded, each.encoded, positions, controls, seed, spatial, report=each.report)
        beside = result.controls
        found.append(
            PictureEffect(
                name=each.picture.name,
                tokens=len(result.positions),
                answer=result.base.answer,
                treated_answer=result.treated.answer,
                logprob=result.treated.logprob - result.base.logprob,
                kl=result.treated.kl,
                control_logprob=float(beside.logprob.mean()) - result.base.logprob if beside else float("nan"),
                control_kl=float(beside.kl.mean()) if beside else float("nan"),
            )
        )
    columns = {name: _column(found, name) for name in QUANTITIES}
    return FolderEffect(
        kind=kind,
        pictures=tuple(found),
        empty=sum(effect.tokens == 0 for effect in found),
        mean={name: float(values.mean()) for name, values in columns.items() if len(values)},
        interval={name: bootstrap_interval(values, seed=seed) for name, values in columns.items() if len(values)},
    )


def as_json(effect: FolderEffect) -> dict:
    """The test as the command line exports it; what a picture hasn't is null."""
    pictures = [
        {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in asdict(picture).items()
        }
        for picture in effect.pictures
    ]
    effects = {name: {"mean": mean, "interval": list(effect.interval[name])} for name, mean in effect.mean.items()}
    return {
        "class": effect.kind,
        "images": len(pictures),
        "empty": effect.empty,
        "effects": effects,
        "pictures": pictures,
    }


def _column(found: list[PictureEffect], name: str) -> Float[np.ndarray, " images"]:
    values = np.array([getattr(effect, name) for effect in found if effect.tokens])
    return values[~np.isnan(values)]
