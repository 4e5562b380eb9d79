"""Sa2VA's own layout, on a tiny checkpoint whose encoder the test computes by itself from the published names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from transformers import Qwen2Config, Qwen2ForCausalLM

from lens.backend.catalog import find
from lens.backend.images import Picture
from lens.backend.loading import LoadedModel, load
from lens.errors import ConversionFailed, ModelUnreadable
from lens.segmaps.asking import ask, question, seg_query, seg_token
from lens.segmaps.checkpoints import convert
from lens.segmaps.maps import similarity_map
from lens.segmaps.masks import open_head
from tests.helpers import tiny_tokenizer
from tests.segmaps.seghelpers import noise

PICTURE = noise(90, 60)
WIDTH, DEEP, HEADS, SIDE, PATCH = 24, 32, 3, 32, 4
"""8 x 8 patches, 4 x 4 visual tokens."""
MARK = "executed.txt"


def tiny_words() -> Any:
    words = tiny_tokenizer()
    words.add_tokens(["<|im_start|>", "<|im_end|>", "<IMG_CONTEXT>", "<img>", "</img>"], special_tokens=True)
    words.add_tokens(["[SEG]"])
    return words


def tiny_sa2va(folder: Path) -> dict[str, Tensor]:
    """Write a checkpoint in two shards, with Python files that tell when they are run; its tensors."""
    torch.manual_seed(0)
    words = tiny_words()
    text = Qwen2Config(
        vocab_size=len(words), hidden_size=DEEP, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.3, tie_word_embeddings=False,
    )  # fmt: skip
    tensors = {f"language_model.{k}": v.clone() for k, v in Qwen2ForCausalLM(text).state_dict().items()}
    shapes = {
        "embeddings.class_embedding": (1, 1, WIDTH),
        "embeddings.position_embedding": (1, (SIDE // PATCH) ** 2 + 1, WIDTH),
        "embeddings.patch_embedding.weight": (WIDTH, 3, PATCH, PATCH),
        "embeddings.patch_embedding.bias": (WIDTH,),
    }
    for i in range(2):
        for name, shape in {
            "attn.qkv.weight": (3 * WIDTH, WIDTH), "attn.qkv.bias": (3 * WIDTH,), "attn.proj.weight": (WIDTH, WIDTH),
            "attn.proj.bias": (WIDTH,), "norm1.weight": (WIDTH,), "norm1.bias": (WIDTH,), "norm2.weight": (WIDTH,),
            "norm2.bias": (WIDTH,), "mlp.fc1.weight": (40, WIDTH), "mlp.fc1.bias": (40,), "mlp.fc2.weight": (WIDTH, 40),
            "mlp.fc2.bias": (WIDTH,), "ls1": (WIDTH,), "ls2": (WIDTH,),
        }.items():  # fmt: skip
            shapes[f"encoder.layers.{i}.{name}"] = shape
    tensors |= {f"vision_model.{name}": torch.randn(shape) * 0.3 for name, shape in shapes.items()}
    joined = {"0.weight": (4 * WIDTH,), "0.bias": (4 * WIDTH,), "1.weight": (DEEP, 4 * WIDTH), "1.bias": (DEEP,)}
    joined |= {"3.weight": (DEEP, DEEP), "3.bias": (DEEP,)}
    tensors |= {f"mlp1.{name}": torch.randn(shape) * 0.3 for name, shape in joined.items()}
    tensors |= {"text_hidden_fcs.0.weight": torch.ones(2, 2), "grounding_encoder.sam2_model.x.weight": torch.ones(3)}
    names = list(tensors)
    where = {}
    for number, chosen in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: tensors[name].contiguous() for name in chosen}, folder / file, {"format": "pt"})
        where |= dict.fromkeys(chosen, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    words.save_pretrained(folder)
    vision = {"hidden_size": WIDTH, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": HEADS}
    vision |= {
        "image_size": SIDE,
        "patch_size": PATCH,
        "norm_type": "layer_norm",
        "qkv_bias": True,
        "hidden_act": "gelu",
    }
    vision |= {"layer_norm_eps": 1e-6, "qk_normalization": False, "architectures": ["InternVisionModel"]}
    config = {
        "architectures": ["Sa2VAChatModel"],
        "auto_map": {
            "AutoConfig": "configuration_sa2va_chat.Sa2VAChatConfig",
            "AutoModel": "modeling_sa2va_chat.Sa2VAChatModel",
            "AutoModelForCausalLM": "modeling_sa2va_chat.Sa2VAChatModel",
        },
        "model_type": "sa2va_chat",
        "llm_config": text.to_dict() | {"architectures": ["Qwen2ForCausalLM"]},
        "vision_config": vision,
        "downsample_ratio": 0.5,
        "force_image_size": SIDE,
        "ps_version": "v2",
        "select_layer": -1,
        "template": "qwen_chat",
    }
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("configuration_sa2va_chat.py", "modeling_sa2va_chat.py"):
        (folder / name).write_text(f"open({str(folder / MARK)!r}, 'w').write('run')\n")
    return tensors


def visual_tokens(tensors: dict[str, Tensor], picture: Picture) -> Tensor:
    """InternViT, its pixel shuffle and the connector, [16, d], as the published names and shapes have it."""
    t = {name.removeprefix("vision_model."): tensor for name, tensor in tensors.items()}
    image = picture.image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1)
    pixels = (pixels - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    cells = functional.conv2d(
        pixels[None], t["embeddings.patch_embedding.weight"], t["embeddings.patch_embedding.bias"], stride=PATCH
    )
    x = torch.cat([t["embeddings.class_embedding"], cells.flatten(2).transpose(1, 2)], 1)
    x = x + t["embeddings.position_embedding"]
    for i in range(2):
        b = {name.removeprefix(f"encoder.layers.{i}."): tensor for name, tensor in t.items()}
        normal = functional.layer_norm(x, (WIDTH,), b["norm1.weight"], b["norm1.bias"], 1e-6)
        joint = functional.linear(normal, b["attn.qkv.weight"], b["attn.qkv.bias"])
        q, k, v = (part.unflatten(2, (HEADS, -1)).transpose(1, 2) for part in joint.chunk(3, dim=-1))
        seen = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + b["ls1"] * functional.linear(seen, b["attn.proj.weight"], b["attn.proj.bias"])
        normal = functional.layer_norm(x, (WIDTH,), b["norm2.weight"], b["norm2.bias"], 1e-6)
        inner = functional.gelu(functional.linear(normal, b["mlp.fc1.weight"], b["mlp.fc1.bias"]))
        x = x + b["ls2"] * functional.linear(inner, b["mlp.fc2.weight"], b["mlp.fc2.bias"])
    grid = x[0, 1:].unflatten(0, (8, 8))
    blocks = torch.stack([grid[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten() for i in range(4) for j in range(4)])
    normal = functional.layer_norm(blocks, (4 * WIDTH,), t["mlp1.0.weight"], t["mlp1.0.bias"])
    inner = functional.gelu(functional.linear(normal, t["mlp1.1.weight"], t["mlp1.1.bias"]))
    return functional.linear(inner, t["mlp1.3.weight"], t["mlp1.3.bias"])


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("sa2va")
    tiny_sa2va(folder)
    return folder


@pytest.fixture(scope="module")
def converted(source: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load(find(str(convert(str(source), tmp_path_factory.mktemp("out") / "sa2va"))))


def test_states_and_map_are_those_of_the_parts(source: Path, converted: LoadedModel):
    tensors = {k: v for path in source.glob("*.safetensors") for k, v in load_file(path).items()}
    prompt = question(converted, "cat")
    asked = ask(converted, prompt, PICTURE, answer="Sure, it is [SEG].")
    words = converted.tokenizer
    seen = f"<img>{'<IMG_CONTEXT>' * 16}</img>"
    text = f"<|im_start|>user\n{seen}{prompt}<|im_end|>\n<|im_start|>assistant\nSure, it is [SEG]."
    ids = words(text, add_special_tokens=False)["input_ids"]
    assert list(asked.token_map.ids) == ids and prompt == "Please segment the cat in this image."
    llama = Qwen2ForCausalLM(Qwen2Config(**json.loads((source / "config.json").read_text())["llm_config"])).eval()
    prefix = "language_model."
    llama.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    embedded = llama.model.embed_tokens(torch.tensor([ids])).detach()
    places = [i for i, token in enumerate(ids) if token == words.get_vocab()["<IMG_CONTEXT>"]]
    embedded[0, places] = visual_tokens(tensors, PICTURE)
    with torch.no_grad():
        output = llama(inputs_embeds=embedded, output_hidden_states=True)
    for layer, states in enumerate(output.hidden_states):
        torch.testing.assert_close(asked.trace.hidden(layer), states[0], rtol=1e-3, atol=1e-4)
    with torch.inference_mode():
        logits = converted.model(**asked.encoded.inputs).logits
    torch.testing.assert_close(logits, output.logits, rtol=1e-3, atol=1e-3)
    token = seg_token(converted)
    assert token is not None and token.rule == "p", "Sa2VA reads the token itself"
    last = output.hidden_states[-1][0]
    found = similarity_map(asked.trace, seg_query(asked)).at(2)
    np.testing.assert_allclose(found.reshape(-1), (last[places] @ last[asked.segs[0]]).numpy(), rtol=1e-3, atol=1e-3)


def test_every_patch_lies_on_the_whole_picture(converted: LoadedModel):
    grid = ask(converted, "What?", PICTURE, answer="[SEG]").token_map.grids[0]
    np.testing.assert_allclose(grid.boxes[0, 0], [0, 0, 22.5, 15])
    np.testing.assert_allclose(grid.boxes[3, 3], [67.5, 45, 90, 60])
    assert converted.anatomy.family.name == "InternVL" and len(converted.anatomy.vision_blocks) == 2
    assert open_head(converted) is None, "SAM 2 isn't converted"


def test_the_authors_code_is_never_run(source: Path, converted: LoadedModel):
    assert converted.model.config.model_type == "internvl"
    with pytest.raises(ModelUnreadable, match=r"code of its authors.*trust_remote_code = true"):
        load(find(str(source)))
    assert not (source / MARK).exists()


DAMAGE = {
    "another language model": (
        {"llm_config": {"architectures": ["InternLM2ForCausalLM"]}},
        "language model is 'InternLM2",
    ),
    "another template": ({"template": "vicuna"}, "template is 'vicuna', but only qwen_chat"),
    "an older shuffle": ({"ps_version": "v1"}, "pixel shuffle is 'v1'"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_other_kinds_are_refused(source: Path, tmp_path: Path, damage: str):
    folder = shutil.copytree(source, tmp_path / "copy")
    changes, sentence = DAMAGE[damage]
    content = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(ConversionFailed, match=sentence):
        convert(str(folder), tmp_path / "out")
    with pytest.raises(ConversionFailed, match="tower of its own"):
        convert(str(source), tmp_path / "out", "some/tower")
    assert not (tmp_path / "out").exists()


def test_a_tensor_too_many_or_too_few_is_told(source: Path, tmp_path: Path):
    for change, sentence in (("drop", "No shard holds .*lambda_1"), ("add", "'vision_model.extra'")):
        folder = shutil.copytree(source, tmp_path / change)
        for path in folder.glob("*.safetensors"):
            tensors = load_file(path)
            if tensors.pop("vision_model.encoder.layers.0.ls1", None) is None:
                continue
            if change == "add":
                tensors["vision_model.extra"] = torch.ones(2)
            save_file(tensors, path)
        with pytest.raises(ConversionFailed, match=sentence):
            convert(str(folder), tmp_path / "out")
