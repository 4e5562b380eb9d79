"""The benchmark on a tiny model: what is read is what the lenses say, work is never done twice, chance is chance."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import faiss
import pytest
import torch
from torch import Tensor, nn

from lens.backend.answers import generate
from lens.backend.corpus import Corpus
from lens.backend.encoding import encode
from lens.backend.loading import LoadedModel, assemble
from lens.backend.readouts import logit_lens
from lens.backend.tracing import trace
from lens.compare import patchbench
from lens.compare.patchbench import ASKED, Job, Plan, default_layers, geometry, run
from lens.compare.patchitems import BACKGROUNDS, as_picture, cells, draw_items, small
from lens.compare.patchsummary import PatchBench
from lens.embedlens.probe import probe
from lens.errors import Cancelled, CapabilityMissing, IndexMismatch, LayerMissing
from lens.latentlens.build import build_index
from lens.latentlens.index import Index
from lens.latentlens.search import search
from tests.helpers import tiny_llama, tiny_llava

PLAN = Plan(items=60, asked=2, layers=(0, 4))
SENTENCES = ["A cat sat on the mat.", "Two dogs run over wet sand.", "The letter A stands beside a river."]


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    return tiny_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def index(llava: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Index:
    corpus = Corpus("three", lambda: SENTENCES, "CC0-1.0")
    return build_index(llava, corpus, tmp_path_factory.mktemp("indexes") / "three", layers=(1, 3), factory="Flat")


def lines(home: Path) -> list[dict]:
    (file,) = (home / "patchbench").glob("*.jsonl")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_lenses_read_the_items_own_patch(llava: LoadedModel, index: Index, own_home: Path):
    run(llava, index, PLAN)
    kept = {line["job"]: line["found"] for line in lines(own_home)}
    side, grid = geometry(llava)
    for item in draw_items(grid, 60)[::7]:
        held = trace(llava, encode(llava, ASKED["identity"], as_picture(small(item, grid, side), "x")), ["hidden.4"])
        state = held.hidden(4)[[grid.position(item.row, item.col)]]
        found = kept[Job(item, "patch").key]
        assert found["embedding@4"] == list(probe(llava, state, 5).tokens[0])
        assert found["logit@4"] == list(logit_lens(llava, state, 4, 5).tokens[0])
        assert found["latent@4"] == [neighbour.word for neighbour in search(index, state.numpy(), 5).rows[0]]


@pytest.fixture(scope="module")
def without_index(llava: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[PatchBench, list[dict]]:
    """One run of the plan without an index, and what it kept."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENLENS_HOME", str(home))
        return run(llava, None, PLAN), lines(home)


def test_answers_are_the_models_own(llava: LoadedModel, without_index: tuple[PatchBench, list[dict]]):
    bench, held = without_index
    side, grid = geometry(llava)
    item = draw_items(grid, 1)[0]
    kept = {line["job"]: line["found"] for line in held}
    for question, prompt in ASKED.items():
        encoded = encode(llava, prompt, as_picture(small(item, grid, side), "x"))
        assert kept[Job(item, "patch", question).key]["text"] == generate(llava, encoded, patchbench.TOKENS).text
    asked = bench.of(reader="answer", kind="all")
    assert {(rate.condition, rate.items) for rate in asked} == {("patch", 2), ("large", 2), ("empty", 2)}
    assert {rate.reader for rate in bench.rates} == {"embedding", "logit", "answer"} and bench.index is None
    assert {rate.items for rate in bench.of(reader="logit", kind="all")} == {60, 2}


def test_each_picture_is_looked_at_once(llava: LoadedModel, without_index: tuple[PatchBench, list[dict]]):
    kept = Counter(line["job"] for line in without_index[1])
    assert set(kept.values()) == {1}
    _, grid = geometry(llava)
    reads = [job for job in kept if " empty" in job and not job.endswith(tuple(ASKED))]
    assert 1 < len(reads) <= len(BACKGROUNDS) * len(cells(grid))


def stop_after(calls: int) -> Callable[[float, float, str], None]:
    def report(done: float, total: float, message: str) -> None:
        nonlocal calls
        calls -= 1
        if calls < 0:
            raise Cancelled("stopped")

    return report


