"""Whose turn it is: order by urgency and arrival, patience, re-entry."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from lens import turns
from lens.turns import Turns, Urgency, working_for


def queue(lock: Turns, asked: list[Urgency], done: list[int], between: float = 0.0) -> list[threading.Thread]:
    """Threads that ask for the lock one after the other, and note their number when they have it."""
    threads = []
    for number, urgency in enumerate(asked):

        def ask(number: int = number, urgency: Urgency = urgency) -> None:
            with working_for(urgency), lock:
                done.append(number)

        threads.append(threading.Thread(target=ask))
        threads[-1].start()
        until(lambda number=number: len(lock._queue) > number)
        time.sleep(between)
    return threads


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_pages_go_before_answers_before_long_work_and_each_in_order_of_arrival():
    lock, done = Turns(), []
    with lock:
        asked = [Urgency.LONG, Urgency.ANSWER, Urgency.PAGE, Urgency.LONG, Urgency.PAGE, Urgency.ANSWER]
        threads = queue(lock, asked, done)
    for thread in threads:
        thread.join()
    assert done == [2, 4, 1, 5, 0, 3]


def test_who_has_waited_long_counts_as_a_page(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(turns, "PATIENCE", 0.2)
    lock, done = Turns(), []
    with lock:
        threads = queue(lock, [Urgency.LONG], done)
        time.sleep(0.3)
        threads += queue_after(lock, done)
    for thread in threads:
        thread.join()
    assert done == [0, 1]


def queue_after(lock: Turns, done: list[int]) -> list[threading.Thread]:
    """One page more, behind the one that waits."""

    def ask() -> None:
        with lock:
            done.append(1)

    thread = threading.Thread(target=ask)
    thread.start()
    until(lambda: len(lock._queue) == 2)
    return [thread]


def test_a_loop_that_takes_it_anew_at_each_step_keeps_nobody_out():
    """Python's own locks leave it to chance who is next."""
    lock, steps, stop = Turns(), [], threading.Event()

    def loop() -> None:
        while not stop.is_set() and len(steps) < 10_000:
            with lock:
                steps.append(0)
                time.sleep(0.001)

    thread = threading.Thread(target=loop)
    thread.start()
    until(lambda: len(steps) > 3)
    before = len(steps)
    with lock:
        waited = len(steps) - before
    stop.set()
    thread.join()
    assert waited <= 2


def test_its_holder_may_take_it_again_and_an_error_gives_it_back():
    lock = Turns()
    with pytest.raises(ValueError, match="x"), lock, lock:
        raise ValueError("x")
    taken = []
    thread = threading.Thread(target=lambda: taken.append(lock.__enter__()))
    thread.start()
    thread.join(5)
    assert taken == [lock]


def test_never_two_at_once():
    lock, inside, most = Turns(), [], []

    def work() -> None:
        for _ in range(50):
            with lock:
                inside.append(0)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
