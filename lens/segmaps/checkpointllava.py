"""The original LLaVA layout → ``LlavaForConditionalGeneration``, with SAM and the projection of <SEG> in ``mask_head``.

The CLIP tower, which such a checkpoint doesn't store, is joined from a folder or the hub. Added are one row for ``<image>``
to the embedding and unembedding tables, a copy of ``<unk>``'s, and the identity behind a connector of one layer. What is
called what: :mod:`lens.segmaps.checkpointlayout`; the mask head: :mod:`lens.segmaps.samhead`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionModel,
    GenerationConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    SamImageProcessorPil,
    SamModel,
    SamProcessor,
)

from lens.errors import ConversionFailed
from lens.segmaps import checkpointlayout as layout
from lens.segmaps.checkpointfiles import Checkpoint, check_complete, save, shapes_in, short, write_index
from lens.segmaps.checkpointtokens import read_tokenizer
from lens.segmaps.samhead import HEAD, PROJECTION_FILE, write_settings

TABLES = ("lm_head.weight", "model.language_model.embed_tokens.weight")
CONNECTOR = "model.multi_modal_projector."
FILES = {
    layout.MODEL: "model-{:05d}.safetensors",
    layout.SAM: HEAD + "/model-{:05d}.safetensors",
    layout.PROJECTION: HEAD + "/" + PROJECTION_FILE.format("{:05d}"),
}
"""Where a shard's tensors go, by their part."""


@dataclass(frozen=True, eq=False)
class Tower:
    """The CLIP tower and how it wants its pictures."""

    model: Any
    processor: Any


class LlavaLayout:
    """One checkpoint with its tower and its tokenizer; a :class:`lens.segmaps.checkpoints.Layout`."""

    def __init__(self, checkpoint: Checkpoint, vision: str | None) -> None:
        """Raises ConversionFailed where tower or tokenizer don't fit."""
        config = checkpoint.config
        self.checkpoint = checkpoint
        self.words = read_tokenizer(checkpoint.folder)
        self.image_token = self.words.get_vocab()[layout.IMAGE]
        if self.image_token > config.get("vocab_size", 0):
            raise ConversionFailed(
                f"The tokenizer in {checkpoint.folder} has {self.image_token:,} tokens, but the settings tell of "
                f"{config.get('vocab_size')}; fetch the checkpoint again."
            )
        self.vision = vision or str(config.get("mm_vision_tower") or config.get("vision_tower") or "")
        self.tower = open_tower(self.vision, config)

    def placed(self, name: str, tensor: Tensor) -> Iterator[tuple[str, str, Tensor]]:
        """Every tensor goes to one place."""
        found = layout.place(name)
        if found:
            part, new = found
            yield FILES[part], new, _with_image_row(tensor, self.image_token) if new in TABLES else tensor

    def finish(self, work: Path) -> None:
        """Tower, settings, tokenizer, processors, the mask head."""
        shapes = shapes_in(work)
        rows = shapes.get(TABLES[1], (0,))[0]
        config = layout.llava_config(self.checkpoint.config, self.tower.model.config, rows, self.image_token)
        width = int(self.checkpoint.config["hidden_size"])
        extra = {f"model.vision_tower.{name}": tensor for name, tensor in self.tower.model.state_dict().items()}
        if f"{CONNECTOR}linear_2.weight" not in shapes and config.projector_hidden_act == "linear":
            extra[f"{CONNECTOR}linear_2.weight"] = torch.eye(width)
            extra[f"{CONNECTOR}linear_2.bias"] = torch.zeros(width)
        save({name: tensor.contiguous() for name, tensor in extra.items()}, work / "model-joined.safetensors")
        write_index(work)
        with torch.device("meta"):
            check_complete(LlavaForConditionalGeneration(config).state_dict(), shapes_in(work))
        config.save_pretrained(work)
        words = self.words
        GenerationConfig(
            bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id
        ).save_pretrained(work)
        LlavaProcessor(
            image_processor=self.tower.processor,
            tokenizer=words,
            patch_size=self.tower.model.config.patch_size,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
            num_additional_image_tokens=1,
            image_token=layout.IMAGE,
            chat_template=layout.chat_template(bool(self.checkpoint.config.get("mm_use_im_start_end", False))),
        ).save_pretrained(work)
        _finish_head(self.checkpoint, width, work / HEAD)


def open_tower(source: str, config: Mapping[str, Any]) -> Tower:
    """The CLIP tower, whose width must be what the checkpoint's connector takes."""
    reader: Any = CLIPVisionModel.from_pretrained
    try:
        model, info = reader(source, weights_only=True, output_loading_info=True)
        if info["missing_keys"]:
            raise OSError(f"no weights for {sorted(info['missing_keys'])[0]}")
    except Exception as error:  # the hub, configurations and both weight formats each raise their own kinds
        raise ConversionFailed(
            f"The vision tower {source[:120]!r} can't be read ({short(error)}); give a folder or hub id of a CLIP model "
            "with --vision."
        ) from error
    wanted = config.get("mm_hidden_size", model.config.hidden_size)
    if model.config.hidden_size != wanted:
        raise ConversionFailed(
            f"The vision tower {source!r} is {model.config.hidden_size} wide, but the checkpoint was trained with one of "
            f"{wanted}; give that one with --vision."
        )
    try:
        processor = CLIPImageProcessorPil.from_pretrained(source)
    except OSError:  # a bare tower: CLIP's own scaling at its size
        side = model.config.image_size
        processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    return Tower(model, processor)


def _with_image_row(table: Tensor, image_token: int) -> Tensor:
    """The table with rows up to ``<image>``'s: copies of the first, ``<unk>``'s, which the model never says."""
    return torch.cat([table, table[:1].expand(max(0, image_token + 1 - len(table)), -1)])


def _finish_head(checkpoint: Checkpoint, width: int, folder: Path) -> None:
    shapes = shapes_in(folder)
    try:
        sam = layout.sam_config(shapes)
    except KeyError as error:
        raise ConversionFailed(
            f"No shard holds SAM's {error}, so that the checkpoint is incomplete; fetch it again."
        ) from error
    write_index(folder)
    tied = "prompt_encoder.shared_embedding.positional_embedding"  # the same as shared_image_embedding's
    with torch.device("meta"):
        check_complete({k: v for k, v in SamModel(sam).state_dict().items() if k != tied}, shapes)
    projected = shapes_in(folder, PROJECTION_FILE.format("*"))
    narrow = shapes["mask_decoder.iou_token.weight"][1]
    wanted = {"0.weight": (width, width), "0.bias": (width,), "2.weight": (narrow, width), "2.bias": (narrow,)}
    check_complete({name: torch.empty(shape, device="meta") for name, shape in wanted.items()}, projected)
    sam.save_pretrained(folder)
    vision: Any = sam.vision_config
    side = vision.image_size
    pictures = SamImageProcessorPil(
        size={"longest_edge": side}, pad_size={"height": side, "width": side}, mask_size={"longest_edge": side // 4}
    )
    SamProcessor(pictures).save_pretrained(folder)
    points = checkpoint.row.points
    write_settings(folder, checkpoint.row.name, asdict(points) if points else None)
