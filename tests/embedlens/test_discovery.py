"""Discovery in a model with planted sinks, dead tokens, a common word and content; nothing found where nothing is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lens.backend.encoding import encode
from lens.backend.loading import LoadedModel
from lens.backend.tracing import trace
from lens.embedlens.anchors import Anchors
from lens.embedlens.discovery import discover, first_jumps, vision_norms, vision_site
from lens.embedlens.judging import DEFAULTS, judged, letters_of
from lens.embedlens.probe import probe, unit_rows
from lens.errors import Cancelled, CapabilityMissing, ImagesMissing
from tests.embedlens.planted import PROMPT, Planted, pictures


def by_id(anchors: Anchors) -> dict:
    return {anchor.id: anchor for anchor in anchors.found}


def test_what_was_planted_is_found_and_nothing_else(planted: Planted, anchors: Anchors):
    kinds = {anchor.id: (anchor.kind, anchor.origin) for anchor in anchors.found}
    assert kinds == {
        planted.ids["seen"]: ("sink", "vision"),
        planted.ids["aligned"]: ("sink", "language"),
        planted.ids["dead"]: ("dead", ""),
        planted.ids["word"]: ("dead", ""),
    }


def test_words_are_spared_where_that_is_asked_for(planted: Planted):
    spared = discover(planted.loaded, pictures(12), PROMPT, thresholds={"word_letters": 3})
    assert [anchor.id for anchor in spared.of("dead")] == [planted.ids["dead"]]
    word = planted.loaded.tokenizer.decode([planted.ids["word"]])
    assert "In nearly every image, but words or too little alike" in spared.note
    assert f"{word!r} (3.0 tokens an image, cosine 0.9" in spared.note


def test_the_record_says_where_the_anchors_come_from(planted: Planted, anchors: Anchors):
    loaded = planted.loaded
    assert (anchors.model, anchors.source, anchors.images) == (loaded.name, "discovered", 12)
    assert (anchors.fingerprint, anchors.tokenizer_hash) == (loaded.fingerprint, loaded.tokenizer_hash)
    assert anchors.thresholds == dict(DEFAULTS)
    word = loaded.tokenizer.decode([planted.ids["word"]])
    assert anchors.note.startswith(
        f"2 sink anchors and 2 dead anchors found in 12 images. {word!r} begins a word or is one: dead"
    )
    assert "200 images or more" in anchors.note
    assert [anchor.kind for anchor in anchors.found] == ["sink", "sink", "dead", "dead"]
    assert all(anchor.token == loaded.tokenizer.decode([anchor.id]) for anchor in anchors.found)


def test_counts_and_cosines_are_those_of_all_pairs(planted: Planted, anchors: Anchors):
    """The streamed sums against every pair of tokens of different images, one by one."""
    won: list[np.ndarray] = []
    present = 0
    dead = planted.ids["dead"]
    for picture in pictures(12):
        held = trace(planted.loaded, encode(planted.loaded, PROMPT, picture), ["hidden.0"])
        states = held.hidden(0)[held.token_map.visual_positions]
        ids = probe(planted.loaded, states, 3).ids
        present += int((ids == dead).any())
        won.append(unit_rows(states).double().numpy()[ids[:, 0] == dead])
    pairs = [float(u @ v) for i, a in enumerate(won) for j, b in enumerate(won) if i != j for u in a for v in b]
    found = by_id(anchors)[dead]
    assert found.cosine == pytest.approx(np.mean(pairs), abs=1e-6)
    assert 0.8 < found.cosine < 0.99
    assert found.share == present / 12 == 1
    assert found.count == pytest.approx(np.mean([len(rows) for rows in won])) and found.count >= 11


def test_the_planted_numbers(planted: Planted, anchors: Anchors):
    found = by_id(anchors)
    assert found[planted.ids["seen"]].count >= 4 and found[planted.ids["seen"]].cosine > 0.999
    assert found[planted.ids["aligned"]].count >= 3


@pytest.mark.parametrize(
    ("thresholds", "kinds"),
    [
        ({"dead_cosine": 0.95}, {"sink": 2, "dead": 0}),
        ({"sink_cosine": 0.85}, {"sink": 4, "dead": 0}),
        ({"sink_cosine": 0.99999}, {"sink": 0, "dead": 4}),
        ({"word_letters": 3}, {"sink": 2, "dead": 1}),
        ({"image_share": 1.01}, {"sink": 0, "dead": 0}),
        ({"win_share": 1.01}, {"sink": 0, "dead": 0}),
    ],
)
def test_every_threshold_decides(planted: Planted, thresholds: dict[str, float], kinds: dict[str, int]):
    anchors = discover(planted.loaded, pictures(5), PROMPT, thresholds=thresholds)
    assert {kind: len(anchors.of(kind)) for kind in kinds} == kinds
    assert anchors.thresholds == {**DEFAULTS, **thresholds}


def test_thresholds_can_be_moved_without_another_pass(planted: Planted):
    """The kept candidates, judged anew, against a discovery under those thresholds."""
    first = discover(planted.loaded, pictures(5), PROMPT)
    for moved in ({"dead_cosine": 0.95}, {"sink_cosine": 0.85}, {"word_letters": 3}, {"image_share": 0.6}):
        anew = discover(planted.loaded, pictures(5), PROMPT, thresholds=moved)
        assert judged(first, moved) == anew
    assert judged(first, {"image_share": 1.01}).found == ()
    assert judged(judged(first, {"image_share": 1.01}), {"image_share": 0.95}) == first


@pytest.mark.parametrize(
    ("thresholds", "origins"),
    [
        ({"norm_ratio": 1000}, ["unknown", "language"]),
        ({"first_jump": 3}, ["vision", "unknown"]),
    ],
)
def test_the_origin_follows_its_thresholds(planted: Planted, thresholds: dict[str, float], origins: list[str]):
    found = by_id(discover(planted.loaded, pictures(5), PROMPT, thresholds=thresholds))
    assert [found[planted.ids[name]].origin for name in ("seen", "aligned")] == origins


def test_nothing_is_forced(llava: LoadedModel, planted: Planted):
    """Content alone, in a model with the same embeddings: no anchors, and a sentence that says so."""
    bare = discover(planted.loaded, pictures(6), PROMPT, thresholds={"image_share": 2})
    assert bare.found == ()
    assert bare.note.startswith("No sink anchors and no dead anchors found in 6 images")


def test_special_tokens_are_never_anchors(planted: Planted):
    """A special token's embedding put where the sink stands wins every sink token, and is still passed over."""
    weight = planted.loaded.anatomy.embeddings.weight
    special = planted.loaded.tokenizer.convert_tokens_to_ids("</s>")
    before = weight[special].clone()
    try:
        weight.data[special] = weight[planted.ids["dead"]]
        found = by_id(discover(planted.loaded, pictures(4), PROMPT))
    finally:
        weight.data[special] = before
    assert special not in found and found[planted.ids["dead"]].kind == "dead"


