"""``demo-seg`` is assembled from the demo and updates: what is shared, what differs, and that it works end to end."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from lens.backend.answered import with_answer
from lens.backend.catalog import ModelSpec
from lens.backend.encoding import encode
from lens.backend.files import sha256
from lens.backend.images import Picture
from lens.backend.loading import load
from lens.backend.tracing import trace
from lens.demo import provision as provisioning
from lens.demo import seg_provision
from lens.demo.seg_head import MaskHead, write_seg
from lens.demo.seg_language import RENAMED_TOKEN, SEG
from lens.demo.seg_masks import open_mask_head, segment
from lens.demo.seg_provision import provision_seg, with_seg
from lens.errors import CapabilityMissing, ProvisioningFailed
from tests.helpers import tiny_llava

ALPHA, RANK = 16.0, 2


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """Small random updates of the first block, a random head, and a vector that the model never says by itself."""
    generator = torch.Generator().manual_seed(0)
    language = {"seg": torch.randn(576, generator=generator) * 0.1}
    for name, outputs in (("q_proj", 576), ("v_proj", 192)):
        language[f"1_{name}.a"] = torch.randn(RANK, 576, generator=generator) * 0.02
        language[f"1_{name}.b"] = torch.randn(outputs, RANK, generator=generator) * 0.02
    torch.manual_seed(0)
    write_seg(MaskHead(), language, tmp_path / "updates.safetensors", alpha=str(ALPHA))
    return tmp_path / "updates.safetensors"


@pytest.fixture
def home_of_demo(demo_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that holds ``demo`` alone; its large files are links to the real ones."""
    alone = tmp_path / "alone"
    shutil.copytree(demo_home / "models" / "demo", alone / "models" / "demo", copy_function=os.link)
    monkeypatch.setenv("TOKENLENS_HOME", str(alone))
    return alone


def test_another_name_is_refused(shipped: Path) -> None:
    with pytest.raises(ProvisioningFailed, match="demo-seg"):
        provision_seg("demo-segment", shipped=shipped)


def test_the_spare_token_becomes_seg_and_is_shown() -> None:
    description = {
        "model": {"vocab": {"a": 0, RENAMED_TOKEN: 6}},
        "added_tokens": [
            {"id": 6, "content": RENAMED_TOKEN, "special": True},
            {"id": 2, "content": "</s>", "special": True},
        ],
    }
    changed = with_seg(json.loads(json.dumps(description)))
    assert changed["model"]["vocab"] == {"a": 0, SEG: 6}
    assert changed["added_tokens"][0] == {"id": 6, "content": SEG, "special": False}
    assert changed["added_tokens"][1] == description["added_tokens"][1]


@pytest.mark.model
def test_the_folder_holds_the_merged_model_and_the_demo_is_untouched(home_of_demo: Path, shipped: Path) -> None:
    demo = home_of_demo / "models" / "demo"
    before = {file.name: (file.stat().st_size, file.stat().st_mtime_ns) for file in demo.iterdir()}
    folder = provision_seg(shipped=shipped)
    assert {file.name: (file.stat().st_size, file.stat().st_mtime_ns) for file in demo.iterdir()} == before
    assert (folder / provisioning.TOWER).samefile(demo / provisioning.TOWER)
    assert not (folder / provisioning.LANGUAGE).samefile(demo / provisioning.LANGUAGE)
    old, new = load_file(demo / provisioning.LANGUAGE), load_file(folder / provisioning.LANGUAGE)
    differing = {name for name in old if not torch.equal(old[name].float(), new[name].float())}
    block = f"{seg_provision.PREFIX}layers.0.self_attn."
    assert differing == {f"{block}q_proj.weight", f"{block}v_proj.weight", f"{seg_provision.PREFIX}embed_tokens.weight"}
    updates = load_file(shipped)
    change = ALPHA / RANK * updates["language.1_q_proj.b"].float() @ updates["language.1_q_proj.a"].float()
    torch.testing.assert_close(new[f"{block}q_proj.weight"], old[f"{block}q_proj.weight"].float() + change)
    stamp = (folder / provisioning.STAMP).stat().st_mtime_ns
    assert provision_seg(shipped=shipped) == folder and (folder / provisioning.STAMP).stat().st_mtime_ns == stamp


