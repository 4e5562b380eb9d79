"""Tables that carry the right checksum and are wrong all the same: one sentence, before any page meets them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lens.backend.corpus import Corpus
from lens.backend.loading import LoadedModel
from lens.errors import GraphDamaged
from lens.functiontokens.build import build_graph
from lens.functiontokens.featurecards import feature_card
from lens.functiontokens.graph import open_graph
from tests.functiontokens.planted_graph import SENTENCES, planted
from tests.helpers import edit_manifest, tiny_llama

SIZE = 5


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return tiny_llama(tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="module")
def built(model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    frequent = model.tokenizer(" on the mat.", add_special_tokens=False)["input_ids"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENLENS_HOME", str(folder / "home"))
        basis = planted(model, {0: (frequent[0],), 3: tuple(frequent)}, SIZE)
        build_graph(model, Corpus("patterns", lambda: SENTENCES), [basis], folder / "graph", permutations=2)
    return folder / "graph"


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "copy"))


def rewrite(folder: Path, name: str, content: bytes) -> None:
    """Put ``content`` in a file's place, and its size and SHA-256 in the manifest."""
    (folder / name).write_bytes(content)
    files = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
    files[name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    edit_manifest(folder, files=files)


def change(folder: Path, name: str, column: str, value: Callable[[np.ndarray], object]) -> None:
    """Write a table anew with another column."""
    table = pq.read_table(folder / name)
    array = pa.array(value(table.column(column).to_numpy().copy()))
    table = table.set_column(table.column_names.index(column), column, array)
    pq.write_table(table, folder / "new")
    rewrite(folder, name, (folder / "new").read_bytes())
    (folder / "new").unlink()


def at(place: int, value: object) -> Callable[[np.ndarray], np.ndarray]:
    def put(array: np.ndarray) -> np.ndarray:
        array[place] = value
        return array

    return put


@pytest.mark.parametrize(
    ("name", "column", "value", "sentence"),
    [
        ("0-edges", "step", at(-1, SIZE), "a feature beyond the 5"),
        ("0-edges", "step", at(0, 2**31 - 1), "a feature beyond the 5"),
        ("0-edges", "step", at(0, -1), "features aren't in order"),
        ("0-edges", "rank", at(-1, 10_000), "a token beyond the"),
        ("0-edges", "rank", at(0, -1), "a token beyond the"),
        ("0-edges", "rank", lambda a: a[::-1], "in order of their tokens"),
        ("0-edges", "rank", lambda a: a.astype(float), "rank isn't made of numbers"),
        ("0-edges", "firings", at(0, 0), "no firings"),
        ("0-edges", "firings", at(0, 10_000), "more often on a token than"),
        ("0-edges", "firings", lambda a: np.where(np.arange(len(a)) == 0, a - 1, a), "don't add up"),
        ("tokens", "id", at(0, -1), "no counts"),
        ("tokens", "id", lambda a: a * 0, "stands there twice"),
        ("tokens", "id", at(0, 10_000), "beyond the vocabulary of 400"),
        ("tokens", "count", at(0, 10_000), "add up to their total"),
        ("tokens", "kept", at(0, 10_000), "kept positions don't add up"),
        ("tokens", "token", lambda a: [None, *a[1:]], "a token has no text"),
        ("0-features", "firings", at(1, 7), "don't add up to those of the manifest"),
        ("0-features", "mean", at(0, np.nan), "magnitude is no number"),
        ("0-features", "histogram", lambda a: [[1] * 99, *a[1:]], "too many bins"),
        ("0-null", "mean", at(0, np.inf), "null is no number"),
    ],
)
def test_what_no_graph_holds_is_refused(
    model: LoadedModel, folder: Path, name: str, column: str, value: Callable, sentence: str
):
    open_graph(folder, loaded=model)
    change(folder, f"{name}.parquet", column, value)
    with pytest.raises(GraphDamaged, match=rf"tables .* aren't sound \(.*{sentence}.*\); restore them or build"):
        open_graph(folder, loaded=model)


def test_tables_of_another_length_or_form_are_refused(folder: Path):
    for name in ("0-edges", "0-features", "0-null", "tokens"):
        path = folder / f"{name}.parquet"
        whole, table = path.read_bytes(), pq.read_table(path)
        for other in (table.slice(1), table.slice(0, 0), table.select([table.column_names[0]])):
            pq.write_table(other, path)
            rewrite(folder, path.name, path.read_bytes())
            with pytest.raises(GraphDamaged, match="aren't sound"):
                open_graph(folder)
        rewrite(folder, path.name, b"PAR1 no table PAR1")
        with pytest.raises(GraphDamaged, match="aren't sound"):
            open_graph(folder)
        rewrite(folder, path.name, whole)
    open_graph(folder)


@pytest.mark.parametrize(
    ("column", "value"),
    [("sentence", at(0, 10_000)), ("sentence", at(0, -1)), ("end", at(0, 10_000)), ("start", at(0, -1))],
)
def test_a_context_outside_its_sentence_is_refused(folder: Path, column: str, value: Callable):
    graph = open_graph(folder)
    assert feature_card(graph, 0, graph.counts.function_ids()).contexts
    change(folder, "0-contexts.parquet", column, value)
    with pytest.raises(GraphDamaged, match="a context"):
        feature_card(open_graph(folder), 0, graph.counts.function_ids())
