"""Conversion of LISA's and READ's own layout, on tiny checkpoints written in it; their names and weights are random, so
that what is tested is that nothing of a checkpoint is lost, moved or read otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import LlavaForConditionalGeneration, SamConfig, SamModel

from lens.backend.catalog import find
from lens.backend.loading import LoadedModel, load
from lens.errors import Cancelled, CapabilityMissing, ConversionFailed, ModelUnreadable
from lens.segmaps.asking import Asked, ask, find_word, seg_query, seg_token
from lens.segmaps.checkpointlayout import NAMES, place, sam_config
from lens.segmaps.checkpointrows import ORIGINALS
from lens.segmaps.checkpoints import convert
from lens.segmaps.maps import similarity_map
from lens.segmaps.masks import head_rasters, open_head
from lens.segmaps.points import READ_7B, continuous, read_points, sam_coordinates
from tests.segmaps.originals import ANSWER, QUESTION, SAM_SIDE, Parts, segment_anything_name, tiny_parts, write_original
from tests.segmaps.seghelpers import noise

PICTURE = noise(90, 60)


class Converted:
    """One original checkpoint, what went in, and the model that came out."""

    def __init__(self, folder: Path, architecture: str) -> None:
        self.linear = architecture == "LISAForCausalLM"
        self.parts: Parts = tiny_parts(self.linear, ("<im_patch>", "<im_start>", "<im_end>") if self.linear else ())
        self.source = write_original(folder, self.parts, architecture)
        self.clip = folder / "clip"
        self.out = convert(str(self.source), folder / "out", str(self.clip))
        self.loaded: LoadedModel = load(find(str(self.out)))
        self.asked: Asked = ask(self.loaded, QUESTION, PICTURE, answer=ANSWER)


@pytest.fixture(scope="module", params=["LISAForCausalLM", "READForCausalLM"])
def converted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    torch.set_num_threads(1)
    return Converted(tmp_path_factory.mktemp("original"), request.param)


def test_tokens_are_the_published_ones(converted: Converted):
    """Chunk by chunk around the picture, white space around added tokens dropped, as the authors' transformers did."""
    before, behind = converted.parts.chunks()
    ids = converted.asked.token_map.ids
    assert ids == (*before, *[ids[len(before)]] * 36, *behind)
    assert ids[len(before)] == len(converted.loaded.tokenizer) - 1, "<image> is the last token"
    seg = converted.parts.added["[SEG]"]
    assert converted.loaded.tokenizer.get_vocab()["[SEG]"] == seg
    assert seg - converted.parts.words.get_piece_size() == (3 if converted.linear else 0), (
        "32003 in LISA-7B, else 32000"
    )
    texts = converted.asked.token_map.texts
    assert " cat in this image. ASSISTANT: Sure,[SEG] ." in "".join(texts)
    assert find_word(converted.asked, "cat") < converted.asked.start
    kinds = {converted.asked.token_map.kinds[i] for i, token in enumerate(ids) if token == seg}
    assert kinds == {"text"} and converted.asked.answer.startswith("Sure,[SEG]")


def test_states_and_logits_are_those_of_the_parts(converted: Converted):
    states, logits, seg, start = converted.parts.states(PICTURE)
    assert converted.asked.segs == (seg,) and converted.asked.token_map.visual_positions[0] == start
    torch.testing.assert_close(converted.asked.trace.hidden(2), states, rtol=1e-4, atol=1e-5)
    with torch.inference_mode():
        found = converted.loaded.model(**converted.asked.encoded.inputs).logits[0]
    vocabulary = logits.shape[1]
    torch.testing.assert_close(found[:, :vocabulary], logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[:, vocabulary:], found[:, :1]), "<image> is as unlikely as <unk>"


def test_a_stock_llava_with_the_same_weights_agrees(converted: Converted):
    """``LlavaForConditionalGeneration`` filled by hand, with a byte that no text has for the picture's token."""
    if converted.linear:
        pytest.skip("a stock LLaVA has a connector of two layers")
    config = converted.loaded.model.config.to_dict() | {"image_token_index": 3}
    config["text_config"]["vocab_size"] -= 1
    stock = LlavaForConditionalGeneration(type(converted.loaded.model.config)(**config)).eval()
    parts = converted.parts
    stock.model.language_model.load_state_dict(parts.llama.model.state_dict())
    stock.lm_head.load_state_dict(parts.llama.lm_head.state_dict())
    stock.model.vision_tower.load_state_dict(parts.clip.state_dict())
    layers = {f"linear_{1 + int(k[0]) // 2}{k[1:]}": v for k, v in parts.projector.state_dict().items()}
    stock.model.multi_modal_projector.load_state_dict(layers)
    inputs = dict(converted.asked.encoded.inputs)
    image = converted.loaded.anatomy.image_token_id
    with torch.inference_mode():
        found = converted.loaded.model(**inputs).logits
        inputs["input_ids"] = torch.where(inputs["input_ids"] == image, 3, inputs["input_ids"])
        wanted = stock(**inputs).logits
    torch.testing.assert_close(found[..., :-1], wanted, rtol=1e-5, atol=1e-5)


