"""What every sequence position is, and prompts that can't be used."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from PIL import Image

from lens.backend.answers import generate
from lens.backend.encoding import MAX_PROMPT_CHARS, PatchGrid, encode
from lens.backend.loading import LoadedModel
from lens.backend.tracing import trace
from lens.backend.typed import typed_states
from lens.errors import CapabilityMissing, ModelUnreadable, PatchOutsideGrid, PromptUnusable, QueryMissing
from lens.segmaps.asking import ask
from tests.backend.conftest import PROMPT, noise_picture, png_picture
from tests.helpers import tiny_gpt2, tiny_llama, tiny_llava, tiny_tokenizer


def test_kinds_and_texts_of_a_prompt_with_a_picture(seeing):
    token_map = seeing.encoded.token_map
    assert len(token_map) == len(token_map.kinds) == len(token_map.texts) == seeing.encoded.inputs["input_ids"].shape[1]
    assert token_map.kinds.count("image") == 36
    image_id = seeing.loaded.anatomy.image_token_id
    for token_id, kind, text in zip(token_map.ids, token_map.kinds, token_map.texts, strict=True):
        assert (kind == "image") == (token_id == image_id) == (text == "")
    assert "".join(token_map.texts) == f"user: {PROMPT}assistant: "
    assert token_map.image_size == (90, 60)
    assert token_map.ids == tuple(seeing.encoded.inputs["input_ids"][0].tolist())


def test_the_picture_comes_before_the_prompt_and_is_in_one_piece(seeing):
    visual = seeing.encoded.token_map.visual_positions
    assert np.array_equal(visual, np.arange(visual[0], visual[0] + 36))
    texts = seeing.encoded.token_map.texts
    assert PROMPT in "".join(texts[visual[-1] :])
    assert PROMPT not in "".join(texts[: visual[0]])


def test_the_grid_is_in_reading_order(seeing):
    (grid,) = seeing.encoded.token_map.grids
    assert (grid.rows, grid.cols) == (6, 6)
    assert np.array_equal(grid.positions.ravel(), seeing.encoded.token_map.visual_positions)
    assert grid.position(2, 3) == grid.positions[2, 3] == grid.positions[0, 0] + 15
    assert (np.diff(grid.boxes[:, :, 0], axis=1) > 0).all()
    assert (np.diff(grid.boxes[:, :, 1], axis=0) > 0).all()


def test_each_patch_reaches_its_own_position(seeing):
    """From pixels to sequence: the patch embedding of a painted cell changes, and it alone. No attention in between."""
    black = encode(seeing.loaded, PROMPT, png_picture(Image.new("RGB", (48, 48))))
    tower = seeing.loaded.anatomy.vision_tower
    embedding = next(m for name, m in tower.named_modules() if name.endswith("patch_embedding"))
    for row, col in ((0, 0), (2, 3), (5, 4)):
        picture = Image.new("RGB", (48, 48))
        picture.paste("white", (col * 8, row * 8, col * 8 + 8, row * 8 + 8))
        painted = encode(seeing.loaded, PROMPT, png_picture(picture))
        change = embedding(painted.inputs["pixel_values"]) - embedding(black.inputs["pixel_values"])
        touched = change[0].abs().sum(0).nonzero().tolist()
        assert touched == [[row, col]]
        grid = painted.token_map.grids[0]
        # The tower flattens its map row by row, and the connector's row i stands at the i-th visual position.
        assert grid.position(row, col) == painted.token_map.visual_positions[row * 6 + col]


def test_a_text_model_has_no_image_positions(llama: LoadedModel):
    encoded = encode(llama, "A cat")
    assert set(encoded.token_map.kinds) == {"text"}
    assert "".join(encoded.token_map.texts) == "A cat"
    assert encoded.token_map.visual_positions.tolist() == []
    assert (encoded.token_map.grids, encoded.token_map.image_size, encoded.picture) == ((), None, None)


def test_a_seeing_model_takes_a_prompt_alone(llava: LoadedModel):
    encoded = encode(llava, PROMPT)
    assert "".join(encoded.token_map.texts) == f"user: {PROMPT}assistant: "
    assert "pixel_values" not in encoded.inputs


def test_control_tokens_are_special(tmp_path):
    loaded = tiny_llama(tmp_path, bos=True)
    encoded = encode(loaded, "A cat")
    assert encoded.token_map.kinds == ("special", *["text"] * (len(encoded.token_map) - 1))
    assert encoded.token_map.texts[0] == "<s>"


def test_one_bos_where_the_template_writes_it_and_the_tokenizer_too(tmp_path):
    """As ``apply_chat_template(tokenize=True)`` has it, with a picture and without."""
    loaded = tiny_llava(tmp_path)
    bos = tiny_tokenizer(bos=True)
    loaded.processor.tokenizer._tokenizer.post_processor = bos._tokenizer.post_processor
    plain = loaded.processor.chat_template
    for holder in (loaded.processor, loaded.processor.tokenizer):
        holder.chat_template = "<s>" + plain
    for picture in (None, noise_picture(48, 48)):
        assert encode(loaded, PROMPT, picture).token_map.ids.count(1) == 1
    loaded.processor.chat_template = plain
    assert encode(loaded, PROMPT, noise_picture(48, 48)).token_map.ids.count(1) == 1


def test_with_a_picture_the_ids_are_those_of_the_processors_own_chat(seeing):
    turn = [
        {
            "role": "user",
            "content": [{"type": "image", "image": seeing.encoded.picture.image}, {"type": "text", "text": PROMPT}],
        }
    ]
    own = seeing.loaded.processor.apply_chat_template(
        turn, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert torch.equal(own["input_ids"], seeing.encoded.inputs["input_ids"])
    assert torch.equal(own["pixel_values"], seeing.encoded.inputs["pixel_values"])


def test_without_a_template_picture_and_prompt_are_on_lines_of_their_own(tmp_path):
    loaded = tiny_llava(tmp_path, chat=False)
    encoded = encode(loaded, PROMPT, noise_picture(48, 48))
    assert encoded.token_map.kinds[:36] == ("image",) * 36
    assert "".join(encoded.token_map.texts) == f"\n{PROMPT}"


@pytest.mark.parametrize("prompt", ["", " ", "\n\t \u3000"])
def test_an_empty_prompt_is_refused(seeing, prompt: str):
    with pytest.raises(PromptUnusable, match="empty"):
        encode(seeing.loaded, prompt, seeing.encoded.picture)


@pytest.mark.parametrize("letters", ["word ", "a", "\U0001f98a", " ", "<image>"])
@pytest.mark.parametrize("length", [MAX_PROMPT_CHARS + 1, 1_000_000])
def test_a_prompt_of_a_million_characters_is_refused_before_it_is_read(seeing, letters: str, length: int):
    prompt = (letters * length)[:length]
    started = time.process_time()
    with pytest.raises(PromptUnusable, match=rf"has {length:,} characters, but at most {MAX_PROMPT_CHARS:,} are read"):
        encode(seeing.loaded, prompt, seeing.encoded.picture)
    assert time.process_time() - started < 0.1


@pytest.mark.parametrize("letters", ["word ", "\U0001f98a"])
def test_words_and_answers_of_a_million_characters_are_refused_before_they_are_read(seeing, letters: str):
    typed = (letters * 1_000_000)[:1_000_000]
    started = time.process_time()
    with pytest.raises(QueryMissing, match="is no word of one to some tokens"):
        typed_states(seeing.loaded, ["cat", typed], [1])
    with pytest.raises(PromptUnusable, match="The answer has 1,000,000 characters, but at most"):
        ask(seeing.loaded, PROMPT, seeing.encoded.picture, answer=typed)
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize("letters", ["word ", "a", "\U0001f98a"])
def test_the_longest_prompt_that_is_looked_at_is_refused_quickly(seeing, letters: str):
    started = time.process_time()
    with pytest.raises(PromptUnusable, match=r"has [\d,]+ tokens, but at most 512 are read; shorten it"):
        encode(seeing.loaded, (letters * MAX_PROMPT_CHARS)[:MAX_PROMPT_CHARS], seeing.encoded.picture)
    assert time.process_time() - started < 1


@pytest.mark.parametrize("prompt", ["<image>", "What is <image>?", "a<image>b"])
def test_the_placeholder_in_a_prompt_is_refused(seeing, prompt: str):
    for picture in (None, seeing.encoded.picture):
        with pytest.raises(PromptUnusable, match="<image>"):
            encode(seeing.loaded, prompt, picture)


def test_bytes_that_are_no_text_are_refused(case):
    """Python hands on a command line's stray bytes as lone surrogates."""
    with pytest.raises(PromptUnusable, match="UTF-8"):
        encode(case.loaded, "what\udcff", case.encoded.picture)


