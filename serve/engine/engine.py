"""The thread that owns the model: it accepts sequences, runs the scheduler's steps and delivers text."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import assert_never

from burnish.console import say
from burnish.errors import UserError
from burnish.process import thread_stack

from ..decoding.constraints.constraint import STACK_BYTES, UNCONSTRAINED, MaskedWhenAsked, Masks, TooComplex
from .backend import DONE, NO_CELLS, Backend, Output, Sampled
from .events import Delta, Event, Finished, FinishReason, PromptLogprobs, Sink, TokenLogprob
from .kv_cells import Op
from .observer import Observer, Snapshot
from .scheduler import QueueFull, Scheduler
from .sequence import Sequence, Task
from .step import FillerToken, ScheduledTokens, SchedulerLimits, StepPlan

# tokens that a constraint forces at once; the next step decodes them
MAX_FORCED_TOKENS = 64
NOT_COMPUTED = "the model failed to decode this sequence"
Deliver = Callable[[list[tuple[Sink, Event]]], None]


class Draining(Exception):
    """The server is shutting down and does not accept new requests."""


@dataclass
class _Collected:
    """The accumulated output of a non-streamed sequence."""

    text: str
    logprobs: list[TokenLogprob]


class Engine:
    """Runs until `close`. `deliver` is called on the engine thread with all events of a step, and must not block."""

    def __init__(
        self,
        backend: Backend,
        limits: SchedulerLimits,
        deliver: Deliver,
        observer: Observer | None = None,
        masks: Masks | None = None,
    ) -> None:
        self.backend, self.scheduler, self.limits = backend, Scheduler(limits), limits
        self.deliver, self.observer = deliver, observer or Observer()
        self.masks = masks or MaskedWhenAsked()
        self.draining = False
        self.broken: str | None = None
        self._wake = threading.Condition()
        self._arrived: list[Sequence] = []
        self._cancelled: list[Sequence] = []
        self._closing = False
        self._events: list[tuple[Sink, Event]] = []
        self._collected: dict[int, _Collected] = {}
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread, with a stack for the longest text that a constraint forces."""
        with thread_stack(STACK_BYTES):
            self._thread.start()

    def submit(self, sequences: Many[Sequence]) -> None:
        """Queue all of these sequences or none. Raises QueueFull or Draining. Any thread may call it."""
        with self._wake:
            if self.draining or self.broken:
                raise Draining
            if not self.scheduler.can_queue(len(self._arrived) + len(sequences)):
                raise QueueFull
            self._arrived += sequences
            self._wake.notify()

    def cancel(self, sequences: Many[Sequence]) -> None:
        """Cancel these sequences within one step; finished ones are ignored. Any thread may call it."""
        with self._wake:
            self._cancelled += sequences
            self._wake.notify()

    @property
    def load(self) -> tuple[int, int]:
        """The number of running and of waiting sequences."""
        return len(self.scheduler.running), len(self.scheduler.waiting) + len(self._arrived)

    def snapshot(self) -> Snapshot:
        """Return the current state. Any thread may call it."""
        slots, (running, waiting) = self.scheduler.slots, self.load
        return Snapshot(running, waiting, self.limits.cells, slots.used_cells, slots.running_cells)

    def drain(self, timeout_s: float) -> bool:
        """Stop accepting sequences and wait for all to finish; return False if that exceeds `timeout_s`."""
        self.draining = True
        end = time.monotonic() + timeout_s
        while sum(self.load) and time.monotonic() < end and self._thread.is_alive():
            time.sleep(0.02)
        return not sum(self.load)

    def close(self) -> None:
        """Cancel all sequences and stop the thread."""
        with self._wake:
            self.draining = self._closing = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()
        self.masks.close()

    def _run(self) -> None:
        while True:
            if not self._busy():
                self._flush()
            with self._wake:
                while not (self._arrived or self._cancelled or self._closing or self._busy()):
                    self._wake.wait()
                arrived, self._arrived = self._arrived, []
                cancelled, self._cancelled = self._cancelled, []
                closing = self._closing
                for sequence in arrived:
                    self.scheduler.add(sequence)
            for sequence in cancelled:
                self._end(sequence, "cancelled")
            if closing:
                for sequence in [*self.scheduler.running.values(), *self.scheduler.waiting]:
                    self._end(sequence, "cancelled", error="the server is shutting down")
                self._flush()
                return
            try:
                self._step()
            except Exception as error:  # a bug: end every sequence with an error instead of leaving clients waiting
                self._break(error)

    def _busy(self) -> bool:
        return bool(self.scheduler.running or self.scheduler.waiting)

    def _flush(self) -> None:
        """Deliver the collected events, just before a decode: clients are served while the model computes.

        Any earlier, the event loop would hold the GIL while this thread needs it.
        """
        events, self._events = self._events, []
        if events:
            self.deliver(events)

    def _step(self) -> None:
        plan = self.scheduler.plan()
        if plan.preempted:
            self.observer.preempted(plan.preempted)
        started = time.monotonic()
        self.backend.apply(plan.ops)
        if not plan.work:
            self._flush()
            return
        parts = self._parts(plan)
        for number, part in enumerate(parts):
            batch = part.batch
            self._begin_masks(part)
            self._flush()
            code = self.backend.decode(batch)
            if code != DONE:
                for undone in parts[number:]:
                    self.scheduler.rollback(undone)
                self._not_decoded(part, code)
                return
            self.scheduler.commit(part)
            self._sample(batch)
        self.observer.step(time.monotonic() - started)

    def _parts(self, plan: StepPlan) -> list[StepPlan]:
        """Split a step into batches: one for all sequences, or one per sequence if that is faster."""
        if len(plan.work) == 1:
            return [plan]
        singles = all(work.count == 1 for work in plan.work)
        if singles and self.backend.prefers_serial(len(plan.work)):
            return [StepPlan(work=[work]) for work in plan.work]
        return [plan]

    def _begin_masks(self, plan: StepPlan) -> None:
        """Have the masks for this step's samples computed while the model decodes."""
        constraints = [work.sequence.params.constraint for work in plan.work if work.output]
        if begun := [constraint for constraint in constraints if constraint is not UNCONSTRAINED]:
            self.masks.begin(begun)

    def _not_decoded(self, plan: StepPlan, code: int) -> None:
        if code != NO_CELLS:
            self._isolate(plan)
        elif not self.scheduler.reclaim():
            for sequence in list(self.scheduler.running.values()):
                if sequence.unscored:
                    self._end(sequence, "error", error="no KV cells left to compute log-probabilities of this prompt")
                else:
                    self._end(sequence, "length")

    def _isolate(self, plan: StepPlan) -> None:
        """After a failed decode, decode each of its sequences separately, and end the ones that fail."""
        # part of the batch may have been decoded before the failure
        self.backend.apply([Op("cut" if part.start else "free", part.slot, part.start) for part in plan.batch])
        if len(plan.work) == 1:
            self._end(plan.work[0].sequence, "error", error=NOT_COMPUTED, discard=True)
            return
        for work in plan.work:
            alone = self.scheduler.retry(work)
            if self.backend.decode([work]) == DONE:
                self.scheduler.commit(alone)
                self._sample([work])
            else:
                self.scheduler.rollback(alone)
                self._end(work.sequence, "error", error=NOT_COMPUTED, discard=True)

    def _sample(self, batch: Many[ScheduledTokens | FillerToken]) -> None:
        """Process the output of each decoded sequence according to its task; all next tokens are sampled together."""
        index = -1
        outputs: list[Output] = []
        for part in batch:
            first, index = index + 1, index + part.count
            if isinstance(part, FillerToken):
                continue
            if part.scored and not self._score(part, first):
                continue
            if not part.output:
                continue
            sequence = part.sequence
            if sequence.params.prompt_logprobs is not None and not sequence.generated:
                self._events.append((sequence.sink, PromptLogprobs(sequence.scores)))
            match sequence.task:
                case Task.GENERATE:
                    outputs += self._output(sequence, index)
                case Task.PREFILL:
                    self.observer.prefilled(sequence)
                    self._end(sequence, "length")
                case unknown:
                    assert_never(unknown)
        for output, sampled in zip(outputs, self.backend.sample(outputs) if outputs else (), strict=True):
            self._take(output.sequence, sampled)

    def _score(self, part: ScheduledTokens, first: int) -> bool:
        """Store the log-probabilities of the prompt tokens that follow this part's tokens; return False on failure.

        After a preemption, the first tokens of a part already have their log-probabilities.
        """
        sequence = part.sequence
        known = len(sequence.scores) + 1
        tokens = sequence.prompt[known : part.start + part.count + 1]
        try:
            row = first + known - 1 - part.start
            sequence.scores += self.backend.score(tokens, row, sequence.params.prompt_logprobs or 0)
        except UserError as error:
            self._end(sequence, "error", error=str(error), discard=True)
            return False
        return True

    def _output(self, sequence: Sequence, index: int) -> list[Output]:
        """Return the output to sample under the sequence's constraint, or None if an error ended the sequence."""
        try:
            return [Output(sequence, index, sequence.params.constraint.allowed())]
        except UserError as error:
            self._fail(sequence, error)
            return []

    def _take(self, sequence: Sequence, sampled: Sampled | UserError) -> None:
        """Process a sampled token; a sampling or constraint error ends this sequence only."""
        constraint = sequence.params.constraint
        try:
            if isinstance(sampled, UserError):
                raise sampled
            if sampled.token not in sequence.stop.end_tokens:
                constraint.accept(sampled.token)
            if not self._append(sequence, sampled):
                return
            if constraint is not UNCONSTRAINED and not self._force(sequence):
                return
            if constraint.finished:
                self._end(sequence, "stop")
            elif sequence.tokens_left <= 0:
                self._end(sequence, "length")
        except UserError as error:
            self._fail(sequence, error)

    def _force(self, sequence: Sequence) -> bool:
        """Append the tokens that the constraint forces; return False if the sequence has ended.

        The next step decodes them together, without sampling. With log-probabilities each token needs its own step.
        """
        if sequence.params.logprobs is not None:
            return True
        tokens = sequence.params.constraint.forced(min(sequence.tokens_left, MAX_FORCED_TOKENS))
        if tokens:
            self.backend.forced(sequence, tokens)
        for token in tokens:
            if not self._append(sequence, Sampled(token)):
                return False
        sequence.forced = len(tokens)
        return True

    def _append(self, sequence: Sequence, sampled: Sampled) -> bool:
        """Append a token; return False if an end token or a stop string has ended the sequence."""
        sequence.tokens.append(sampled.token)
        sequence.forced = 0
        now = time.monotonic()
        first = sequence.first_token_at is None
        self.observer.token(sequence, now - (sequence.last_token_at or sequence.created), first)
        sequence.first_token_at, sequence.last_token_at = sequence.first_token_at or now, now
        if sampled.token in sequence.stop.end_tokens:
            self._end(sequence, "stop")
            return False
        detokenizer = sequence.detokenizer
        self._emit(sequence, *detokenizer.feed(self.backend.piece(sampled.token), sampled.logprob))
        if detokenizer.stopped:
            self._end(sequence, "stop")
        return not detokenizer.stopped

    def _emit(self, sequence: Sequence, text: str, logprobs: list[TokenLogprob]) -> None:
        if not sequence.stream:
            whole = self._collected.setdefault(sequence.number, _Collected("", []))
            whole.text += text
            whole.logprobs += logprobs
        elif text or logprobs:
            self._events.append((sequence.sink, Delta(text, logprobs, sequence.generated)))

    def _fail(self, sequence: Sequence, error: UserError) -> None:
        self._end(sequence, "error", error=str(error), discard=True, refused=isinstance(error, TooComplex))

    def _end(
        self,
        sequence: Sequence,
        reason: FinishReason,
        error: str | None = None,
        discard: bool = False,
        refused: bool = False,
    ) -> None:
        """Finish a sequence: free its slot and notify its client. With `discard`, its cells are not cached."""
        if sequence.slot is None and sequence not in self.scheduler.waiting:
            return  # already finished
        text, logprobs = sequence.detokenizer.finish()
        self.scheduler.remove(sequence, keep=not discard)
        self.backend.release(sequence)
        before = self._collected.pop(sequence.number, _Collected("", []))
        counts = len(sequence.prompt), sequence.cached, sequence.generated
        event = Finished(reason, before.text + text, before.logprobs + logprobs, *counts, error, refused)
        self._events.append((sequence.sink, event))
        self.observer.finished(sequence, reason)

    def _break(self, error: Exception) -> None:
        """End all sequences after an unexpected error; from now on the server reports itself as not ready."""
        self.broken = f"{type(error).__name__}: {error}"
        places = [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__)[-6:]]
        say(f"error: the engine failed: {type(error).__name__}", level="error", places=places)
        for sequence in [*self.scheduler.running.values(), *self.scheduler.waiting]:
            self._events.append(
                (
                    sequence.sink,
                    Finished("error", "", [], len(sequence.prompt), 0, 0, "the engine failed; see the server's log"),
                )
            )
        self.scheduler = Scheduler(self.limits)