def test_the_map_is_that_of_the_state_before_seg(converted: Converted):
    states, _, seg, start = converted.parts.states(PICTURE)
    token = seg_token(converted.loaded)
    assert token is not None and token.rule == "p-1"
    found = similarity_map(converted.asked.trace, seg_query(converted.asked))
    wanted = states[start : start + 36] @ states[seg - 1]
    np.testing.assert_allclose(found.at(2).reshape(-1), wanted.numpy(), rtol=1e-4)


def test_the_mask_is_that_of_the_parts(converted: Converted):
    states, _, seg, start = converted.parts.states(PICTURE)
    points = None
    if not converted.linear:
        boxes = converted.asked.token_map.grids[0].boxes
        values = (states[start : start + 36] @ states[seg - 1]).reshape(6, 6).double().numpy()
        chosen = continuous(read_points(values, (90, 60), READ_7B), values, boxes, (90, 60))
        assert {point.label for point in chosen} == {1, 0, -1}
        places = torch.tensor([[sam_coordinates(chosen, (90, 60), SAM_SIDE)]])
        points = places.float(), torch.tensor([[[point.label for point in chosen]]])
    wanted = converted.parts.mask_logits(states[seg - 1], PICTURE, points)
    head = open_head(converted.loaded)
    assert head is not None and head.sites() == ("hidden.2",)
    found = head.logits(converted.asked.trace, converted.asked.segs)
    np.testing.assert_allclose(found[0], wanted, rtol=1e-3, atol=1e-3)
    assert 0.02 < (wanted > 0).mean() < 0.98, "a mask that could differ"
    mapped = similarity_map(converted.asked.trace, seg_query(converted.asked))
    (raster,) = head_rasters(head, converted.asked.trace, mapped, converted.asked.segs)
    assert raster.mask.shape == (60, 90) and (raster.mask == (wanted > 0)).all()
    other = converted.parts.mask_logits(states[seg], PICTURE, points)
    assert not np.allclose(found[0], other, rtol=1e-2, atol=1e-2), "the state at p gives another"


def test_two_seg_have_a_mask_each(converted: Converted):
    asked = ask(converted.loaded, QUESTION, PICTURE, answer="Sure, [SEG] and [SEG].")
    head = open_head(converted.loaded)
    assert head is not None
    both = head.logits(asked.trace, asked.segs)
    assert both.shape == (2, 60, 90) and not np.allclose(both[0], both[1])
    np.testing.assert_allclose(head.logits(asked.trace, asked.segs[1:])[0], both[1], rtol=1e-4, atol=1e-5)
    words = ask(converted.loaded, QUESTION, PICTURE, answer="No.").encoded
    with pytest.raises(CapabilityMissing, match="no picture"):
        bare = type(asked.trace)(asked.trace.key, asked.trace.states, words.token_map, 2)
        head.logits(bare, asked.segs)


def test_a_picture_without_height_in_sams_input_is_told(converted: Converted):
    asked = ask(converted.loaded, QUESTION, noise(300, 2), answer=ANSWER)
    head = open_head(converted.loaded)
    assert head is not None
    with pytest.raises(CapabilityMissing, match="300 x 2 pixels"):
        head.logits(asked.trace, asked.segs)


def test_the_settings_of_the_real_sam_follow_from_its_shapes():
    """ViT-H without its weights, in segment-anything's names, as every LISA checkpoint has it."""
    vision = {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16}
    wanted = SamConfig(vision_config=vision | {"global_attn_indexes": [7, 15, 23, 31], "mlp_dim": 5120})
    with torch.device("meta"):
        state = SamModel(wanted).state_dict()
    shapes = {}
    for name, tensor in state.items():
        if name != "prompt_encoder.shared_embedding.positional_embedding":
            part, new = place(f"model.visual_model.{segment_anything_name(name)}") or ("", "")
            assert (part, new) == ("sam", name)
            shapes[new] = tuple(tensor.shape)
    found = sam_config(shapes)
    for part in ("vision_config", "prompt_encoder_config", "mask_decoder_config"):
        assert getattr(found, part).to_dict() == getattr(wanted, part).to_dict()


def test_tensors_keep_their_type_and_nothing_else_is_written(original: Path, tmp_path: Path):
    parts = tiny_parts(False)
    source = write_original(tmp_path / "half", parts, "LISAForCausalLM", torch.bfloat16)
    out = convert(str(source), tmp_path / "out", str(original / "clip"))
    for path in [*out.glob("model-0*.safetensors"), *(out / "mask_head").glob("*.safetensors")]:
        with safe_open(path, "pt") as file:
            assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"BF16"}  # noqa: SIM118
    assert not list(out.rglob("*.bin")) and not list(tmp_path.glob(".converting-*"))
    assert json.loads((out / "mask_head" / "settings.json").read_text()) == {"original": "LISA", "points": None}
    loaded = load(find(str(out)))
    head = open_head(loaded)
    asked = ask(loaded, QUESTION, PICTURE, answer=ANSWER)
    assert head is not None and head.logits(asked.trace, asked.segs).dtype == np.float32