@pytest.mark.parametrize("prompt", ["\U0001f98a\U0001f3f3️‍\U0001f308", "\x00\x07", "日本語？", "é́́"])
def test_unusual_prompts_work(case, prompt: str):
    encoded = encode(case.loaded, prompt, case.encoded.picture)
    assert torch.isfinite(trace(case.loaded, encoded, ["logits"]).site("logits")).all()
    generate(case.loaded, encoded, 2)


def test_markup_stays_plain_text(case):
    prompt = "<script>alert('1')</script> & <b>"
    encoded = encode(case.loaded, prompt, case.encoded.picture)
    assert prompt in "".join(encoded.token_map.texts)
    assert encoded.prompt == prompt


def test_what_the_template_adds_counts_towards_the_context(llava: LoadedModel):
    """500 tokens fit into a context of 512, but not with 36 visual tokens beside them."""
    prompt = "," * 500
    assert len(llava.tokenizer(prompt)["input_ids"]) == 500
    with pytest.raises(PromptUnusable, match="context has 512"):
        encode(llava, prompt, noise_picture(48, 48))


def test_the_longest_prompt_still_runs(tmp_path):
    """Learned positions raise an IndexError one token later."""
    loaded = tiny_gpt2(tmp_path)
    encoded = encode(loaded, "," * 512)
    assert len(trace(loaded, encoded, ["logits"]).site("logits")) == 512
    assert generate(loaded, encoded).ids == ()
    with pytest.raises(PromptUnusable, match="513 tokens"):
        encode(loaded, "," * 513)


