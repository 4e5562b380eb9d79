"""Spec → :class:`LoadedModel`: safetensors only, remote code off unless the spec switches it on, local first.

A model's *language fingerprint* is the identity of its language model's weights: two VLMs with the same frozen language
model share it, and with it the text indexes built from either.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
)
from transformers.utils import logging as transformers_logging

from lens.backend.anatomy import Anatomy, find_anatomy
from lens.backend.catalog import ModelSpec, on_disk
from lens.backend.families import family_of
from lens.backend.processors import read_processor
from lens.errors import ModelMissing, ModelUnreadable
from lens.home import home
from lens.turns import Turns

SAMPLED = 4096
"""Values read of each tensor for a fingerprint: enough to tell a fine-tuned model, cheap for one of any size."""


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model ready to be traced.

    Attributes:
        processor: image and text processor; ``None`` for a text-only model.
        fingerprint: hex digest of all weights (sampled) and the configuration's model type.
        language_fingerprint: hex digest of the language model's weights alone.
        tokenizer_hash: hex digest of the vocabulary and its ids.
        adds_bos: whether encoding a text puts a beginning-of-sequence token first.
        lock: held during every forward, since interventions change a run for everybody.
    """

    spec: ModelSpec
    model: Any
    tokenizer: Any
    processor: Any | None
    anatomy: Anatomy
    fingerprint: str
    language_fingerprint: str
    tokenizer_hash: str
    adds_bos: bool
    lock: Turns

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def device(self) -> torch.device:
        return self.anatomy.embeddings.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.anatomy.embeddings.weight.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of all parameters, shared ones counted once."""
        return sum(p.numel() * p.element_size() for p in self.model.parameters())


def load(spec: ModelSpec) -> LoadedModel:
    """Load what ``spec`` names.

    Raises:
        ModelMissing: neither on disk nor to be had from the hub.
        ModelUnreadable: files are there but damaged, pickled only, or of an unknown layout.
    """
    if spec.folder is not None and not on_disk(spec):
        hint = "run `python -m lens demo` first" if spec.setup else "check the path"
        raise ModelMissing(f"The model {spec.name!r} was expected in {spec.folder}, where no config.json is; {hint}.")
    transformers_logging.disable_progress_bar()
    if spec.register:
        importlib.import_module(spec.register)
    common = {"revision": spec.revision, "trust_remote_code": spec.trust_remote_code}
    config = _read(spec, AutoConfig.from_pretrained, **common)
    sees_images = family_of(config.model_type).sees_images
    maker = AutoModelForImageTextToText if sees_images else AutoModelForCausalLM
    options = {"config": config, "dtype": _dtype(spec), "use_safetensors": True, "output_loading_info": True, **common}
    model, info = _read(spec, maker.from_pretrained, **options)
    _check_complete(spec, info["missing_keys"])
    model = _on_device(spec, model).eval().requires_grad_(False)
    processor = _read(spec, read_processor, config=config, **common) if sees_images else None
    tokenizer: Any = processor.tokenizer if processor else _read(spec, AutoTokenizer.from_pretrained, **common)
    return assemble(spec, model, tokenizer, processor)


def assemble(spec: ModelSpec, model: Any, tokenizer: Any, processor: Any | None = None) -> LoadedModel:
    """A :class:`LoadedModel` from parts that are in memory already."""
    anatomy = find_anatomy(model)
    return LoadedModel(
        spec=spec,
        model=model,
        tokenizer=tokenizer,
        processor=processor,
        anatomy=anatomy,
        fingerprint=_digest(model, model.config.model_type),
        language_fingerprint=_digest(anatomy.text_model, ""),
        tokenizer_hash=_tokenizer_hash(tokenizer),
        adds_bos=_adds_bos(tokenizer),
        lock=Turns(),
    )


def _read(spec: ModelSpec, reader: Any, **options: Any) -> Any:
    """Call one of transformers' readers; turn what it raises into a sentence for the reader."""
    try:
        return reader(spec.source, **options)
    except OSError as error:
        text = " ".join(str(error).split())
        if spec.folder is None and "gated" in text:
            raise ModelMissing(
                f"The model {spec.source!r} is gated: accept its terms on the hub and log in there, or choose another."
            ) from error
        if spec.folder is None and not on_disk(spec):
            raise ModelMissing(
                f"The model {spec.source!r} is neither in the local cache nor to be had from the hub; check the name "
                "and the network, or choose another, such as demo."
            ) from error
        pickled = spec.folder is not None and any(spec.folder.glob("*.bin"))
        hint = (
            "; `python -m lens convert` makes some published checkpoints with pickled weights loadable"
            if pickled
            else ""
        )
        raise ModelUnreadable(
            f"The model {spec.source!r} has files that can't be read ({text[:200]}){hint}."
        ) from error
    except ImportError as error:
        text = " ".join(str(error).split())[:200]
        raise ModelUnreadable(
            f"The model {spec.source!r} needs a package that isn't here ({text}); install it, or choose another model."
        ) from error
    except Exception as error:  # safetensors, tokenizers and configurations each raise their own kinds
        text = " ".join(str(error).split())[:200]
        if not spec.trust_remote_code and "trust_remote_code" in str(error):
            raise ModelUnreadable(
                f"The model {spec.source!r} needs code of its authors, which isn't run here unless a row of your own in "
                f"{home() / 'catalog.toml'} says trust_remote_code = true; for Sa2VA `python -m lens convert` does without."
            ) from error
        raise ModelUnreadable(
            f"The model {spec.source!r} can't be loaded ({type(error).__name__}: {text}); fetch its files again, or "
            "choose another model."
        ) from error


def _check_complete(spec: ModelSpec, missing: Iterable[str]) -> None:
    """Refuse a checkpoint without some of the weights: transformers fills them with random numbers."""
    names = sorted(missing)
    if names:
        raise ModelUnreadable(
            f"The model {spec.source!r} has no weights for {names[0]} ({len(names)} missing in all); fetch its files "
            "again, or choose another model."
        )


def _on_device(spec: ModelSpec, model: Any) -> Any:
    try:
        return model.to(spec.device)
    except (RuntimeError, AssertionError) as error:  # no such device, not built for it, or too little memory on it
        text = " ".join(str(error).split())[:200]
        raise ModelUnreadable(
            f"The model {spec.name!r} can't be put on the device {spec.device!r} ({text}); choose another, such as cpu."
        ) from error


def _dtype(spec: ModelSpec) -> torch.dtype:
    dtype = getattr(torch, spec.dtype, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ModelUnreadable(
            f"The model {spec.name!r} asks for dtype {spec.dtype!r}; known are float32, bfloat16 and float16."
        )
    return dtype


def _digest(module: nn.Module, salt: str) -> str:
    """Hash of every parameter's name, shape and at most :data:`SAMPLED` evenly spaced values, rounded to bfloat16: so
    the same checkpoint has one identity in float32 and bfloat16 (float16 has a smaller range and may differ)."""
    digest = hashlib.sha256(salt.encode())
    for name, tensor in sorted(module.state_dict().items()):
        flat = tensor.reshape(-1)
        step = max(1, math.ceil(flat.numel() / SAMPLED))
        sample = flat[::step].to("cpu", torch.bfloat16).contiguous().view(torch.uint8)
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()


def _tokenizer_hash(tokenizer: Any) -> str:
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return hashlib.sha256(json.dumps(vocabulary).encode()).hexdigest()


def _adds_bos(tokenizer: Any) -> bool:
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id is not None and len(ids) > 0 and ids[0] == tokenizer.bos_token_id
