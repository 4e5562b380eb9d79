"""Opening: what is whole and fits is opened, everything else is refused, naming what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from lens.backend.folders import file_records
from lens.backend.loading import LoadedModel
from lens.errors import IndexDamaged, IndexMismatch, IndexMissing, IndexUnfinished, LayerMissing
from lens.latentlens.index import (
    Index,
    chosen_index,
    find_index,
    index_folders,
    indexes_for,
    open_index,
    verify_index,
)
from tests.helpers import edit_manifest, tiny_gpt2, tiny_llama


@pytest.fixture
def copy(index: Index, tmp_path: Path) -> Path:
    return Path(shutil.copytree(index.path, tmp_path / "copy"))


def test_it_opens_for_its_model(llama: LoadedModel, index: Index) -> None:
    opened = open_index(index.path, llama)
    assert opened.manifest == index.manifest
    assert opened.layers == (1, 2, 4)
    assert opened.rows == opened.contexts.num_rows == opened.faiss[2].ntotal
    info = opened.info()
    assert json.loads(json.dumps(info))["bytes"] == sum(
        p.stat().st_size for p in index.path.iterdir() if p.suffix != ".json"
    )
    assert (info["corpus"], info["corpus_licence"], info["model"]) == ("patterns", "CC0-1.0", "tiny-llama")


def test_a_flipped_byte_anywhere_is_refused(index: Index, copy: Path) -> None:
    open_index(copy)
    for path in sorted(copy.iterdir()):
        content = path.read_bytes()
        for offset in (0, len(content) // 3, len(content) // 2, len(content) - 2):
            path.write_bytes(content[:offset] + bytes([content[offset] ^ 0x10]) + content[offset + 1 :])
            with pytest.raises(IndexDamaged, match=path.name):
                open_index(copy)
            with pytest.raises(IndexDamaged, match=path.name):
                verify_index(copy)
        path.write_bytes(content)
    assert verify_index(copy).rows == index.rows


def test_a_truncated_or_missing_file_is_refused(copy: Path) -> None:
    for path in sorted(copy.iterdir()):
        content = path.read_bytes()
        path.write_bytes(content[:-1] if path.suffix != ".json" else content[:-9])
        with pytest.raises(IndexDamaged, match=path.name):
            open_index(copy)
        path.write_bytes(b"")
        with pytest.raises(IndexDamaged, match=path.name):
            open_index(copy)
        path.unlink()
        with pytest.raises((IndexDamaged, IndexMissing), match=path.name):
            open_index(copy)
        path.write_bytes(content)


def test_verify_reads_again_what_looks_unchanged(copy: Path) -> None:
    """Same size, same time of change: only a full check can see it."""
    import os

    path = copy / "layer-02.faiss"
    open_index(copy)
    before = path.stat()
    with path.open("rb+") as file:
        file.seek(100)
        file.write(b"\x55")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(IndexDamaged, match="layer-02"):
        verify_index(copy)


def test_unknown_version(copy: Path) -> None:
    edit_manifest(copy, format_version=2)
    with pytest.raises(IndexDamaged, match=r"format version '2', but this TokenLens reads version 1"):
        open_index(copy)


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": []},
        {"files": {}},
        {"surprise": 1},
        {"rule": {"name": "first", "extra": 1}},
        {"rows": 7},
        {"layers": 3},
        {"width": 31},
        {"factory": None, "files": None},
        {"rows": "22"},
        {"files": {"contexts.parquet": {"sha256": "0", "bytes": "9"}}},
    ],
)
def test_a_manifest_of_another_form(copy: Path, changes: dict) -> None:
    edit_manifest(copy, **changes)
    with pytest.raises(IndexDamaged):
        open_index(copy)


WRONG_LAYERS = {"layer": (-5, 99, True, 1.0, "1", None), "rows": (True, -1, 0), "recall_at_5": (-0.1, 1.5, True, "x"),
                "mean_norm": (float("nan"), float("inf"), -1.0, None), "similarity_error": (-1.0, float("nan")),
                "search": ([], None), "file": ("manifest.json", "", 3)}  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field in WRONG_LAYERS for value in WRONG_LAYERS[field]]
)
def test_a_consistent_manifest_of_values_that_cannot_be(copy: Path, field: str, value: object) -> None:
    layers = json.loads((copy / "manifest.json").read_text())["layers"]
    layers[0][field] = value
    edit_manifest(copy, layers=layers)
    with pytest.raises(IndexDamaged, match=r"not of the expected form|was altered"):
        open_index(copy)


@pytest.mark.parametrize(
    "changes",
    [
        {"format_version": True}, {"format_version": 1.0}, {"depth": 0}, {"depth": 3}, {"depth": True}, {"width": -1},
        {"max_tokens": 0}, {"rule": {"name": "first", "cap": "50"}}, {"rule": {"name": 3}}, {"rule": {"deduplicate": 1}},
        {"rule": {"seed": True}},
    ],
)  # fmt: skip
def test_a_consistent_manifest_of_sizes_that_cannot_be(copy: Path, changes: dict) -> None:
    edit_manifest(copy, **changes)
    with pytest.raises(IndexDamaged):
        open_index(copy)


def test_a_doubled_layer_is_refused(copy: Path) -> None:
    content = json.loads((copy / "manifest.json").read_text())
    edit_manifest(copy, layers=[*content["layers"], content["layers"][0]])
    with pytest.raises(IndexDamaged, match="twice"):
        open_index(copy)
    layers = content["layers"]
    layers[1]["file"] = layers[0]["file"]
    edit_manifest(copy, layers=layers, files={k: v for k, v in content["files"].items() if k != "layer-02.faiss"})
    with pytest.raises(IndexDamaged, match="share a file"):
        open_index(copy)


@pytest.mark.parametrize("record", [{"bytes": True}, {"bytes": 0}, {"bytes": -1}, {"sha256": "0"}, {"sha256": 3}])
def test_a_file_record_that_is_none_is_refused(copy: Path, record: dict) -> None:
    files = json.loads((copy / "manifest.json").read_text())["files"]
    files["contexts.parquet"] |= record
    edit_manifest(copy, files=files)
    with pytest.raises(IndexDamaged):
        open_index(copy)


@pytest.mark.parametrize("name", ["contexts.parquet", "layer-01.faiss", "manifest.json"])
@pytest.mark.parametrize("target", ["itself", "/proc/self/mem", "/proc/self/environ", "/proc/self/maps", "/dev/zero"])
def test_links_to_what_is_no_file_are_refused(copy: Path, name: str, target: str) -> None:
    (copy / name).unlink()
    (copy / name).symlink_to(copy / name if target == "itself" else target)
    with pytest.raises((IndexDamaged, IndexMissing)) as caught:
        open_index(copy)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    "spoil", [lambda content: b"", lambda content: content[:-9], lambda content: b"PAR1" * 99, None]
)
def test_what_changes_between_opening_and_first_use_is_refused(copy: Path, spoil: Callable | None) -> None:
    opened = open_index(copy)
    uses = {
        "contexts.parquet": lambda: opened.contexts,
        "sentences.parquet": lambda: opened.sentences,
        "statistics.safetensors": lambda: opened.mean(1),
    }
    for name, use in uses.items():
        if spoil is None:
            (copy / name).unlink()
        else:
            (copy / name).write_bytes(spoil((copy / name).read_bytes()))
        with pytest.raises(IndexDamaged, match=name):
            use()


def test_tables_that_are_the_manifests_but_of_another_form_are_refused(copy: Path) -> None:
    files = json.loads((copy / "manifest.json").read_text())["files"]
    pq.write_table(pa.table({"text": ["a"]}), copy / "contexts.parquet")
    pq.write_table(pa.table({"sentence": ["a"]}), copy / "sentences.parquet")
    save_file({"mean.1": np.zeros(3, np.float32)}, copy / "statistics.safetensors")
    edit_manifest(copy, files=files | {name: asdict(r) for name, r in file_records(copy, TABLES).items()})
    opened = open_index(copy)
    for name, use in zip(TABLES, ("contexts", "sentences", "mean"), strict=True):
        with pytest.raises(IndexDamaged, match=name):
            opened.mean(1) if use == "mean" else getattr(opened, use)


TABLES = ("contexts.parquet", "sentences.parquet", "statistics.safetensors")


def test_file_names_stay_inside_the_folder(copy: Path) -> None:
    """A manifest can't make us read elsewhere."""
    content = json.loads((copy / "manifest.json").read_text())
    (copy.parent / "elsewhere.faiss").write_bytes((copy / "layer-01.faiss").read_bytes())
    content["layers"][0]["file"] = "../elsewhere.faiss"
    content["files"]["../elsewhere.faiss"] = content["files"].pop("layer-01.faiss")
    edit_manifest(copy, layers=content["layers"], files=content["files"])
    with pytest.raises(IndexDamaged, match="no plain name"):
        open_index(copy)


