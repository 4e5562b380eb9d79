"""``python -m lens functiontokens`` on a tiny model: output, JSON, files, one sentence per error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from lens.cli import main
from tests.commands.conftest import Shell
from tests.functiontokens.planted_graph import SENTENCES
from tests.helpers import tiny_llama

STEER = ("steer", "A cat", "--model", "{model}", "--closed-class", "--features")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("functiontokens")
    tiny_llama(folder / "llama")
    tiny_llama(folder / "other", seed=1)
    (folder / "lines.txt").write_text("\n".join(SENTENCES) + "\n", encoding="utf-8")
    (folder / "empty.txt").write_text("\n \n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENLENS_HOME", str(folder / "home"))
        arguments = ["--corpus", str(folder / "lines.txt"), "--out", str(folder / "graph"), "--permutations", "3"]
        features = ["--features", "neurons-1", "--features", "neurons-3"]
        command = ["functiontokens", "graph", str(folder / "llama"), *arguments, *features]
        assert main([*command, "--json", str(folder / "graph.json")]) == 0
    return folder


@pytest.fixture
def shell(made: Path, shell_for: Callable[..., Shell]) -> Shell:
    texts = {"corpus": made / "lines.txt", "empty": made / "empty.txt"}
    return shell_for("functiontokens", model=made / "llama", other=made / "other", graph=made / "graph", **texts)


def test_stats(shell: Shell):
    status, out, err = shell("stats", shell.corpus, "--model", shell.model)
    assert (status, err) == (0, "")
    assert f"in {len(SENTENCES)} sentences" in out and "function tokens make up" in out
    status, out, _ = shell("stats", shell.corpus, "--model", shell.model, "--json", "-", "--cut", 0.3)
    result = json.loads(out)
    assert status == 0 and result["cut"] == 0.3 and result["sentences"] == len(SENTENCES)
    inside = [token for token in result["tokens"] if token["group"] == "function"]
    assert inside == result["tokens"][: result["function"]]
    assert inside[-1]["cumulative"] >= 0.3 > (inside[-2]["cumulative"] if len(inside) > 1 else 0)
    assert sum(token["count"] for token in result["tokens"]) == result["total"]
    status, out, _ = shell("stats", shell.corpus, "--model", shell.model, "--json", "-", "--closed-class")
    result = json.loads(out)
    listed = {token["token"] for token in result["tokens"] if token["group"] == "function"}
    assert status == 0 and result["cut"] is None and "." in listed and " cat" not in listed


def test_a_sample_of_a_corpus(shell: Shell):
    whole = json.loads(shell("stats", shell.corpus, "--model", shell.model, "--json", "-")[1])
    some = json.loads(shell("stats", shell.corpus, "--model", shell.model, "--json", "-", "--sample", 0.5)[1])
    assert 0 < some["total"] < whole["total"] and some["corpus_digest"] != whole["corpus_digest"]


def test_the_json_of_a_graph_is_that_of_the_issue(made: Path):
    result = json.loads((made / "graph.json").read_text(encoding="utf-8"))
    assert list(result) == ["model", "features", "layer", "tokens", "coverage", "null", "edges"]
    assert (result["features"], result["layer"]) == ("neurons-3", 3)
    assert all(list(token) == ["token", "count", "group", "degree"] for token in result["tokens"])
    assert len(result["tokens"]) == len(result["coverage"]) == len(result["null"])
    assert all(len(pair) == 2 and 0 <= pair[0] <= pair[1] <= 1 for pair in result["null"])
    assert sum(token["degree"] for token in result["tokens"]) == result["edges"]


def test_a_graph_that_is_there_is_shown(shell: Shell, made: Path):
    first = ("graph", shell.model, "--graph", shell.graph, "--features", "neurons-1")
    status, out, err = shell(*first)
    assert (status, err) == (0, "")
    assert "neurons-1 (layer 1, 64 features" in out and "shuffled labels" in out
    some = json.loads(shell(*first, "--json", "-", "--min-firings", 5)[1])
    every = json.loads(shell(*first, "--json", "-")[1])
    assert some["edges"] < every["edges"]
    assert json.loads(shell("graph", shell.model, "--graph", shell.graph, "--json", "-")[1])["features"] == "neurons-3"


def test_a_graph_without_a_folder_goes_to_the_cache_and_is_found_there(shell: Shell, tmp_path: Path):
    build = ("graph", shell.model, "--corpus", shell.corpus, "--permutations", 2)
    status, out, err = shell(*build)
    assert (status, err) == (0, "") and "neurons-2 (layer 2" in out
    (folder,) = (tmp_path / "home" / "graphs").iterdir()
    assert "lines.txt" in folder.name
    assert shell("graph", shell.model)[1] == out
    status, _, err = shell(*build)
    assert status == 2 and "already holds a feature graph" in err
    assert shell(*build, "--resume")[0] == 0
    status, out, _ = shell("prompt", "A cat sat on the mat.", "--model", shell.model, "--json", "-")
    result = json.loads(out)
    assert status == 0 and result["features"] == "neurons-2"
    assert {token["group"] for token in result["tokens"]} >= {"function", "content"}


def test_the_same_command_goes_on_where_it_was_stopped(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    build = ("graph", shell.model, "--corpus", shell.corpus, "--permutations", 2, "--out", tmp_path / "out")
    other = tmp_path / "other.txt"
    other.write_text(Path(shell.corpus).read_text() + "one more\n")
    with monkeypatch.context() as patch:
        patch.setattr("lens.functiontokens.build.permuted_coverage", interrupted)
        assert shell(*build)[0] == 130
    shards = {path: path.stat().st_ino for path in (tmp_path / "out" / "building" / "shards").iterdir()}
    assert shards
    assert "another corpus" in shell.mistake(*build[:3], other, *build[4:])
    assert "another permutations" in shell.mistake(*build[:5], 3, *build[6:])
    with monkeypatch.context() as patch:
        patch.setattr("lens.functiontokens.firings._shard", interrupted)  # the pass isn't run again
        assert shell(*build)[0] == 0
    assert not (tmp_path / "out" / "building").exists()
    assert "already holds a feature graph" in shell.mistake(*build)


def interrupted(*_: object, **__: object) -> NoReturn:
    raise KeyboardInterrupt


def test_a_prompt(shell: Shell):
    ask = ("prompt", "A cat sat on the mat.", "--model", shell.model, "--features", "neurons-2")
    status, out, err = shell(*ask, "--closed-class")
    assert (status, err) == (0, "") and "strongest features" in out
    result = json.loads(shell(*ask, "--corpus", shell.corpus, "--json", "-")[1])
    assert result["tokens"][0]["active"] == 0 and result["tokens"][4]["active"] == 32


def test_steering(shell: Shell):
    ask = ("steer", "A cat sat on the mat.", "--model", shell.model, "--features", "neurons-2", "--closed-class")
    status, out, err = shell(*ask, "--push", "3=40", "--suppress", 5, "--controls", 2)
    assert (status, err) == (0, "") and "random directions" in out and "+40 x 3" in out
    result = json.loads(shell(*ask, "--push", "3=0", "--controls", 2, "--json", "-")[1])
    assert result["treated"]["kl"] == 0 and result["gains"] == result["losses"] == []
    result = json.loads(shell(*ask, "--push", "3=40", "--at", 4, "--at", 5, "--controls", 0, "--json", "-")[1])
    assert result["positions"] == [4, 5] and result["treated"]["kl"] > 0


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (("stats", "missing.txt", "--model", "{model}"), "There is no corpus at missing.txt"),
        (("stats", "{empty}", "--model", "{model}"), "holds no text at all"),
        (("stats", "{corpus}", "--model", "{model}", "--cut", "0"), "is no share"),
        (("stats", "{corpus}", "--model", "{model}", "--cut", "40"), "is no share"),
        (("stats", "{corpus}", "--model", "{model}", "--cut", "0.4", "--closed-class"), "not allowed with"),
        (("stats", "{corpus}", "--model", "{model}", "--column", "body"), "has no column"),
        (("graph", "{model}"), "There is no graph of the model"),
        (("graph", "nonsense"), "There is no model 'nonsense'"),
        (("graph", "{model}", "--graph", "nowhere"), "There is no feature graph in nowhere"),
        (("graph", "{other}", "--graph", "{graph}"), "not from other"),
        (("graph", "{model}", "--graph", "{graph}", "--features", "neurons-2"), "no features 'neurons-2'"),
        (("graph", "{model}", "--corpus", "{corpus}", "--features", "neurons-9"), "Block 9"),
        (("graph", "{model}", "--corpus", "{corpus}", "--dtype", "int8"), "dtype"),
        (("graph", "{model}", "--graph", "{graph}", "--min-firings", "0"), "no number from 1 up"),
        (("prompt", "A cat", "--model", "{model}", "--features", "neurons-1"), "has no graph"),
        (("prompt", " ", "--model", "{model}", "--closed-class"), "prompt"),
        (("prompt", "cat " * 1500, "--model", "{model}", "--closed-class"), "tokens"),
        (("prompt", "A cat", "--model", "{model}", "--closed-class", "--layer", "2"), "--layer goes with one autoencoder"),
        (("graph", "{model}", "--graph", "{graph}", "--layer", "2"), "--layer goes with one autoencoder"),
        ((*STEER, "neurons-1", "--layer", "2"), "leave the layer out"),
        ((*STEER, "neurons-1"), "No feature was given"),
        (("steer", "A cat", "--model", "{model}", "--push", "x"), "FEATURE=ALPHA"),
        (("steer", "A cat", "--model", "{model}", "--push", "1=nan"), "FEATURE=ALPHA"),
        ((*STEER, "neurons-1", "--push", "99=1", "--at", "1"), "Feature 99"),
        ((*STEER, "neurons-4", "--push", "9=1", "--at", "1"), "final norm"),
    ],
)  # fmt: skip
def test_every_mistake_is_one_sentence(shell: Shell, argv: tuple[str, ...], sentence: str):
    assert sentence in shell.mistake(*argv)
