"""The facts of the method on the offline model, with one of the gallery's photos."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lens.backend.answers import generate
from lens.backend.attention import attention_received
from lens.backend.encoding import Encoded, encode
from lens.backend.images import open_picture
from lens.backend.injection import inject
from lens.backend.loading import LoadedModel
from lens.backend.tracing import hidden_sites, trace
from lens.embedlens.agreement import phi, rules, sites, transprune
from lens.embedlens.causal import prune, skipping
from lens.embedlens.probe import probe
from lens.gallery import gallery

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def encoded(demo: LoadedModel) -> Encoded:
    return encode(demo, "Describe the image.", open_picture(gallery()[0].path))


def test_facts(demo: LoadedModel, encoded: Encoded):
    held = trace(demo, encoded, [*sites(demo), "logits"])
    visual = encoded.token_map.visual_positions
    states = held.hidden(0)[visual]
    assert np.array_equal(probe(demo, states, 3).ids, probe(demo, states * 64, 3).ids)
    with inject(demo, encoded, 0):
        assert torch.equal(trace(demo, encoded, ["logits"]).site("logits"), held.site("logits"))
    depth, few = demo.anatomy.depth, visual[:3].tolist()
    with skipping(demo, range(1, depth + 1), ("attention", "mlp"), few):
        skipped = trace(demo, encoded, hidden_sites(depth))
    assert all(torch.equal(skipped.hidden(layer)[few], states[:3]) for layer in range(depth))
    width = demo.anatomy.width
    assert all((phi(held.hidden(i), tuple(range(width))) <= width**0.5 + 1e-3).all() for i in range(2, depth))
    received = attention_received(demo, encoded)
    assert received.shape == (depth, len(visual)) and (received.sum(1) <= 1).all()
    assert [term.sum() for term in transprune(held, received)] == pytest.approx([1, 1])
    found = rules(demo, held, received)
    grid = encoded.token_map.grids[0]
    assert all(scores.shape == (grid.rows, grid.cols) for scores in found.scores.values())


def test_pruning(demo: LoadedModel, encoded: Encoded):
    said = generate(demo, encoded)
    empty = prune(demo, encoded, [], answer=said)
    assert empty.treated == empty.base
    everything = prune(demo, encoded, encoded.token_map.visual_positions.tolist(), answer=said)
    assert everything.treated.kl > 0
