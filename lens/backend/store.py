"""What is kept in memory between redraws, shared by all sessions and pages: models, traces and answers, bounded
in bytes.

One process has one :data:`STORE`. Whoever asks for something that is being made waits for it instead of making it twice.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from lens.backend.answers import Answer, generate
from lens.backend.catalog import ModelSpec
from lens.backend.encoding import Encoded
from lens.backend.loading import LoadedModel, load
from lens.backend.tracing import Trace, trace

Value = TypeVar("Value")

MODEL_BYTES = 8 << 30
TRACE_BYTES = 1 << 30
ANSWER_BYTES = 1 << 20


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
        while len(self._values) > 1 and sum(map(self._size, self._values.values())) > self.limit:
            self._values.popitem(last=False)


class Store:
    """Loaded models, traces and answers by content.

    Never ask the store inside an intervention: what it keeps is what the unchanged model does.
    """

    def __init__(self, model_bytes: int = MODEL_BYTES, trace_bytes: int = TRACE_BYTES) -> None:
        self.models: BoundedCache[LoadedModel] = BoundedCache(model_bytes, lambda loaded: loaded.nbytes)
        self.traces: BoundedCache[Trace] = BoundedCache(trace_bytes, lambda held: held.nbytes)
        self.answers: BoundedCache[Answer] = BoundedCache(ANSWER_BYTES, lambda held: 8 * len(held.ids) + len(held.text))

    def model(self, spec: ModelSpec) -> LoadedModel:
        """The model of ``spec``, loaded once."""
        return self.models.get(spec, lambda: load(spec))

    def trace(self, loaded: LoadedModel, encoded: Encoded, sites: Iterable[str]) -> Trace:
        """The trace of ``encoded`` at ``sites``, run once for the same content, whatever view is looked at."""
        wanted = tuple(dict.fromkeys(sites))
        key: tuple[Any, ...] = (encoded.run, str(loaded.dtype), str(loaded.device), wanted)
        held = self.traces.get(key, lambda: trace(loaded, encoded, wanted))
        return held if held.key == encoded.key else replace(held, key=encoded.key, token_map=encoded.token_map)

    def answer(self, loaded: LoadedModel, encoded: Encoded) -> Answer:
        """The model's greedy answer, generated once for the same content."""
        key = (encoded.run, str(loaded.dtype), str(loaded.device))
        return self.answers.get(key, lambda: generate(loaded, encoded))


STORE = Store()
