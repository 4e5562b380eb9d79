"""Damage done to well-formed input, the same in every run: what the fuzz tests feed to the readers of files and texts."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

RUNS = 500
"""Inputs of each kind."""


def damaged(data: bytes, rng: random.Random) -> bytes:
    """One to four of: bytes changed, a piece cut out, doubled, zeroed or moved, the end cut off."""
    bytes_ = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        rng.choice(DAMAGE)(bytes_, rng)
    return bytes(bytes_)


def damaged_json(value: Any, rng: random.Random) -> str:
    """A JSON document with one to three of its values replaced by another type, a wild number, or left out."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.randint(1, 3)):
        places = list(_places(value))
        if not places:
            break
        holder, key = rng.choice(places)
        if isinstance(holder, dict) and rng.random() < 0.2:
            del holder[key]
        else:
            holder[key] = copy.deepcopy(rng.choice(WILD))
    return json.dumps(value)


WILD: tuple[Any, ...] = (
    None, True, False, 0, -1, -5, 99, 1 << 70, 0.5, float("inf"), float("nan"), "", "15", "../x", "\u0000", "é" * 50,
    [], {}, [[]], [None], {"a": {"b": []}},
)  # fmt: skip


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, held in items:
        yield value, key
        yield from _places(held)


def _span(data: bytearray, rng: random.Random) -> slice:
    start = rng.randrange(len(data) + 1)
    return slice(start, min(len(data), start + rng.choice((1, 2, 4, 16, 256))))


def _change(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 8))):
        if data:
            data[rng.randrange(min(len(data), rng.choice((64, 1 << 30))))] = rng.choice((0, 255, rng.randrange(256)))


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[_span(data, rng)]


def _double(data: bytearray, rng: random.Random) -> None:
    piece = _span(data, rng)
    data[piece] = data[piece] * rng.choice((2, 3, 50))


def _zero(data: bytearray, rng: random.Random) -> None:
    piece = _span(data, rng)
    data[piece] = bytes(len(data[piece]))


def _move(data: bytearray, rng: random.Random) -> None:
    piece = _span(data, rng)
    held = data[piece]
    del data[piece]
    at = rng.randrange(len(data) + 1)
    data[at:at] = held


def _end(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data) + 1) :]


DAMAGE: tuple[Callable[[bytearray, random.Random], None], ...] = (_change, _change, _cut, _double, _zero, _move, _end)