def test_wrong_models_are_refused_naming_what_differs(index: Index, tmp_path: Path) -> None:
    with pytest.raises(IndexMismatch, match=r"built from tiny-llama.*differ in language model's weights \("):
        open_index(index.path, tiny_llama(tmp_path / "seed", seed=1))
    with pytest.raises(IndexMismatch, match=r"depth \(4 in the index, 3 here\)"):
        open_index(index.path, tiny_gpt2(tmp_path / "gpt2"))


def test_wrong_tokenizer_is_refused(llama: LoadedModel, index: Index) -> None:
    from dataclasses import replace

    with pytest.raises(IndexMismatch, match="differ in tokenizer"):
        open_index(index.path, replace(llama, tokenizer_hash="0" * 64))


def test_places_without_an_index(tmp_path: Path) -> None:
    with pytest.raises(IndexMissing, match="no index in"):
        open_index(tmp_path)
    with pytest.raises(IndexMissing, match="no index in"):
        open_index(tmp_path / "nowhere")
    (tmp_path / "building").mkdir()
    with pytest.raises(IndexUnfinished, match="half built"):
        open_index(tmp_path)


def test_finding_by_name_and_path(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENLENS_HOME", str(tmp_path))
    shutil.copytree(index.path, tmp_path / "indexes" / "mine")
    (tmp_path / "indexes" / "begun" / "building").mkdir(parents=True)
    assert find_index("mine") == tmp_path / "indexes" / "mine"
    (tmp_path / "elsewhere" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert find_index("mine") == tmp_path / "indexes" / "mine", "a folder that happens to be here is no index"
    assert find_index("./mine") == Path("mine")
    assert find_index(index.path) == find_index(str(index.path)) == index.path
    assert "begun" not in index_folders()
    with pytest.raises(IndexMissing, match=r"'other'.*mine"):
        find_index("other")


def test_those_that_fit_a_model_are_told_by_their_manifests_alone(
    index: Index, llama: LoadedModel, own_home: Path, tmp_path: Path
) -> None:
    for name in ("mine", "unreadable"):
        shutil.copytree(index.path, own_home / "indexes" / name)
    (own_home / "indexes" / "mine" / index.manifest.layers[0].file).unlink()  # nothing else is read, however large
    (own_home / "indexes" / "unreadable" / "manifest.json").write_text("{", encoding="utf-8")
    assert list(indexes_for(llama)) == ["mine"]
    assert not indexes_for(tiny_llama(tmp_path / "other", seed=1))


def test_an_index_is_the_rows_unless_another_or_none_is_named(index: Index, llama: LoadedModel, own_home: Path) -> None:
    shutil.copytree(index.path, own_home / "indexes" / "mine")
    with_row = replace(llama, spec=replace(llama.spec, index="mine"))
    for loaded, name, expected in ((llama, None, None), (with_row, "none", None), (with_row, None, "mine")):
        found = chosen_index(loaded, name)
        assert (found and found.name) == expected
    named = chosen_index(with_row, str(index.path))
    assert named is not None and named.path == index.path


def test_an_unknown_layer_names_those_stored(index: Index) -> None:
    with pytest.raises(LayerMissing, match=r"Layer 3 .* stores 1, 2, 4"):
        index.mean(3)
