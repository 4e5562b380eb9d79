"""Jobs in a crew: how many run at once, who is next, and what becomes of those that wait."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable

import pytest

from lens.errors import Cancelled
from lens.jobs import NICE, Crew, Job
from lens.progress import Report
from lens.turns import Urgency


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.001)


class Bench:
    """Work that notes when it begins and ends when it is let."""

    def __init__(self, most: int, each: int) -> None:
        self.crew = Crew(most, each)
        self.begun: list[str] = []
        self.gates: dict[str, threading.Event] = {}
        self.jobs: dict[str, Job[str]] = {}

    def start(self, owner: str, name: str) -> None:
        self.gates[name] = threading.Event()

        def work(_report: Report) -> str:
            self.begun.append(name)
            assert self.gates[name].wait(10)
            return name

        self.jobs[name] = self.crew.start(work, owner)

    def end(self, name: str) -> None:
        self.gates[name].set()
        assert self.jobs[name].wait(10)


def test_so_many_run_and_no_more_of_one_owner_than_may():
    bench = Bench(most=2, each=1)
    for owner, name in (("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1"), ("c", "c1")):
        bench.start(owner, name)
    until(lambda: len(bench.begun) == 2)
    assert sorted(bench.begun) == ["a1", "b1"]
    assert [bench.jobs[name].ahead for name in ("a1", "b1", "c1", "a2", "a3")] == [0, 0, 2, 3, 4]
    assert (bench.crew.waiting("a"), bench.crew.waiting("b")) == (2, 0)
    for ended, following in (("b1", "c1"), ("a1", "a2"), ("a2", "a3")):
        bench.end(ended)
        until(lambda following=following: following in bench.begun)
    for name in ("c1", "a3"):
        bench.end(name)
    assert [job.result() for job in bench.jobs.values()] == ["a1", "a2", "a3", "b1", "c1"]


def test_one_that_waits_and_is_cancelled_never_begins():
    bench = Bench(most=1, each=1)
    bench.start("a", "first")
    bench.start("b", "second")
    bench.start("c", "third")
    bench.jobs["second"].cancel()
    assert bench.jobs["second"].done
    with pytest.raises(Cancelled):
        bench.jobs["second"].result()
    bench.end("first")
    until(lambda: "third" in bench.begun)
    bench.end("third")
    assert bench.begun == ["first", "third"]


def test_one_that_fails_makes_room():
    crew = Crew(1, 1)

    def fail(_report: Report) -> None:
        raise ValueError("no")

    first, second = crew.start(fail, "a"), crew.start(lambda _report: 7, "a")
    assert second.result() == 7
    with pytest.raises(ValueError, match="no"):
        first.result()


@pytest.mark.skipif(sys.platform != "linux", reason="a thread's own priority is Linux's")
def test_long_work_lets_pages_have_the_processor():
    mine = os.getpriority(os.PRIO_PROCESS, 0)

    def work(_report: Report) -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    assert Job(work).result() == max(mine, NICE[Urgency.LONG])
    assert Job(work, urgency=Urgency.PAGE).result() == mine
    assert os.getpriority(os.PRIO_PROCESS, 0) == mine
