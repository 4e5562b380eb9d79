"""Values kept in memory up to a number of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Value = TypeVar("Value")


@dataclass
class _Turn:
    """Who asks for one key: the lock goes round among them, and the last to leave takes it away."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    waiting: int = 0


class BoundedCache(Generic[Value]):
    """Least recently used values up to a number of bytes; the newest is kept even when it alone is larger."""

    def __init__(self, limit: int, size: Callable[[Value], int]) -> None:
        self.limit = limit
        self._size = size
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._making: dict[Hashable, _Turn] = {}
        self._guard = threading.Lock()

    @property
    def nbytes(self) -> int:
        with self._guard:
            return sum(self._size(value) for value in self._values.values())

    def __contains__(self, key: Hashable) -> bool:
        with self._guard:
            return key in self._values

    def held(self, key: Hashable) -> Value | None:
        """The value under ``key`` if it is there, without waiting for one that is being made."""
        with self._guard:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value under ``key``, made by ``make`` if it isn't there. An error in ``make`` leaves nothing behind."""
        with self._guard:
            turn = self._making.setdefault(key, _Turn())
            turn.waiting += 1
        try:
            with turn.lock:
                return self._held_or_made(key, make)
        finally:
            with self._guard:
                turn.waiting -= 1
                if not turn.waiting:
                    del self._making[key]

    def _held_or_made(self, key: Hashable, make: Callable[[], Value]) -> Value:
        with self._guard:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = make()
        with self._guard:
            self._values[key] = value
            self._evict()
        return value

    def clear(self) -> None:
        with self._guard:
            self._values.clear()

    def _evict(self) -> None:
        held = sum(map(self._size, self._values.values()))
        while len(self._values) > 1 and held > self.limit:
            _, gone = self._values.popitem(last=False)
            held -= self._size(gone)