def test_a_picture_for_a_text_model_is_refused(llama: LoadedModel):
    with pytest.raises(CapabilityMissing, match="text-only"):
        encode(llama, PROMPT, noise_picture(48, 48))


def test_a_processor_that_places_other_tokens_than_its_geometry_is_refused(tmp_path):
    loaded = tiny_llava(tmp_path)
    loaded.processor.num_additional_image_tokens = 2
    with pytest.raises(ModelUnreadable, match="37 visual tokens where its geometry gives 6 x 6"):
        encode(loaded, PROMPT, noise_picture(48, 48))


def test_the_key_names_the_content(seeing, llama: LoadedModel, tmp_path):
    loaded, picture = seeing.loaded, seeing.encoded.picture
    same = encode(loaded, PROMPT, noise_picture(90, 60))
    assert same.key == seeing.encoded.key
    other_processor = tiny_llava(tmp_path / "resized", size={"height": 48, "width": 48}, do_center_crop=False)
    plain = tiny_llava(tmp_path / "plain")
    assert other_processor.fingerprint == plain.fingerprint
    keys = [
        seeing.encoded.key,
        encode(loaded, PROMPT + " ", picture).key,
        encode(loaded, PROMPT, noise_picture(90, 60, seed=1)).key,
        encode(loaded, PROMPT).key,
        encode(llama, PROMPT).key,
        encode(tiny_llava(tmp_path / "other", seed=1), PROMPT, picture).key,
        encode(other_processor, PROMPT, picture).key,
    ]
    assert len(set(keys)) == len(keys)


GRID = PatchGrid(np.arange(10, 22).reshape(3, 4), np.zeros((3, 4, 4)))


@pytest.mark.parametrize("patch", [(-1, 0), (0, -1), (3, 0), (0, 4), (10**9, 0)])
def test_patches_outside_the_grid_are_refused(patch):
    with pytest.raises(PatchOutsideGrid, match=f"Patch {patch[0]},{patch[1]} .*rows 0 to 2 and columns 0 to 3"):
        GRID.position(*patch)


def test_regions():
    assert GRID.region(1, 1, 2, 2) == ((1, 1), (1, 2), (2, 1), (2, 2))
    assert GRID.region(2, 3, 2, 3) == ((2, 3),)
    assert len(GRID.region(0, 0, 2, 3)) == 12
    for region in ((0, 0, 3, 0), (-1, 0, 1, 1), (0, 0, 0, 4)):
        with pytest.raises(PatchOutsideGrid, match="Patch"):
            GRID.region(*region)
    for region in ((2, 0, 1, 3), (0, 2, 2, 1)):
        with pytest.raises(PatchOutsideGrid, match="ends before it starts"):
            GRID.region(*region)
