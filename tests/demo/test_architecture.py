"""The tower computes the published network, and the wrapper adds nothing to the language model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from lens.demo import convert, provision
from lens.demo.architecture import LITE2_STAGES, EfficientNetLite, EfficientNetLiteConfig

# (kernel, stride) of EfficientNet-lite2's 21 blocks, written out by hand; the channels are those of the checkpoint.
BLOCKS = (
    [(3, 1)] + [(3, 2), (3, 1), (3, 1)] + [(5, 2), (5, 1), (5, 1)] + [(3, 2)] + [(3, 1)] * 3
    + [(5, 1)] * 4 + [(5, 2)] + [(5, 1)] * 4 + [(3, 1)]
)  # fmt: skip


def published_weights() -> dict[str, Tensor]:
    """A random checkpoint with the published names and shapes, and batch norms that matter."""
    generator = torch.Generator().manual_seed(3)
    made: dict[str, Tensor] = {}

    def conv(name: str, norm: str, outputs: int, inputs: int, kernel: int) -> None:
        fan = inputs * kernel * kernel
        made[f"{name}.weight"] = torch.randn(outputs, inputs, kernel, kernel, generator=generator) * (2 / fan) ** 0.5
        made[f"{norm}.weight"] = torch.rand(outputs, generator=generator) + 0.5
        made[f"{norm}.bias"] = torch.randn(outputs, generator=generator) * 0.5
        made[f"{norm}.running_mean"] = torch.randn(outputs, generator=generator) * 0.2
        made[f"{norm}.running_var"] = torch.rand(outputs, generator=generator) + 0.5

    conv("_conv_stem", "_bn0", 32, 3, 3)
    channels, index = 32, 0
    for repeats, kernel, _, expansion, outputs in LITE2_STAGES:
        for _ in range(repeats):
            block, wide = f"_blocks.{index}.", channels * expansion
            if expansion > 1:
                conv(f"{block}_expand_conv", f"{block}_bn0", wide, channels, 1)
            conv(f"{block}_depthwise_conv", f"{block}_bn1", wide, 1, kernel)
            conv(f"{block}_project_conv", f"{block}_bn2", outputs, wide, 1)
            channels, index = outputs, index + 1
    conv("_conv_head", "_bn1", 1280, channels, 1)
    return made | {"_fc.weight": torch.randn(1000, 1280, generator=generator), "_fc.bias": torch.zeros(1000)}


def reference(weights: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """The published network up to its last convolution, batch norms apart, in float64."""

    def layer(x: Tensor, conv: str, norm: str, stride: int = 1, depthwise: bool = False) -> Tensor:
        weight = weights[f"{conv}.weight"].double()
        kernel, size = weight.shape[-1], x.shape[-1]
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        x = functional.pad(x, [total // 2, total - total // 2] * 2)
        x = functional.conv2d(x, weight, stride=stride, groups=x.shape[1] if depthwise else 1)
        mean, var, gain, bias = (
            weights[f"{norm}.{k}"].double() for k in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.batch_norm(x, mean, var, gain, bias, eps=0.001)

    x = layer(pixels.double(), "_conv_stem", "_bn0", 2).clamp(0, 6)
    for index, (_, stride) in enumerate(BLOCKS):
        block, start = f"_blocks.{index}.", x
        if f"{block}_expand_conv.weight" in weights:
            x = layer(x, f"{block}_expand_conv", f"{block}_bn0").clamp(0, 6)
        x = layer(x, f"{block}_depthwise_conv", f"{block}_bn1", stride, depthwise=True).clamp(0, 6)
        x = layer(x, f"{block}_project_conv", f"{block}_bn2")
        x = x + start if x.shape == start.shape else x
    return layer(x, "_conv_head", "_bn1").clamp(0, 6)


def test_the_tower_is_the_published_network(tmp_path: Path) -> None:
    weights = published_weights()
    torch.save(weights, tmp_path / "published.pth")
    tensors, head, _ = convert.tower(tmp_path / "published.pth")
    tower = EfficientNetLite(EfficientNetLiteConfig()).eval()
    tower.load_state_dict(tensors)
    pixels = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = tower(pixels).last_hidden_state
    expected = reference(weights, pixels).flatten(2).transpose(1, 2)
    assert found.shape == expected.shape == (2, 9, 1280)
    assert len(tower.blocks) == len(BLOCKS)
    assert torch.equal(head, weights["_fc.weight"])
    assert 0.05 < (expected > 0).double().mean() < 0.95  # neither dead nor saturated, or nothing was compared
    torch.testing.assert_close(found.double(), expected, atol=2e-3, rtol=2e-3)


def test_cells_are_in_reading_order() -> None:
    tower = EfficientNetLite(EfficientNetLiteConfig(stages=[[1, 3, 2, 1, 8]] * 4))
    for name, weight in tower.named_parameters():
        torch.nn.init.constant_(weight, 0.0 if name.endswith("bias") else 0.1)
    pixels = torch.zeros(1, 3, 96, 128)
    pixels[:, :, 32:64, 96:128] = 1.0  # row 1, column 3 of 3 x 4 cells
    with torch.no_grad():
        change = (tower(pixels).last_hidden_state - tower(torch.zeros_like(pixels)).last_hidden_state).norm(dim=-1)[0]
    assert change.argmax() == 1 * 4 + 3


@pytest.mark.model
def test_text_logits_equal_the_plain_language_models(demo_home: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoTokenizer, LlamaForCausalLM

    folder = demo_home / "models" / "demo"
    whole = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    plain = LlamaForCausalLM(whole.config.text_config).eval()
    tensors = load_file(folder / provision.LANGUAGE)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    plain.load_state_dict({k.replace("model.language_model.", "model."): v for k, v in tensors.items()}, strict=False)
    words = AutoTokenizer.from_pretrained(folder)
    ids = words("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        logits = whole(input_ids=ids).logits
        assert torch.equal(logits, plain(input_ids=ids).logits)
    assert words.decode(logits[0, -1].argmax()).strip() == "Paris"
    assert logits.shape[-1] == 49152


@pytest.mark.model
def test_the_processor_shows_the_centre_square_scaled(demo_home: Path) -> None:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(demo_home / "models" / "demo")
    image = Image.new("RGB", (800, 400), (0, 0, 0))
    image.paste((255, 127, 0), (200, 0, 600, 400))
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "text", "text": "Hm?"}, {"type": "image"}]}], add_generation_prompt=True
    )
    assert text == "<|im_start|>user\n<image>\nHm?<|im_end|>\n<|im_start|>assistant\n"
    inputs = processor(images=image, text=text, return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 384, 384)
    inner = inputs["pixel_values"][0, :, 2:-2, 2:-2]
    expected = torch.tensor([1.0, 0.0, -127 / 128])[:, None, None].expand_as(inner)
    torch.testing.assert_close(inner, expected, atol=1e-5, rtol=0)
    ids = inputs["input_ids"][0].tolist()
    image_id = processor.tokenizer.convert_tokens_to_ids("<image>")
    assert image_id == 4 and ids.count(image_id) == 144
    first = ids.index(image_id)
    assert ids[first : first + 144] == [image_id] * 144
    assert processor.tokenizer.decode(ids[:first]) == "<|im_start|>user\n"


@pytest.mark.model
def test_only_the_spare_token_was_renamed(demo_home: Path) -> None:
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(demo_home / "models" / "demo")
    vocabulary = words.get_vocab()
    assert len(vocabulary) == 49152 and sorted(vocabulary.values()) == list(range(49152))
    assert "<reponame>" not in vocabulary
    kept = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<filename>"]
    assert words.convert_tokens_to_ids(kept) == [0, 1, 2, 6]
    assert words.decode(words("A cat sat.").input_ids) == "A cat sat."
