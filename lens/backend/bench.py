"""Treated runs of one input against the unchanged one: the answer each gives, and how likely the unchanged answer stays.

A treatment is an intervention (:mod:`lens.backend.interventions`). Scoring costs one forward and generates nothing, so
that many controls can stand beside one treated run.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lens.backend.answers import Answer, Score, generate, score
from lens.backend.encoding import Encoded, token_text
from lens.backend.loading import LoadedModel

SHOWN = 12
"""Next tokens listed as gains and as losses."""


@dataclass(frozen=True)
class Run:
    """One run of the model.

    Attributes:
        answer: what it says.
        logprob: log-probability (nats) of the unchanged model's answer; 0 if that is empty.
        kl: KL(unchanged || this run) of the token after the prompt, in nats; 0 for the unchanged run.
    """

    answer: str
    logprob: float
    kl: float


@dataclass(frozen=True)
class Change:
    """How likely one next token is before and after, as probabilities."""

    id: int
    token: str
    before: float
    after: float


class Bench:
    """The unchanged run of one input, against which treated ones are measured.

    ``answer`` is the unchanged model's, if the caller has it already; it is generated otherwise.
    """

    def __init__(
        self, loaded: LoadedModel, encoded: Encoded, answer: Answer | None = None, max_new_tokens: int = 24
    ) -> None:
        self.loaded, self.encoded, self.max_new_tokens = loaded, encoded, max_new_tokens
        self.answer = generate(loaded, encoded, max_new_tokens) if answer is None else answer
        self.unchanged = score(loaded, encoded, self.answer)
        self.base = Run(self.answer.text, self.unchanged.logprob, 0.0)

    def run(self, treatment: AbstractContextManager[Any]) -> Run:
        """Answer and scores of the treated model."""
        return self.run_scored(treatment)[0]

    def run_scored(self, treatment: AbstractContextManager[Any]) -> tuple[Run, Score]:
        """As :meth:`run`, with the score that it was made of, which has the next token's distribution."""
        with treatment:
            answer = generate(self.loaded, self.encoded, self.max_new_tokens)
            found = score(self.loaded, self.encoded, self.answer)
        return Run(answer.text, found.logprob, divergence(self.unchanged, found)), found

    def score(self, treatment: AbstractContextManager[Any]) -> Score:
        """How the treated model scores the unchanged answer, and its next token: one forward."""
        with treatment:
            return score(self.loaded, self.encoded, self.answer)

    def scores(self, treatment: AbstractContextManager[Any]) -> tuple[float, float]:
        """Log-probability of the unchanged answer and KL of the next token: one forward."""
        found = self.score(treatment)
        return found.logprob, divergence(self.unchanged, found)


def divergence(base: Score, treated: Score) -> float:
    """KL(base || treated) of the next token, in nats: sum over the vocabulary of p (log p - log q), at least 0."""
    p, q = base.next_token.double(), treated.next_token.double()
    return max(float((p.exp() * (p - q)).sum()), 0.0)


def next_changes(
    loaded: LoadedModel, before: Score, after: Score, count: int = SHOWN
) -> tuple[tuple[Change, ...], tuple[Change, ...]]:
    """The next tokens that gained and that lost most probability, largest change first."""
    was, now = before.next_token.double().exp(), after.next_token.double().exp()
    change = now - was

    def listed(signed: Tensor) -> tuple[Change, ...]:
        best = [i for i in signed.topk(min(count, len(signed))).indices.tolist() if signed[i] > 0]
        return tuple(Change(i, token_text(loaded.tokenizer, i), float(was[i]), float(now[i])) for i in best)

    return listed(change), listed(-change)
