"""Tokens as points: every picture's own, in order, with the classes that it has alone."""

from __future__ import annotations

import numpy as np
import pytest

from lens.backend.encoding import encode
from lens.backend.maps import pca
from lens.backend.tracing import trace
from lens.embedlens.classes import classify
from lens.embedlens.discovery import discover
from lens.embedlens.plane import picture_plane, pictures_plane
from lens.errors import Cancelled
from tests.embedlens.planted import PATCHES, PROMPT, Planted, pictures


def test_several_pictures_are_one_map_of_all_their_tokens(planted: Planted, monkeypatch: pytest.MonkeyPatch):
    given: list[np.ndarray] = []
    monkeypatch.setattr("lens.backend.maps.umap", lambda states: given.append(states) or states[:, :2])  # it compiles
    loaded, anchors = planted.loaded, discover(planted.loaded, pictures(4), PROMPT)
    seen: list[float] = []
    found = pictures_plane(
        loaded, pictures(2), PROMPT, anchors, report=lambda done, total, _: seen.append(done / total)
    )
    held = [trace(loaded, encode(loaded, PROMPT, picture), ["hidden.0"]) for picture in pictures(2)]
    alone = [classify(loaded, each, anchors) for each in held]
    assert found.labels.tolist() == np.concatenate([each.labels.reshape(-1) for each in alone]).tolist()
    assert len(set(found.labels)) > 1
    assert found.picture.tolist() == [0] * PATCHES + [1] * PATCHES
    assert list(found.planes) == ["PCA", "UMAP"] and np.array_equal(found.planes["UMAP"], given[0][:, :2])
    assert np.allclose(found.planes["PCA"], pca(given[0])[0]) and seen == sorted(seen)
    one = picture_plane(held[1], alone[1])
    assert np.allclose(one.planes["PCA"], pca(given[0][PATCHES:])[0]) and list(one.planes) == ["PCA"]
    assert one.labels.tolist() == found.labels[PATCHES:].tolist() and not one.picture.any()


def test_it_can_be_cancelled(planted: Planted):
    def stop(done: float, total: float, message: str) -> None:
        raise Cancelled("Stopped.")

    anchors = discover(planted.loaded, pictures(2), PROMPT)
    with pytest.raises(Cancelled):
        pictures_plane(planted.loaded, pictures(2), PROMPT, anchors, report=stop)
