"""Evaluation on labelled patches: counts as the page's own readings give them, controls, resuming, the file of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lens.backend.corpus import Corpus
from lens.backend.encoding import DEFAULT_PROMPT, encode, visual_grid
from lens.backend.images import open_picture
from lens.backend.loading import LoadedModel
from lens.backend.tracing import trace
from lens.compare.labelfiles import Labels, read_labels
from lens.compare.labelled import Plan, evaluate, patches_of
from lens.compare.labelsummary import LabelEval, keep, kept, pooled, read_eval, to_text
from lens.compare.labelwords import LabelWords
from lens.errors import BenchUnreadable, Cancelled, LabelsUnusable
from lens.figures.labelled import by_layer, caption, rows
from lens.latentlens.build import build_index
from lens.latentlens.index import Index
from lens.latentlens.reading import read
from tests.commands.conftest import Shell, shell_for  # noqa: F401  (a fixture)
from tests.helpers import TEXT, tiny_llama, tiny_llava

PLAN = Plan((0, 3), vectors=64)
PICTURES = 4


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four noise pictures of 48 x 48 (6 x 6 patches), each with a box of 3 x 3 patches and one patch of another in it."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("labelled")
    (folder / "pictures").mkdir()
    generator = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(PICTURES):
        pixels = generator.integers(0, 256, (48, 48, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 48, "height": 48})
        annotations += [
            {"image_id": number, "category_id": number % 2, "bbox": [8, 8, 24, 24]},
            {"image_id": number, "category_id": 2, "bbox": [16, 16, 8, 8]},
            {"image_id": number, "category_id": 3, "bbox": [40, 40, 2, 2]},
        ]
    categories = [{"id": i, "name": name} for i, name in enumerate(("mat", "river", "a", "lamp"))]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "labels.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def loaded(place: Path) -> LoadedModel:
    return tiny_llava(place / "llava")


@pytest.fixture(scope="module")
def index(place: Path, loaded: LoadedModel) -> Index:
    return build_index(loaded, Corpus("text", TEXT.splitlines), place / "index", layers=[1, 2], factory="Flat")


@pytest.fixture(scope="module")
def labels(place: Path) -> Labels:
    return read_labels(place / "labels.json", place / "pictures")


@pytest.fixture(scope="module")
def synonyms(loaded: LoadedModel, index: Index, labels: Labels) -> dict[str, list[str]]:
    """Words that a random model's lenses do find, so that there is something to count."""
    found: dict[str, list[str]] = {}
    for number, picture in enumerate(labels.pictures):
        for patch in words_of(loaded, index, picture.path, 3).values():
            found.setdefault(labels.names[number % 3], []).extend(
                word for words in patch.values() for word in words[1:3]
            )
    return found


def words_of(loaded: LoadedModel, index: Index, path: Path, layer: int) -> dict[tuple[int, int], dict[str, list[str]]]:
    """By patch and lens, the words that the page shows."""
    held = trace(loaded, encode(loaded, DEFAULT_PROMPT, open_picture(path)), [f"hidden.{layer}"])
    reading = read(loaded, held, index, layer)
    return {
        (patch.row, patch.col): {lens: [each.word for each in found] for lens, found in patch.neighbours.items()}
        for patch in reading.patches
    }


def test_the_smallest_shape_owns_a_patch(loaded: LoadedModel, labels: Labels):
    labelled = labels.pictures[0]
    picture = open_picture(labelled.path)
    grid = visual_grid(encode(loaded, DEFAULT_PROMPT, picture).token_map)
    owner, background, unseen = patches_of(labelled, picture, grid)
    wanted = np.full((6, 6), -1)
    wanted[1:4, 1:4] = 0
    wanted[2, 2] = 1
    assert np.array_equal(owner, wanted)
    wanted[5, 5] = 0  # the lamp touches it, but covers less than half
    assert np.array_equal(background, wanted < 0)
    assert unseen == 1


