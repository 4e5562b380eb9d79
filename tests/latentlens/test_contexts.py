"""The rules for keeping contexts, against plain restatements of them."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

from lens.backend.words import Tokens
from lens.latentlens.contexts import Contexts, Rule, prefix_hashes


def tokens(*ids: int, special: tuple[int, ...] = ()) -> Tokens:
    return Tokens(ids, ((0, 1),) * len(ids), tuple(i not in special for i in ids))


def keep(rule: Rule, sentences: list[Tokens], step: int = 7) -> dict[tuple[int, int], int]:
    """(sentence, position) → evidence, offered in batches of ``step``."""
    kept = Contexts(rule)
    for start in range(0, len(sentences), step):
        batch = sentences[start : start + step]
        kept.offer(start, batch, [[str(i) for i in t.ids] for t in batch])
    places = list(zip(kept.sentence, kept.position, strict=True))
    assert len(set(places)) == len(places), "no place twice"
    return dict(zip(places, kept.evidence, strict=True))


@pytest.fixture(scope="module")
def many() -> list[Tokens]:
    rng = np.random.default_rng(0)
    return [tokens(*rng.integers(0, 6, rng.integers(1, 7)).tolist()) for _ in range(400)]


def prefixes(sentences: list[Tokens]) -> dict[tuple[int, ...], tuple[int, int]]:
    """Every distinct prefix and where it occurs first."""
    places: dict[tuple[int, ...], tuple[int, int]] = {}
    for number, sentence in enumerate(sentences):
        for position in range(len(sentence.ids)):
            places.setdefault(sentence.ids[: position + 1], (number, position))
    return places


def test_first_rule_restated(many: list[Tokens]) -> None:
    """The loop of the PyPI package: by corpus order, prefixes once, a cap per token."""
    counts: Counter = Counter()
    wanted = set()
    for prefix, place in prefixes(many).items():
        if counts[prefix[-1]] < 9:
            counts[prefix[-1]] += 1
            wanted.add(place)
    assert set(keep(Rule("first", 9), many)) == wanted


def test_evidence_counts_every_occurrence_of_a_kept_prefix(many: list[Tokens]) -> None:
    occurrences = Counter(t.ids[: i + 1] for t in many for i in range(len(t.ids)))
    for rule in (Rule("first", 9), Rule("reservoir", 9), Rule("reservoir", 2)):
        for (number, position), evidence in keep(rule, many).items():
            assert evidence == occurrences[many[number].ids[: position + 1]]


@pytest.mark.parametrize("name", ["first", "reservoir"])
@pytest.mark.parametrize("deduplicate", [True, False])
def test_cap_is_obeyed_and_filled(many: list[Tokens], name: str, deduplicate: bool) -> None:
    candidates: dict[int, set] = defaultdict(set)
    for number, sentence in enumerate(many):
        for position, token in enumerate(sentence.ids):
            candidates[token].add(sentence.ids[: position + 1] if deduplicate else (number, position))
    kept = keep(Rule(name, 12, deduplicate), many)  # type: ignore[arg-type]
    counts = Counter(many[number].ids[position] for number, position in kept)
    assert counts == {token: min(12, len(places)) for token, places in candidates.items()}
    chosen = [many[number].ids[: position + 1] for number, position in kept]
    assert (len(set(chosen)) == len(chosen)) == deduplicate


def test_three_copies_give_the_rows_of_one() -> None:
    for rule in (Rule("first"), Rule("reservoir", 20)):
        once, thrice = keep(rule, [tokens(1, 2, 3)]), keep(rule, [tokens(1, 2, 3)] * 3)
        assert set(once) == set(thrice) == {(0, 0), (0, 1), (0, 2)}
        assert set(thrice.values()) == {3}
        assert len(keep(Rule(rule.name, rule.cap, deduplicate=False), [tokens(1, 2, 3)] * 3)) == 9


def test_shared_prefix_is_stored_once() -> None:
    kept = keep(Rule(), [tokens(1, 2, 3), tokens(1, 2, 4, 3)])
    assert kept == {(0, 0): 2, (0, 1): 2, (0, 2): 1, (1, 2): 1, (1, 3): 1}


def test_reservoir_is_a_uniform_sample_whatever_the_order(many: list[Tokens]) -> None:
    """Each of 40 distinct contexts is kept for about cap/40 of the seeds, early or late; the order doesn't matter."""
    sentences = [tokens(100 + i, 7) for i in range(40)]
    hits = Counter(n for seed in range(300) for n, p in keep(Rule("reservoir", 10, seed=seed), sentences, 40) if p == 1)
    assert sum(hits.values()) == 300 * 10
    assert max(abs(hits[i] - 75) for i in range(40)) < 5 * (300 * 0.25 * 0.75) ** 0.5
    forward, backward = (keep(Rule("reservoir", 4), some) for some in (many, many[::-1]))
    chosen = {many[number].ids[: position + 1] for number, position in forward}
    assert chosen == {many[::-1][number].ids[: position + 1] for number, position in backward}


def test_positions_that_are_never_kept() -> None:
    sentence = tokens(1, 5, 6, 3, 7, special=(1, 3))
    assert set(keep(Rule(), [sentence])) == {(0, 1), (0, 2), (0, 4)}
    assert set(keep(Rule(skip=1), [sentence])) == {(0, 2), (0, 4)}
    assert set(keep(Rule(skip=2), [tokens(5, 6, 7)])) == {(0, 2)}, "the package's 'from position 2 on'"


def test_prefix_hashes_tell_prefixes_apart(many: list[Tokens]) -> None:
    by_prefix: dict[tuple[int, ...], set[int]] = defaultdict(set)
    for start in (0, 100):  # whatever else is in the batch
        for sentence, hashes in zip(many[start:], prefix_hashes(many[start:]), strict=True):
            for position, value in enumerate(hashes.tolist()):
                by_prefix[sentence.ids[: position + 1]].add(value)
    assert all(len(values) == 1 for values in by_prefix.values())
    assert len(set.union(*by_prefix.values())) == len(by_prefix)
    assert len({int(h[-1]) for h in prefix_hashes([tokens(*[0] * n) for n in range(1, 50)])}) == 49
