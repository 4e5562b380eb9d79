"""What the model says: greedy answers, the log-probability of a given answer, the next-token distribution.

Each can be called inside an intervention (:mod:`lens.backend.interventions`) to see what it changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lens.backend.encoding import Encoded
from lens.backend.loading import LoadedModel
from lens.backend.running import forward

GREEDY = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
"""Overrules what a checkpoint's generation configuration sets: Qwen2's, say, has a repetition penalty of 1.1."""


@dataclass(frozen=True)
class Answer:
    """A greedy answer.

    Attributes:
        ids: generated token ids, end-of-sequence left out.
        text: their text without special tokens.
        finished: whether the model ended by itself rather than at the length limit.
    """

    ids: tuple[int, ...]
    text: str
    finished: bool


def generate(loaded: LoadedModel, encoded: Encoded, max_new_tokens: int = 24) -> Answer:
    """The model's greedy answer to the encoded prompt, no longer than its context has room for."""
    room = min(max_new_tokens, loaded.anatomy.context - len(encoded.token_map))
    if room < 1:
        return Answer((), "", False)
    options = {**GREEDY, "max_new_tokens": room, "pad_token_id": _pad_id(loaded)}
    output = forward(loaded, loaded.model.generate, **encoded.inputs, **options)
    ids = output[0, len(encoded.token_map) :].tolist()
    ends = _end_ids(loaded)
    finished = bool(ids) and ids[-1] in ends
    ids = ids[:-1] if finished else ids
    return Answer(tuple(ids), loaded.tokenizer.decode(ids, skip_special_tokens=True).strip(), finished)


@dataclass(frozen=True, eq=False)
class Score:
    """What one forward over the prompt and an answer says.

    Attributes:
        logprob: sum over the answer's tokens of their log-probability (nats) given the prompt and the tokens before.
        next_token: log-probabilities (nats) of the token after the prompt, float32 on the CPU.
    """

    logprob: float
    next_token: Float[Tensor, " vocab"]


def score(loaded: LoadedModel, encoded: Encoded, answer: Answer | tuple[int, ...]) -> Score:
    """Score a given answer, and with it the next token's distribution, in one forward without generating."""
    ids = answer.ids if isinstance(answer, Answer) else answer
    inputs = dict(encoded.inputs)
    tail = torch.tensor([ids], dtype=torch.long, device=inputs["input_ids"].device)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], tail], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    logits = forward(loaded, loaded.model, **inputs, use_cache=False, logits_to_keep=len(ids) + 1).logits
    logprobs = logits[0].float().log_softmax(-1)
    total = logprobs[:-1].gather(1, tail[0, :, None]).sum()
    return Score(float(total), logprobs[0].cpu())


def next_token_logprobs(loaded: LoadedModel, encoded: Encoded) -> Float[Tensor, " vocab"]:
    """Log-probabilities (natural logarithm) of the token after the prompt, float32 on the CPU."""
    return score(loaded, encoded, ()).next_token


def answer_logprob(loaded: LoadedModel, encoded: Encoded, answer: Answer | tuple[int, ...]) -> float:
    """Sum over the answer's tokens of their log-probability (nats) given the prompt and the tokens before."""
    return score(loaded, encoded, answer).logprob


def _end_ids(loaded: LoadedModel) -> set[int]:
    ends = loaded.model.generation_config.eos_token_id
    return set(ends) if isinstance(ends, list) else {ends}


def _pad_id(loaded: LoadedModel) -> int | None:
    if loaded.tokenizer.pad_token_id is not None:
        return loaded.tokenizer.pad_token_id
    return next((end for end in _end_ids(loaded) if end is not None), None)