def test_counts_are_those_of_the_pages_own_words(
    loaded: LoadedModel, index: Index, labels: Labels, synonyms: dict[str, list[str]]
):
    found = evaluate(loaded, index, labels, replace(PLAN, synonyms=synonyms))
    assert (found.pictures, found.shapes, found.unseen) == (PICTURES, 12, 4)
    assert (found.patches, found.background) == (9 * PICTURES, 26 * PICTURES)
    words = LabelWords(labels.names, synonyms)
    number = {name: i for i, name in enumerate(words.labels)}
    shapes = {name: 4 if name in ("a", "lamp") else 2 for name in words.labels}
    some = 0
    for layer in found.layers:
        counted = {
            (lens, top, what): 0.0 for lens in found.lenses for top in (1, 5) for what in ("own", "back", "other")
        }
        for at, labelled in enumerate(labels.pictures):
            here = {"mat" if at % 2 == 0 else "river", "a", "lamp"}
            others = {name: shapes[name] for name in words.labels if name not in here}
            for (row, col), by_lens in words_of(loaded, index, labelled.path, layer).items():
                for lens, said in by_lens.items():
                    for top in (1, 5):
                        named = words.ranks(said[:top])
                        inside = 1 <= row <= 3 and 1 <= col <= 3
                        if inside:
                            own = "a" if (row, col) == (2, 2) else "mat" if at % 2 == 0 else "river"
                            counted[lens, top, "own"] += number[own] in named
                            hit = sum(weight for name, weight in others.items() if number[name] in named)
                            counted[lens, top, "other"] += hit / sum(others.values())
                        elif (row, col) != (5, 5):
                            counted[lens, top, "back"] += any(number[name] in named for name in here)
        for (lens, top, what), hits in counted.items():
            condition, of = {"own": ("labelled", 36), "back": ("background", 104), "other": ("shuffled", 36)}[what]
            (rate,) = found.of(lens=lens, layer=layer, top=top, condition=condition)
            assert rate.share == pytest.approx(hits / of), (lens, layer, top, what)
            assert rate.low is not None and rate.high is not None and rate.low <= rate.share <= rate.high
            some += hits > 0
    assert some > 6, "there must be something to count"
    for name in found.names:
        assert bool(name.shares) == bool(name.patches)
    for lens, layer in ((lens, layer) for lens in found.lenses for layer in found.layers):
        own = sum(name.patches * name.shares[f"{lens}@{layer}"][1] for name in found.names if name.patches)
        assert own / found.patches == pytest.approx(
            found.of(lens=lens, layer=layer, top=5, condition="labelled")[0].share
        )


def test_stopped_work_goes_on_and_ends_with_the_same(loaded: LoadedModel, index: Index, labels: Labels, tmp_path: Path):
    whole = evaluate(loaded, index, labels, PLAN)
    (lines,) = (tmp_path / "home" / "labelled" / "unfinished").iterdir()
    lines.unlink()

    def stop(done: float, total: float, message: str) -> None:
        if done == 2:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        evaluate(loaded, index, labels, PLAN, stop)
    assert len(lines.read_text().splitlines()) == 2
    with lines.open("a") as stream:
        stream.write('{"job": "half')
    assert evaluate(loaded, index, labels, PLAN) == whole


def test_one_label_has_no_shuffle_and_no_background(loaded: LoadedModel, place: Path, tmp_path: Path):
    content = json.loads((place / "labels.json").read_text())
    content["annotations"] = [{"image_id": 0, "category_id": 0, "bbox": [0, 0, 48, 48]}]
    (tmp_path / "one.json").write_text(json.dumps(content))
    found = evaluate(loaded, None, read_labels(tmp_path / "one.json", place / "pictures"), PLAN)
    assert found.lenses == ("logit", "embedding") and found.index is None
    assert {rate.share for rate in found.of(condition="shuffled")} == {None}
    assert {rate.share for rate in found.of(condition="background")} == {None}
    assert read_eval(to_text(found).encode()).rates[1].share is None
    by_layer(found).to_json()


@pytest.mark.parametrize(
    ("size", "box", "sentence"),
    [
        ((40, 48), [0, 0, 20, 20], "0.png has 48 x 48 pixels, but its labels are for 40 x 48: give the picture"),
        ((48, 48), [40, 40, 20, 20], "outside its picture of 48 x 48"),
        ((48, 48), [9, 9, 2, 2], "covers half a patch"),
    ],
)
def test_labels_that_do_not_fit(
    loaded: LoadedModel, place: Path, tmp_path: Path, size: tuple, box: list, sentence: str
):
    content = json.loads((place / "labels.json").read_text())
    content["annotations"] = [{"image_id": 0, "category_id": 0, "bbox": box}]
    content["images"][0] |= {"width": size[0], "height": size[1]}
    (tmp_path / "one.json").write_text(json.dumps(content))
    with pytest.raises(LabelsUnusable, match=sentence):
        evaluate(loaded, None, read_labels(tmp_path / "one.json", place / "pictures"), PLAN)


