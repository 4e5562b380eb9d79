"""Tokens that a tokenizer has and the model has no embedding for: named where they are typed, left out of a corpus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lens.backend.answers import score
from lens.backend.checking import check
from lens.backend.corpus import Corpus, open_corpus
from lens.backend.encoding import encode
from lens.backend.loading import LoadedModel, load
from lens.backend.selfcheck import PATCHES, checked, needs
from lens.backend.tracing import text_states, trace
from lens.backend.typed import typed_states
from lens.backend.vocabulary import beyond, check_ids, readable, typed_beyond
from lens.cli import main
from lens.embedlens.anchors import SHIPPED, _parsed, read_anchors, write_anchors
from lens.errors import AnchorsMismatch, CorpusUnreadable, TokenUnknown
from lens.functiontokens.ablation import raw_text
from lens.functiontokens.build import build_graph
from lens.functiontokens.counts import count_tokens
from lens.functiontokens.features import open_features
from lens.functiontokens.losses import corpus_losses
from lens.functiontokens.states import windows
from lens.latentlens.build import build_index
from lens.segmaps.asking import ask
from tests.backend.conftest import PROMPT, noise_picture
from tests.helpers import TEXT, tiny_gpt2, tiny_llama, tiny_llava

TOLD = r"^The text holds the token '<extra>' \(id \d+\), but the model '.*' has embeddings for the ids 0 to \d+ alone; leave"
LINES = [*TEXT.splitlines(), "A cat <extra> sat.", "Green <more> apples <extra>."]


def with_more_tokens(loaded: LoadedModel) -> LoadedModel:
    """Two tokens added to the tokenizer's files, and none to the model's."""
    holder: Any = loaded.processor or loaded.tokenizer
    getattr(holder, "tokenizer", holder).add_tokens(["<extra>", "<more>"])
    holder.save_pretrained(loaded.spec.source)
    return load(loaded.spec)


@pytest.fixture(params=[tiny_llama, tiny_gpt2, tiny_llava], ids=lambda make: make.__name__)
def grown(request: pytest.FixtureRequest, tmp_path: Path) -> LoadedModel:
    return with_more_tokens(request.param(tmp_path / "model"))


@pytest.fixture
def seeing(tmp_path: Path) -> LoadedModel:
    return with_more_tokens(tiny_llava(tmp_path / "model"))


def test_a_prompt_with_such_a_token_is_refused_by_name(grown: LoadedModel):
    assert list(beyond(grown).values()) == ["<extra>", "<more>"]
    for picture in [None, noise_picture(48, 48)] if grown.processor else [None]:
        encode(grown, "A cat sat.", picture)
        with pytest.raises(TokenUnknown, match=TOLD):
            encode(grown, "What <extra> is this?", picture)


RUNS: dict[str, Callable[[LoadedModel], Any]] = {
    "typed word": lambda loaded: typed_states(loaded, ["cat", "<extra>"], [1]),
    "forced answer": lambda loaded: ask(loaded, PROMPT, noise_picture(48, 48), answer="It is <extra>."),
    "score": lambda loaded: score(loaded, encode(loaded, PROMPT), (min(beyond(loaded)),)),
    "raw text": lambda loaded: trace(loaded, raw_text(loaded, LINES[3], 64), ["hidden.1"]),
    "text states": lambda loaded: text_states(
        loaded, torch.tensor([[5, len(loaded.tokenizer) - 2]]), torch.ones(1, 2), [1]
    ),
}


@pytest.mark.parametrize("run", RUNS)
def test_whatever_runs_the_model_names_the_token(run: str, seeing: LoadedModel):
    with pytest.raises(TokenUnknown, match=TOLD):
        RUNS[run](seeing)


def test_a_picture_may_stand_at_an_id_without_an_embedding(llava: LoadedModel):
    """PaliGemma's does: the picture's states go where its placeholder is, whose own embedding is never looked up."""
    placeholder, word = torch.tensor([[3, 3, 5]]), torch.tensor([[3, 4, 5]])
    small = replace(llava, anatomy=replace(llava.anatomy, embeddings=torch.nn.Embedding(5, 32), image_token_id=9))
    for ids, seeing in (
        (torch.tensor([[9, 4]]), False),
        (torch.tensor([[9, 5]]), True),
        (placeholder, True),
        (word, True),
    ):
        with pytest.raises(TokenUnknown):
            check_ids(small, ids, seeing)
    check_ids(small, torch.tensor([[9, 4]]), seeing=True)
    assert 9 not in typed_beyond(small) and 9 in beyond(small)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    (tmp_path / "lines.txt").write_text("\n".join(LINES), encoding="utf-8")
    return open_corpus(tmp_path / "lines.txt")


LEFT_OUT = "lines.txt, 2 of 5 sentences left out that hold tokens without an embedding (<extra>, <more>)"


def test_a_corpus_leaves_such_sentences_out_and_says_so(grown: LoadedModel, corpus: Corpus):
    kept = readable(corpus, grown)
    assert list(kept) == list(kept) == LINES[:3] and kept.name == LEFT_OUT
    assert readable(kept, grown) is kept, "and is read as it is where nothing is left out"
    with pytest.raises(CorpusUnreadable, match=r"Every sentence of the corpus x holds a token without.*\(<extra>\)"):
        readable(Corpus("x", lambda: LINES[3:4]), grown)


def test_a_model_with_all_its_embeddings_costs_no_pass(llama: LoadedModel):
    def unread():
        raise AssertionError("read")
        yield

    corpus = Corpus("x", unread)
    assert readable(corpus, llama) is corpus


def test_an_index_of_the_rest_is_built(grown: LoadedModel, corpus: Corpus, tmp_path: Path):
    index = build_index(grown, corpus, tmp_path / "index", layers=[1])
    assert index.manifest.corpus == LEFT_OUT and set(index.sentences.to_pylist()) <= set(LINES[:3])
    expected = build_index(grown, Corpus("x", lambda: LINES[:3]), tmp_path / "same", layers=[1])
    assert index.contexts.equals(expected.contexts) and index.manifest.corpus_digest == expected.manifest.corpus_digest
    again = build_index(grown, corpus, tmp_path / "index", layers=[1], resume=True)
    assert again.manifest == index.manifest, "the same corpus is the same build"


def test_graph_counts_losses_and_windows_of_the_rest(seeing: LoadedModel, corpus: Corpus, tmp_path: Path):
    counts = count_tokens(corpus, seeing, cache=False)
    assert (counts.corpus, counts.documents) == (LEFT_OUT, 3)
    assert counts.ids.max() < seeing.anatomy.vocab_size
    features = open_features(seeing, "neurons-2")
    (graph,) = build_graph(seeing, corpus, [features], tmp_path / "graph", permutations=2).values()
    assert (graph.manifest.corpus, graph.manifest.sentences) == (LEFT_OUT, 3)
    kept = readable(corpus, seeing)
    assert corpus_losses(seeing, kept, [40]).count > 0
    ids = [i for window in windows(seeing, list(kept) * 30, 24, 0) for i in window]
    assert max(ids) < seeing.anatomy.vocab_size


def test_the_command_says_it(seeing: LoadedModel, corpus: Corpus, tmp_path: Path, capsys):
    words = [
        "index",
        "build",
        str(tmp_path / "lines.txt"),
        "--model",
        seeing.spec.source,
        "--out",
        str(tmp_path / "out"),
    ]
    assert main([*words, "--layers", "1"]) == 0
    assert "2 of 5 sentences left out" in capsys.readouterr().out.replace("\n", " ")
    assert main(["functiontokens", "stats", str(tmp_path / "lines.txt"), "--model", seeing.spec.source]) == 0
    assert "2 of 5 sentences left out" in capsys.readouterr().out


def test_check_finds_them_and_nothing_else_is_off(grown: LoadedModel, capsys):
    report = check(grown)
    (failed,) = [one for one in report.checks if one.passed is False]
    assert failed.name == "tokens" and "2 tokens have ids from 400 on and no embedding: <extra>, <more>." in failed.why
    needs(checked(grown), "This view", *PATCHES)
    assert main(["check", grown.spec.source]) == 2
    out, err = capsys.readouterr()
    assert "<extra>, <more>" in out and "prompts and sentences that hold such a token" in err


def test_anchors_without_an_embedding_belong_to_another_model(seeing: LoadedModel, tmp_path: Path):
    strange = max(beyond(seeing))
    shipped = _parsed(SHIPPED / "demo.json")
    own = {"fingerprint": seeing.fingerprint, "tokenizer_hash": seeing.tokenizer_hash}
    anchors = replace(shipped, **own, found=(replace(shipped.found[0], id=strange),))
    write_anchors(anchors, tmp_path / "anchors.json")
    with pytest.raises(AnchorsMismatch, match=f"its id {strange} has no embedding in 'tiny-llava'"):
        read_anchors(tmp_path / "anchors.json", seeing)
