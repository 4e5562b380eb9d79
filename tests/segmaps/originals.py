"""Tiny checkpoints in the layout of LISA and READ, as their authors publish them, and the parts that went in.

:class:`Parts` also runs them the way the published code does: text split chunk by chunk around the picture, embeddings
joined by hand, the state before <SEG> through ``text_hidden_fcs`` into SAM.
"""

from __future__ import annotations

import io
import json
import re
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    SamConfig,
    SamImageProcessorPil,
    SamMaskDecoderConfig,
    SamModel,
    SamPromptEncoderConfig,
    SamVisionConfig,
)

from lens.backend.images import Picture
from tests.helpers import TEXT

SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
QUESTION = "Please segment the cat in this image."
ANSWER = "Sure, [SEG]."
WIDTH, SAM_WIDTH, SAM_SIDE = 32, 16, 64


@dataclass(frozen=True, eq=False)
class Parts:
    """What went into a checkpoint."""

    words: Any
    added: dict[str, int]
    llama: LlamaForCausalLM
    clip: CLIPVisionModel
    projector: nn.Module
    fcs: nn.Sequential
    sam: SamModel

    def ids(self, text: str) -> list[int]:
        """transformers 4.31's slow Llama tokenizer: pieces between added tokens are stripped and encoded by themselves."""
        found = []
        pieces = re.split("(" + "|".join(map(re.escape, self.added)) + ")", text)
        for i, piece in enumerate(pieces):
            if piece in self.added:
                found.append(self.added[piece])
                continue
            piece = piece.lstrip() if i else piece
            piece = piece.rstrip() if i < len(pieces) - 1 else piece
            found += self.words.encode(piece) if piece else []
        return found

    def chunks(self) -> tuple[list[int], list[int]]:
        """``tokenizer_image_token``: the conversation before the picture and behind it, up to the answer's end."""
        before = f"{SYSTEM} USER: <im_start>"
        behind = f"<im_end>\n{QUESTION} ASSISTANT: {ANSWER}"
        return [1, *self.ids(before)], self.ids(behind)

    def states(self, picture: Picture) -> tuple[Tensor, Tensor, int, int]:
        """States after the final norm, logits, where [SEG] stands, where the picture starts."""
        side = self.clip.config.image_size
        processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
        pixels = processor(picture.image, return_tensors="pt")["pixel_values"]
        before, behind = self.chunks()
        table = self.llama.model.embed_tokens
        with torch.no_grad():
            seen = self.clip(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
            embedded = torch.cat(
                [table(torch.tensor([before])), self.projector(seen), table(torch.tensor([behind]))], dim=1
            )
            output = self.llama(inputs_embeds=embedded, output_hidden_states=True)
        seg = len(before) + seen.shape[1] + behind.index(self.added["[SEG]"])
        return output.hidden_states[-1][0], output.logits[0], seg, len(before)

    def mask_logits(self, state: Tensor, picture: Picture, points: tuple[Tensor, Tensor] | None = None) -> np.ndarray:
        """``SamModel.forward`` with <SEG> behind what its prompt encoder makes of ``points``."""
        processor = SamImageProcessorPil(
            size={"longest_edge": SAM_SIDE}, pad_size={"height": SAM_SIDE, "width": SAM_SIDE}
        )
        inputs = processor(picture.image, return_tensors="pt")
        inner = self.sam.prompt_encoder.forward

        def with_seg(**prompts: Tensor) -> tuple[Tensor, Tensor]:
            sparse, dense = inner(**prompts)
            seg = self.fcs(state)[None, None, None]
            return (seg if sparse is None else torch.cat([sparse, seg], dim=2)), dense

        self.sam.prompt_encoder.forward = with_seg  # type: ignore[method-assign]
        given = {"input_points": points[0], "input_labels": points[1]} if points else {}
        with torch.no_grad():
            output = self.sam(pixel_values=inputs["pixel_values"], multimask_output=False, **given)
        del self.sam.prompt_encoder.forward
        sizes = inputs["original_sizes"], inputs["reshaped_input_sizes"]
        return processor.post_process_masks(output.pred_masks, *sizes, binarize=False)[0][0, 0].numpy()


def tiny_parts(linear: bool, first_added: tuple[str, ...] = (), seed: int = 0) -> Parts:
    """Parts with random weights; ``linear``: a connector of one layer; ``first_added``: tokens before [SEG]."""
    torch.manual_seed(seed)
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*TEXT.split("\n"), SYSTEM, QUESTION]), model_writer=buffer, vocab_size=420,
        model_type="bpe", byte_fallback=True, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, normalization_rule_name="identity",
        remove_extra_whitespaces=False, hard_vocab_limit=False, minloglevel=2, num_threads=1,
    )  # fmt: skip
    words = sentencepiece.SentencePieceProcessor(model_proto=buffer.getvalue())
    tokens = dict.fromkeys((*first_added, "[SEG]", "<im_start>", "<im_end>"))
    added = {token: words.get_piece_size() + i for i, token in enumerate(tokens)}
    text = LlamaConfig(
        vocab_size=words.get_piece_size() + len(added), hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=512, initializer_range=0.3, pad_token_id=0,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=24, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, image_size=48, patch_size=8,
        initializer_range=0.3,
    )  # fmt: skip
    layers = [nn.Linear(24, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH)]
    return Parts(
        words,
        added,
        LlamaForCausalLM(text).eval(),
        CLIPVisionModel(vision).eval(),
        layers[0] if linear else nn.Sequential(*layers),
        nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, SAM_WIDTH)),
        tiny_sam_h(),
    )


