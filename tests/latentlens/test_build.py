"""Builds: the rows are the model's own states, whatever the padding, the batches, the kills in between."""

from __future__ import annotations

import json
import random
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lens.backend.corpus import Corpus, open_corpus
from lens.backend.loading import LoadedModel
from lens.errors import Cancelled, CapabilityMissing, CorpusUnreadable, IndexUnfinished, LayerMissing, StatesUnusable
from lens.latentlens.build import auto_layers, build_index
from lens.latentlens.contexts import Rule
from lens.latentlens.index import Index, open_index
from lens.latentlens.manifest import read_manifest
from lens.latentlens.search import search_rows
from tests.helpers import tiny_gpt2, tiny_llama
from tests.latentlens.conftest import LAYERS, SENTENCES
from tests.latentlens.killing import build_until


def raw_states(loaded: LoadedModel, index: Index) -> dict[int, np.ndarray]:
    """By layer [rows, d]: the contexts' states by Hugging Face's own ``output_hidden_states``, one sentence at a time."""
    sentences = []
    for sentence in index.sentences.to_pylist():
        ids = torch.tensor([loaded.tokenizer(sentence)["input_ids"]])
        with torch.inference_mode():
            out = loaded.model(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True)
        sentences.append([layer[0].numpy() for layer in out.hidden_states])
    places = [(row["sentence"], row["position"]) for row in index.contexts.to_pylist()]
    return {
        layer: np.stack([sentences[sentence][layer][position] for sentence, position in places])
        for layer in index.layers
    }


def check_rows(loaded: LoadedModel, index: Index) -> None:
    """Every row of every layer is the state of its token in its sentence."""
    for layer, raw in raw_states(loaded, index).items():
        wanted = raw / np.linalg.norm(raw, axis=1, keepdims=True)
        np.testing.assert_allclose(index.vectors(layer), wanted, atol=3e-4)
        if layer:  # input embeddings of one token are the same in every context
            nearest = np.sort(wanted @ wanted.T, axis=1)[:, -2]
            assert np.median(nearest) < 0.9995, "rows must differ enough for this test to see a wrong one"


@pytest.mark.parametrize(
    ("depth", "layers"),
    [
        (32, [1, 2, 4, 8, 16, 24, 30, 31]),
        (30, [1, 2, 4, 8, 16, 24, 28, 29]),
        (28, [1, 2, 4, 8, 16, 24, 26, 27]),
        (12, [1, 2, 4, 8, 10, 11]),
        (6, [1, 2, 4, 5]),
        (2, [1]),
        (1, [1]),
    ],
)
def test_layers_by_the_published_rule(depth: int, layers: list[int]) -> None:
    assert auto_layers(depth) == layers


def test_rows_are_the_models_own_states(llama: LoadedModel, index: Index) -> None:
    """Embeddings to final norm, from batches of several sentences in several shards."""
    assert index.layers == LAYERS
    check_rows(llama, index)


def test_contexts_tell_token_word_and_what_was_seen(llama: LoadedModel, index: Index) -> None:
    for row in index.contexts.to_pylist():
        sentence = index.sentences[row["sentence"]].as_py()
        ids = llama.tokenizer(sentence)["input_ids"]
        assert ids[row["position"]] == row["token_id"]
        assert row["token"] == llama.tokenizer.decode([row["token_id"]])
        assert row["word"] == sentence[row["start"] : row["end"]]
        assert sentence[: row["seen"]] == llama.tokenizer.decode(ids[: row["position"] + 1])
        assert row["token"].strip() in row["word"]


def test_repeats_and_shared_prefixes_are_stored_once(llama: LoadedModel, index: Index) -> None:
    prefixes = {
        tuple(llama.tokenizer(sentence)["input_ids"][: i + 1])
        for sentence in SENTENCES
        for i in range(len(llama.tokenizer(sentence)["input_ids"]))
    }
    assert index.rows == len(prefixes)
    evidence = {(row["word"], row["seen"]): row["evidence"] for row in index.contexts.to_pylist()}
    assert evidence[("A", 1)] == sum(sentence.startswith("A ") for sentence in SENTENCES)
    assert evidence[("mat", 20)] == 3, "'A cat sat on the mat.' stands there three times"


