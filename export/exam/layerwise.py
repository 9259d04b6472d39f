"""Run several forward passes of a model together, so that each layer is loaded once for all of them.

Each pass runs the model's own forward in a separate thread that blocks before every layer. One thread runs at a time:
the caller's, which computes the layers, or a pass between two layers. The model's own code therefore computes masks,
position embeddings, caches and all other state that layers share.
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
    """Raised in a pass's thread to cancel the pass."""


class _Pass(Generic[T]):
    """A function running in its own thread; `waits_for` is the layer number it is blocked on, None when done."""

    def __init__(self, function: Callable[[], T]):
        self.waits_for: int | None = None
        self.call: Callable[[], Any] = lambda: None
        self.result: T | None = None
        self._function, self._output, self._closed = function, None, False
        self._error: BaseException | None = None
        self._turn, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def resume(self, output: Any = None) -> None:
        """Run the function up to its next layer or its end. Raises the function's exception."""
        self._output, self.waits_for, self.call = output, None, lambda: None
        threads = torch.get_num_threads()
        # little is computed between layers, and otherwise each pass would start its own OpenMP threads
        torch.set_num_threads(1)
        try:
            self._thread.start() if self._thread.ident is None else self._turn.release()
            self._back.acquire()
        finally:
            torch.set_num_threads(threads)
        if self._error is not None:
            raise self._error

    def wait_for(self, number: int, call: Callable[[], Any]) -> Any:
        """Block the pass's thread until the layer has run, and return the layer's output."""
        self.waits_for, self.call = number, call
        self._back.release()
        self._turn.acquire()
        if self._closed:
            raise _Cancelled
        output, self._output = self._output, None
        return output

    def close(self) -> None:
        """Stop the waiting thread."""
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
    """Run the passes, each a forward pass of the model with these layers, and return their results in order.

    `loaded(n)` keeps layer n's weights loaded inside the context; the layer that most passes wait for runs next.
    Re-raises exceptions from passes and layers after stopping all threads.
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