def tiny_sam_h() -> SamModel:
    """ViT-H in small: windowed and global blocks, a decoder of eight heads."""
    vision = SamVisionConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, image_size=SAM_SIDE, patch_size=8, mlp_ratio=2.0,
        output_channels=SAM_WIDTH, window_size=3, global_attn_indexes=[1], num_pos_feats=SAM_WIDTH // 2,
    )  # fmt: skip
    prompt = SamPromptEncoderConfig(hidden_size=SAM_WIDTH, image_size=SAM_SIDE, patch_size=8, mask_input_channels=4)
    decoder = SamMaskDecoderConfig(hidden_size=SAM_WIDTH, num_attention_heads=8, mlp_dim=24, iou_head_hidden_dim=12)
    parts = {"vision_config": vision, "prompt_encoder_config": prompt, "mask_decoder_config": decoder}
    return SamModel(SamConfig(**{k: v.to_dict() for k, v in parts.items()}, initializer_range=0.5)).eval()


def write_original(folder: Path, parts: Parts, architecture: str, dtype: torch.dtype = torch.float32) -> Path:
    """The checkpoint in ``folder/checkpoint`` and the tower in ``folder/clip``: pickled shards with an index, the settings
    and the tokenizer's files."""
    target = folder / "checkpoint"
    target.mkdir(parents=True)
    tensors = {name: tensor.to(dtype) for name, tensor in original_tensors(parts).items()}
    names = list(tensors)
    shards = [names[0::3], names[1::3], names[2::3]]  # every part in every shard
    where = {}
    for number, chosen in enumerate(shards, 1):
        file = f"pytorch_model-{number:05d}-of-00003.bin"
        torch.save(OrderedDict((name, tensors[name]) for name in chosen), target / file)
        where |= dict.fromkeys(chosen, file)
    _write(target / "pytorch_model.bin.index.json", {"metadata": {"total_size": 1}, "weight_map": where})
    _write(target / "config.json", original_config(parts, architecture))
    (target / "tokenizer.model").write_bytes(parts.words.serialized_model_proto())
    _write(target / "added_tokens.json", parts.added)
    _write(
        target / "special_tokens_map.json",
        {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>", "unk_token": "<unk>"},
    )
    _write(
        target / "tokenizer_config.json",
        {"tokenizer_class": "LlamaTokenizer", "model_max_length": 512, "legacy": None, "padding_side": "right"},
    )
    parts.clip.save_pretrained(folder / "clip")
    CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}).save_pretrained(
        folder / "clip"
    )
    return target


def original_config(parts: Parts, architecture: str) -> dict[str, Any]:
    """``config.json`` as LISA's is: a Llama's settings with LLaVA's and LISA's among them."""
    text = parts.llama.config
    return {
        "architectures": [architecture],
        "model_type": "llava",
        "hidden_act": "silu",
        "max_position_embeddings": 512,
        "rms_norm_eps": text.rms_norm_eps,
        "rope_scaling": None,
        "torch_dtype": "float32",
        "mm_hidden_size": 24,
        "mm_projector_type": "linear" if isinstance(parts.projector, nn.Linear) else "mlp2x_gelu",
        "mm_use_im_start_end": True,
        "mm_use_im_patch_token": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "openai/clip-vit-large-patch14",
        "out_dim": SAM_WIDTH,
        "train_mask_decoder": True,
        **{
            key: getattr(text, key)
            for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
        },
        **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "use_cache": False, "tie_word_embeddings": False},
    }


def original_tensors(parts: Parts) -> dict[str, Tensor]:
    """All tensors by their original names."""
    found = dict(parts.llama.state_dict())
    for i in range(parts.llama.config.num_hidden_layers):
        found[f"model.layers.{i}.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    found |= {f"model.mm_projector.{name}": tensor for name, tensor in parts.projector.state_dict().items()}
    found |= {f"model.text_hidden_fcs.0.{name}": tensor for name, tensor in parts.fcs.state_dict().items()}
    for name, tensor in parts.sam.state_dict().items():
        if name != "prompt_encoder.shared_embedding.positional_embedding":
            found[f"model.visual_model.{segment_anything_name(name)}"] = tensor
    return {name: tensor.detach().clone() for name, tensor in found.items()}


def segment_anything_name(name: str) -> str:
    """What segment-anything calls a tensor of ``SamModel``."""
    if name == "shared_image_embedding.positional_embedding":
        return "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
    root, rest = name.split(".", 1)
    if root == "vision_encoder":
        rest = rest.replace("neck.conv1", "neck.0").replace("neck.layer_norm1", "neck.1")
        rest = rest.replace("neck.conv2", "neck.2").replace("neck.layer_norm2", "neck.3")
        rest = re.sub(r"^layers\.", "blocks.", rest).replace("patch_embed.projection", "patch_embed.proj")
        return "image_encoder." + rest.replace("layer_norm", "norm")
    if root == "prompt_encoder":
        rest = re.sub(r"^point_embed\.", "point_embeddings.", rest)
        for new, old in {"conv1": 0, "layer_norm1": 1, "conv2": 3, "layer_norm2": 4, "conv3": 6}.items():
            rest = rest.replace(f"mask_embed.{new}", f"mask_downscaling.{old}")
        return "prompt_encoder." + rest
    for new, old in {"upscale_conv1": 0, "upscale_layer_norm": 1, "upscale_conv2": 3}.items():
        rest = rest.replace(new, f"output_upscaling.{old}")
    if rest.startswith(("output_hypernetworks_mlps", "iou_prediction_head")):
        rest = rest.replace("layers.0", "layers.1").replace("proj_in", "layers.0").replace("proj_out", "layers.2")
    return "mask_decoder." + rest.replace("layer_norm", "norm")


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
