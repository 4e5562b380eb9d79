"""Tiny randomly initialised models of many families, each with its real processor, built from its configuration and
loaded by the project's own loader.

Weights are random and large (0.3), so that what a picture changes stands well above rounding, but small in the towers'
blocks, so that a visual token holds its own patch above all; encoders take pictures of
48 x 48 pixels in patches of 8. Special tokens are the families' own.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
import transformers as tf
from torch import nn

from lens.backend.catalog import ModelSpec
from lens.backend.loading import LoadedModel, load

# Imported for the models that they register.
from tests import tinydynamic, tinysingle, tinytext, tinytiled  # noqa: F401
from tests.tinyparts import MAKERS, words

__all__ = ["MAKERS", "tiny"]

SPREADS = re.compile(r"vis.*\.(layers?|blocks)\.\d|high_res")
"""Parts of a vision tower that carry a patch over to its neighbours."""


def tiny(name: str, folder: Path, seed: int = 0) -> LoadedModel:
    """The tiny model of that name, saved to ``folder`` and loaded from there."""
    config, processor = MAKERS[name]()
    torch.manual_seed(seed)
    maker = tf.AutoModelForImageTextToText if processor is not None else tf.AutoModelForCausalLM
    model = maker.from_config(config)
    with torch.no_grad():
        for name_of, parameter in model.named_parameters():
            if parameter.ndim > 1:  # some families initialise parts with zeros or by rules of their own
                nn.init.normal_(parameter, std=0.05 if SPREADS.search(name_of) else 0.3)
    model.save_pretrained(folder)
    (processor or words()).save_pretrained(folder)
    return load(ModelSpec(name=f"tiny-{name}", source=str(folder)))
