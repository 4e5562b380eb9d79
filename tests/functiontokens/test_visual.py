"""Features on visual tokens: planted agreement with words is found, and its controls know when there is none."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from lens.backend.encoding import Encoded, encode
from lens.backend.loading import LoadedModel
from lens.backend.tracing import trace
from lens.errors import CapabilityMissing, PromptUnusable
from lens.functiontokens.features import SaeFeatures, bind, open_features
from lens.functiontokens.formats import Stored
from lens.functiontokens.sae import Autoencoder
from lens.functiontokens.visual import LEAD, neighbour_share, turned_states, visual_features
from tests.embedlens.planted import picture_of_noise
from tests.functiontokens.bases import random_sae
from tests.helpers import tiny_llama, tiny_llava

TEXT = "A bowl of green apples on a wooden table."


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return tiny_llava(tmp_path_factory.mktemp("llava"), seed=3)


@pytest.fixture(scope="module")
def basis(llava: LoadedModel) -> SaeFeatures:
    return random_sae(llava)


@pytest.fixture(scope="module")
def encoded(llava: LoadedModel) -> Encoded:
    return encode(llava, "What is this?", picture_of_noise(0))


def test_what_fires_is_what_the_basis_says(llava: LoadedModel, basis: SaeFeatures, encoded: Encoded):
    found = visual_features(llava, encoded, basis, TEXT, controls=3)
    grid = encoded.token_map.grids[0]
    states = trace(llava, encoded, [basis.site]).site(basis.site)[grid.positions.reshape(-1)]
    dense = basis.encode(states).numpy().reshape(grid.rows, grid.cols, -1)
    counts = {one.feature: one.patches for one in found.features}
    assert counts == {int(f): int((dense[..., f] != 0).sum()) for f in np.flatnonzero(dense.any((0, 1)))}
    feature = found.features[0].feature
    np.testing.assert_allclose(found.over_patches(feature), dense[..., feature])
    assert [f for f, _v in found.top(2, 3, 4)] == np.argsort(-dense[2, 3])[:4].tolist()
    ids, lead = words_of(llava)
    alone = trace(llava, encode_plain(llava, ids), [basis.site]).site(basis.site)[lead:]
    for word, fired in zip(basis.encode(alone).numpy(), found.word_features, strict=True):
        assert set(fired) == set(np.flatnonzero(word).tolist())
    assert "".join(found.words).strip() == TEXT and len(found.words) == len(ids) - lead
    for one in found.features:
        assert one.words == tuple(w for w, fired in enumerate(found.word_features) if one.feature in fired)
    json.dumps(found.as_json(), allow_nan=False)


def words_of(llava: LoadedModel) -> tuple[list[int], int]:
    """The text after its lead, and how many tokens that has."""
    return llava.tokenizer(f"{LEAD} {TEXT}")["input_ids"], len(llava.tokenizer(LEAD)["input_ids"])


def encode_plain(llava: LoadedModel, ids: list[int]) -> Encoded:
    from lens.backend.encoding import TokenMap

    tensor = torch.tensor([ids])
    inputs = {"input_ids": tensor, "attention_mask": torch.ones_like(tensor)}
    return Encoded(inputs, TokenMap(tuple(ids), ("text",) * len(ids), ("",) * len(ids)), "", "")


def test_shared_firings_beside_turned_states(llava: LoadedModel, encoded: Encoded):
    """Features that are the patches' own axes and fire on words too: turning the patches away must lose them."""
    grid = encoded.token_map.grids[0]
    states = trace(llava, encoded, ["hidden.2"]).hidden(2)[grid.positions.reshape(-1)]
    ids, lead = words_of(llava)
    words = trace(llava, encode_plain(llava, ids), ["hidden.2"]).hidden(2)[lead:]
    unit = torch.nn.functional.normalize(torch.cat([states[:8] - states.mean(0), words]), dim=-1)
    common = torch.nn.functional.normalize(unit[:8] + unit[8:16].flip(0) * 1.2, dim=-1)
    random = torch.nn.functional.normalize(
        torch.randn(56, len(states[0]), generator=torch.Generator().manual_seed(0)), dim=-1
    )
    decoder = torch.cat([common, random])
    planted = Autoencoder(decoder.T.contiguous(), torch.zeros(64), decoder, states.mean(0), "topk", k=2)
    found = visual_features(llava, encoded, bind(llava, Stored(planted, 2, "block.2"), "planted"), TEXT, controls=20)
    assert found.shared > found.turned.mean() and found.turned.shape == (20,)
    assert found.p == pytest.approx((1 + (found.turned >= found.shared).sum()) / 21)