@pytest.mark.parametrize("rule", ["first", "reservoir", Rule("first", 3), Rule("reservoir", 2, deduplicate=False)])
def test_each_rule_ends_in_true_rows(llama: LoadedModel, corpus: Corpus, tmp_path: Path, rule: str | Rule) -> None:
    index = build_index(llama, corpus, tmp_path / "i", layers=[2], rule=rule, factory="Flat")
    check_rows(llama, index)
    cap = index.manifest.rule.cap
    tokens = index.contexts.column("token_id").value_counts().to_pylist()
    assert max(count["counts"] for count in tokens) <= cap


def test_padding_side_changes_nothing(llama: LoadedModel, index: Index, corpus: Corpus, tmp_path: Path) -> None:
    left = tiny_llama(tmp_path / "m", padding_side="left")
    assert left.tokenizer.padding_side == "left"
    other = build_index(left, corpus, tmp_path / "i", layers=LAYERS, factory="Flat", shard_tokens=64)
    assert other.contexts.equals(index.contexts)
    assert all(np.array_equal(other.vectors(layer), index.vectors(layer)) for layer in LAYERS)


def test_bos_is_left_out_and_no_real_token_is_lost(
    llama: LoadedModel, llama_with_bos: LoadedModel, tmp_path: Path
) -> None:
    corpus = Corpus("one", lambda: ["A cat sat on the mat."])
    plain = build_index(llama, corpus, tmp_path / "plain", factory="Flat")
    bos = build_index(llama_with_bos, corpus, tmp_path / "bos", factory="Flat")
    assert plain.contexts.column("token_id") == bos.contexts.column("token_id")
    assert plain.contexts.column("token_id").to_pylist() == llama.tokenizer("A cat sat on the mat.")["input_ids"]
    assert bos.contexts.column("position").to_pylist() == [i + 1 for i in plain.contexts.column("position").to_pylist()]
    check_rows(llama_with_bos, bos)


def test_gpt2_without_a_padding_row_of_its_own(corpus: Corpus, tmp_path: Path) -> None:
    """Absolute positions: a wrong padding side or mask would shift every state."""
    loaded = tiny_gpt2(tmp_path / "m")
    check_rows(loaded, build_index(loaded, corpus, tmp_path / "i", layers=[0, 1, 3], factory="Flat"))


def test_statistics_are_those_of_the_raw_states(llama: LoadedModel, index: Index) -> None:
    for record, raw in zip(index.manifest.layers, raw_states(llama, index).values(), strict=True):
        np.testing.assert_allclose(index.mean(record.layer), raw.mean(0), atol=1e-4 * record.mean_norm)
        np.testing.assert_allclose(index.deviation(record.layer), raw.std(0), rtol=2e-3)
        assert record.mean_norm == pytest.approx(np.linalg.norm(raw, axis=1).mean(), rel=1e-5)


@pytest.mark.parametrize(
    "factory", ["Flat", "SQ8", "SQfp16", "SQ4", "IVF4,SQ8", "HNSW8", "HNSW8,SQ8", "PQ32x4fs", "RR32,SQ8"]
)
def test_factories(llama: LoadedModel, corpus: Corpus, tmp_path: Path, factory: str) -> None:
    """Recall is measured: perfect for Flat, and what the file gives when it is measured again from outside."""
    index = build_index(llama, corpus, tmp_path / "i", layers=[3], factory=factory)
    (record,) = index.manifest.layers
    exact = build_index(llama, corpus, tmp_path / "flat", layers=[3], factory="Flat")
    rows = exact.vectors(3)
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -2)
    truth = np.argsort(-cosines, axis=1)[:, :5]
    found = search_rows(index, rows, 6)[0]
    hits = sum(
        len({i for i in row if i != n} & set(best)) for n, (row, best) in enumerate(zip(found, truth, strict=True))
    )
    assert record.recall_at_5 == pytest.approx(hits / truth.size, abs=0.06)  # of own row and five, one may be too many
    assert record.recall_at_5 <= 1
    if factory in ("Flat", "SQ8", "SQfp16", "IVF4,SQ8", "HNSW8", "HNSW8,SQ8", "RR32,SQ8"):
        assert record.recall_at_5 > 0.95
        assert record.similarity_error < 5e-3
    if factory == "Flat":
        assert record.recall_at_5 == 1
        assert record.similarity_error < 1e-6
    assert set(record.search) == ({"nprobe"} if "IVF" in factory else {"efSearch"} if "HNSW" in factory else set())


