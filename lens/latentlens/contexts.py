"""Which occurrences of a token become rows of an index: the two published rules, in memory bounded by what is kept.

* ``first`` (the PyPI package 0.1.0): the first 50 occurrences of each token string, in corpus order.
* ``reservoir`` (the paper, arXiv 2602.00462): a uniform sample of 20 of each token string's occurrences, seed 42. Drawn as
  the 20 smallest of seeded hashes, which has the same distribution as a reservoir, and besides doesn't depend on the order
  of the corpus, draws *distinct* prefixes evenly, and lets each kept context's evidence be counted exactly.

In a causal model two occurrences with the same token-id prefix have the same state. With ``deduplicate`` (the default)
such occurrences are one context, with a count of how often it occurred. A context is kept or dropped once, for all
layers. Positions: tokens that the tokenizer adds (a BOS, say) and special tokens are never kept; where it adds none,
no real token is lost. (The package drops the first two positions blindly: ``skip`` real tokens reproduces it.)
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import UInt64

from lens.backend.words import Tokens


@dataclass(frozen=True)
class Rule:
    """How contexts are kept; see the module's docstring.

    Attributes:
        cap: most contexts per token string.
        skip: real tokens left out at the beginning of every sentence.
        seed: of the reservoir; unused by ``first``.
    """

    name: Literal["first", "reservoir"] = "first"
    cap: int = 50
    deduplicate: bool = True
    skip: int = 0
    seed: int = 42


RULES: dict[str, Rule] = {"first": Rule("first", 50), "reservoir": Rule("reservoir", 20)}


def mix(values: UInt64[np.ndarray, ...]) -> UInt64[np.ndarray, ...]:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection of 64-bit words that scatters them evenly."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def prefix_hashes(sentences: Sequence[Tokens]) -> list[UInt64[np.ndarray, " seq"]]:
    """For each token of each sentence a hash of all token ids up to and including it."""
    lengths = [len(tokens.ids) for tokens in sentences]
    ids = np.zeros((len(sentences), max(lengths, default=0)), np.uint64)
    for row, tokens in zip(ids, sentences, strict=True):
        row[: len(tokens.ids)] = tokens.ids
    hashes = np.empty_like(ids)
    state = np.full(len(ids), 0x9E3779B97F4A7C15, np.uint64)
    for column in range(ids.shape[1]):
        state = mix(mix(ids[:, column] + np.uint64(1)) ^ (state << np.uint64(1) | state >> np.uint64(63)))
        hashes[:, column] = state
    return [row[:length] for row, length in zip(hashes, lengths, strict=True)]


@dataclass
class Contexts:
    """The occurrences kept so far: parallel columns, one entry a context."""

    rule: Rule
    sentence: array = field(default_factory=lambda: array("q"))
    position: array = field(default_factory=lambda: array("i"))
    evidence: array = field(default_factory=lambda: array("i"))
    _slots: dict[int, int] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)
    _heaps: dict[str, list[tuple[int, int, int]]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.sentence)

    def offer(self, first: int, sentences: Sequence[Tokens], names: Sequence[Sequence[str]]) -> None:
        """Consider every position of consecutive sentences, numbered from ``first``; ``names`` are the token strings."""
        rule = self.rule
        hashes = prefix_hashes(sentences)
        for number, (tokens, words, keys) in enumerate(zip(sentences, names, hashes, strict=True), first):
            if not rule.deduplicate:
                keys = mix(np.arange(len(words), dtype=np.uint64) + np.uint64(number << 16))
            ranks = mix(keys ^ np.uint64(rule.seed)).tolist()
            skip = rule.skip
            for position, key in enumerate(keys.tolist()):
                if not tokens.real[position]:
                    continue
                if skip:
                    skip -= 1
                elif key in self._slots:
                    self.evidence[self._slots[key]] += 1
                elif rule.name == "first":
                    self._keep_first(words[position], key, number, position)
                else:
                    self._keep_lowest(words[position], key, ranks[position], number, position)

    def _keep_first(self, word: str, key: int, number: int, position: int) -> None:
        count = self._counts.get(word, 0)
        if count < self.rule.cap:
            self._counts[word] = count + 1
            self._add(key, number, position)

    def _keep_lowest(self, word: str, key: int, rank: int, number: int, position: int) -> None:
        """Keep the ``cap`` lowest ranks of a word. A threshold only ever falls, so what is kept at the end was kept since
        its first occurrence and its evidence is complete."""
        heap = self._heaps.setdefault(word, [])
        if len(heap) < self.rule.cap:
            heapq.heappush(heap, (-rank, key, self._add(key, number, position)))
        elif rank < -heap[0][0]:
            _, old, slot = heapq.heapreplace(heap, (-rank, key, heap[0][2]))
            del self._slots[old]
            self._slots[key] = slot
            self.sentence[slot], self.position[slot], self.evidence[slot] = number, position, 1

    def _add(self, key: int, number: int, position: int) -> int:
        self._slots[key] = len(self)
        self.sentence.append(number)
        self.position.append(position)
        self.evidence.append(1)
        return len(self) - 1