def test_turning_keeps_the_mean_and_the_shape(llava: LoadedModel):
    states = torch.randn(12, 32, generator=torch.Generator().manual_seed(1)) + 3
    for turned in turned_states(states, 3, seed=0):
        torch.testing.assert_close(turned.mean(0), states.mean(0), atol=1e-4, rtol=1e-4)
        plain, other = states - states.mean(0), turned - turned.mean(0)
        torch.testing.assert_close(other @ other.T, plain @ plain.T, atol=1e-3, rtol=1e-3)
        assert not torch.allclose(turned, states, atol=0.1)
    same = turned_states(states, 3, seed=0), turned_states(states, 3, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(*same, strict=True))


def test_neighbours():
    block, board = np.zeros((4, 4), bool), np.indices((4, 4)).sum(0) % 2 == 0
    block[:2, :2] = True
    assert float(neighbour_share(block)) == pytest.approx(4 / 8) and float(neighbour_share(board)) == 0
    assert neighbour_share(np.stack([block, board])).tolist() == [0.5, 0.0]


def test_a_feature_of_one_corner_is_told_from_a_scattered_one(llava: LoadedModel, encoded: Encoded, monkeypatch):
    """Planted over six by six patches: a corner block, as many patches dealt out without neighbours, and a few pairs."""
    fires = np.zeros((6, 6, 3), np.float32)
    fires[:3, :3, 0] = 1
    fires[::2, ::2, 1] = 1
    fires[::3, [0, 2, 3, 5], 2] = 1
    rows, ids = np.nonzero(fires.reshape(36, 3))

    class Planted(SaeFeatures):
        def active(self, states, limit=None):
            return (rows, ids, np.ones(len(ids), np.float32)) if len(states) == 36 else (rows[:0], ids[:0], rows[:0])

    basis = random_sae(llava)
    planted = Planted(**{name: getattr(basis, name) for name in basis.__dataclass_fields__})
    found = visual_features(llava, encoded, planted, TEXT, controls=1, shuffles=200)
    by_feature = {one.feature: one for one in found.features}
    assert by_feature[0].neighbours == pytest.approx(12 / 18) and by_feature[0].p < 0.02
    assert by_feature[1].neighbours == 0 and by_feature[1].p == 1
    generator, some = np.random.default_rng(99), fires[..., 2].astype(bool)
    null = neighbour_share(np.array([generator.permutation(some.reshape(-1)).reshape(6, 6) for _ in range(4000)]))
    expected = float((null >= by_feature[2].neighbours - 1e-9).mean())
    assert 0.2 < expected < 0.9 and by_feature[2].p == pytest.approx(expected, abs=0.1)


def test_reconstruction_is_measured_on_both(llava: LoadedModel, basis: SaeFeatures, encoded: Encoded):
    found = visual_features(llava, encoded, basis, TEXT, controls=1)
    grid = encoded.token_map.grids[0]
    states = trace(llava, encoded, [basis.site]).site(basis.site)[grid.positions.reshape(-1)].double()
    rebuilt = basis.decode(basis.encode(states.float())).double()
    fvu = float((states - rebuilt).square().sum() / (states - states.mean(0)).square().sum())
    assert found.patches_rebuilt is not None and found.patches_rebuilt.fvu == pytest.approx(fvu, rel=1e-4)
    assert found.patches_rebuilt.active == 6 and "%" in found.note
    exact = bind(llava, Stored(identity(llava.anatomy.width), 2, "block.2"), "identity")
    perfect = visual_features(llava, encoded, exact, TEXT, controls=1)
    assert perfect.patches_rebuilt.fvu < 1e-6 and perfect.words_rebuilt.cosine == pytest.approx(1, abs=1e-5)
    single = visual_features(llava, encoded, basis, "a", controls=1)
    assert len(single.words) == 1 and single.words_rebuilt is None and "words" not in single.note
    neurons = visual_features(llava, encoded, open_features(llava, "neurons-2"), TEXT, controls=1)
    assert neurons.patches_rebuilt is None and "neurons" in neurons.note


def identity(width: int) -> Autoencoder:
    """Two latents for each direction, one per sign: a perfect autoencoder."""
    decoder = torch.cat([torch.eye(width), -torch.eye(width)])
    return Autoencoder(decoder.T.contiguous(), torch.zeros(2 * width), decoder, torch.zeros(width), "relu")


def test_bad_input(llava: LoadedModel, basis: SaeFeatures, encoded: Encoded, tmp_path):
    with pytest.raises(PromptUnusable, match="no word"):
        visual_features(llava, encoded, basis, "  ")
    llama = tiny_llama(tmp_path)
    with pytest.raises(CapabilityMissing):
        visual_features(llama, encode(llama, TEXT), random_sae(llama), TEXT)
