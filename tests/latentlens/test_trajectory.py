"""A patch through the layers: at every layer, and by every lens, what a reading of that layer finds."""

from __future__ import annotations

import pytest

from lens.backend.loading import LoadedModel
from lens.backend.tracing import Trace
from lens.errors import IndexMissing, PatchOutsideGrid
from lens.latentlens.index import Index
from lens.latentlens.reading import LENSES, read, score
from lens.latentlens.trajectory import trajectory


def test_each_step_is_the_reading_of_its_layer(llava: LoadedModel, held: Trace, lines: Index):
    found = trajectory(llava, held, lines, (4, 1))
    assert (found.row, found.col) == (4, 1) and list(found.best) == list(LENSES)
    for layer in range(llava.anatomy.depth + 1):
        own = read(llava, held, lines, layer, [(4, 1)]).patches[0].neighbours
        for lens in LENSES:
            step = found.best[lens][layer]
            assert step.token == own[lens][0].token
            assert score(step) == pytest.approx(score(own[lens][0]), rel=1e-4)


def test_what_is_not_there_is_refused(llava: LoadedModel, held: Trace, lines: Index):
    assert list(trajectory(llava, held, None, (0, 0), ["logit"]).best) == ["logit"]
    with pytest.raises(IndexMissing):
        trajectory(llava, held, None, (0, 0))
    with pytest.raises(PatchOutsideGrid):
        trajectory(llava, held, lines, (0, 6))
