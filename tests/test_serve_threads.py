"""The number of computing threads follows the CPUs that other processes leave free."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from burnish import machine
from burnish.llama import Context, Model
from burnish.llama.runtime import api
from serve.llama.threads import Threads
from tests.support.server import small_model


class Machine:
    """CPUs partly used by other processes, and a context that only records its threads."""

    def __init__(self, processors: int = 4) -> None:
        self.processors, self.now, self.busy, self.own = processors, 0.0, 100.0, 7.0
        self.set: list[int] = []

    def set_threads(self, count: int) -> None:
        self.set.append(count)

    def threads(self, limit: int) -> Threads:
        context: Any = self
        use: Any = lambda: (self.processors, self.busy, self.own)  # noqa: E731
        return Threads(context, limit, clock=lambda: self.now, use=use)

    def run(self, threads: Threads, seconds: float, others: float, step: float = 0.25) -> None:
        for _ in range(round(seconds / step)):
            self.now += step
            self.own += threads.count * step
            self.busy += (threads.count + others) * step
            threads.follow()


def test_threads_are_removed_at_once_and_added_after_two_readings() -> None:
    there = Machine()
    threads = there.threads(4)
    there.run(threads, 2.0, others=0.4)
    assert there.set == []
    there.run(threads, 0.5, others=2.2)
    assert threads.count == 2
    there.run(threads, 0.5, others=9.0)
    assert threads.count == 1
    there.run(threads, 0.5, others=0.0)
    assert threads.count == 1
    there.run(threads, 2.0, others=0.0)
    assert threads.count == 4 and there.set == [2, 1, 4]


def test_pauses_and_missing_kernel_counters_do_not_change_threads() -> None:
    there = Machine()
    threads = there.threads(4)
    there.run(threads, 60.0, others=4.0, step=30.0)
    assert there.set == []
    context: Any = there
    silent = Threads(context, 4, clock=lambda: there.now, use=lambda: None)
    there.run(silent, 3.0, others=4.0)
    assert there.set == []


def test_all_threads_stay_with_spare_cpus() -> None:
    there = Machine(processors=64)
    threads = there.threads(8)
    there.run(threads, 3.0, others=50.0)
    assert there.set == []
    there.run(threads, 3.0, others=60.0)
    assert threads.count == 4


def test_kernel_counters_cover_only_the_allowed_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  9 9 9 9\ncpu0 100 50 30 800 5 6 4 99 0 0\ncpu1 900 0 0 0 0 0 0 0 0 0\nintr 1 2\n")
    monkeypatch.setattr(machine, "STAT", stat)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: {0, 7})
    tick = machine.os.sysconf("SC_CLK_TCK")
    for priority, ticks in ((0, 140), (5, 190)):
        monkeypatch.setattr(machine.os, "getpriority", lambda which, who, priority=priority: priority)
        found = machine.processor_use()
        assert found is not None and found[:2] == (1, ticks / tick)
    monkeypatch.setattr(machine, "STAT", tmp_path / "none")
    assert machine.processor_use() is None


def test_competing_load_reduces_the_threads_of_a_context() -> None:
    before = machine.processor_use()
    code = "import time; end = time.monotonic() + 30\nwhile time.monotonic() < end: pass"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        time.sleep(1.5)
        process.kill()
    after = machine.processor_use()
    assert before is not None and after is not None
    assert (after[1] - before[1]) - (after[2] - before[2]) > 0.2
    with Model.open(small_model()) as model, Context(model, n_ctx=64, threads=2) as context:
        context.set_threads(1)
        assert api.llama_n_threads(context.handle) == api.llama_n_threads_batch(context.handle) == 1
        assert context.decode([5], [0], [0], [True]) == 0
