"""Readings: equal to the lenses they are made of, in the order asked for, and without a forward."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lens.backend.corpus import Corpus
from lens.backend.encoding import encode
from lens.backend.images import open_picture
from lens.backend.loading import LoadedModel
from lens.backend.readouts import embedding_lens, logit_lens
from lens.backend.tracing import Trace, hidden_sites, trace
from lens.errors import (
    CapabilityMissing,
    IndexMismatch,
    IndexMissing,
    LayerMissing,
    PatchOutsideGrid,
    SiteMissing,
)
from lens.latentlens.build import build_index
from lens.latentlens.index import Index
from lens.latentlens.reading import LENSES, as_json, default_layer, read, score
from lens.latentlens.search import search
from tests.helpers import TEXT, tiny_llava

GRID = [(row, col) for row in range(6) for col in range(6)]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return tiny_llava(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def seen(loaded: LoadedModel) -> Trace:
    pixels = np.random.default_rng(3).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    picture = open_picture(buffer.getvalue(), "noise.png")
    return trace(loaded, encode(loaded, "What is this?", picture), hidden_sites(loaded.anatomy.depth))


@pytest.fixture(scope="module")
def index(loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Index:
    corpus = Corpus("lines", lambda: TEXT.splitlines())
    return build_index(loaded, corpus, tmp_path_factory.mktemp("indexes") / "lines", layers=[1, 3], factory="Flat")


@pytest.mark.parametrize("layer", range(5))
def test_each_lens_reads_the_states_at_the_visual_positions(
    loaded: LoadedModel, seen: Trace, index: Index, layer: int
) -> None:
    reading = read(loaded, seen, index, layer, k=4)
    states = seen.hidden(layer)[seen.token_map.visual_positions]
    latent = search(index, states.numpy(), 4).rows
    logit, embedding = logit_lens(loaded, states, layer, 4), embedding_lens(loaded, states, 4)
    assert [(patch.row, patch.col) for patch in reading.patches] == GRID
    for i, patch in enumerate(reading.patches):
        assert patch.neighbours["latent"] == latent[i]
        assert tuple(word.token for word in patch.neighbours["logit"]) == logit.tokens[i]
        assert [word.score for word in patch.neighbours["logit"]] == logit.scores[i].tolist()
        assert tuple(word.token for word in patch.neighbours["embedding"]) == embedding.tokens[i]
        assert [word.score for word in patch.neighbours["embedding"]] == embedding.scores[i].tolist()
        assert all(word.word == word.token.strip() for word in patch.neighbours["logit"])


def test_patches_come_in_the_order_asked_for_once_each(loaded: LoadedModel, seen: Trace, index: Index) -> None:
    everything = {(patch.row, patch.col): patch for patch in read(loaded, seen, index, 2).patches}
    some = read(loaded, seen, index, 2, [(5, 1), (0, 3), (5, 1)]).patches
    assert [(patch.row, patch.col) for patch in some] == [(5, 1), (0, 3)]
    for patch in some:
        alike = everything[patch.row, patch.col]
        assert patch.box == alike.box
        for lens in LENSES:
            assert [found.token for found in patch.neighbours[lens]] == [f.token for f in alike.neighbours[lens]]
            # Not bit by bit: a product of other size sums in another order.
            assert list(map(score, patch.neighbours[lens])) == pytest.approx(list(map(score, alike.neighbours[lens])))
    assert read(loaded, seen, index, 2, []).patches == ()


def test_the_box_is_the_grids(loaded: LoadedModel, seen: Trace, index: Index) -> None:
    grid = seen.token_map.grids[0]
    for patch in read(loaded, seen, index, 1).patches:
        assert patch.box == tuple(grid.boxes[patch.row, patch.col].tolist())


def test_a_reading_runs_no_block(loaded: LoadedModel, seen: Trace, index: Index) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a module of the model ran")

    anatomy = loaded.anatomy
    modules = [*anatomy.blocks, *anatomy.vision_blocks, anatomy.connector, anatomy.text_model, loaded.model]
    handles = [module.register_forward_pre_hook(refuse) for module in modules]
    try:
        for layer in range(anatomy.depth + 1):
            read(loaded, seen, index, layer)
    finally:
        for handle in handles:
            handle.remove()


def test_neighbours_are_best_first(loaded: LoadedModel, seen: Trace, index: Index) -> None:
    for patch in read(loaded, seen, index, 3, k=7).patches:
        for lens in LENSES:
            scores = [score(found) for found in patch.neighbours[lens]]
            assert len(scores) == 7 and scores == sorted(scores, reverse=True)


def test_the_index_is_needed_by_the_latent_lens_alone(loaded: LoadedModel, seen: Trace, index: Index) -> None:
    assert read(loaded, seen, None, 1, lenses=["logit"]).index is None
    assert read(loaded, seen, index, 1, lenses=["logit"]).index is None
    assert read(loaded, seen, index, 1).index == "lines"
    with pytest.raises(IndexMissing, match="index build"):
        read(loaded, seen, None, 1)


def test_more_neighbours_than_there_are(loaded: LoadedModel, seen: Trace, index: Index) -> None:
    """All there are, and never a place holder: the padding token's embedding is zero and is no neighbour."""
    found = read(loaded, seen, index, 1, [(0, 0)], k=1000).patches[0].neighbours
    assert len(found["latent"]) == index.rows * 2
    assert len(found["logit"]) == loaded.anatomy.vocab_size
    zero = int((loaded.anatomy.embeddings.weight == 0).all(1).sum())
    assert zero > 0 and len(found["embedding"]) == loaded.anatomy.vocab_size - zero


