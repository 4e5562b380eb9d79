"""The lower part of the SEG maps page: one section at a time, so that nobody pays for what isn't in view.

A section draws itself from a :class:`ui.maps.Shown` and gives the figures that can be exported. What costs forwards stands
behind a button (:mod:`ui.work`).
"""

from __future__ import annotations

from collections.abc import Callable

from ui import export, mapablation, mapcontrols, mapsam, mapscores, mapviews, mapwords
from ui.export import Exhibit
from ui.maps import Shown


def through_layers(shown: Shown) -> list[Exhibit]:
    """The map at every layer, side by side."""
    drawn = mapviews.every_layer(shown)
    export.show(drawn)
    return [drawn]


SECTIONS: dict[str, tuple[str, Callable[[Shown], list[Exhibit]]]] = {
    "layers": ("Every layer", through_layers),
    "scores": ("Scores", mapscores.scores),
    "controls": ("Controls and baselines", mapcontrols.beside),
    "ablation": ("Dropped patches", mapablation.dropped_patches),
    "sam": ("Points to SAM", mapsam.prompted),
    "words": ("Words", mapwords.near_words),
}