def test_intervals_are_over_pictures():
    """Of two pictures, one all right and one all wrong, no resample tells more than that; patches don't count."""
    share, low, high = pooled(np.array([100.0, 0, 0]), np.array([100.0, 100, 0]))
    assert (share, low, high) == (0.5, 0.0, 1.0)
    assert pooled(np.array([0.0]), np.array([0.0])) == (None, None, None)
    even = pooled(np.full(50, 3.0), np.full(50, 4.0))
    assert even == (0.75, 0.75, 0.75)


@pytest.fixture(scope="module")
def result(loaded: LoadedModel, index: Index, labels: Labels, synonyms: dict, tmp_path_factory) -> LabelEval:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENLENS_HOME", str(tmp_path_factory.mktemp("home")))
        return evaluate(loaded, index, labels, replace(PLAN, synonyms=synonyms))


def test_the_file_holds_the_result(result: LabelEval, tmp_path: Path):
    back = read_eval(to_text(result).encode())
    assert [(r.lens, r.layer, r.condition) for r in back.rates] == [
        (r.lens, r.layer, r.condition) for r in result.rates
    ]
    assert all(a.share == pytest.approx(b.share, abs=1e-4) for a, b in zip(back.rates, result.rates, strict=True))
    assert replace(back, rates=(), names=()) == replace(result, rates=(), names=())
    path = keep(result)
    assert list(kept().values()) == [path] and read_eval(path) == back


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"format": 1', '"format": 2'),
        ('"layers"', '"lairs"'),
        ("[\n", "\n"),
        ('"labelled",', '"hallucinated",'),
        ("{", ""),
    ],
)
def test_other_files_are_refused(result: LabelEval, old: str, new: str):
    text = (
        to_text(result).replace(old, new, 1) if old != '"labelled",' else to_text(result).replace('"labelled"', '"x"')
    )
    with pytest.raises(BenchUnreadable, match="no evaluation of labelled patches"):
        read_eval(text.encode())


def test_the_figure_shows_the_numbers(result: LabelEval):
    figure = by_layer(result, 5)
    own = next(t for t in figure.data if t.legendgroup == "labelled" and t.xaxis == "x")
    wanted = [result.of(lens="latent", layer=layer, top=5, condition="labelled")[0].share for layer in (0, 3)]
    assert list(own.y) == wanted and list(own.x) == [0, 3]
    assert len([t for t in figure.data if t.showlegend]) == 4
    assert figure.to_json() == by_layer(result, 5).to_json()
    nasty = replace(result, labels="<b>x</b>", lenses=("latent",))
    assert "36 labelled patches in 4 pictures" in caption(nasty)
    assert len(rows(result)) == len(result.rates) == 3 * 2 * 2 * 4


def test_the_command(place: Path, loaded: LoadedModel, index: Index, shell_for: Callable[..., Shell], tmp_path: Path):  # noqa: F811
    tiny_llama(place / "llama")
    shell = shell_for("latentlens-eval", pictures=place / "pictures", labels=place / "labels.json", llava=place / "llava",
                      llama=place / "llama", index=place / "index")  # fmt: skip
    file, page = tmp_path / "e.json", tmp_path / "e.html"
    argv = ("{pictures}", "--labels", "{labels}", "--model", "{llava}", "--layers", "0,2")
    status, out, err = shell(*argv, "--index", "{index}", "--json", file, "--html", page)
    assert (status, err) == (0, "")
    assert "4 pictures, 12 shapes of 4 labels, 36 labelled patches, 104 of background" in out
    assert "4 shapes have no patch" in out and out.count("\nLatentLens  ") == 2
    assert read_eval(file).layers == (0, 2) and "36 labelled patches" in page.read_text(encoding="utf-8")
    status, out, _ = shell(*argv, "--json", "-")
    assert status == 0 and json.loads(out)["lenses"] == ["logit", "embedding"]
    for extra, sentence in (
        (("--layers", "x"), "no list of whole numbers"),
        (("--layers", "9"), "Layer 9"),
        (("--labels", "nowhere"), "no labels at 'nowhere'"),
        (("--model", "{llama}"), "has no connector"),
        (("--synonyms", "{labels}"), "holds no synonyms"),
    ):
        assert sentence in shell.mistake(*argv, *extra)
