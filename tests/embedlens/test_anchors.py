"""Anchor files: what is written is read, and only with the model that it belongs to."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from lens.backend.loading import LoadedModel
from lens.embedlens import anchors as module
from lens.embedlens.anchors import SHIPPED, Anchor, Anchors, anchors_for, own_file, read_anchors, write_anchors
from lens.errors import AnchorsMismatch, AnchorsUnreadable
from tests.embedlens.planted import Planted


def published(loaded: LoadedModel, token: str) -> Anchors:
    anchor = Anchor(50, token, "dead", "", math.nan, math.nan, math.nan)
    return Anchors(loaded.spec.source, "", "", 0, {}, (), (anchor,), "published", "As the authors say.")


def test_what_is_written_is_read(planted: Planted, anchors: Anchors, tmp_path: Path):
    path = tmp_path / "new" / "folder" / "anchors.json"
    write_anchors(anchors, path)
    assert read_anchors(path, planted.loaded) == anchors
    assert [p.name for p in path.parent.iterdir()] == ["anchors.json"]
    assert json.loads(path.read_text(encoding="utf-8"))["thresholds"]["sink_cosine"] == 0.99


def test_a_models_own_anchors_are_found_and_go_before_those_shipped(
    planted: Planted, anchors: Anchors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "SHIPPED", tmp_path)
    assert anchors_for(planted.loaded) is None
    write_anchors(replace(anchors, note="shipped"), tmp_path / "some.json")
    write_anchors(replace(anchors, fingerprint="0" * 64, note="another's"), tmp_path / "a.json")
    found = anchors_for(planted.loaded)
    assert found is not None and found.note == "shipped"
    write_anchors(replace(anchors, note="own"), own_file(planted.loaded))
    found = anchors_for(planted.loaded)
    assert found is not None and found.note == "own"


@pytest.mark.parametrize("change", [{"fingerprint": "0" * 64}, {"tokenizer_hash": "0" * 64}])
def test_anchors_of_another_model_are_refused(
    planted: Planted, anchors: Anchors, tmp_path: Path, change: dict[str, str]
):
    write_anchors(replace(anchors, model="their-model", **change), tmp_path / "a.json")
    with pytest.raises(AnchorsMismatch, match="those of 'their-model'"):
        read_anchors(tmp_path / "a.json", planted.loaded)


def test_a_model_with_other_weights_is_another_model(anchors: Anchors, llava: LoadedModel, tmp_path: Path):
    write_anchors(anchors, tmp_path / "a.json")
    with pytest.raises(AnchorsMismatch):
        read_anchors(tmp_path / "a.json", llava)


def test_published_anchors_hold_for_their_hub_id_and_tokens(llava: LoadedModel, tmp_path: Path):
    path = tmp_path / "a.json"
    token = llava.tokenizer.convert_ids_to_tokens(50)
    write_anchors(published(llava, token), path)
    read = read_anchors(path, llava)
    assert read.found[0].id == 50 and math.isnan(read.found[0].cosine)
    write_anchors(published(llava, "other"), path)
    with pytest.raises(AnchorsMismatch, match="id 50 should be 'other'"):
        read_anchors(path, llava)
    write_anchors(replace(published(llava, token), model="owner/name"), path)
    with pytest.raises(AnchorsMismatch, match="owner/name"):
        read_anchors(path, llava)
    beyond = replace(published(llava, token), found=(replace(read.found[0], id=10**6),))
    write_anchors(beyond, path)
    with pytest.raises(AnchorsMismatch, match="id 1000000"):
        read_anchors(path, llava)


def test_every_shipped_file_can_be_read():
    found = {path.stem: module._parsed(path) for path in SHIPPED.glob("*.json")}
    llava = found["llava-1.5-7b"]
    assert llava.model == "llava-hf/llava-1.5-7b-hf" and llava.source == "published"
    assert [(a.id, a.token, a.kind, a.origin) for a in llava.found] == [
        (1141, "igh", "sink", "vision"),
        (26673, "▁jav", "sink", "language"),
        (30296, "्", "dead", ""),
    ]
    for anchors in found.values():
        assert anchors.source == "published" or (len(anchors.fingerprint) == 64 and anchors.images >= 200)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 1},
        {"format": None},
        {"found": 3},
        {"found": [{"id": 1}]},
        {"found": [3]},
        {"candidates": [{"id": 1}]},
        {"images": "many"},
        {"source": "guessed"},
        {"surprise": 1},
        {"thresholds": []},
        {"model": None},
    ],
)
def test_a_damaged_file_is_refused_in_a_sentence(planted: Planted, anchors: Anchors, tmp_path: Path, change: dict):
    path = tmp_path / "a.json"
    write_anchors(anchors, path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(AnchorsUnreadable, match="not of the form"):
        read_anchors(path, planted.loaded)


@pytest.mark.parametrize(
    "change",
    [{"kind": "zombie"}, {"origin": "moon"}, {"id": -1}, {"id": 1.5}, {"id": True}, {"cosine": "high"}, {"token": 3}],
)
def test_a_damaged_anchor_is_refused(planted: Planted, anchors: Anchors, tmp_path: Path, change: dict):
    path = tmp_path / "a.json"
    write_anchors(anchors, path)
    table = json.loads(path.read_text())
    table["found"][0] |= change
    path.write_text(json.dumps(table))
    with pytest.raises(AnchorsUnreadable, match="not of the form"):
        read_anchors(path, planted.loaded)


@pytest.mark.parametrize("content", [None, b"", b"{", b"[1, 2]", b"\xff\xfe", b"null", b"[" * 100_000])
def test_what_is_no_json_is_refused(planted: Planted, tmp_path: Path, content: bytes | None):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AnchorsUnreadable, match=r"a\.json"):
        read_anchors(path, planted.loaded)