def test_what_is_not_there_is_refused(loaded: LoadedModel, seen: Trace, index: Index, tmp_path: Path) -> None:
    with pytest.raises(LayerMissing, match=r"Layer 5 .* 0 .* to 4"):
        read(loaded, seen, index, 5)
    with pytest.raises(LayerMissing, match="Layer -1"):
        read(loaded, seen, index, -1)
    with pytest.raises(PatchOutsideGrid, match=r"6,0.*rows 0 to 5"):
        read(loaded, seen, index, 1, [(6, 0)])
    with pytest.raises(CapabilityMissing, match=r"'tuned'.*latent, logit, embedding"):
        read(loaded, seen, index, 1, lenses=["tuned"])
    with pytest.raises(SiteMissing, match=r"hidden\.1"):
        read(loaded, Trace(seen.key, {}, seen.token_map, seen.depth), index, 1)
    with pytest.raises(CapabilityMissing, match="visual tokens"):
        text = encode(loaded, "What is this?")
        read(loaded, trace(loaded, text, ["hidden.1"]), index, 1)
    with pytest.raises(IndexMismatch, match="weights"):
        read(tiny_llava(tmp_path, seed=1), seen, index, 1)


def test_json_of_one_lens_and_of_all(loaded: LoadedModel, seen: Trace, index: Index) -> None:
    latent = as_json(read(loaded, seen, index, 2, [(1, 4)], ["latent"], k=2))
    everything = as_json(read(loaded, seen, index, 2, [(1, 4)], k=2))
    logit = as_json(read(loaded, seen, index, 2, [(1, 4)], ["logit"], k=2))
    keys = ["model", "index", "image", "grid", "layer", "lens", "patches"]
    for found in (latent, everything, logit):
        assert list(found) == keys
        assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert latent["model"] == loaded.name and latent["index"] == "lines" and logit["index"] is None
    assert latent["image"] == {"width": 90, "height": 60} and latent["grid"] == {"rows": 6, "cols": 6}
    assert (latent["layer"], latent["lens"], everything["lens"], logit["lens"]) == (2, "latent", "all", "logit")
    (patch,) = latent["patches"]
    assert list(patch) == ["row", "col", "box", "neighbours"] and (patch["row"], patch["col"]) == (1, 4)
    # 90 x 60 is resized to 72 x 48 and cropped to 48 x 48: a patch of 8 covers 10 pixels, from x = 15 on.
    assert patch["box"] == [55.0, 10.0, 65.0, 20.0]
    assert list(patch["neighbours"][0]) == ["word", "token", "similarity", "layer", "sentence"]
    neighbours = read(loaded, seen, index, 2, [(1, 4)], ["latent"], k=2).patches[0].neighbours["latent"]
    for entry, neighbour in zip(patch["neighbours"], neighbours, strict=True):
        assert entry == {key: getattr(neighbour, key) for key in entry}
    together = everything["patches"][0]["neighbours"]
    assert list(together) == ["latent", "logit", "embedding"]
    assert together["latent"] == patch["neighbours"]
    assert together["logit"] == logit["patches"][0]["neighbours"]
    assert list(together["logit"][0]) == ["word", "token", "logit"]
    assert list(together["embedding"][0]) == ["word", "token", "similarity"]


def test_states_of_half_precision_are_searched_alike(loaded: LoadedModel, seen: Trace, index: Index) -> None:
    half = Trace(seen.key, {k: v.to(torch.bfloat16) for k, v in seen.states.items()}, seen.token_map, seen.depth)
    full, low = (read(loaded, t, index, 2, lenses=["latent"], k=1).patches for t in (seen, half))
    for a, b in zip(full, low, strict=True):
        assert score(a.neighbours["latent"][0]) == pytest.approx(score(b.neighbours["latent"][0]), abs=5e-3)


@pytest.mark.parametrize(("depth", "layer"), [(32, 8), (30, 8), (16, 8), (12, 6), (4, 2), (1, 0)])
def test_default_layer(depth: int, layer: int) -> None:
    assert default_layer(depth) == layer