def test_stopped_work_goes_on_and_ends_as_if_never_stopped(
    llava: LoadedModel, index: Index, own_home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    with pytest.raises(Cancelled):
        run(llava, index, PLAN, stop_after(3 * patchbench.CHUNK + 5))
    assert len(lines(own_home)) == 3 * patchbench.CHUNK
    (file,) = (own_home / "patchbench").glob("*.jsonl")
    file.write_bytes(file.read_bytes()[:-20])  # killed in the middle of a line
    totals: list[float] = []
    resumed = run(llava, index, PLAN, lambda done, total, message: totals.append(total))
    monkeypatch.setenv("TOKENLENS_HOME", str(tmp_path / "other"))
    fresh: list[float] = []
    assert run(llava, index, PLAN, lambda done, total, message: fresh.append(total)) == resumed
    assert totals[0] == fresh[0] - (3 * patchbench.CHUNK - 1)


def test_more_items_build_on_fewer(llava: LoadedModel, own_home: Path):
    run(llava, None, Plan(60, 0, (0,)))
    before = len(lines(own_home))
    run(llava, None, Plan(120, 0, (0,)))
    assert before < len(lines(own_home)) <= before + 60 + 45
    run(llava, None, Plan(60, 0, (0,), seed=1))
    assert len(list((own_home / "patchbench").glob("*.jsonl"))) == 2, "another seed is another set of items"


class Constant(nn.Module):
    """A connector that gives every patch one state, whatever it sees."""

    def __init__(self, row: Tensor) -> None:
        super().__init__()
        self.row = row

    def forward(self, features: Tensor) -> Tensor:
        return self.row.expand(1, features.shape[1], -1)


def test_a_connector_that_always_says_q_is_at_chance(tmp_path: Path):
    loaded = tiny_llava(tmp_path / "llava", seed=2)
    q = loaded.tokenizer.convert_tokens_to_ids("Q")
    loaded.model.model.multi_modal_projector = Constant(loaded.anatomy.embeddings.weight[q].clone())
    bench = run(assemble(loaded.spec, loaded.model, loaded.tokenizer, loaded.processor), None, Plan(120, 0, (0,)))
    for condition in ("patch", "empty"):
        (rate,) = bench.of(condition=condition, reader="embedding", kind="letter", question="identity", top=1)
        assert rate.share == pytest.approx(1 / 26) == pytest.approx(rate.chance)


class Eyes(nn.Module):
    """A connector that looks at the pixels of each patch: " red", " green", or a patch that is neither."""

    def __init__(self, tower: nn.Module, red: Tensor, green: Tensor, neither: Tensor) -> None:
        super().__init__()
        self.rows, self.seen = torch.stack([red, green, neither]), torch.empty(0)
        forward = tower.forward

        def watched(pixel_values: Tensor, *args: object, **kwargs: object) -> object:
            self.seen = pixel_values
            return forward(pixel_values, *args, **kwargs)

        tower.forward = watched  # type: ignore[method-assign]

    def forward(self, features: Tensor) -> Tensor:
        pixels = self.seen[0].unfold(1, 8, 8).unfold(2, 8, 8).flatten(3).flatten(1, 2)  # [rgb, patches, pixels]
        red, green, blue = pixels
        is_red = ((red - green.maximum(blue)) > 1.5).any(-1) & ((green - blue).abs() < 0.3).all(-1)
        is_green = ((green - red.maximum(blue)) > 0.8).any(-1)
        return self.rows[torch.where(is_red, 0, torch.where(is_green, 1, 2))][None]


def test_a_model_that_sees_two_colours_is_found_to_see_them(tmp_path: Path):
    """The positive control of the whole chain: drawing, geometry, reading, naming, counting."""
    loaded = tiny_llava(tmp_path / "llava", seed=2)
    weight, token = loaded.anatomy.embeddings.weight, loaded.tokenizer.convert_tokens_to_ids
    red, green, neither = (weight[token(name)].clone() for name in ("Ġred", "Ġgreen", "Q"))
    inner = loaded.model.model
    inner.multi_modal_projector = Eyes(inner.vision_tower, red, green, neither)
    bench = run(assemble(loaded.spec, loaded.model, loaded.tokenizer, loaded.processor), None, Plan(300, 0, (0,)))
    named = {"reader": "embedding", "question": "colour", "factor": "colour", "top": 5}
    for colour in ("red", "green"):
        (rate,) = bench.of(**named, level=colour)
        assert rate.share > 0.9 and rate.low > rate.chance_high, colour
    assert all(rate.share < 0.15 for rate in bench.of(**named) if rate.level in ("blue", "white", "black", "grey"))
    (empty,) = bench.of(condition="empty", reader="embedding", question="colour", kind="all", top=1)
    assert empty.share == 0


def test_what_cannot_be_done_is_refused(llava: LoadedModel, tmp_path: Path):
    text_only = tiny_llama(tmp_path / "llama")
    with pytest.raises(CapabilityMissing, match="connector"):
        run(text_only, None, PLAN)
    with pytest.raises(LayerMissing):
        run(llava, None, Plan(10, 0, (9,)))


def test_an_index_of_another_model_is_refused(index: Index, tmp_path: Path):
    with pytest.raises(IndexMismatch):
        run(tiny_llava(tmp_path / "other", seed=5), index, PLAN)


def test_layers_are_quarters_of_the_depth():
    assert (
        default_layers(30) == (0, 8, 15, 22, 30)
        and default_layers(4) == (0, 1, 2, 3, 4)
        and default_layers(1) == (0, 1)
    )
