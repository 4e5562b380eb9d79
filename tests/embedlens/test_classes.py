"""Classes of the planted model's tokens, and the facts that hold of any."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from lens.backend.encoding import encode
from lens.backend.readouts import Words
from lens.backend.tracing import Trace, trace
from lens.backend.words import token_text
from lens.embedlens.anchors import Anchors
from lens.embedlens.classes import CLASSES, as_json, classify, groups
from lens.embedlens.probe import left_out, probe
from lens.errors import CapabilityMissing, LayerMissing, SiteMissing
from tests.embedlens.planted import PATCHES, PROMPT, Planted, cell_mask, picture_of_noise


@pytest.fixture(scope="module")
def held(planted: Planted) -> Trace:
    """A picture that discovery hasn't seen."""
    return trace(
        planted.loaded, encode(planted.loaded, PROMPT, picture_of_noise(99)), ["hidden.0", "hidden.2", "hidden.4"]
    )


def scaled(held: Trace, factor: float) -> Trace:
    return replace(held, states={site: states * factor for site, states in held.states.items()})


def test_what_was_planted_is_classified_right(planted: Planted, anchors: Anchors, held: Trace):
    classes = classify(planted.loaded, held, anchors, rule=1)
    sinks = cell_mask(planted.cells["seen"]) | cell_mask(planted.cells["aligned"])
    dead = cell_mask(planted.cells["dead"]) | cell_mask(planted.cells["word"])
    assert np.array_equal(classes.labels == "sink", sinks)
    assert np.array_equal(classes.labels == "dead", dead)
    assert np.array_equal(classes.labels == "alive", ~(sinks | dead))
    assert classes.fractions == {"sink": 7 / 36, "dead": 14 / 36, "alive": 15 / 36}


def test_words_margin_and_anchor_cosine_are_those_of_the_embeddings(planted: Planted, anchors: Anchors, held: Trace):
    classes = classify(planted.loaded, held, anchors)
    weight = planted.loaded.anatomy.embeddings.weight.numpy().astype(np.float64)
    states = held.hidden(0).numpy().astype(np.float64)[held.token_map.visual_positions]
    cosines = (states / np.linalg.norm(states, axis=1, keepdims=True)) @ (
        weight / np.linalg.norm(weight, axis=1, keepdims=True)
    ).T
    cosines[:, left_out(planted.loaded)] = -np.inf
    marked = [anchor.id for anchor in anchors.found]
    others = np.delete(cosines, marked, axis=1).max(1)
    assert classes.anchor_cosine.ravel() == pytest.approx(cosines[:, marked].max(1), abs=1e-5)
    assert classes.margin.ravel() == pytest.approx(cosines[:, marked].max(1) - others, abs=1e-5)
    assert [len(words) for words in classes.words] == [5] * PATCHES
    best = np.sort(cosines, axis=1)[:, ::-1][:, :5]
    assert np.array([[cosine for _, cosine in words] for words in classes.words]) == pytest.approx(best, abs=1e-5)
    assert ((classes.margin > 0) == (classify(planted.loaded, held, anchors, rule=1).labels != "alive")).all()


@pytest.mark.parametrize("factor", [1e-12, 0.01, 7.0, 1e12])
@pytest.mark.parametrize("layer", [0, 2])
def test_labels_do_not_change_when_states_are_scaled(
    planted: Planted, anchors: Anchors, held: Trace, factor: float, layer: int
):
    plain = classify(planted.loaded, held, anchors, layer)
    other = classify(planted.loaded, scaled(held, factor), anchors, layer)
    assert np.array_equal(plain.labels, other.labels)
    assert other.margin == pytest.approx(plain.margin, abs=1e-5)


@pytest.mark.parametrize("layer", [0, 2, 4])
def test_the_strict_rule_lies_within_the_released_one(planted: Planted, anchors: Anchors, held: Trace, layer: int):
    strict, released = (classify(planted.loaded, held, anchors, layer, rule) for rule in (1, 3))
    for kind in ("sink", "dead"):
        assert not (strict.members[kind] & ~released.members[kind]).any()
    assert not (released.members["alive"] & ~strict.members["alive"]).any()
    assert strict.overlap == 0, "one best word is one anchor"