def test_an_index_of_one_row(llama: LoadedModel, tmp_path: Path) -> None:
    index = build_index(llama, Corpus("a", lambda: ["A"]), tmp_path / "i", factory="Flat")
    assert index.rows == 1
    assert index.manifest.layers[0].recall_at_5 is None


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"layers": [1, 9]}, LayerMissing, "Layer 9"),
        ({"rule": "last"}, CapabilityMissing, "no rule 'last'"),
        ({"factory": "SQ5"}, CapabilityMissing, "FAISS can make no index 'SQ5'"),
        ({"factory": "PQ7"}, CapabilityMissing, "PQ7"),
    ],
)
def test_wrong_wishes_are_refused_before_any_work(
    llama: LoadedModel, corpus: Corpus, tmp_path: Path, wrong: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        build_index(llama, corpus, tmp_path / "i", **wrong)
    assert not (tmp_path / "i").exists()


def test_too_few_rows_for_a_factory_can_be_resumed_with_another(
    llama: LoadedModel, corpus: Corpus, tmp_path: Path
) -> None:
    with pytest.raises(CapabilityMissing, match="resume with another factory"):
        build_index(llama, corpus, tmp_path / "i", layers=[2], factory="IVF4096,Flat")
    seen = []
    build_index(llama, corpus, tmp_path / "i", layers=[2], resume=True, report=lambda *a: seen.append(a[2]))
    assert not any("Encoding" in message for message in seen)


def test_unusable_corpora_and_states(llama: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(CorpusUnreadable, match="Not one token"):
        build_index(llama, Corpus("special", lambda: ["<image></s>"]), tmp_path / "a")
    with pytest.raises(CorpusUnreadable, match="no text"):
        build_index(llama, Corpus("empty", list), tmp_path / "b")
    broken = tiny_llama(tmp_path / "m")
    with torch.no_grad():
        broken.anatomy.blocks[1].mlp.down_proj.weight[0, 0] = torch.inf  # type: ignore[union-attr,operator]
    with pytest.raises(StatesUnusable, match="At layer 2"):
        build_index(broken, Corpus("a", lambda: ["A cat"]), tmp_path / "c", layers=[1, 2])


def test_cancel_and_resume_give_the_undisturbed_index(
    llama: LoadedModel, index: Index, corpus: Corpus, tmp_path: Path
) -> None:
    """Cancelled at every report in turn, going on each time."""
    reports, attempts, last = 0, 0, -1.0

    def cancel(done: float, total: float, message: str) -> None:
        nonlocal reports, last
        reports += 1
        assert 0 <= done <= total
        if reports > attempts:
            raise Cancelled("enough")

    while attempts < 100:
        attempts, reports = attempts + 1, 0
        try:
            built = build_index(
                llama,
                corpus,
                tmp_path / "i",
                layers=LAYERS,
                factory="Flat",
                shard_tokens=64,
                resume=True,
                report=cancel,
            )
            break
        except Cancelled:
            with pytest.raises(IndexUnfinished, match="half built"):
                open_index(tmp_path / "i")
    assert attempts > 3
    assert built.manifest.files == index.manifest.files
    assert {path.name for path in built.path.iterdir()} == {*built.manifest.files, "manifest.json"}


def test_killed_builds_resume_to_the_same_bytes(tmp_path: Path) -> None:
    """Kills at file-system steps: one chain that survives many, then single kills spread over the whole build."""
    tiny_llama(tmp_path / "m")
    (tmp_path / "c.txt").write_text("\n".join(SENTENCES))

    def files(name: str) -> dict:
        return read_manifest(tmp_path / name).files

    steps = build_until(tmp_path / "m", tmp_path / "c.txt", tmp_path / "whole")
    assert steps and steps > 40
    rng = random.Random(0)
    kills = 0
    while build_until(tmp_path / "m", tmp_path / "c.txt", tmp_path / "chain", rng.randint(12, 30)) is None:
        kills += 1
        assert kills < 40
    assert kills >= 3
    assert files("chain") == files("whole")
    for kill_at in rng.sample(range(1, steps), 4):
        name = f"killed-{kill_at}"
        assert build_until(tmp_path / "m", tmp_path / "c.txt", tmp_path / name, kill_at) is None
        assert build_until(tmp_path / "m", tmp_path / "c.txt", tmp_path / name) is not None
        assert files(name) == files("whole"), f"killed at step {kill_at}"
        assert {path.name for path in (tmp_path / name).iterdir()} == {*files("whole"), "manifest.json"}


def test_resume_refuses_another_build(llama: LoadedModel, corpus: Corpus, tmp_path: Path) -> None:
    def stop(done: float, total: float, message: str) -> None:
        if "Encoding" in message:
            raise Cancelled("enough")

    out = tmp_path / "i"
    with pytest.raises(Cancelled):
        build_index(llama, corpus, out, layers=[1], report=stop)
    other = Corpus("patterns", lambda: SENTENCES[1:])
    with pytest.raises(IndexUnfinished, match="another corpus"):
        build_index(llama, other, out, layers=[1], resume=True)
    with pytest.raises(IndexUnfinished, match="another rule and layers"):
        build_index(llama, corpus, out, layers=[1, 2], rule="reservoir", resume=True)
    with pytest.raises(IndexUnfinished, match="another model"):
        build_index(tiny_llama(tmp_path / "m", seed=1), corpus, out, layers=[1], resume=True)
    with pytest.raises(IndexUnfinished, match=r"already holds an unfinished build; .*or resume it"):
        build_index(llama, corpus, out, layers=[1])
    done = build_index(llama, corpus, out, layers=[1], resume=True)
    assert build_index(llama, corpus, out, layers=[1], resume=True).manifest == done.manifest
    with pytest.raises(IndexUnfinished, match="already holds an index"):
        build_index(llama, corpus, out, layers=[1])
    with pytest.raises(IndexUnfinished, match="another corpus"):
        build_index(llama, other, out, layers=[1], resume=True)


def test_a_damaged_note_of_what_was_begun(llama: LoadedModel, corpus: Corpus, tmp_path: Path) -> None:
    begun = tmp_path / "i" / "building" / "build.json"
    begun.parent.mkdir(parents=True)
    for text in ("{", "7", "[1]"):
        begun.write_text(text)
        with pytest.raises(IndexUnfinished, match=r"build.json .* is damaged"):
            build_index(llama, corpus, tmp_path / "i", resume=True)


def test_a_folder_with_other_files_is_left_alone(llama: LoadedModel, corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(IndexUnfinished, match="other files"):
            build_index(llama, corpus, tmp_path, resume=resume)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == ["diary.txt"]


def test_a_second_builder_is_turned_away(llama: LoadedModel, corpus: Corpus, tmp_path: Path) -> None:
    def meanwhile(done: float, total: float, message: str) -> None:
        with pytest.raises(IndexUnfinished, match="Another process is building"):
            build_index(llama, corpus, tmp_path / "i", layers=[1], resume=True)

    build_index(llama, corpus, tmp_path / "i", layers=[1], report=meanwhile)


def test_what_cannot_be_written_ends_in_a_sentence(llama: LoadedModel, corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(IndexUnfinished, match="can't be written"):
        build_index(llama, corpus, tmp_path / "file" / "i")


@pytest.mark.parametrize("limit", [1000, 6000, 9000, 14000])
def test_a_full_disk_ends_in_a_sentence_and_a_build_to_resume(
    llama: LoadedModel, index: Index, corpus: Corpus, tmp_path: Path, limit: int
) -> None:
    """Files can't grow beyond ``limit`` bytes: writing fails in contexts, shards or FAISS files, as on a full disk."""
    options = {"layers": LAYERS, "factory": "Flat", "shard_tokens": 64}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(IndexUnfinished, match=r"can't be written .* then resume"):
            build_index(llama, corpus, tmp_path / "i", **options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert build_index(llama, corpus, tmp_path / "i", resume=True, **options).manifest.files == index.manifest.files


def test_rows_do_not_depend_on_the_kind_of_corpus_file(llama: LoadedModel, index: Index, tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text("\n".join(json.dumps({"caption": sentence}) for sentence in SENTENCES))
    corpus = open_corpus(tmp_path / "c.jsonl", "caption")
    other = build_index(llama, corpus, tmp_path / "i", layers=LAYERS, factory="Flat", shard_tokens=64)
    assert other.manifest.files == index.manifest.files
    assert replace(other.manifest, corpus="", corpus_licence="", created="", factory="") == replace(
        index.manifest, corpus="", corpus_licence="", created="", factory=""
    )
