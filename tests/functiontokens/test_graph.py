"""The graph of a planted dictionary is the one that was planted; builds resume; folders are opened safely."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from lens.backend.corpus import Corpus
from lens.backend.loading import LoadedModel
from lens.errors import (
    Cancelled,
    CorpusUnreadable,
    FeaturesMismatch,
    GraphDamaged,
    GraphMismatch,
    GraphMissing,
    GraphUnfinished,
    StatesUnusable,
    TokenMissing,
)
from lens.functiontokens import build, firings, reduce
from lens.functiontokens.build import build_graph
from lens.functiontokens.featurecards import AFTER, BEFORE, excerpt, feature_card
from lens.functiontokens.features import open_features
from lens.functiontokens.graph import FeatureGraph, graphs_for, open_graph
from tests.functiontokens.planted_graph import SENTENCES, Planted, planted
from tests.helpers import edit_manifest, tiny_llama

SIZE = 9


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return tiny_llama(tmp_path_factory.mktemp("graphs"))


@pytest.fixture(scope="module")
def dictionary(model: LoadedModel) -> dict[int, tuple[int, ...]]:
    """Feature 0 on one token, 1 on two, 4 on all of them, 5 on a token that occurs at the beginning alone; others never."""
    kept = Counter(i for text in SENTENCES for i in model.tokenizer(text)["input_ids"][2:])
    a, b, c, d = (i for i, _ in kept.most_common(4))
    return {0: (a,), 1: (b, c), 4: (a, b, c, d), 5: (first_token(model),)}


def first_token(model: LoadedModel) -> int:
    """A token that stands at position 0 and nowhere else."""
    ids = [model.tokenizer(s)["input_ids"] for s in SENTENCES]
    return next(row[0] for row in ids if all(row[0] not in other[2:] for other in ids))


@pytest.fixture(scope="module")
def basis(model: LoadedModel, dictionary: dict[int, tuple[int, ...]]) -> Planted:
    return planted(model, dictionary, SIZE)


@pytest.fixture(scope="module")
def graphs(model: LoadedModel, basis: Planted, tmp_path_factory: pytest.TempPathFactory) -> dict[str, FeatureGraph]:
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENLENS_HOME", str(folder / "home"))
        bases = [basis, open_features(model, "neurons-2")]
        return build_graph(model, corpus(), bases, folder / "patterns", permutations=3)


@pytest.fixture
def graph(graphs: dict[str, FeatureGraph]) -> FeatureGraph:
    return graphs["planted"]


def corpus(sentences: list[str] = SENTENCES) -> Corpus:
    return Corpus("patterns", lambda: sentences, "CC0-1.0")


def files(folder: Path) -> dict[str, str]:
    """Digests of all files but the manifest, which holds a date."""
    paths = [path for path in sorted(folder.iterdir()) if path.name != "manifest.json"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_a_planted_dictionary_gives_the_known_graph(model: LoadedModel, graph: FeatureGraph, dictionary: dict):
    kept = [i for text in SENTENCES for i in model.tokenizer(text)["input_ids"][2:]]
    plain = Counter((i, f) for i in kept for f, tokens in dictionary.items() if i in tokens)
    found = graph.matrix.tocoo()
    pairs = zip(graph.counts.ids[found.coords[0]], found.coords[1], strict=True)
    assert dict(zip(((int(i), int(f)) for i, f in pairs), found.data.tolist(), strict=True)) == plain
    assert graph.positions == len(kept) and graph.occurrences.sum() == len(kept)
    occurrences = Counter(kept)
    assert graph.occurrences.tolist() == [occurrences[int(i)] for i in graph.counts.ids]
    assert graph.firings.tolist() == [sum(n for (_, f), n in plain.items() if f == g) for g in range(SIZE)]
    assert graph.firings[5] == 0 and graph.active.tolist() == [0, 1, 4], "the first two positions are dropped"
    record = graph.features
    assert (record.edges, record.firings, record.active) == (len(plain), plain.total(), 3)
    assert graph.mean[[0, 1, 4]].tolist() == [1, 2, 5] and graph.largest[[0, 1, 4, 5]].tolist() == [1, 2, 5, 0]


@pytest.mark.parametrize("name", ["planted", "neurons-2"])
@pytest.mark.parametrize("n", [1, 2, 5, 100])
def test_degrees_of_both_sides_add_up_to_the_edges(graphs: dict[str, FeatureGraph], name: str, n: int):
    graph = graphs[name]
    tokens, features = graph.degrees(n)
    dense = graph.matrix.toarray()
    assert tokens.sum() == features.sum() == graph.edges(n).nnz == (dense >= n).sum()
    assert (tokens == (dense >= n).sum(1)).all() and (features == (dense >= n).sum(0)).all()
    weighted = np.where(dense >= n, dense, 0)
    assert (graph.weights(n)[0] == weighted.sum(1)).all() and (graph.weights(n)[1] == weighted.sum(0)).all()
    assert (dense.sum(0) == graph.firings).all(), "feature marginals are those of the pass"


def test_neurons_fire_as_they_say(graphs: dict[str, FeatureGraph]):
    graph = graphs["neurons-2"]
    assert graph.firings.sum() == 32 * graph.positions
    assert (graph.layer, graph.size, graph.features.site) == (2, 64, "neurons.2")


def test_walking_from_token_to_feature_to_token(graph: FeatureGraph, dictionary: dict):
    the = dictionary[0][0]
    found = graph.token_features(the)
    assert found.nodes.tolist() == [0, 4] and (found.rate == 1).all()
    assert (found.firings == graph.occurrences[graph.counts.rank(the)]).all()
    assert found.lift[0] == pytest.approx(graph.positions / found.firings[0]), "it fires there and nowhere else"
    back = graph.feature_tokens(4)
    assert set(graph.counts.ids[back.nodes].tolist()) == set(dictionary[4])
    assert back.firings.tolist() == sorted(back.firings.tolist(), reverse=True)
    assert len(graph.feature_tokens(4, n=int(back.firings[0]))) == (back.firings == back.firings[0]).sum()
    assert len(graph.feature_tokens(7)) == 0
    with pytest.raises(FeaturesMismatch, match="features 0 to 8"):
        graph.feature_tokens(SIZE)
    with pytest.raises(TokenMissing):
        graph.token_features(399)


def test_contexts_mark_the_token_that_fired(model: LoadedModel, graph: FeatureGraph, dictionary: dict):
    for feature in (0, 1, 4):
        card = feature_card(graph, feature, graph.counts.function_ids())
        texts = {model.tokenizer.decode([i]).strip() for i in dictionary[feature]}
        assert 0 < len(card.contexts) <= reduce.CONTEXTS
        assert len({c.sentence for c in card.contexts}) > 1
        for context in card.contexts:
            assert context.sentence in SENTENCES
            assert context.sentence[context.start : context.end].strip() in texts
            assert context.value == (-1 if feature % 2 else 1) * (feature + 1)
        assert card.histogram.sum() == card.firings == graph.firings[feature]
        assert len(card.bins) == len(card.histogram) + 1
        assert card.bins[0] <= feature + 1 < card.bins[-1]
    silent = feature_card(graph, 7, graph.counts.function_ids())
    assert (silent.contexts, silent.firings, len(silent.histogram), len(silent.tokens)) == ((), 0, 0, 0)


@pytest.mark.parametrize("start", [0, 3, 150, 399, 700, 1190])
def test_an_excerpt_keeps_the_token(start: int):
    text = " ".join(f"w{n:03d}" for n in range(240))
    found, first, last = excerpt(text, start, start + 4)
    assert found[first:last] == text[start : start + 4]
    assert len(found) <= BEFORE + AFTER + 8
    assert found.removeprefix("… ").removesuffix(" …") in text
    assert excerpt("A cat.", 2, 5) == ("A cat.", 2, 5)
    unspaced = "x" * 999
    assert excerpt(unspaced, 500, 501)[0].count("x") <= BEFORE + AFTER + 1


def test_contexts_are_the_strongest_one_a_sentence():
    table = reduce.FeatureTable(3)
    generator = np.random.default_rng(0)
    everything = []
    for shard in range(5):
        size = 400
        feature, values = generator.integers(0, 2, size), generator.normal(size=size).astype(np.float32)
        sentence, position = shard * 3 + generator.integers(0, 3, size), generator.integers(2, 9, size)
        table.add(feature, values, sentence, position)
        everything += zip(feature, values, sentence, position, strict=True)
    for feature in range(3):
        best: dict[int, tuple] = {}
        for f, value, sentence, _ in sorted(everything, key=lambda e: -abs(e[1])):
            if f == feature:
                best.setdefault(sentence, (value, sentence))
        wanted = list(best.values())[: reduce.CONTEXTS]
        held = table.value[feature] != 0
        assert list(zip(table.value[feature][held], table.sentence[feature][held], strict=True)) == wanted


def test_steps_and_features_are_each_other():
    generator = np.random.default_rng(0)
    pairs = np.unique(generator.integers(0, 50, 900) * 1000 + generator.integers(0, 300, 900))
    rank, feature = np.divmod(pairs, 1000)
    step = reduce.steps(rank, feature)
    assert (step >= 0).all() and (reduce.features_of(rank, step) == feature).all()
    assert len(reduce.features_of(rank[:0], step[:0])) == 0


def test_many_small_pieces_give_the_same_graph(
    model: LoadedModel, basis: Planted, graphs: dict[str, FeatureGraph], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(firings, "SHARD_SENTENCES", 7)
    monkeypatch.setattr(firings, "BATCH_TOKENS", 40)
    monkeypatch.setattr(reduce, "RANGE", 50)
    found = build_graph(model, corpus(), [basis, open_features(model, "neurons-2")], tmp_path / "small", permutations=3)
    for name, graph in graphs.items():
        assert (found[name].matrix != graph.matrix).nnz == 0
        assert (found[name].firings == graph.firings).all()
    assert pq.read_table(tmp_path / "small" / "0-contexts.parquet").num_rows > 0


def test_a_build_resumes_from_wherever_it_was_cancelled(
    model: LoadedModel, basis: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(firings, "SHARD_SENTENCES", 16)
    whole = tmp_path / "whole"
    calls = []
    options = {"permutations": 2, "resume": True}
    build_graph(model, corpus(), [basis], whole, **options, report=lambda *a: calls.append(a))
    assert all(0 <= done <= total for done, total, _ in calls)
    for stop in range(len(calls) - 1):  # counting reports once, and is then in the cache
        folder, left = tmp_path / f"cancelled-{stop}", [stop]

        def report(*_: object, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Cancelled("stopped")

        with pytest.raises(Cancelled):
            build_graph(model, corpus(), [basis], folder, **options, report=report)
        if (folder / "building").is_dir() and not (folder / "manifest.json").exists():
            (folder / "building" / "junk.part").write_bytes(b"half")
            with pytest.raises(GraphUnfinished, match="half built"):
                open_graph(folder)
        build_graph(model, corpus(), [basis], folder, **options)
        assert files(folder) == files(whole)


def test_a_resumed_build_does_not_repeat_the_pass(
    model: LoadedModel, basis: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def stop(done: float, total: float, message: str) -> None:
        if message.startswith("Shuffling"):
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        build_graph(model, corpus(), [basis], tmp_path / "g", permutations=2, report=stop)
    monkeypatch.setattr(firings, "text_sites", None)  # a forward would fail
    with pytest.raises(GraphUnfinished, match="an unfinished build; give an empty or new one, or resume it"):
        build_graph(model, corpus(), [basis], tmp_path / "g", permutations=2)
    found = build_graph(model, corpus(), [basis], tmp_path / "g", permutations=2, resume=True)
    assert found["planted"].features.edges > 0


def test_only_the_same_build_is_resumed(model: LoadedModel, basis: Planted, graph: FeatureGraph):
    same = {"permutations": 3, "resume": True}
    neurons = open_features(model, "neurons-2")
    assert set(build_graph(model, corpus(), [basis, neurons], graph.folder, **same)) == {"planted", "neurons-2"}
    with pytest.raises(GraphUnfinished, match="another features"):
        build_graph(model, corpus(), [basis], graph.folder, **same)
    with pytest.raises(GraphUnfinished, match="another corpus"):
        build_graph(model, corpus(SENTENCES[:9]), [basis, neurons], graph.folder, **same)
    with pytest.raises(GraphUnfinished, match="already holds a feature graph"):
        build_graph(model, corpus(), [basis, neurons], graph.folder, permutations=3)


def test_a_folder_of_other_things_is_left_alone(model: LoadedModel, basis: Planted, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    for resume in (False, True):
        with pytest.raises(GraphUnfinished, match="other files"):
            build_graph(model, corpus(), [basis], tmp_path / "mine", resume=resume)
    assert [path.name for path in (tmp_path / "mine").iterdir() if path.suffix != ".lock"] == ["letter.txt"]


def test_corpora_without_a_kept_position_are_refused(model: LoadedModel, basis: Planted, tmp_path: Path):
    with pytest.raises(CorpusUnreadable, match="first 2 are left out"):
        build_graph(model, corpus(["A", "."]), [basis], tmp_path / "short")
    with pytest.raises(CorpusUnreadable, match="holds no text"):
        build_graph(model, corpus([]), [basis], tmp_path / "empty")


def test_states_that_are_not_finite_are_refused(
    model: LoadedModel, basis: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real = firings.text_sites
    monkeypatch.setattr(firings, "text_sites", lambda *a: {k: v * float("nan") for k, v in real(*a).items()})
    with pytest.raises(StatesUnusable, match="NaN"):
        build_graph(model, corpus(), [basis], tmp_path / "nan")


def copied(graph: FeatureGraph, tmp_path: Path) -> Path:
    return Path(shutil.copytree(graph.folder, tmp_path / "copy"))


def test_a_graph_says_what_it_was_made_from(model: LoadedModel, graph: FeatureGraph, basis: Planted):
    content = json.loads((graph.folder / "manifest.json").read_text(encoding="utf-8"))
    assert content["language_fingerprint"] == model.language_fingerprint
    assert content["tokenizer_hash"] == model.tokenizer_hash
    assert (content["corpus_digest"], content["corpus_licence"]) == (corpus().digest, "CC0-1.0")
    assert content["bases"][0]["fingerprint"] == basis.fingerprint
    assert (content["dropped"], content["permutations"], content["dtype"]) == (2, 3, "float32")
    for name, record in content["files"].items():
        assert record["sha256"] == hashlib.sha256((graph.folder / name).read_bytes()).hexdigest()
    graph.check(basis)
    with pytest.raises(GraphMismatch, match="other weights"):
        graph.check(planted(model, {0: (5,)}, SIZE))


def test_altered_and_missing_files_are_found(graph: FeatureGraph, tmp_path: Path):
    folder = copied(graph, tmp_path)
    for name in ("0-edges.parquet", "tokens.parquet", "1-null.parquet"):
        kept = (folder / name).read_bytes()
        (folder / name).write_bytes(kept[:-9] + bytes([kept[-9] ^ 1]) + kept[-8:])
        with pytest.raises(GraphDamaged, match=name):
            open_graph(folder)
        (folder / name).unlink()
        with pytest.raises(GraphDamaged, match="lacks its file"):
            open_graph(folder)
        (folder / name).write_bytes(kept)
    open_graph(folder)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c: {**c, "positions": 1}, "was altered"),
        (lambda c: {**c, "format_version": 9}, "format version '9'"),
        (lambda c: [], "can't be read"),
    ],
)
def test_an_altered_manifest_is_refused(graph: FeatureGraph, tmp_path: Path, change, sentence: str):
    path = copied(graph, tmp_path) / "manifest.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(GraphDamaged, match=sentence):
        open_graph(path.parent)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"bases": []}, "list of files doesn't fit"),
        ({"surprise": 1}, "unknown key 'surprise'"),
        ({"positions": "many"}, "positions is 'many'"),
        ({"files": {"../tokens.parquet": {"sha256": "0", "bytes": 9}}}, "no plain name"),
    ],
)
def test_a_manifest_of_another_form_is_refused(graph: FeatureGraph, tmp_path: Path, changes: dict, sentence: str):
    folder = copied(graph, tmp_path)
    edit_manifest(folder, **changes)
    with pytest.raises(GraphDamaged, match=sentence):
        open_graph(folder)


def test_a_graph_of_another_model_is_refused(graph: FeatureGraph, model: LoadedModel, tmp_path: Path):
    other = tiny_llama(tmp_path / "other", seed=3)
    with pytest.raises(GraphMismatch, match="built from tiny-llama"):
        open_graph(graph.folder, loaded=other)
    with pytest.raises(GraphMissing, match="no features 'sae'"):
        open_graph(graph.folder, "sae")
    with pytest.raises(GraphMissing, match="There is no feature graph in"):
        open_graph(tmp_path)
    shutil.copytree(graph.folder, tmp_path / "home" / "graphs" / "mine")
    assert graphs_for(model) == {"mine": tmp_path / "home" / "graphs" / "mine"}
    assert graphs_for(other) == {}


def test_only_one_process_builds(model: LoadedModel, basis: Planted, tmp_path: Path):
    from filelock import FileLock

    (tmp_path / "g").mkdir()
    with FileLock(tmp_path / "g" / "building.lock"), pytest.raises(GraphUnfinished, match="Another process"):
        build_graph(model, corpus(), [basis], tmp_path / "g")


def test_a_full_disk_is_told(model: LoadedModel, basis: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build, "write_shards", full)
    with pytest.raises(GraphUnfinished, match="No space left"):
        build_graph(model, corpus(), [basis], tmp_path / "g")
