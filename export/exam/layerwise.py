"""Run several forward passes of a model together, so that each layer is loaded once for all of them.

Each pass is the model's own forward in a separate thread that stops before every layer. One thread runs at a time: the
caller's, which computes the layers, or a pass between two layers. So the architecture itself makes masks, position
embeddings, caches and everything else that layers share.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Generic, TypeVar

import torch

T = TypeVar("T")


class _Cancelled(BaseException):
    """Ends a cancelled pass."""


class _Pass(Generic[T]):
    """One function in its own thread; `waits_for` is the number of the layer that it waits for, None when done."""

    def __init__(self, function: Callable[[], T]):
        self.waits_for: int | None = None
        self.call: Callable[[], Any] = lambda: None
        self.result: T | None = None
        self._function, self._output, self._closed = function, None, False
        self._error: BaseException | None = None
        self._turn, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def resume(self, output: Any = None) -> None:
        """Run it up to its next layer or its end. Raises its exception."""
        self._output, self.waits_for, self.call = output, None, lambda: None
        threads = torch.get_num_threads()
        # little is computed between layers; otherwise each pass would start its own team of OpenMP threads
        torch.set_num_threads(1)
        try:
            self._thread.start() if self._thread.ident is None else self._turn.release()
            self._back.acquire()
        finally:
            torch.set_num_threads(threads)
        if self._error is not None:
            raise self._error

    def wait_for(self, number: int, call: Callable[[], Any]) -> Any:
        """Called in the thread: wait for the layer and return its output."""
        self.waits_for, self.call = number, call
        self._back.release()
        self._turn.acquire()
        if self._closed:
            raise _Cancelled
        output, self._output = self._output, None
        return output

    def close(self) -> None:
        """End the thread while it waits."""
        if self._thread.is_alive():
            self._closed = True
            self._turn.release()
            self._thread.join()

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                self.result = self._function()
        except _Cancelled:
            pass
        except BaseException as error:
            self._error = error
        self._back.release()


@torch.inference_mode()
def run(
    passes: Sequence[Callable[[], T]],
    layers: Sequence[torch.nn.Module],
    loaded: Callable[[int], AbstractContextManager[None]],
) -> list[T]:
    """Run the passes, which are forwards of a model with these layers, and return their results in order.

    `loaded(n)` keeps layer n's weights loaded while it is open; the next layer is the one that most passes wait for.
    Raises the exceptions of passes and layers; all threads are ended then.
    """
    current: list[_Pass[T]] = []

    def stops(number: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: current[-1].wait_for(number, lambda: forward(*args, **kwargs))

    def resume(one: _Pass[T], output: Any = None) -> None:
        current.append(one)
        one.resume(output)
        current.pop()

    all_passes = [_Pass(function) for function in passes]
    with ExitStack() as stack:
        for number, layer in enumerate(layers):
            layer.forward = stops(number, layer.forward)
            stack.callback(delattr, layer, "forward")  # restores the class's forward
        for one in all_passes:
            stack.callback(one.close)
            resume(one)
        while waiting := Counter(one.waits_for for one in all_passes if one.waits_for is not None):
            number = waiting.most_common(1)[0][0]
            with loaded(number):
                for one in all_passes:
                    if one.waits_for == number:
                        resume(one, one.call())
    return [one.result for one in all_passes]  # type: ignore[misc]
