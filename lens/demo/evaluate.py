"""The connector's measured quality: does the greedy caption name the object?

A caption has named the object when it holds, as a whole word in any case, the head noun of the class's name
(``shark`` for great white shark); the looser score also takes the class's broader word (``fish``). The encoder's
ceiling is the same score for the name that its own ImageNet head finds most likely on the mean of the same cells;
chance is the captions scored against labels shuffled among the same photographs.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from lens.compare.wordforms import head_noun
from lens.demo.architecture import Projector
from lens.demo.captions import Captions, answer
from lens.demo.names import broader
from lens.demo.start import Head
from lens.demo.training import embeddings

QUESTION = "What is this?"
BATCH = 20
SHUFFLES = 200


@dataclass(frozen=True)
class Quality:
    """Shares of ``count`` photographs of one source; ``*_loose`` also accepts the broader word."""

    source: str
    count: int
    named: float
    named_loose: float
    ceiling: float
    ceiling_loose: float
    chance: float
    chance_loose: float
    captions: tuple[tuple[str, str], ...]
    """(class name, caption), for a reader's own judgement."""


def says(caption: str, words: Sequence[str]) -> bool:
    """Whether any of ``words`` stands in ``caption`` as a whole word (a plural s allowed), in any case."""
    return any(re.search(rf"\b{re.escape(word)}s?\b", caption, re.IGNORECASE) for word in words)


def targets(label: int, names: list[str], table: dict[int, str]) -> tuple[list[str], list[str]]:
    """The words that name the object of a class strictly and loosely."""
    strict = [head_noun(names[label])]
    return strict, strict + ([table[label]] if label in table else [])


@torch.inference_mode()
def caption_all(
    language: LlamaForCausalLM, connector: Projector, captions: Captions, states: Tensor, question: str
) -> list[str]:
    """Greedy answers to ``question`` about each picture; ``states`` are [pictures, 144, 1280]."""
    table = embeddings(language)
    before, after = (
        table[torch.tensor(ids, device=table.device)] for ids in (captions.before, *captions.after([question]))
    )
    said = []
    for chunk in states.split(BATCH):
        cells = connector(chunk.float()).to(table.dtype)
        embedded = torch.cat((before.expand(len(chunk), -1, -1), cells, after.expand(len(chunk), -1, -1)), dim=1)
        ids = cast(Any, language).generate(
            inputs_embeds=embedded,
            attention_mask=torch.ones(embedded.shape[:2], dtype=torch.long, device=table.device),
            do_sample=False,
            max_new_tokens=24,
            pad_token_id=captions.tokenizer.pad_token_id,
            eos_token_id=captions.tokenizer.eos_token_id,
        )
        said += captions.tokenizer.batch_decode(ids, skip_special_tokens=True)
    return [text.strip() for text in said]


def heads_answers(captions: Captions, head: Head, states: Tensor) -> list[str]:
    """What the encoder's own head would answer: the class that it finds likeliest on the mean of a picture's cells."""
    return [answer([captions.names[label]]) for label in head.logits(states.float().mean(1)).argmax(-1).tolist()]


def measure(
    source: str,
    language: LlamaForCausalLM,
    connector: Projector,
    captions: Captions,
    head: Head,
    states: Tensor,
    labels: list[int],
) -> Quality:
    """Score the connector on pictures whose classes are ``labels``; ``states`` are [pictures, 144, 1280]."""
    names, table = captions.names, broader()
    wanted = [targets(label, names, table) for label in labels]
    said = caption_all(language, connector, captions, states, QUESTION)
    rng = random.Random(0)
    shuffled = [share(said, rng.sample(wanted, len(wanted))) for _ in range(SHUFFLES)]
    named, loose = share(said, wanted)
    ceiling, ceiling_loose = share(heads_answers(captions, head, states), wanted)
    return Quality(
        source=source,
        count=len(labels),
        named=named,
        named_loose=loose,
        ceiling=ceiling,
        ceiling_loose=ceiling_loose,
        chance=sum(strict for strict, _ in shuffled) / SHUFFLES,
        chance_loose=sum(loosely for _, loosely in shuffled) / SHUFFLES,
        captions=tuple((names[label], text) for label, text in zip(labels, said, strict=True)),
    )


def share(said: list[str], wanted: list[tuple[list[str], list[str]]]) -> tuple[float, float]:
    """Shares of texts that say a wanted word, strictly and loosely."""
    strict = sum(says(text, words) for text, (words, _) in zip(said, wanted, strict=True))
    loose = sum(says(text, words) for text, (_, words) in zip(said, wanted, strict=True))
    return strict / len(said), loose / len(said)