def test_discovery_asks_for_progress_and_can_be_cancelled(planted: Planted):
    calls: list[tuple[float, float, str]] = []

    def report(done: float, total: float, message: str) -> None:
        calls.append((done, total, message))
        if done == 2:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        discover(planted.loaded, pictures(5), PROMPT, report=report)
    assert [(done, total) for done, total, _ in calls] == [(0, 5), (1, 5), (2, 5)]
    assert calls[0][2] == "Image 1: noise-0.png"


def test_pictures_are_taken_one_at_a_time(planted: Planted):
    """The stream is never listed: when a picture is asked for, all before it have been worked on."""
    given, done = 0, []

    def stream():
        nonlocal given
        for picture in pictures(4):
            assert len(done) == given
            given += 1
            yield picture

    discover(planted.loaded, stream(), PROMPT, report=lambda d, t, m: done.append(d))
    assert given == 4


def test_one_picture_is_too_few(planted: Planted):
    with pytest.raises(ImagesMissing, match="images given: 1;"):
        discover(planted.loaded, pictures(1), PROMPT)
    with pytest.raises(ImagesMissing, match="None of the images"):
        discover(planted.loaded, [], PROMPT)


def test_a_text_only_model_is_refused(llama: LoadedModel):
    with pytest.raises(CapabilityMissing, match="connector"):
        discover(llama, pictures(2), PROMPT)


def test_vision_norms_are_those_of_the_block_that_the_connector_reads(llava: LoadedModel):
    """vision_feature_layer -2 of three blocks is block 2; its class token has no patch."""
    assert vision_site(llava) == "vision.2"
    encoded = encode(llava, PROMPT, pictures(1)[0])
    held = trace(llava, encoded, ["vision.2", "hidden.0"])
    norms = vision_norms(llava, held)
    assert norms is not None and norms.shape == (36,)
    output = llava.anatomy.vision_tower(encoded.inputs["pixel_values"], output_hidden_states=True)  # type: ignore[misc]
    assert norms == pytest.approx(output.hidden_states[-2][0, 1:].norm(dim=-1).numpy(), rel=1e-4)


@pytest.mark.parametrize(("layer", "site"), [(-1, "vision.3"), (1, "vision.1"), (-4, None), (0, None), ([1, 2], None)])
def test_the_vision_site_follows_the_configuration(llava: LoadedModel, layer: object, site: str | None):
    before = llava.model.config.vision_feature_layer
    try:
        llava.model.config.vision_feature_layer = layer
        assert vision_site(llava) == site
    finally:
        llava.model.config.vision_feature_layer = before


def test_the_jump_is_between_before_and_after_the_mlp(llava: LoadedModel):
    encoded = encode(llava, PROMPT, pictures(1)[0])
    held = trace(llava, encoded, ["hidden.1", "attention.2", "mlp.2", "block.2"])
    positions = held.token_map.visual_positions
    before = held.site("hidden.1") + held.site("attention.2")
    cosine = torch.nn.functional.cosine_similarity
    wanted = cosine(held.site("block.2")[positions], held.site("block.2")[:1]) - cosine(before[positions], before[:1])
    assert first_jumps(held, positions) == pytest.approx(wanted.numpy(), abs=1e-5)
    assert not first_jumps(replace(held, states={}), positions).any(), "unknown without the sites"
    assert not first_jumps(held, np.arange(3)).any(), "and where a visual token goes first"


@pytest.mark.parametrize(
    ("token", "word"),
    [
        ("Ġcat", True),
        ("▁cat", True),
        ("cat", False),
        ("Ġca", False),
        ("igh", False),
        ("्", False),
        ("Ġc4t", False),
        ("Ġ", False),
        ("", False),
        ("▁хлеб", True),
    ],
)
def test_words_begin_with_a_blank_and_are_letters(token: str, word: bool):
    assert (letters_of(token) >= 3) is word
