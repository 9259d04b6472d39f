"""Run a call on a sufficiently large stack.

llama.cpp splits texts for many tokenizers (tekken, gpt-4o, llama4, deepseek ...) with std::regex, which recurses for
every character in a run: 40 KB of one letter need 13 MB of stack. Threads have 8 MB, so the process would crash with
SIGSEGV.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from ..process import thread_stack
from .runtime import LlamaError

Result = TypeVar("Result")

# measured: 270 to 350 stack bytes per text byte for every expression in llama-vocab.cpp (GCC 12, -O2)
STACK_PER_BYTE = 768
MIN_STACK = 1 << 20
# below this length any thread's stack is sufficient, and starting a thread would take longer than the call
LONG_BYTES = 4096


def on_large_stack(call: Callable[[], Result], text_bytes: int) -> Result:
    """Run `call` on a stack large enough for `text_bytes` of text; return its result or raise its exception.

    Raises LlamaError if the stack can't be allocated. Untouched pages use no memory.
    """
    size = (MIN_STACK + text_bytes * STACK_PER_BYTE + 4095) // 4096 * 4096
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="large-stack", daemon=True)
    try:
        with thread_stack(size):
            thread.start()
    except (RuntimeError, ValueError, MemoryError):
        raise LlamaError(
            f"tokenizing a text of {text_bytes} bytes needs a stack of {size >> 20} MiB, and there is not enough"
            " memory for it"
        ) from None
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