@pytest.mark.model
def test_what_ships_is_merged_with_the_rank_and_alpha_that_its_file_tells(home_of_demo: Path) -> None:
    """W + alpha / rank x B A in every block, worked out here in float64."""
    folder = provision_seg()
    old = load_file(home_of_demo / "models" / "demo" / provisioning.LANGUAGE)
    new, updates = load_file(folder / provisioning.LANGUAGE), load_file(seg_provision.SHIPPED)
    with safe_open(seg_provision.SHIPPED, "pt") as file:
        alpha = float(file.metadata()["alpha"])
    for number in range(1, 31):
        for part in ("q_proj", "v_proj"):
            a, b = (updates[f"language.{number}_{part}.{side}"].double() for side in "ab")
            name = f"{seg_provision.PREFIX}layers.{number - 1}.self_attn.{part}.weight"
            assert (a.shape[0], b.shape[1], new[name].dtype) == (16, 16, torch.float32)
            wanted = old[name].double() + alpha / a.shape[0] * b @ a
            torch.testing.assert_close(new[name].double(), wanted, rtol=0, atol=1e-6 * float(wanted.abs().max()))
    table = f"{seg_provision.PREFIX}embed_tokens.weight"
    assert (new[table] != old[table]).any(1).nonzero().flatten().tolist() == [6]
    assert torch.equal(new[table][6], updates["language.seg"])


@pytest.mark.model
def test_a_folder_made_from_other_updates_comes_up_to_date_by_itself(home_of_demo: Path, shipped: Path) -> None:
    folder = provision_seg(shipped=shipped)
    before = json.loads((folder / provisioning.STAMP).read_text(encoding="utf-8"))
    assert provision_seg() == folder
    after = json.loads((folder / provisioning.STAMP).read_text(encoding="utf-8"))
    assert after["seg"] == sha256(seg_provision.SHIPPED) != before["seg"] and after["base"] == before["base"]
    head = load_file(seg_provision.SHIPPED)["head.bias"]
    assert torch.equal(load_file(folder / seg_provision.MASK_HEAD)["bias"], head.float())


@pytest.mark.model
def test_it_loads_answers_and_gives_a_mask_of_any_seg_in_its_answer(home_of_demo: Path, shipped: Path) -> None:
    folder = provision_seg(shipped=shipped)
    loaded = load(ModelSpec(name="demo-seg", source=str(folder), register="lens.demo.architecture"))
    assert loaded.tokenizer.convert_tokens_to_ids(SEG) == 6
    ids = loaded.tokenizer.encode(f"It is {SEG}.", add_special_tokens=False)
    assert ids.count(6) == 1 and loaded.tokenizer.decode(ids, skip_special_tokens=True) == f"It is {SEG}."
    head = open_mask_head(loaded)
    picture = Picture(Image.new("RGB", (400, 300), (200, 30, 30)), "red.png", "0")
    plain = segment(loaded, head, "Segment the cat.", picture)
    assert plain.answer and plain.positions == () and plain.fine is None  # nothing taught it to say <SEG>
    encoded = encode(loaded, "Segment the cat.", picture)
    whole = with_answer(loaded, encoded, ids)
    position = whole.token_map.ids.index(6)
    assert whole.token_map.texts[position] == SEG and position >= len(encoded.token_map)
    traced = trace(loaded, whole, head.sites())
    coarse, fine = head.masks(traced, (position, position - 1))
    np.testing.assert_allclose(head.logits(traced, (position,))[0], fine[0], atol=1e-4)
    assert coarse.shape == (2, 12, 12) and fine.shape == (2, 48, 48)
    assert abs(coarse[0] - coarse[1]).max() > 1e-3


def test_a_model_without_a_mask_head_says_so(tmp_path: Path) -> None:
    with pytest.raises(CapabilityMissing, match="demo-seg"):
        open_mask_head(tiny_llava(tmp_path))
