"""The cost of sharing KV cells: one pool for all sequences against separate cells, where prefixes are copied.

    python -m bench.serve.layout --model MODEL.gguf

Measures CPU time instead of wall time, so that other work on the machine does not affect the result.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable

from burnish.llama import Context, Model

CELLS_EACH = 1024
STEPS = 12
PREFIX = 400


def cpu_ms(work: Callable[[], object]) -> float:
    """Return a call's CPU time over all threads, in milliseconds."""
    before = time.process_time()
    work()
    return (time.process_time() - before) * 1000


class Bench:
    """A context with `sequences` sequences of `length` random tokens each."""

    def __init__(self, model: Model, sequences: int, length: int, unified: bool, foreign: int = 0) -> None:
        self.random, self.model, self.sequences, self.length = random.Random(0), model, sequences, length
        slots = sequences + (1 if foreign and unified else 0)
        cells = slots * CELLS_EACH + (foreign if unified else 0)
        self.context = Context(model, n_ctx=cells, n_batch=512, n_seq_max=slots, unified=unified)
        if foreign and unified:
            self.prefill(sequences, foreign)
        self.prefill_ms = sum(self.prefill(slot, length) for slot in range(sequences)) / (sequences * length)

    def tokens(self, count: int) -> list[int]:
        return [self.random.randrange(1000, self.model.n_vocab) for _ in range(count)]

    def prefill(self, slot: int, length: int) -> float:
        total = 0.0
        for start in range(0, length, 256):
            count = min(256, length - start)
            batch = (self.tokens(count), range(start, start + count), [slot] * count, [False] * count)
            total += cpu_ms(lambda batch=batch: self.context.decode(*batch))  # type: ignore[misc]
        return total

    def step_ms(self) -> float:
        n, times = self.sequences, []
        for step in range(STEPS):
            batch = (self.tokens(n), [self.length + step] * n, range(n), [True] * n)
            times.append(cpu_ms(lambda batch=batch: self.context.decode(*batch)))  # type: ignore[misc]
        return statistics.median(times)

    def copy_ms(self) -> float:
        """Return the cost of starting a sequence from another's prefix: copy the whole slot, then cut the rest."""

        def fork() -> None:
            self.context.remove(1)
            self.context.copy(0, 1)
            self.context.remove(1, PREFIX)
            self.context.decode(self.tokens(1), [PREFIX], [1], [True])

        def plain() -> None:
            self.context.decode(self.tokens(1), [PREFIX + 1], [1], [True])

        return cpu_ms(fork) - cpu_ms(plain)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.serve.layout", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", required=True, help="a GGUF file")
    options = parser.parse_args()
    with Model.open(options.model) as model:
        print("sequences  tokens each  layout    foreign cells     CPU ms: per step  per prompt token")
        for sequences, length in ((1, 256), (8, 256), (8, 768), (16, 256), (32, 256)):
            for unified, foreign in ((False, 0), (True, 0), (True, 4096)):
                bench = Bench(model, sequences, length, unified, foreign)
                name, step, token = "one pool" if unified else "separate", bench.step_ms(), bench.prefill_ms
                print(f"{sequences:9}  {length:11}  {name}  {foreign:13}  {step:20.1f}  {token:16.2f}", flush=True)
                bench.context.close()
        bench = Bench(model, 2, 512, unified=False)
        copied, computed = bench.copy_ms(), PREFIX * bench.prefill_ms
        print(f"copying a prefix of {PREFIX} tokens: {copied:.1f} ms; computing it: {computed:.0f} ms")
        bench.context.close()


if __name__ == "__main__":
    main()
