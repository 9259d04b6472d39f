"""Run one function in a process per core: bounded queues, results in order, and no process left behind."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Generic, TypeVar

from ..errors import UserError
from ..process import end_with_parent, exit_reason

Task = TypeVar("Task")
Result = TypeVar("Result")

MAX_PROCESSES = 16  # more wait for the process that reads the file
GARBAGE = 100_000  # objects between collections in a child, which makes many short-lived ones
AHEAD = 3  # tasks in work or done before their turn, for each process


@dataclass(frozen=True)
class _Worker:
    process: Any
    connection: Connection


class Pool(AbstractContextManager["Pool[Task, Result]"], Generic[Task, Result]):
    """Calls `work` in `count` forked processes; with one, in this process.

    A fork starts at once, with everything that `work` needs already loaded and shared. The processes end with this
    one, however it ends.
    """

    def __init__(self, work: Callable[[Task], Result], count: int) -> None:
        self._work = work
        self._count = min(count, MAX_PROCESSES)
        self._workers: list[_Worker] = []

    def __enter__(self) -> Pool[Task, Result]:
        if self._count > 1:
            gc.collect()
            gc.freeze()  # a collection in a child would copy every page of this process
            for _ in range(self._count):
                self._workers.append(self._started())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._workers:
            gc.unfreeze()
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()

    def map(self, tasks: Iterable[Task]) -> Iterator[Result]:
        """Yield the results in the order of the tasks, of which only a few are read ahead.

        Raises UserError if a process is killed, as by a template that can't be interrupted.
        """
        return self._mapped(iter(tasks)) if self._workers else map(self._work, tasks)

    def _mapped(self, tasks: Iterator[Task]) -> Iterator[Result]:
        idle, busy = list(self._workers), dict[Any, tuple[_Worker, int]]()
        done: dict[int, Result] = {}
        sent = given = 0
        task = next(tasks, None)
        while task is not None or busy or done:
            while task is not None and idle and sent - given < AHEAD * self._count:
                if _sent(idle[-1], task):
                    worker = idle.pop()
                    busy[worker.connection] = worker, sent
                else:
                    done[sent] = self._work(task)
                sent, task = sent + 1, next(tasks, None)
            for ready in wait([*busy]) if given not in done else ():
                worker, number = busy.pop(ready)
                done[number] = _received(worker)
                idle.append(worker)
            while given in done:
                yield done.pop(given)
                given += 1

    def _started(self) -> _Worker:
        ours, theirs = multiprocessing.Pipe()
        inherited = [ours, *(worker.connection for worker in self._workers)]
        arguments = (theirs, self._work, os.getpid(), inherited)
        process = multiprocessing.get_context("fork").Process(target=_serve, args=arguments, daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)


def _sent(worker: _Worker, task: Any) -> bool:
    """Send a task; return False if it can't be pickled, because a value is nested too deeply."""
    try:
        worker.connection.send(task)
    except RecursionError:
        return False
    except OSError:
        raise _ended(worker) from None
    return True


def _received(worker: _Worker) -> Any:
    try:
        result, error = worker.connection.recv()
    except (EOFError, OSError):
        raise _ended(worker) from None
    if isinstance(error, tuple):
        raise UserError(error)
    if error is not None:
        raise error
    return result


def _ended(worker: _Worker) -> UserError:
    worker.process.join()
    return UserError(f"a child process was lost: {exit_reason(worker.process.exitcode, llama=False)}")


def _serve(connection: Connection, work: Callable[[Any], Any], parent: int, inherited: Sequence[Connection]) -> None:
    """Answer tasks until this process is killed, or the parent's end of the pipe is closed."""
    for other in inherited:
        other.close()
    end_with_parent()
    if os.getppid() != parent:
        return
    gc.set_threshold(GARBAGE)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which kills this process
    while True:
        with suppress(EOFError):
            task = connection.recv()
            connection.send_bytes(_answer(work, task))
            continue
        return


def _answer(work: Callable[[Any], Any], task: Any) -> bytes:
    try:
        return pickle.dumps((work(task), None), pickle.HIGHEST_PROTOCOL)
    except UserError as error:
        return pickle.dumps((None, error.faults))
    except MemoryError:
        return pickle.dumps((None, MemoryError("a child process")))
    except Exception:
        return pickle.dumps((None, RuntimeError(f"a child process failed:\n{traceback.format_exc()}")))
