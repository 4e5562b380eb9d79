"""The table of models, a user's own rows, and what happens to wrong ones."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
from pathlib import Path

import pytest

from lens.backend.catalog import ModelSpec, catalog, find, on_disk, prepare, ready
from lens.backend.loading import load
from lens.cli import main
from lens.errors import CatalogInvalid, LensError, ModelMissing


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("TOKENLENS_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def write(home: Path, text: str) -> Path:
    path = home / "catalog.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_rows(home: Path):
    rows = catalog()
    assert next(iter(rows)) == "demo", "the first is what a newcomer gets"
    assert {"demo", "demo-scratch"} <= set(rows)
    for name, spec in rows.items():
        assert spec.name == name
        assert spec.title
        assert spec.note.endswith("."), "one sentence that says what it is and isn't"
        assert "\n" not in spec.note
        assert not spec.trust_remote_code
    assert rows["demo"].source == str(home / "models" / "demo")
    assert rows["demo"].index == rows["demo-scratch"].index, "they share a language model"
    seg = rows["demo-seg"]
    assert seg.index is None, "its language model is another, so that no index of the demo's fits"
    assert seg.made_from == "demo" and seg.mask_head and "chance" in seg.says_seg
    assert all(spec.made_from in rows and spec.setup for spec in rows.values() if spec.made_from)
    opened = [spec.mask_head.split(":") for spec in rows.values() if spec.mask_head]
    assert all(callable(getattr(importlib.import_module(module), name)) for module, name in opened)


def test_what_is_made_from_a_model_on_disk_can_be_had_without_a_network(home: Path):
    rows = catalog()
    assert not ready(rows["demo"]) and not ready(rows["demo-seg"])
    (home / "models" / "demo").mkdir(parents=True)
    (home / "models" / "demo" / "config.json").write_text("{}", encoding="utf-8")
    assert ready(rows["demo"]) and ready(rows["demo-seg"]) and not on_disk(rows["demo-seg"])
    assert not ready(rows["demo-scratch"]) and not ready(rows["lisa-7b"])


def test_a_users_file_adds_and_replaces(home: Path):
    write(
        home, '[mine]\nsource = "/models/mine"\ndtype = "bfloat16"\n[demo]\nsource = "{home}/other"\ntitle = "Ours"\n'
    )
    rows = catalog()
    assert rows["mine"] == ModelSpec(name="mine", source="/models/mine", title="mine", dtype="bfloat16")
    assert rows["demo"] == ModelSpec(name="demo", source=f"{home}/other", title="Ours")
    assert "demo-scratch" in rows


def test_without_a_file_or_with_an_empty_one_the_shipped_rows_stand(home: Path):
    before = catalog()
    write(home, "# nothing\n")
    assert catalog() == before


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[mine\nsource = 1", "not valid TOML"),
        ("[mine]\ntitle = 'x'", "'source'"),
        ("mine = 'x'", "[mine] needs"),
        ("[mine]\nsource = 'x'\nsize = 3", "'size'"),
        ("[mine]\nsource = 'x'\nname = 'y'", "'name'"),
        ("[mine]\nsource = 3", "'source' is 3, but a str"),
        ("[mine]\nsource = 'x'\ntrust_remote_code = 'no'", "'trust_remote_code' is 'no', but a bool"),
        ("[mine]\nsource = 'x'\ntrust_remote_code = 1", "'trust_remote_code' is 1, but a bool"),
        ("[mine]\nsource = 'x'\ndtype = ['a']", "'dtype'"),
        ("[mine]\nsource = 'x'\nregister = 'os'", "'register'"),
        ("[mine]\nsource = 'x'\nsetup = 'os:system'", "'setup'"),
        ("[mine]\nsource = 'x'\nmade_from = 'demo'", "'made_from'"),
    ],
)
def test_a_wrong_row_is_refused_naming_file_and_key(home: Path, text: str, named: str):
    path = write(home, text)
    with pytest.raises(CatalogInvalid, match=re.escape(named)) as caught:
        catalog()
    assert str(path) in str(caught.value)


def test_a_refusal_of_code_running_keys_does_not_advertise_them(home: Path):
    write(home, "[mine]\nsource = 'x'\nsetup = 'os:system'")
    with pytest.raises(CatalogInvalid) as caught:
        catalog()
    known = str(caught.value).split("known are")[1]
    assert "source" in known
    assert "setup" not in known
    assert "register" not in known


def test_bytes_that_are_no_text_are_refused(home: Path):
    (home / "catalog.toml").write_bytes(b"[mine]\nsource = '\xff\xfe'")
    with pytest.raises(CatalogInvalid, match="not valid TOML"):
        catalog()


def test_find_prefers_rows_then_folders_then_hub_ids(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "checkpoints" / "mine"
    folder.mkdir(parents=True)
    assert find("demo") == catalog()["demo"]
    assert find(str(folder)) == ModelSpec(name="mine", source=str(folder), title="mine")
    monkeypatch.chdir(tmp_path)
    assert find("checkpoints/mine").source == str(folder), "a folder wins over a hub id of the same form"
    assert find("owner/some-model_1.5") == ModelSpec(
        name="owner/some-model_1.5", source="owner/some-model_1.5", title="owner/some-model_1.5"
    )


@pytest.mark.parametrize(
    "name",
    [
        "",
        "nothing",
        "a/b/c",
        "/nowhere/at-all",
        "./nowhere",
        "~/nowhere-at-all",
        "~nobody-of-this-name/x",
        "owner/",
        "/owner",
        "owner/a b",
        "<script>/x",
        "owner/x\0y",
        "x" * 5000,
        "o/" + "x" * 5000,
        "a/..",
        "owner/--x",
    ],
)
def test_names_that_are_nothing_are_refused_listing_what_there_is(name: str):
    with pytest.raises(ModelMissing, match="demo, demo-scratch") as caught:
        find(name)
    assert len(str(caught.value)) < 400


def test_a_folder_is_called_by_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    inner = tmp_path / "mine" / "inner"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert find("..").name == "mine"


def test_a_source_that_can_be_no_path_is_no_folder():
    assert ModelSpec(name="x", source="~nobody-of-this-name/x").folder is None
    assert ModelSpec(name="x", source="/" + "x" * 5000).folder is None


def test_on_disk(tmp_path: Path):
    spec = ModelSpec(name="x", source=str(tmp_path))
    assert not on_disk(spec)
    (tmp_path / "config.json").write_text("{}")
    assert on_disk(spec)
    assert not on_disk(ModelSpec(name="o/x", source="nobody-at-all/no-such-model"))


@pytest.mark.parametrize("source", ["a/b/c", "", "/", "owner/a b", "..", "a\tb", "x" * 5000, "o/" + "x" * 5000, "--x"])
def test_a_row_of_a_source_that_can_be_nothing_leaves_the_others_as_they_are(
    source: str, home: Path, capsys: pytest.CaptureFixture[str]
):
    write(home, f"[mine]\nsource = {json.dumps(source)}\n")
    assert not on_disk(catalog()["mine"]) and not ready(catalog()["mine"])
    assert main(["models"]) == 0
    shown = capsys.readouterr().out
    assert "demo" in shown and "mine" in shown
    with pytest.raises(ModelMissing):
        load(find("mine"))
    assert find("demo").name == "demo"


def test_a_file_nested_without_end_is_refused(home: Path):
    write(home, "a = " + "[" * 100_000)
    with pytest.raises(CatalogInvalid, match=r"catalog\.toml"):
        catalog()


def test_a_row_with_a_setup_is_a_folder_before_it_exists(tmp_path: Path):
    spec = ModelSpec(name="x", source=str(tmp_path / "later"), setup="a:b")
    assert spec.folder == tmp_path / "later"
    assert ModelSpec(name="x", source="owner/model").folder is None


def test_prepare_calls_the_rows_setup_with_its_name():
    spec = ModelSpec(name="x", source="/nowhere", setup=f"{__name__}:recorded")
    calls.clear()
    prepare(spec, report=print)
    prepare(dataclasses.replace(spec, setup=None))
    assert calls == [("x", print)]


calls: list[tuple] = []


def recorded(name: str, report: object) -> None:
    """What ``setup`` names in the test above."""
    calls.append((name, report))


def test_a_specs_message_for_a_model_that_was_never_set_up(tmp_path: Path):
    with pytest.raises(LensError, match="python -m lens demo"):
        load(ModelSpec(name="x", source=str(tmp_path / "later"), setup="a:b"))
