"""Every family on a tiny model with its real processor: checked against itself, with the grids that its rule gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lens.backend.checking import SIZE, check, noise
from lens.backend.encoding import DEFAULT_PROMPT, encode, visual_grid
from lens.backend.families import FAMILIES
from lens.backend.interventions import drop
from lens.backend.tracing import trace
from lens.errors import CapabilityMissing
from tests.families import MAKERS, tiny

GRIDS: dict[str, list[tuple[int, int]]] = {
    **{name: [(6, 6)] for name in ("llava", "vipllava", "janus", "deepseek_vl", "deepseek_vl_hybrid", "paligemma")},
    "gemma3": [(3, 3)],
    **{name: [] for name in ("blip_2", "instructblip", "idefics2")},
    **{name: [(5, 8)] for name in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")},
    **{name: [(5, 8)] for name in ("exaone4_5", "paddleocr_vl", "video_llama_3")},
    **{name: [(4, 5)] for name in ("glm4v", "glm4v_moe", "glm46v", "glm_ocr")},
    "gemma4": [(7, 10)],
    "llava_next": [(6, 6), (8, 12)],
    "llava_onevision": [(6, 6), (12, 18)],
    "llava_onevision_thinned": [(6, 6), (6, 10)],
    **{name: [(3, 3), (9, 9)] for name in ("idefics3", "smolvlm")},
    **{name: [(3, 3), (6, 9)] for name in ("internvl", "qianfan_ocr", "aya_vision")},
    "ovis2": [(3, 3), (9, 6)],
}
"""(rows, columns) of each view of a picture of 640 x 448 pixels; families that are not here are text-only."""


def test_every_row_has_a_tiny_model_and_a_line_in_the_docs():
    types = {model_type for row in FAMILIES for model_type in row.model_types} - {"tokenlens_demo"}
    assert {MAKERS[name]()[0].model_type for name in MAKERS} == types
    table = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    assert all(f"| `{model_type}` |" in table for model_type in types)
    assert "| no |" not in table, "a row of the table failed its check when it was written"


@pytest.fixture(params=sorted(MAKERS))
def model(request, tmp_path):
    return request.param, tiny(request.param, tmp_path)


def test_a_family_passes_its_own_check(model):
    name, loaded = model
    report = check(loaded)
    assert report.passed, "\n".join(f"{c.name}: {c.why}" for c in report.checks)
    assert len(report.checks) == (6 if name in GRIDS else 4)
    if name not in GRIDS:
        return
    token_map = encode(loaded, DEFAULT_PROMPT, noise(SIZE)).token_map
    assert [(grid.rows, grid.cols) for grid in token_map.grids] == GRIDS[name]
    patches = np.concatenate([np.zeros(0, int), *(grid.positions.reshape(-1) for grid in token_map.grids)])
    assert len(set(patches.tolist())) == len(patches), "no token stands at two patches"
    for grid in token_map.grids:
        assert (grid.boxes[..., :2] <= grid.boxes[..., 2:]).all()
        assert grid.boxes.min() >= 0 and (grid.boxes[..., 2:] <= SIZE).all()


STRING = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}{% endfor %}"


def test_what_is_typed_stands_in_what_a_family_reads(model):
    """With its own template, with one that takes strings alone, and without; with a picture and without. The encoding
    checks itself and raises where something is lost."""
    _, loaded = model
    for template in ("its own", STRING, None):
        for holder in (loaded.processor, loaded.tokenizer):
            if holder is not None and template != "its own":
                holder.chat_template = template
        for picture in [None, noise(SIZE)] if loaded.processor else [None]:
            for prompt in ("Where is it?", "  Où est-ce ?\n{{ 1 }} 猫 🦊 "):
                token_map = encode(loaded, prompt, picture).token_map
                assert prompt.strip() in loaded.tokenizer.decode(token_map.ids)
                assert bool(len(token_map.visual_positions)) == (picture is not None)


def test_queries_are_said_to_have_no_grid(tmp_path):
    encoded = encode(tiny("blip_2", tmp_path), DEFAULT_PROMPT, noise(SIZE))
    assert len(encoded.token_map.visual_positions) == 8
    with pytest.raises(CapabilityMissing, match="8 visual tokens of this model are queries over the whole picture"):
        visual_grid(encoded.token_map)


def test_a_picture_that_a_processor_refuses_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(CapabilityMissing, match=r"refuses this picture of 900 x 3 pixels .*choose another picture"):
        encode(tiny("qwen2_vl", tmp_path), DEFAULT_PROMPT, noise((900, 3)))


def test_line_breaks_between_rows_of_patches_are_special_tokens(tmp_path):
    token_map = encode(tiny("llava_next", tmp_path), DEFAULT_PROMPT, noise(SIZE)).token_map
    assert len(token_map.visual_positions) == 6 * 6 + 8 * 12
    ends = token_map.grids[1].positions[:, -1] + 1
    assert {token_map.kinds[p] for p in ends} == {"special"}


def test_tokens_dropped_leave_three_dimensional_positions_as_they_were(tmp_path):
    """Qwen2-VL's positions are (time, row, column): dropping equals masking, with the positions of the whole sequence."""
    loaded = tiny("qwen2_vl", tmp_path)
    encoded = encode(loaded, DEFAULT_PROMPT, noise(SIZE))
    gone = encoded.token_map.grids[0].positions[2].tolist()
    with drop(loaded, gone):
        dropped = trace(loaded, encoded, ["logits"]).site("logits")
    places, _ = loaded.model.model.get_rope_index(
        encoded.inputs["input_ids"],
        mm_token_type_ids=encoded.inputs["mm_token_type_ids"],
        image_grid_thw=encoded.inputs["image_grid_thw"],
        attention_mask=encoded.inputs["attention_mask"],
    )
    mask = encoded.inputs["attention_mask"].clone()
    mask[:, gone] = 0
    with torch.inference_mode():
        own = loaded.model(**{**encoded.inputs, "attention_mask": mask}, position_ids=places).logits[0]
    kept = [p for p in range(len(encoded.token_map)) if p not in gone]
    torch.testing.assert_close(dropped[kept], own[kept])
    whole = trace(loaded, encoded, ["logits"]).site("logits")
    assert not torch.allclose(dropped[kept[-1]], whole[kept[-1]])


def test_rows_of_the_connector_are_those_of_all_views(tmp_path):
    """InternVL sends seven views through its connector, in the order of the sequence."""
    loaded = tiny("internvl", tmp_path)
    encoded = encode(loaded, DEFAULT_PROMPT, noise(SIZE))
    held = trace(loaded, encoded, ["connector", "hidden.0"])
    assert torch.equal(held.site("connector"), held.hidden(0)[encoded.token_map.visual_positions])
