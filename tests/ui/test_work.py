"""What long work is said to take before it starts."""

from __future__ import annotations

import pytest

from lens.backend.tracing import Trace
from ui.work import runs


@pytest.mark.parametrize(
    ("count", "seconds", "said"),
    [
        (1, 0.4, "1 run, about 0 s on this machine"),
        (144, 0.25, "144 runs, about 36 s on this machine"),
        (144, 1.25, "144 runs, about 3 min on this machine"),
        (7, float("nan"), "7 runs"),
    ],
)
def test_runs_are_told_with_their_time(count: int, seconds: float, said: str):
    assert runs(count, Trace("key", {}, None, 4, None, seconds)) == said  # type: ignore[arg-type]
