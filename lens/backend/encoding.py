"""Image + prompt → model inputs and a :class:`TokenMap`, which knows what every sequence position is.

The prompt is put into the model's chat template where it has one, exactly as its processor does it; the picture goes
before the prompt.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from lens.backend.geometry import trim
from lens.backend.images import Picture
from lens.backend.loading import LoadedModel
from lens.backend.running import brief, quoting
from lens.backend.templating import placeholder, plain, templated
from lens.backend.views import RULES, Processed
from lens.backend.vocabulary import check_ids
from lens.errors import CapabilityMissing, ModelFailed, PatchOutsideGrid, PromptUnusable

DEFAULT_PROMPT = "Describe the image."
"""What the model is asked where nobody typed anything else, in the app and on the command line."""

MAX_PROMPT_TOKENS = 1024
"""Longest prompt that is read. A trace keeps every layer of every position: 1,024 positions are 73 MB for the offline
model and 540 MB for a 7B model in bfloat16."""


MAX_PROMPT_CHARS = 1 << 15
"""Longest prompt that is looked at: 32 characters for each of :data:`MAX_PROMPT_TOKENS`, where plain text has four or five,
and tokenized in some hundredths of a second."""


@dataclass(frozen=True, eq=False)
class PatchGrid:
    """One view of the picture as visual tokens, in reading order.

    Attributes:
        positions: the sequence position of each patch.
        boxes: the pixels of the original picture that each patch covers (x0, y0, x1, y1), see
            :mod:`lens.backend.geometry`.
    """

    positions: Int[np.ndarray, "rows cols"]
    boxes: Float[np.ndarray, "rows cols 4"]

    @property
    def rows(self) -> int:
        return self.positions.shape[0]

    @property
    def cols(self) -> int:
        return self.positions.shape[1]

    def position(self, row: int, col: int) -> int:
        """The sequence position of one patch; :class:`PatchOutsideGrid` when there is no such patch."""
        if not (0 <= row < self.rows and 0 <= col < self.cols):
            raise PatchOutsideGrid(
                f"Patch {row},{col} was asked for, but the grid has rows 0 to {self.rows - 1} and columns 0 to "
                f"{self.cols - 1}; choose a patch inside it."
            )
        return int(self.positions[row, col])

    def region(self, row0: int, col0: int, row1: int, col1: int) -> tuple[tuple[int, int], ...]:
        """The patches of a rectangle, both corners included, in reading order."""
        for row, col in ((row0, col0), (row1, col1)):
            self.position(row, col)
        if row1 < row0 or col1 < col0:
            raise PatchOutsideGrid(
                f"The region {row0},{col0},{row1},{col1} ends before it starts; give the upper left patch first."
            )
        return tuple((r, c) for r in range(row0, row1 + 1) for c in range(col0, col1 + 1))


@dataclass(frozen=True, eq=False)
class TokenMap:
    """What every sequence position is.

    Attributes:
        ids: token ids as the model gets them (at visual positions: the placeholder's).
        kinds: ``"image"``, ``"special"`` (template and control tokens of the tokenizer, learned line breaks between rows
            of patches) or ``"text"``.
        texts: each token as text; empty at visual positions.
        grids: the patch grids of the picture, coarse view first; empty without a picture, and where visual tokens are
            queries that belong to no place in it.
        image_size: (width, height) of the original picture.
        view: which of ``grids`` is looked at, see :func:`visual_grid` and :func:`in_view`.
    """

    ids: tuple[int, ...]
    kinds: tuple[str, ...]
    texts: tuple[str, ...]
    grids: tuple[PatchGrid, ...] = ()
    image_size: tuple[int, int] | None = None
    view: int = 0

    @cached_property
    def visual_positions(self) -> Int[np.ndarray, " visual"]:
        """Sequence positions of the visual tokens, ascending."""
        return np.flatnonzero(np.array(self.kinds) == "image")

    def __len__(self) -> int:
        return len(self.ids)


def visual_grid(token_map: TokenMap) -> PatchGrid:
    """The patch grid of the picture that is looked at; :class:`CapabilityMissing` where there is none."""
    if not token_map.grids and len(token_map.visual_positions):
        raise CapabilityMissing(
            f"The {len(token_map.visual_positions)} visual tokens of this model are queries over the whole picture, so "
            "there is no grid of patches; choose a model whose visual tokens are patches, such as demo."
        )
    if not token_map.grids:
        raise CapabilityMissing("There are no visual tokens here, only text; give a picture along with the prompt.")
    return token_map.grids[token_map.view]


def visual_order(token_map: TokenMap) -> Int[np.ndarray, " patches"]:
    """Where each patch of the view stands among ``visual_positions``, in reading order: other views' tokens lie between
    them, and a view's rows need not follow one another in the sequence."""
    return np.searchsorted(token_map.visual_positions, visual_grid(token_map).positions.reshape(-1))


@dataclass(frozen=True, eq=False)
class Encoded:
    """Model inputs (a batch of one) with their :class:`TokenMap`; ``key`` hashes their content and the model's, and names
    the view."""

    inputs: dict[str, torch.Tensor]
    token_map: TokenMap
    key: str
    prompt: str
    picture: Picture | None = field(default=None)

    @property
    def run(self) -> str:
        """``key`` without the view: what the model computes is the same in each."""
        return self.key.partition("@")[0]


def in_view(encoded: Encoded, view: int) -> Encoded:
    """The same input, looked at in another of its picture's views; one that it hasn't got gives the first."""
    view = view if 0 <= view < len(encoded.token_map.grids) else 0
    token_map = replace(encoded.token_map, view=view)
    return replace(encoded, token_map=token_map, key=f"{encoded.run}@{view}" if view else encoded.run)


def encode(loaded: LoadedModel, prompt: str, picture: Picture | None = None) -> Encoded:
    """Prepare one picture and one prompt for ``loaded``.

    Raises:
        PromptUnusable: an empty prompt, one that holds the image placeholder, or one that is too long.
        TemplateUnusable, TokenUnknown: see :mod:`lens.backend.templating` and :mod:`lens.backend.vocabulary`.
        CapabilityMissing: a picture for a text-only model, or one that the model's processor refuses.
        ModelFailed, MemoryExhausted: the processor broke, see :mod:`lens.backend.running`, or lost the prompt or picture.
    """
    typed = _check_prompt(loaded, prompt)
    if picture is None:
        text = templated(loaded, prompt, seeing=False)
        with quoting(f"The tokenizer of {loaded.name!r}"):
            inputs = loaded.tokenizer(text or prompt, return_tensors="pt", add_special_tokens=text is None)
        grids: tuple[PatchGrid, ...] = ()
    else:
        inputs, grids = _with_picture(loaded, prompt, picture)
    tensors = {
        name: value.to(loaded.device, loaded.dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
        if isinstance(value, torch.Tensor)
    }
    tensors["attention_mask"] = torch.ones_like(tensors["input_ids"])
    check_ids(loaded, tensors["input_ids"], seeing=picture is not None)
    token_map = _token_map(loaded, tensors["input_ids"][0].tolist(), grids, picture)
    _check_whole(loaded, token_map, typed)
    if len(token_map) > loaded.anatomy.context:
        raise PromptUnusable(
            f"Prompt, picture and chat template come to {len(token_map):,} tokens, but this model's context has "
            f"{loaded.anatomy.context:,}; shorten the prompt."
        )
    return Encoded(tensors, token_map, _key(loaded, prompt, picture, tensors), prompt, picture)


def _key(loaded: LoadedModel, prompt: str, picture: Picture | None, tensors: dict[str, torch.Tensor]) -> str:
    """Hash of model, picture, prompt and inputs: the same weights may come with another processor or template."""
    digest = hashlib.sha256(f"{loaded.fingerprint}\0{picture.digest if picture else ''}\0{prompt}".encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\0{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _check_prompt(loaded: LoadedModel, prompt: str) -> str:
    """Refuse what can't be asked; the prompt as the tokenizer gives it back (:func:`_read`)."""
    if len(prompt) > MAX_PROMPT_CHARS:
        raise PromptUnusable(
            f"The prompt has {len(prompt):,} characters, but at most {MAX_PROMPT_CHARS:,} are read; shorten it."
        )
    if not prompt.strip():
        raise PromptUnusable(
            f"The prompt is empty; type what the model is to be asked, for example {DEFAULT_PROMPT!r}."
        )
    for reserved in _placeholders(loaded):
        if reserved in prompt:
            raise PromptUnusable(
                f"The prompt contains the placeholder {reserved}, which TokenLens puts in by itself; remove it."
            )
    try:
        prompt.encode()
    except UnicodeEncodeError as error:  # how Python passes on bytes of a command line that are not UTF-8
        raise PromptUnusable("The prompt holds bytes that are no UTF-8 text; type it again.") from error
    limit = min(MAX_PROMPT_TOKENS, loaded.anatomy.context)
    with quoting(f"The tokenizer of {loaded.name!r}"):
        ids = loaded.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    if len(ids) > limit:
        raise PromptUnusable(f"The prompt has {len(ids):,} tokens, but at most {limit:,} are read; shorten it.")
    if not ids:
        raise PromptUnusable(f"The tokenizer of {loaded.name!r} reads nothing in this prompt; type some words.")
    if lost := _unread(loaded, prompt):
        raise PromptUnusable(
            f"The tokenizer of {loaded.name!r} has no token for {', '.join(map(repr, lost[:5]))}, and would leave it out "
            "without a word; ask without it, or choose another model."
        )
    return _read(loaded, ids)


def _unread(loaded: LoadedModel, prompt: str) -> list[str]:
    """Characters of a prompt that the tokenizer drops, or keeps some bytes of: letters, digits, punctuation and symbols.
    (Many tokenizers drop control characters and accents on purpose.)"""
    visible = sorted({char for char in prompt if unicodedata.category(char)[0] in "LNPS"} - {"\ufffd"})
    if not visible:
        return []
    each = loaded.tokenizer(visible, add_special_tokens=False)["input_ids"]
    return [
        char for char, ids in zip(visible, each, strict=True) if not ids or "\ufffd" in loaded.tokenizer.decode(ids)
    ]


def _read(loaded: LoadedModel, ids: Sequence[int]) -> str:
    """Tokens as text without blanks: what a tokenizer makes of a text depends, but for blanks, on the text alone. So a
    text stands in a sequence if what the tokenizer gives back of it does, whatever it folds, composes or doesn't know."""
    return "".join(loaded.tokenizer.decode(ids, clean_up_tokenization_spaces=False).split())


def _check_whole(loaded: LoadedModel, token_map: TokenMap, typed: str) -> None:
    """Refuse a sequence that what was typed, or the picture, was lost from on its way through the processor."""
    told = [token for token, kind in zip(token_map.ids, token_map.kinds, strict=True) if kind != "image"]
    lost = "the prompt" if typed not in _read(loaded, told) else ""
    if token_map.image_size and not len(token_map.visual_positions):
        lost = "the picture"
    if lost:
        raise ModelFailed(
            f"What the processor of {loaded.name!r} makes of picture and prompt doesn't hold {lost}, so that the model "
            "would be asked something else; fetch the model's files again, or choose another."
        )


def _placeholders(loaded: LoadedModel) -> tuple[str, ...]:
    """What stands for the picture in a text: before the processor expands it, and after."""
    if loaded.processor is None:
        return ()
    written, after = getattr(loaded.processor, "image_token", None), loaded.anatomy.image_token_id
    expanded = None if after is None else loaded.tokenizer.convert_ids_to_tokens(after)
    return tuple(dict.fromkeys(str(token) for token in (placeholder(loaded), written, expanded) if token))


def _with_picture(loaded: LoadedModel, prompt: str, picture: Picture) -> tuple[Any, tuple[PatchGrid, ...]]:
    if loaded.processor is None:
        raise CapabilityMissing(
            f"The model {loaded.name!r} is text-only and can't take a picture; choose a vision-language model such as demo."
        )
    processor = loaded.processor
    text = templated(loaded, prompt, seeing=True) or plain(loaded, prompt)
    image, origin = trim(picture.image, processor.image_processor)
    bos = processor.tokenizer.bos_token
    with quoting(f"The processor of {loaded.name!r}"):
        try:
            inputs = processor(
                images=image,
                text=text,
                return_tensors="pt",
                # A template that writes the BOS itself gets no second one, as in ``processor.apply_chat_template``.
                text_kwargs={"add_special_tokens": not (bos and text.startswith(bos))},
                # Named explicitly: for a picture three pixels high the processor would take the height for the channels.
                images_kwargs={"input_data_format": "channels_last"},
            )
        except ValueError as error:
            raise CapabilityMissing(
                f"The processor of {loaded.name!r} refuses this picture of {image.width} x {image.height} pixels "
                f"({brief(error)}); choose another picture."
            ) from error
    positions = np.flatnonzero(inputs["input_ids"][0].numpy() == loaded.anatomy.image_token_id)
    seen = Processed(
        processor=processor.image_processor,
        inputs=inputs,
        config=loaded.model.config,
        patch=_patch_side(loaded),
        size=image.size,
        origin=origin,
        original=(picture.width, picture.height),
        count=len(positions),
    )
    views = RULES[loaded.anatomy.family.geometry or "no grid"](seen)
    return inputs, tuple(PatchGrid(positions[view.tokens], view.boxes) for view in views)


def _patch_side(loaded: LoadedModel) -> int | None:
    """The side of the encoder's patches in pixels of its input, from the processor or the configuration."""
    side = getattr(loaded.processor, "patch_size", None)
    side = side or getattr(getattr(loaded.model.config, "vision_config", None), "patch_size", None)
    return side if isinstance(side, int) else None


def token_text(tokenizer: Any, token_id: int) -> str:
    """A token as it reads behind another one. A Llama's decoder takes the blank off the first token of a text, so that
    words would run together."""
    alone = tokenizer.decode([token_id])
    return tokenizer.decode([token_id, token_id])[len(alone) :]


def _token_map(loaded: LoadedModel, ids: list[int], grids: tuple[PatchGrid, ...], picture: Picture | None) -> TokenMap:
    special = set(loaded.tokenizer.all_special_ids)
    image_token = loaded.anatomy.image_token_id
    patches = {int(p) for grid in grids for p in grid.positions.reshape(-1)}

    def kind(position: int, token: int) -> str:
        if token == image_token and (position in patches or not patches):
            return "image"
        return "special" if token in special or token == image_token else "text"

    kinds = tuple(kind(position, token) for position, token in enumerate(ids))
    texts = tuple("" if k == "image" else token_text(loaded.tokenizer, i) for i, k in zip(ids, kinds, strict=True))
    size = (picture.width, picture.height) if picture else None
    return TokenMap(tuple(ids), kinds, texts, grids, size)
