"""The schedule of a training: what changes with its progress, and when."""

from __future__ import annotations

import pytest

from lens.demo.schedule import Settings, Stopwatch

SETTINGS = Settings()


@pytest.mark.parametrize(
    ("progress", "cells", "batch", "opens"),
    [(0.0, 16, 128, True), (0.059, 16, 128, True), (0.06, 36, 128, False), (0.249, 36, 128, False), (0.25, 72, 256, False),
     (0.499, 72, 256, False), (0.5, 144, 256, False), (1.0, 144, 256, False)],
)  # fmt: skip
def test_more_cells_and_larger_batches(progress: float, cells: int, batch: int, opens: bool) -> None:
    assert (SETTINGS.cells_at(progress), SETTINGS.batch_at(progress)) == (cells, batch)
    assert SETTINGS.opens_at(progress) is opens
    assert Settings(batch=1).batch_at(progress) == 1


def test_the_rate_rises_by_steps_and_falls_by_progress() -> None:
    assert SETTINGS.rate_at(0.1, 0) == pytest.approx(2e-3 / 40)
    assert SETTINGS.rate_at(0.1, 39) == SETTINGS.rate_at(0.35, 1000) == pytest.approx(2e-3)
    assert SETTINGS.rate_at(0.675, 1000) == pytest.approx(1e-3)  # half-way from .35 to 1
    assert SETTINGS.rate_at(1.0, 1000) == SETTINGS.rate_at(1.2, 1000) == pytest.approx(2e-5)


def test_the_regularisers_rise_between_seven_and_eight_tenths() -> None:
    assert SETTINGS.weights_at(0.0) == SETTINGS.weights_at(0.7) == (0.3, 0.1)
    assert SETTINGS.weights_at(0.75) == pytest.approx((0.5, 0.175))
    assert SETTINGS.weights_at(0.8) == pytest.approx((0.7, 0.25)) == SETTINGS.weights_at(1.0)


def test_a_stopwatch_goes_on_from_earlier_pieces() -> None:
    now = [100.0]
    watch = Stopwatch(lambda: now[0], before=20.0)
    now[0] = 103.5
    assert watch.seconds == 23.5
