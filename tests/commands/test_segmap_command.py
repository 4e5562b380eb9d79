"""``python -m lens segmap`` on tiny models: output, JSON, PNG, one sentence per error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lens.backend import catalog
from lens.backend.images import open_picture
from lens.backend.loading import LoadedModel
from lens.backend.maskfiles import read_mask
from lens.backend.tracing import Trace
from lens.segmaps.points import Point
from lens.segmaps.sam import look, open_sam, sam_masks
from lens.segmaps.scores import overlap
from tests.commands.conftest import Shell
from tests.helpers import tiny_llama, tiny_llava
from tests.segmaps.seghelpers import seg_llava
from tests.segmaps.test_sam import tiny_sam


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("segmap")
    seg_llava(folder / "seg")
    tiny_llava(folder / "plain")
    tiny_llama(folder / "text")
    tiny_sam(folder / "tiny-sam")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.png")
    inside = np.zeros((60, 90), dtype=np.uint8)
    inside[10:40, 30:60] = 255
    Image.fromarray(inside).save(folder / "mask.png")
    Image.fromarray(inside[:30]).save(folder / "small.png")
    return folder


@pytest.fixture
def segmap(files: Path, shell_for: Callable[..., Shell]) -> Shell:
    models = {"model": files / "seg", "plain": files / "plain", "text": files / "text", "sam": files / "tiny-sam"}
    return shell_for("segmap", **models, image=files / "photo.png", mask=files / "mask.png", small=files / "small.png")


def test_json_has_the_form_of_the_issue(segmap: Shell):
    argv = ("{image}", "--query", "cat", "--model", "{model}", "--by", "word", "--mask", "{mask}", "--json", "-")
    status, out, err = segmap(*argv)
    assert (status, err) == (0, "")
    table = json.loads(out)
    assert table["grid"] == {"rows": 6, "cols": 6} and np.shape(table["map"]) == (6, 6)
    assert set(table["scores"]) >= {"iou", "auc", "pointing"} and table["layer"] == 4
    assert {point["label"] for point in table["points"]} <= {"positive", "negative", "neutral"}
    assert all(15 <= point["x"] <= 75 and 0 <= point["y"] <= 60 for point in table["points"])
    assert table["prompt"] == "Segment the cat." and table["query"]["token_rule"] == "p"
    before = json.loads(segmap(*argv, "--token-rule", "p-1")[1])
    assert before["map"] != table["map"] and before["query"]["token_rule"] == "p-1"
    layer = json.loads(segmap(*argv, "--layer", 2)[1])
    assert layer["layer"] == 2 and layer["map"] != table["map"] and layer["layers"] == table["layers"]


def test_a_table_and_a_picture(segmap: Shell, tmp_path: Path):
    target = tmp_path / "map.png"
    status, out, err = segmap(
        "{image}", "--query", "cat", "--model", "{plain}", "--mask", "{mask}", "--png", target, "--similarity", "cosine"
    )
    assert status == 0 and err.count("\n") == 1 and "has no <SEG> token" in err
    assert "layer 4, cosine similarity, 6 x 6 patches" in out
    assert "Asked: Segment the cat." in out and "Against the mask: IoU" in out and "Points:" in out
    assert len(out.split("\n\n")[1].splitlines()) == 6
    with Image.open(target) as image:
        assert image.format == "PNG"


def test_sam_is_prompted_by_the_points(segmap: Shell, tmp_path: Path):
    """Its masks are in the JSON as run lengths that are read again, best first, and the best one is drawn."""
    shared = ("{image}", "--query", "cat", "--model", "{plain}", "--sam", "{sam}")
    status, out, err = segmap(*shared, "--mask", "{mask}", "--json", "-")
    assert status == 0, err
    table = json.loads(out)
    found = table["sam"]
    assert found["name"] == "tiny-sam" and len(found["masks"]) == 3
    assert [one["expected_iou"] for one in found["masks"]] == sorted(
        (one["expected_iou"] for one in found["masks"]), reverse=True
    )
    masks = [read_mask(json.dumps(one["segmentation"]).encode(), (90, 60)) for one in found["masks"]]
    points = [(p["x"], p["y"], {"positive": 1, "negative": 0, "neutral": -1}[p["label"]]) for p in table["points"]]
    seen = look(open_sam(Path(vars(segmap)["sam"])), open_picture(vars(segmap)["image"]))
    own = sam_masks(seen, [Point(*point, 0.0) for point in points])
    assert np.mean([(a.inside == b).mean() for a, b in zip(masks, own.masks, strict=True)]) > 0.99
    wanted = read_mask(Path(vars(segmap)["mask"]), (90, 60))
    for mask, one in zip(masks, found["masks"], strict=True):
        both, union = overlap(mask.inside, wanted)
        assert one["iou"] == pytest.approx(both / union, abs=1e-6)
    status, out, err = segmap(*shared, "--png", tmp_path / "sam.png")
    assert status == 0 and out.count("tiny-sam:") == 3 and "that it expects" in out and (tmp_path / "sam.png").is_file()
    assert json.loads(segmap(*shared[:-2], "--json", "-")[1])["sam"] is None


def test_patches_and_typed_words(segmap: Shell):
    shared = ("{image}", "--query", "dog", "--model", "{model}", "--json", "-")
    table = json.loads(segmap(*shared, "--patch", "2,3", "--similarity", "cosine")[1])
    assert table["query"]["kind"] == "patch" and table["map"][2][3] == 1
    typed = json.loads(segmap(*shared, "--by", "typed", "--threshold", "0.9")[1])
    assert typed["query"] == {"kind": "word", "text": "dog", "position": None, "token_rule": None}
    assert typed["mask"]["threshold"] == 0.9


def test_without_a_model_the_one_with_seg_is_asked(segmap: Shell, monkeypatch: pytest.MonkeyPatch, files: Path):
    spec = catalog.ModelSpec(name="demo-seg", source=str(files / "seg"))
    monkeypatch.setattr(catalog, "catalog", lambda: {"demo-seg": spec})
    status, out, err = segmap("{image}", "--query", "cat", "--by", "word")
    assert status == 0 and err == "" and out.startswith("demo-seg,")


def test_seg_is_put_into_the_models_mouth_and_its_head_makes_a_mask(
    segmap: Shell, monkeypatch: pytest.MonkeyPatch, files: Path
):
    spec = catalog.ModelSpec(
        name="demo-seg", source=str(files / "seg"), mask_head=f"{__name__}:open_half", says_seg="It says so to all."
    )
    monkeypatch.setattr(catalog, "catalog", lambda: {"demo-seg": spec})
    status, out, err = segmap("{image}", "--query", "cat", "--force")
    assert status == 0 and "Answered: It is <SEG>." in out and "Query: <SEG>, read at p" in out
    assert "was put into its mouth." in err and "It says so to all." in err
    assert "The model's mask head: 33.3% of the image" in out, "half of the 60 columns of 90 that the encoder sees"
    table = json.loads(segmap("{image}", "--query", "cat", "--force", "--json", "-")[1])
    assert table["query"]["kind"] == "seg" and table["mask_heads"] == [{"share": 0.333333, "highest_logit": 2.0}]
    assert len(table["notes"]) == 2
    monkeypatch.setattr(Half, "highest", -0.5)
    assert (
        "mask head: 0.0% of the image (nothing: its highest logit is -0.50)"
        in segmap("{image}", "--query", "cat", "--force")[1]
    )
    word = segmap("{image}", "--query", "cat", "--force", "--by", "word")
    assert "mask head" not in word[1] and "It says so to all." not in word[2]


class Half:
    """A mask head that calls the left half of what the encoder sees the object."""

    highest = 2.0

    def sites(self) -> tuple[str, ...]:
        return ()

    def logits(self, trace: Trace, positions: tuple[int, ...]) -> np.ndarray:
        return np.broadcast_to(np.where(np.arange(12) < 6, self.highest, -1.0), (len(positions), 12, 12))


def open_half(_loaded: LoadedModel) -> Half:
    return Half()


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (("{image}",), "required: --query"),
        (("missing.png", "--query", "cat"), "does not exist"),
        (("{image}", "--query", "cat", "--model", "{model}"), "with no <SEG> in it"),
        (("{image}", "--query", "<SEG>", "--model", "{model}"), "what is asked for is expected"),
        (("{image}", "--query", "cat", "--model", "{plain}", "--by", "seg"), "no <SEG> token"),
        (("{image}", "--query", "cat", "--model", "{plain}", "--by", "seg", "--force"), "no <SEG> token"),
        (("{image}", "--query", "cat", "--model", "{text}"), "has no connector"),
        (("{image}", "--query", "cat", "--model", "{plain}", "--prompt", "What?"), "neither in the prompt nor"),
        (("{image}", "--query", "cat", "--model", "{plain}", "--layer", "9"), "Layer 9"),
        (("{image}", "--query", "cat", "--model", "{plain}", "--patch", "6,0"), "Patch 6,0"),
        (("{image}", "--query", "cat", "--model", "{plain}", "--patch", "-1,0"), "Patch -1,0"),
        (("{image}", "--query", "cat", "--patch", "1"), "ROW,COL"),
        (("{image}", "--query", "cat", "--model", "{plain}", "--mask", "{small}"), "90 x 30 pixels, but the picture"),
        (("{image}", "--query", "cat", "--model", "{plain}", "--mask", "{image}x"), "can't be read"),
        (("{image}", "--query", "cat", "--model", "{plain}", "--sam", "{text}"), "holds no SAM checkpoint"),
        (("{image}", "--query", "cat", "--model", "{plain}", "--sam", "nowhere"), "holds no SAM checkpoint"),
        (("{image}", "--query", "cat", "--threshold", "2"), "no threshold"),
        (("{image}", "--query", "cat", "--token-rule", "q"), "invalid choice"),
        (("{image}", "--query", "cat", "--seg", "0"), "no number from 1 up"),
        (("{image}", "--query", "cat", "--model", "nonsense"), "There is no model 'nonsense'"),
        (("{image}", "--query", "cat", "--model", "{plain}", "--png", "nowhere/at/all.png"), "could not be written"),
    ],
)
def test_every_mistake_is_told_in_one_sentence(segmap: Shell, argv: tuple[str, ...], sentence: str):
    assert sentence in segmap.mistake(*argv)


def test_control_words_and_the_difference_map(segmap: Shell, tmp_path: Path):
    """The verdict is that of the plain map in either scale; the difference is computed anew from single calls."""
    shared = ("{image}", "--model", "{plain}", "--prompt")
    prompt = "Segment the {}."

    def values(word: str, *more: object) -> dict:
        asked = (*shared, prompt.format(word), "--query", word, "--by", "word", "--json", "-", *more)
        status, out, err = segmap(*asked)
        assert status == 0, err
        return json.loads(out)

    left = values("cat", "--scale", "difference", "--controls", "dog, sofa,cat")
    assert left["scale"] == "difference" and left["minus_mean_of"] == ["dog", "sofa"]
    z = {word: np.array(values(word, "--scale", "z-score")["map"]) for word in ("cat", "dog", "sofa")}
    np.testing.assert_allclose(left["map"], z["cat"] - (z["dog"] + z["sofa"]) / 2, atol=3e-6)
    rs = {word: np.corrcoef(z["cat"].ravel(), z[word].ravel())[0, 1] for word in ("dog", "sofa")}
    assert left["specific"]["r_with_control_words"] == pytest.approx(rs, abs=1e-5)
    plain = values("cat", "--controls", "dog,sofa")
    assert plain["specific"] == left["specific"] and plain["minus_mean_of"] == [] and plain["scale"] == "min-max"
    assert values("cat")["specific"] is None
    usual = values("cat", "--scale", "difference")
    assert usual["minus_mean_of"] == ["submarine", "piano", "giraffe"]
    target = tmp_path / "left.png"
    status, out, _err = segmap(*shared, "What is the cat?", "--query", "cat", "--controls", "dog", "--png", target)
    assert status == 0 and target.exists() and "Specific to “cat”? " in out and "r by control word: dog " in out


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--scale", "difference", "--patch", "0,0"), "A patch has no word"),
        (("--controls", " , cat"), "No control word is left beside 'cat'"),
        (
            ("--controls", "dog", "--model", "{model}", "--force", "--prompt", "What?"),
            "Neither prompt nor answer holds",
        ),
    ],
)
def test_controls_that_cannot_be_tried_are_one_sentence(segmap: Shell, more: tuple[str, ...], sentence: str):
    status, out, err = segmap("{image}", "--query", "cat", "--model", "{plain}", *more)
    assert status == 2 and out == "" and sentence in err.splitlines()[-1]
