"""What is kept in memory between redraws, shared by all sessions and pages: models, traces and answers, bounded
in bytes.

One process has one :data:`STORE`. Whoever asks for something that is being made waits for it instead of making it twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from lens.backend.answers import Answer, generate
from lens.backend.cache import BoundedCache
from lens.backend.catalog import ModelSpec
from lens.backend.encoding import Encoded
from lens.backend.loading import LoadedModel, load
from lens.backend.tracing import Trace, trace

MODEL_BYTES = 8 << 30
TRACE_BYTES = 1 << 30
ANSWER_BYTES = 1 << 20


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
        if held.key == encoded.key and held.picture == encoded.picture:
            return held
        return replace(held, key=encoded.key, token_map=encoded.token_map, picture=encoded.picture)

    def answer(self, loaded: LoadedModel, encoded: Encoded) -> Answer:
        """The model's greedy answer, generated once for the same content."""
        return self.answers.get(_answer_key(loaded, encoded), lambda: generate(loaded, encoded))

    def answered(self, loaded: LoadedModel, encoded: Encoded) -> Answer | None:
        """That answer if it is held, without waiting."""
        return self.answers.held(_answer_key(loaded, encoded))


def _answer_key(loaded: LoadedModel, encoded: Encoded) -> tuple[str, str, str]:
    return encoded.run, str(loaded.dtype), str(loaded.device)


STORE = Store()