@pytest.mark.parametrize("rule", [1, 3])
@pytest.mark.parametrize("layer", [0, 2, 4])
def test_union_overlap_and_labels_agree(planted: Planted, anchors: Anchors, held: Trace, layer: int, rule: int):
    classes = classify(planted.loaded, held, anchors, layer, rule)
    sink, dead, alive = (classes.members[name] for name in CLASSES)
    assert (sink | dead).sum() == sink.sum() + dead.sum() - classes.overlap
    assert np.array_equal(alive, ~(sink | dead))
    assert np.array_equal(classes.labels == "sink", sink)
    assert np.array_equal(classes.labels == "dead", dead & ~sink)
    assert sum(classes.fractions.values()) == pytest.approx(1)


def test_precedence_is_sink_before_dead(planted: Planted, anchors: Anchors):
    sink, dead = anchors.of("sink")[0].id, anchors.of("dead")[0].id
    words = Words(np.array([[dead, sink, 5], [dead, 5, 6], [5, 6, 7]]), np.full((3, 3), 0.5), (("",) * 3,) * 3)
    found = groups(words, anchors)
    assert {name: flags.tolist() for name, flags in found.items()} == {
        "sink": [True, False, False],
        "dead": [True, True, False],
        "alive": [False, False, True],
    }
    assert not groups(words, anchors, rule=1)["sink"].any()


def test_an_anchor_counts_from_its_least_cosine_up(anchors: Anchors):
    dead = anchors.of("dead")[0].id
    words = Words(
        np.array([[dead, 5, 6], [5, dead, 6]]), np.array([[0.8, 0.7, 0.1], [0.9, 0.4, 0.1]]), (("",) * 3,) * 2
    )
    assert [groups(words, anchors, 3, least)["dead"].tolist() for least in (0.4, 0.41, 0.81)] == [
        [True, True],
        [True, False],
        [False, False],
    ]


def test_without_anchors_everything_is_alive(planted: Planted, anchors: Anchors, held: Trace):
    classes = classify(planted.loaded, held, replace(anchors, found=()))
    assert classes.fractions == {"sink": 0, "dead": 0, "alive": 1}
    assert np.isnan(classes.margin).all() and np.isnan(classes.anchor_cosine).all()


def test_special_tokens_and_empty_rows_are_nobodys_words(planted: Planted, held: Trace):
    out = left_out(planted.loaded)
    assert set(out) == set(planted.loaded.tokenizer.all_special_ids)
    states = planted.loaded.anatomy.embeddings.weight[[1, 2, 50, 90]].clone()
    words = probe(planted.loaded, states, 400)
    assert words.ids.shape[1] == planted.loaded.anatomy.vocab_size - len(out)
    assert not np.isin(words.ids, out).any()
    assert words.ids[2, 0] == 50 and words.ids[3, 0] == 90
    assert (np.diff(words.scores, axis=1) <= 0).all(), "best first"
    tokenizer = planted.loaded.tokenizer
    assert all(words.tokens[i][j] == token_text(tokenizer, int(words.ids[i, j])) for i in range(4) for j in (0, 7))


def test_the_export_is_plain_json(planted: Planted, anchors: Anchors, held: Trace):
    classes = classify(planted.loaded, held, anchors)
    table = json.loads(json.dumps(as_json(classes, anchors)))
    assert table["fractions"] == classes.fractions
    assert [anchor["id"] for anchor in table["anchors"]] == [anchor.id for anchor in anchors.found]
    assert len(table["patches"]) == PATCHES
    patch = table["patches"][8]
    assert (patch["row"], patch["col"], patch["class"]) == (1, 2, "dead")
    assert len(patch["words"]) == 5 and patch["words"][0][1] > 0.9


def test_what_cannot_be_classified_is_refused(planted: Planted, anchors: Anchors, held: Trace):
    with pytest.raises(LayerMissing):
        classify(planted.loaded, held, anchors, layer=5)
    with pytest.raises(SiteMissing):
        classify(planted.loaded, held, anchors, layer=1)
    with pytest.raises(ValueError, match="rule"):
        classify(planted.loaded, held, anchors, rule=2)
    text = trace(planted.loaded, encode(planted.loaded, PROMPT), ["hidden.0"])
    with pytest.raises(CapabilityMissing, match="no visual tokens"):
        classify(planted.loaded, text, anchors)