def test_published_names_have_their_places():
    """Names as they stand in the published checkpoints."""
    known = {
        "lm_head.weight": ("model", "lm_head.weight"),
        "model.embed_tokens.weight": ("model", "model.language_model.embed_tokens.weight"),
        "model.layers.31.self_attn.q_proj.weight": ("model", "model.language_model.layers.31.self_attn.q_proj.weight"),
        "model.norm.weight": ("model", "model.language_model.norm.weight"),
        "model.mm_projector.0.weight": ("model", "model.multi_modal_projector.linear_1.weight"),
        "model.mm_projector.2.bias": ("model", "model.multi_modal_projector.linear_2.bias"),
        "model.mm_projector.weight": ("model", "model.multi_modal_projector.linear_1.weight"),
        "model.text_hidden_fcs.0.2.bias": ("text_hidden_fcs", "2.bias"),
        "model.visual_model.image_encoder.pos_embed": ("sam", "vision_encoder.pos_embed"),
        "model.visual_model.image_encoder.blocks.31.norm1.weight": (
            "sam",
            "vision_encoder.layers.31.layer_norm1.weight",
        ),
        "model.visual_model.image_encoder.blocks.7.attn.rel_pos_h": ("sam", "vision_encoder.layers.7.attn.rel_pos_h"),
        "model.visual_model.image_encoder.neck.3.bias": ("sam", "vision_encoder.neck.layer_norm2.bias"),
        "model.visual_model.mask_decoder.output_hypernetworks_mlps.3.layers.2.weight": (
            "sam",
            "mask_decoder.output_hypernetworks_mlps.3.proj_out.weight",
        ),
        "model.visual_model.mask_decoder.iou_prediction_head.layers.1.bias": (
            "sam",
            "mask_decoder.iou_prediction_head.layers.0.bias",
        ),
        "model.visual_model.mask_decoder.transformer.norm_final_attn.weight": (
            "sam",
            "mask_decoder.transformer.layer_norm_final_attn.weight",
        ),
        "model.visual_model.mask_decoder.transformer.layers.1.norm4.bias": (
            "sam",
            "mask_decoder.transformer.layers.1.layer_norm4.bias",
        ),
        "model.visual_model.prompt_encoder.mask_downscaling.6.weight": (
            "sam",
            "prompt_encoder.mask_embed.conv3.weight",
        ),
        "model.visual_model.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix": (
            "sam",
            "shared_image_embedding.positional_embedding",
        ),
    }
    assert {name: place(name) for name in known} == known
    assert place("model.layers.0.self_attn.rotary_emb.inv_freq") is None
    with pytest.raises(ConversionFailed, match=r"'model\.vision_tower\.x'"):
        place("model.vision_tower.x")
    assert len({name for name, *_ in NAMES}) == len(NAMES) and len({row.name for row in ORIGINALS}) == len(ORIGINALS)


def test_an_interrupted_conversion_goes_on_after_the_last_shard(original: Path, tmp_path: Path):
    def stop(done: float, total: float, message: str) -> None:
        if message.endswith("00003-of-00003.bin"):
            raise Cancelled("stopped")

    source, clip = original / "checkpoint", str(original / "clip")
    with pytest.raises(Cancelled):
        convert(str(source), tmp_path / "out", clip, stop)
    work = tmp_path / ".converting-out"
    first = work / "model-00001.safetensors"
    assert not (tmp_path / "out").exists() and len(list(work.glob("model-*.safetensors"))) == 2
    before = first.stat().st_mtime_ns
    seen: list[str] = []
    out = convert(str(source), tmp_path / "out", clip, lambda done, total, message: seen.append(message))
    assert (out / "model-00001.safetensors").stat().st_mtime_ns == before, "the first shard wasn't done again"
    whole = convert(str(source), tmp_path / "whole", clip)
    for path in sorted(whole.rglob("*.safetensors")):
        assert path.read_bytes() == (out / path.relative_to(whole)).read_bytes()
    assert seen[-1] == "Done"
    marked = (out / "config.json").stat().st_mtime_ns
    assert convert(str(source), out, clip) == out and (out / "config.json").stat().st_mtime_ns == marked


def test_an_original_by_itself_is_told_where_to_go(original: Path):
    with pytest.raises(ModelUnreadable, match="python -m lens convert"):
        load(find(str(original / "checkpoint")))


def test_what_is_left_of_another_checkpoint_is_no_start(original: Path, tmp_path: Path):
    work = tmp_path / ".converting-out"
    (work / "mask_head").mkdir(parents=True)
    (work / "model-00001.safetensors").write_bytes(b"old")
    (work / "conversion.json").write_text(json.dumps({"recipe": 0, "done": ["pytorch_model-00001-of-00003.bin"]}))
    out = convert(str(original / "checkpoint"), tmp_path / "out", str(original / "clip"))
    assert load(find(str(out))).anatomy.depth == 2
