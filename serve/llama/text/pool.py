"""The server's side: starts the parent and the workers, dispatches requests, replaces failed workers."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from burnish import children
from burnish.chat import ChatError

from ...engine.tokenizer import TextBusy, TextUnavailable
from .frames import CONTROL, FORK, KILL, Reply, read_reply, request
from .worker import TIMER_MARGIN_S

COUNT = 2
START_TIMEOUT_S = 120.0
# time for the kernel to end a process and close its socket
GRACE_S = 1.0
# variables the children inherit: no API key, no token
ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "LLAMA_CPP_LIB_PATH")
# numerical libraries' threads do not survive a fork; the GPU belongs to the server; a malloc arena for a long text's
# thread would use up 64 MiB of a worker's address space
CHILD_VARIABLES = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "MALLOC_ARENA_MAX": "1",
}


class _WorkerLost(Exception):
    """A worker exited before it replied."""


@dataclass
class _Worker:
    number: int
    connection: socket.socket
    used: bool = False

    @property
    def ended(self) -> bool:
        """Whether an idle worker has exited."""
        try:
            return not self.connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True


class TextFailed(ChatError):
    """Raised when a request timed out or crashed its worker."""


class TextWorkers:
    """Processes that render and tokenize. `settings` is what `serve.llama.text` reads, with `timeout_s`."""

    def __init__(self, settings: Mapping[str, Any], count: int = COUNT) -> None:
        self.settings, self.timeout_s = settings, float(settings["timeout_s"])
        self._count, self._missing = count, count  # missing: workers not started yet
        self._numbers = 0
        self._idle: asyncio.LifoQueue[_Worker] = asyncio.LifoQueue()
        try:
            self._control, self._process = self._start_parent()
            self._start_missing()
        except (OSError, MemoryError, TextUnavailable) as error:
            raise ChatError(
                f"can't start the text workers: {error or 'no process, memory or descriptor left'}"
            ) from None

    def wait_ready(self) -> dict[str, Any]:
        """Wait until the vocabulary is loaded; return the parent's report. Raises ChatError if loading fails."""
        self._control.settimeout(START_TIMEOUT_S)
        try:
            report = self._control.recv(1 << 16)
        except TimeoutError:
            raise ChatError(f"the text workers did not start within {START_TIMEOUT_S:g} s") from None
        finally:
            self._control.settimeout(None)
        if not report:
            raise ChatError(f"the text workers exited while starting (exit code {self._process.wait()})")
        content: dict[str, Any] = json.loads(report)
        return content

    async def ask(self, content: dict[str, Any], again: bool = True) -> Reply:
        """Send a request to a worker and return its reply. Cancelling it kills the worker.

        Without `again`, a request whose worker exits is not sent to a second one. Raises TextFailed, TextBusy if no
        worker is free in time, and TextUnavailable if none can be started.
        """
        data = request(content)
        try:
            return await self._ask_once(data)
        except _WorkerLost:
            if not again:
                raise TextFailed("too much time or memory needed") from None
        try:  # the worker was killed from outside or crashed on this text: a second attempt shows which
            return await self._ask_once(data)
        except _WorkerLost:
            raise TextFailed("rendering or tokenizing this text crashed or exceeded the memory limit") from None

    async def _ask_once(self, data: bytes) -> Reply:
        """Send a request to one worker. Raises what `ask` raises, and _WorkerLost if the worker exits."""
        try:
            async with asyncio.timeout(self.timeout_s + TIMER_MARGIN_S + GRACE_S):
                worker = await self._idle_worker()
        except TimeoutError:
            raise (TextUnavailable if self._missing == self._count else TextBusy) from None
        whole = False
        try:
            reply = await self._answer(worker, data)
            whole = not reply.retire
            return reply
        finally:
            if whole:
                self._idle.put_nowait(worker)
            else:
                self._end_worker(worker)
                with suppress(TextUnavailable):  # the next request tries again
                    self._start_missing()

    async def _idle_worker(self) -> _Worker:
        """Wait for an idle worker. Raises TextUnavailable."""
        while True:
            self._start_missing()
            worker = await self._idle.get()
            if not worker.ended:
                return worker
            self._end_worker(worker)  # it was killed from outside

    def _start_missing(self) -> None:
        """Start missing workers as far as resources allow. Raises TextUnavailable if none is running."""
        try:
            while self._missing:
                self._idle.put_nowait(self._fork_worker())
                self._missing -= 1
        except (OSError, MemoryError):  # out of processes, memory or file descriptors
            if self._missing == self._count:
                raise TextUnavailable from None

    async def _answer(self, worker: _Worker, data: bytes) -> Reply:
        began = time.monotonic()
        start = 0.0 if worker.used else START_TIMEOUT_S  # its parent may still be loading
        worker.used = True
        try:
            async with asyncio.timeout(self.timeout_s + TIMER_MARGIN_S + GRACE_S + start):
                await asyncio.get_running_loop().sock_sendall(worker.connection, data)
                return await read_reply(worker.connection)
        except TimeoutError:
            pass
        except (OSError, EOFError):
            if time.monotonic() - began < self.timeout_s:
                raise _WorkerLost from None
        raise TextFailed(
            f"rendering and tokenizing this text took longer than {self.timeout_s:g} s (template_timeout_s)"
        )

    def _end_worker(self, worker: _Worker) -> None:
        """Kill a worker and count it as missing."""
        worker.connection.close()
        with suppress(OSError):
            self._control.send(CONTROL.pack(KILL, worker.number))
        self._missing += 1

    def _fork_worker(self) -> _Worker:
        """Have the parent fork a worker, which can be sent a request immediately. Raises OSError or MemoryError."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._numbers += 1
        message = CONTROL.pack(FORK, self._numbers)
        try:
            socket.send_fds(self._control, [message], [theirs.fileno()])
        except OSError:  # the parent was killed, most likely by the OOM killer
            self._end()
            self._control, self._process = self._start_parent()
            socket.send_fds(self._control, [message], [theirs.fileno()])
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return _Worker(self._numbers, ours)

    def _start_parent(self) -> tuple[socket.socket, subprocess.Popen[bytes]]:
        environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs, open(os.memfd_create("settings"), "w+b", buffering=0) as settings:
                settings.write(json.dumps(dict(self.settings)).encode())
                settings.seek(0)
                process = subprocess.Popen(
                    children.module(__package__, str(theirs.fileno()), str(settings.fileno())),
                    cwd=children.ROOT,
                    env={**environment, **children.search_path({}), **CHILD_VARIABLES},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), settings.fileno()),
                )
        except BaseException:
            ours.close()
            raise
        return ours, process

    def _end(self) -> None:
        self._control.close()
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """Stop the parent and its workers."""
        while not self._idle.empty():
            self._idle.get_nowait().connection.close()
        self._end()
