"""The pruning test over a folder of pictures: what taking a class away does on average, beside random sets as large.

The picture is the unit: intervals are bootstrapped over pictures. One picture is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sized
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lens.backend.encoding import encode, visual_grid
from lens.backend.images import Picture
from lens.backend.loading import LoadedModel
from lens.backend.tracing import trace
from lens.embedlens.anchors import Anchors
from lens.embedlens.causal import prune
from lens.embedlens.classes import classify
from lens.errors import ImagesMissing
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


@dataclass(frozen=True)
class FolderEffect:
    """The test on a folder.

    Attributes:
        pictures: one entry per picture, those included that have no token of the class.
        empty: pictures without a token of the class: nothing changed there, and means leave them out.
        mean, interval: by quantity ("logprob", "kl", "control_logprob", "control_kl") over the other pictures, the interval
            the 95 % bootstrap; a quantity that no picture has is left out.
    """

    kind: str
    pictures: tuple[PictureEffect, ...]
    empty: int
    mean: dict[str, float]
    interval: dict[str, tuple[float, float]]


QUANTITIES = ("logprob", "kl", "control_logprob", "control_kl")


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
    total = len(pictures) if isinstance(pictures, Sized) else 0
    found: list[PictureEffect] = []
    for number, picture in enumerate(pictures):
        encoded = encode(loaded, prompt, picture)
        held = trace(loaded, encoded, ["hidden.0"])
        labels = classify(loaded, held, anchors, 0, rule, min_cosine).labels
        positions = visual_grid(held.token_map).positions[labels == kind].tolist()

        def inner(done: float, of: float, message: str, at: int = number, name: str = picture.name) -> None:
            report(at + done / of, total, f"Image {at + 1:,}: {name}: {message}")

        result = prune(loaded, encoded, positions, controls, seed, spatial, report=inner)
        beside = result.controls
        found.append(
            PictureEffect(
                name=picture.name,
                tokens=len(result.positions),
                answer=result.base.answer,
                treated_answer=result.treated.answer,
                logprob=result.treated.logprob - result.base.logprob,
                kl=result.treated.kl,
                control_logprob=float(beside.logprob.mean()) - result.base.logprob if beside else float("nan"),
                control_kl=float(beside.kl.mean()) if beside else float("nan"),
            )
        )
    if not found:
        raise ImagesMissing("None of the images could be read; give a folder with images that open.")
    columns = {name: _column(found, name) for name in QUANTITIES}
    return FolderEffect(
        kind=kind,
        pictures=tuple(found),
        empty=sum(effect.tokens == 0 for effect in found),
        mean={name: float(values.mean()) for name, values in columns.items() if len(values)},
        interval={name: bootstrap_interval(values, seed=seed) for name, values in columns.items() if len(values)},
    )


def _column(found: list[PictureEffect], name: str) -> Float[np.ndarray, " images"]:
    values = np.array([getattr(effect, name) for effect in found if effect.tokens])
    return values[~np.isnan(values)]
