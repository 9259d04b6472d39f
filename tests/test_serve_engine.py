"""The engine with a scripted backend: errors end one sequence, cancelling frees cells, every client gets an end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from burnish.errors import UserError
from serve.decoding.constraints.constraint import ConstraintError, Mask, TooComplex
from serve.decoding.stop_conditions import StopConditions
from serve.engine.backend import DONE, NO_CELLS, Output, Sampled
from serve.engine.engine import Draining, Engine
from serve.engine.events import Delta, Event, Finished, PromptLogprobs, Sink, TokenLogprob
from serve.engine.scheduler import QueueFull
from serve.engine.sequence import SamplingParams, Sequence, Task
from serve.engine.step import FillerToken, ScheduledTokens, SchedulerLimits
from tests.support.fake_model import TokenCache

END = 99


@dataclass
class Scripted(TokenCache):
    """Repeats each sequence's first prompt token; tests inject errors."""

    code: Callable[[Many[ScheduledTokens]], int] = lambda work: DONE
    poison: int | None = None
    released: list[str] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    decoding: threading.Event = field(default_factory=threading.Event)  # a batch waits at the gate
    batches: int = 0
    serial_rows: frozenset[int] = frozenset()
    drawn: list[int] = field(default_factory=list)  # outputs of each call of sample
    sizes: list[int] = field(default_factory=list)
    scored: list[tuple[tuple[int, ...], int]] = field(default_factory=list)
    batch_tokens: list[int] = field(default_factory=list)
    counted: list[int] = field(default_factory=list)  # tokens that were not sampled

    def decode(self, batch: Many[ScheduledTokens | FillerToken]) -> int:
        work = [part for part in batch if isinstance(part, ScheduledTokens)]
        self.decoding.set()
        self.gate.wait(10)
        self.batches += 1
        self.sizes.append(len(work))
        self.batch_tokens.append(sum(part.count for part in batch))
        code = self.code(work)
        if code == DONE:
            self.append(batch)
        return code

    def prefers_serial(self, rows: int) -> bool:
        return rows in self.serial_rows

    def sample(self, outputs: Many[Output]) -> list[Sampled | UserError]:
        self.drawn.append(len(outputs))
        return [self.next_token(output) for output in outputs]

    def next_token(self, output: Output) -> Sampled | UserError:
        sequence, allowed = output.sequence, output.allowed
        if sequence.prompt[0] == self.poison:
            return UserError("not a number")
        token = END if sequence.generated >= 20 else sequence.prompt[0]
        return Sampled(token if allowed is None or allowed[token] else int(allowed.argmax()))

    def forced(self, sequence: Sequence, tokens: Many[int]) -> None:
        self.counted += tokens

    def score(self, tokens: Many[int], index: int, top: int) -> list[TokenLogprob]:
        if self.poison in tokens:
            raise UserError("not a number")
        self.scored.append((tuple(tokens), index))
        return [TokenLogprob(token, b"", -1.0) for token in tokens]

    def piece(self, token: int) -> bytes:
        return f"{token} ".encode()

    def release(self, sequence: Sequence) -> None:
        self.released.append(sequence.id)


@dataclass
class Client:
    events: list[Event] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Finished):
            self.done.set()

    @property
    def end(self) -> Finished:
        assert self.done.wait(10)
        last = self.events[-1]
        assert isinstance(last, Finished)
        return last


def deliver(events: list[tuple[Sink, Event]]) -> None:
    for sink, event in events:
        sink(event)


@pytest.fixture
def backend() -> Scripted:
    scripted = Scripted()
    scripted.gate.set()
    return scripted


@pytest.fixture
def engine(backend: Scripted) -> Iterator[Engine]:
    limits = SchedulerLimits(slots=5, running=4, cells=400, per_slot=100, shared=True, step_tokens=32, queue=4)
    running = Engine(backend, limits, deliver)
    running.start()
    yield running
    backend.gate.set()
    running.close()


def sequence(
    first: int, client: Client, stream: bool = False, params: SamplingParams | None = None, **stop: Any
) -> Sequence:
    conditions = StopConditions(**{"max_tokens": 50, "context": 100, "end_tokens": frozenset({END}), **stop})
    return Sequence(f"s{first}", (first,) * 10, params or SamplingParams(), conditions, client, stream=stream)


def test_answers_are_delivered_streamed_and_complete(engine: Engine) -> None:
    whole, streamed = Client(), Client()
    engine.submit([sequence(1, whole), sequence(2, streamed, stream=True)])
    assert whole.end.text == "1 " * 20 and whole.end.reason == "stop" and len(whole.events) == 1
    assert streamed.end.completion_tokens == 21
    assert "".join(e.text for e in streamed.events if isinstance(e, Delta)) == "2 " * 20


def test_events_are_delivered_before_the_next_decode(engine: Engine, backend: Scripted) -> None:
    client, seen = Client(), list[int]()

    def count(work: Many[ScheduledTokens]) -> int:
        seen.append(len(client.events))
        return DONE

    backend.code = count
    engine.submit([sequence(1, client, stream=True)])
    assert client.end.reason == "stop"
    # 10 prompt tokens in one decode, then one token each: none is held back for the next
    assert seen == list(range(21))


def test_failing_sequence_does_not_affect_others(engine: Engine, backend: Scripted) -> None:
    backend.poison = 3
    clients = {i: Client() for i in (1, 2, 3)}
    engine.submit([sequence(i, client) for i, client in clients.items()])
    assert clients[3].end.reason == "error" and clients[3].end.error == "not a number"
    assert clients[1].end.text == "1 " * 20 and clients[2].end.text == "2 " * 20
    assert sorted(backend.released) == ["s1", "s2", "s3"]


def test_tokens_of_a_step_are_sampled_in_one_call(engine: Engine, backend: Scripted) -> None:
    backend.gate.clear()  # so that all are there before the second step
    clients = {i: Client() for i in (1, 2, 3)}
    engine.submit([sequence(i, client) for i, client in clients.items()])
    backend.gate.set()
    assert all(client.end.completion_tokens == 21 for client in clients.values())
    assert sum(backend.drawn) == 63 and max(backend.drawn) == 3 and 0 not in backend.drawn


def test_failed_batch_is_retried_one_sequence_at_a_time(engine: Engine, backend: Scripted) -> None:
    backend.code = lambda work: -3 if any(part.sequence.id == "s3" for part in work) else DONE
    clients = {i: Client() for i in (1, 2, 3)}
    engine.submit([sequence(i, client) for i, client in clients.items()])
    assert clients[3].end.reason == "error"
    assert clients[1].end.reason == clients[2].end.reason == "stop"


def test_running_out_of_cells_preempts_and_all_answers_complete(engine: Engine, backend: Scripted) -> None:
    # the backend rejects batches of more than two sequences, like a cache with fewer free cells than counted
    backend.code = lambda work: NO_CELLS if len(work) > 2 else DONE
    clients = {i: Client() for i in (1, 2, 3, 4)}
    engine.submit([sequence(i, client) for i, client in clients.items()])
    for i, client in clients.items():
        assert client.end.text == f"{i} " * 20


@pytest.mark.parametrize("code", [DONE, NO_CELLS, -3])
def test_few_sequences_are_decoded_serially_if_that_is_faster(engine: Engine, backend: Scripted, code: int) -> None:
    backend.serial_rows = frozenset({2, 3})
    faults = [code]  # of the second sequence, once, in the middle of a step

    def one_fault(work: Many[ScheduledTokens]) -> int:
        if len(work) == 1 and work[0].sequence.id == "s2" and work[0].sequence.generated == 5 and faults:
            return faults.pop()
        return DONE

    backend.code = one_fault
    clients = {i: Client() for i in (1, 2, 3)}
    engine.submit([sequence(i, client, stream=True) for i, client in clients.items()])
    ended = {i: client.end.reason for i, client in clients.items()}
    assert ended == {1: "stop", 2: "stop" if code in (DONE, NO_CELLS) else "error", 3: "stop"}
    assert not faults
    texts = {
        i: "".join(e.text for e in client.events if not isinstance(e, PromptLogprobs)) for i, client in clients.items()
    }
    assert all(texts[i] == f"{i} " * (20 if reason == "stop" else 5) for i, reason in ended.items())
    slots = engine.scheduler.slots
    assert {s: slots.held(s) for s in slots.cached} == {s: len(backend.slots[s]) for s in slots.cached}
    # a prompt is computed in one batch with the running sequences; after that there are no common batches
    assert set(backend.sizes[1:]) <= ({1} if code == DONE else {1, 2, 3})


def test_cancelled_sequence_ends_within_one_step(engine: Engine, backend: Scripted) -> None:
    backend.gate.clear()
    running, waiting = [Client() for _ in range(4)], Client()
    every = [sequence(i, client) for i, client in enumerate(running)]
    late = sequence(9, waiting)
    engine.submit(every)
    engine.submit([late])
    engine.cancel([every[0], late])
    backend.gate.set()
    assert running[0].end.reason == waiting.end.reason == "cancelled"
    assert running[0].end.completion_tokens <= 1
    assert running[1].end.reason == "stop"
    engine.cancel(every)  # finished ones are ignored


def test_queue_is_bounded_and_submission_is_all_or_nothing(engine: Engine, backend: Scripted) -> None:
    backend.gate.clear()
    clients = [Client() for _ in range(8)]
    engine.submit([sequence(i, client) for i, client in enumerate(clients)])
    with pytest.raises(QueueFull):
        engine.submit([sequence(9, Client())])
    backend.gate.set()
    assert all(client.end.reason == "stop" for client in clients)


def test_draining_finishes_running_sequences_and_rejects_new_ones(engine: Engine) -> None:
    client = Client()
    engine.submit([sequence(1, client)])
    assert engine.drain(10) and client.end.reason == "stop"
    with pytest.raises(Draining):
        engine.submit([sequence(2, Client())])


def test_unexpected_error_reaches_every_client_and_the_health_check(engine: Engine, backend: Scripted) -> None:
    def broken(work: Many[ScheduledTokens]) -> int:
        raise ZeroDivisionError

    backend.code = broken
    client = Client()
    engine.submit([sequence(1, client)])
    assert client.end.reason == "error" and engine.broken == "ZeroDivisionError: "
    with pytest.raises(Draining):
        engine.submit([sequence(2, Client())])


def test_idle_engine_does_not_poll(engine: Engine, backend: Scripted) -> None:
    client = Client()
    engine.submit([sequence(1, client)])
    assert client.end
    before = backend.batches
    time.sleep(0.1)
    assert backend.batches == before


@pytest.mark.parametrize(
    ("stop", "text", "reason", "tokens"),
    [
        ({"max_tokens": 3}, "1 1 1 ", "length", 3),
        ({"context": 14}, "1 1 1 1 ", "length", 4),
        ({"strings": ("1 1 1",)}, "", "stop", 3),
        ({"strings": ("7",)}, "1 " * 20, "stop", 21),
        ({"end_tokens": frozenset({1})}, "", "stop", 1),
        ({"end_tokens": frozenset(), "max_tokens": 25}, "1 " * 20 + "99 " * 5, "length", 25),
    ],
)
def test_each_stop_condition_ends_the_answer(
    engine: Engine, stop: dict[str, Any], text: str, reason: str, tokens: int
) -> None:
    client = Client()
    engine.submit([sequence(1, client, **stop)])
    assert (client.end.text, client.end.reason, client.end.completion_tokens) == (text, reason, tokens)


@dataclass
class Script:
    """Allows a sequence of single tokens, then is finished; `follows` are forced after a token."""

    tokens: list[int]
    accepted: list[int] = field(default_factory=list)
    follows: dict[int, list[int]] = field(default_factory=dict)

    def allowed(self) -> Mask | None:
        mask = np.zeros(100, np.bool_)
        mask[self.tokens[len(self.accepted)]] = True
        return mask

    def accept(self, token: int) -> None:
        if token == 13:
            raise ConstraintError("13 is not a token of this script")
        if token == 14:
            raise TooComplex("14 is too complex")
        self.accepted.append(token)

    def forced(self, limit: int) -> list[int]:
        tokens = self.follows.get(self.accepted[-1], [])[:limit]
        self.accepted += tokens
        return tokens

    @property
    def finished(self) -> bool:
        return len(self.accepted) == len(self.tokens)


def test_constraint_selects_tokens_and_its_error_affects_one_sequence(engine: Engine) -> None:
    scripts = {1: Script([5, 6, 7]), 2: Script([5, 13, 7]), 3: Script([5, END, 7])}
    clients = {i: Client() for i in (1, 2, 3, 4)}
    engine.submit([sequence(i, clients[i], params=SamplingParams(constraint=s)) for i, s in scripts.items()])
    engine.submit([sequence(4, clients[4])])
    assert (clients[1].end.text, clients[1].end.reason) == ("5 6 7 ", "stop") and scripts[1].accepted == [5, 6, 7]
    assert clients[2].end.error == "13 is not a token of this script"
    assert (clients[3].end.text, clients[3].end.reason) == ("5 ", "stop") and scripts[3].accepted == [5]
    assert clients[4].end.text == "4 " * 20


def test_constraint_too_complex_to_follow_is_the_requests_fault(engine: Engine) -> None:
    clients = [Client(), Client()]
    for number, (client, token) in enumerate(zip(clients, (13, 14), strict=True)):
        engine.submit([sequence(number, client, params=SamplingParams(constraint=Script([5, token, 7])))])
    assert [client.end.refused for client in clients] == [False, True]
    assert clients[1].end.error == "14 is too complex"


def forcing() -> Script:
    return Script([5, 6, 7, 8, 9, 10], follows={5: [6, 7, 8], 9: [10]})


def test_forced_tokens_are_appended_without_sampling(engine: Engine, backend: Scripted) -> None:
    client = Client()
    engine.submit([sequence(1, client, params=SamplingParams(constraint=forcing()))])
    assert (client.end.text, client.end.reason) == ("5 6 7 8 9 10 ", "stop")
    assert (client.end.completion_tokens, len(backend.drawn)) == (6, 2) and backend.counted == [6, 7, 8, 10]


def test_every_token_is_sampled_if_logprobs_are_requested(engine: Engine, backend: Scripted) -> None:
    client = Client()
    engine.submit([sequence(1, client, params=SamplingParams(constraint=forcing(), logprobs=0))])
    assert client.end.text == "5 6 7 8 9 10 " and len(backend.drawn) == 6


@pytest.mark.parametrize(("limit", "text"), [({"max_tokens": 3}, "5 6 7 "), ({"context": 12}, "5 6 ")])
def test_forced_tokens_respect_the_limits(engine: Engine, limit: dict[str, int], text: str) -> None:
    client = Client()
    engine.submit([sequence(1, client, params=SamplingParams(constraint=forcing()), **limit)])
    assert (client.end.text, client.end.reason) == (text, "length")


def test_stop_string_in_forced_tokens_ends_the_answer(engine: Engine) -> None:
    client = Client()
    engine.submit([sequence(1, client, params=SamplingParams(constraint=forcing()), strings=("7",))])
    assert (client.end.text, client.end.reason) == ("5 6 ", "stop")


def test_forced_tokens_of_many_sequences_fit_into_a_step(backend: Scripted) -> None:
    limits = SchedulerLimits(slots=5, running=4, cells=90, per_slot=60, shared=True, step_tokens=16, queue=4)
    running = Engine(backend, limits, deliver)
    running.start()
    clients = {i: Client() for i in (1, 2, 3, 4)}
    scripts = [Script([5, *[6] * 20, 7], follows={5: [6] * 20}) for _ in clients]
    engine_params = [SamplingParams(constraint=script) for script in scripts]
    running.submit([sequence(i, c, params=p) for (i, c), p in zip(clients.items(), engine_params, strict=True)])
    try:
        for client in clients.values():
            assert (client.end.text, client.end.reason) == ("5 " + "6 " * 20 + "7 ", "stop")
    finally:
        running.close()
    assert max(backend.batch_tokens) <= 16


@pytest.mark.parametrize("task", list(Task))
def test_prompt_logprobs_are_delivered_first(backend: Scripted, task: Task) -> None:
    limits = SchedulerLimits(slots=5, running=4, cells=400, per_slot=100, shared=True, scored_tokens=4)
    running = Engine(backend, limits, deliver)
    running.start()
    clients = [Client(), Client()]
    params = SamplingParams(prompt_logprobs=1)
    sequences = [sequence(10 + i, client, stream=True, params=params) for i, client in enumerate(clients)]
    for one in sequences:
        one.task = task
    running.submit(sequences)
    ends = [client.end for client in clients]
    running.close()
    for client, one, end in zip(clients, sequences, ends, strict=True):
        first = client.events[0]
        assert isinstance(first, PromptLogprobs) and [entry.token for entry in first.logprobs] == list(one.prompt[1:])
        assert (end.completion_tokens, end.reason) == ((0, "length") if task is Task.PREFILL else (21, "stop"))
    assert max(len(tokens) for tokens, _ in backend.scored) <= 4


def test_unscorable_prompt_does_not_affect_others(engine: Engine, backend: Scripted) -> None:
    backend.poison = 13
    bad, good = Client(), Client()
    engine.submit([sequence(13, bad, params=SamplingParams(prompt_logprobs=0)), sequence(14, good)])
    assert bad.end.error == "not a number" and good.end.error is None


def test_unknown_task_is_an_internal_error(engine: Engine) -> None:
    client = Client()
    unknown = sequence(1, client)
    unknown.task = "embed"  # type: ignore[assignment]
    engine.submit([unknown])
    assert client.end.reason == "error" and engine.broken is not None and Task("generate") is Task.GENERATE


def test_snapshot_counts_sequences_and_cells(engine: Engine, backend: Scripted) -> None:
    backend.gate.clear()
    clients = [Client() for _ in range(6)]
    engine.submit([sequence(i, client) for i, client in enumerate(clients)])
    assert backend.decoding.wait(10)
    now = engine.snapshot()
    # a step takes 32 tokens: three prompts of 10, and two tokens of the fourth
    assert (now.running, now.waiting, now.cells, now.used_cells, now.running_cells) == (4, 2, 400, 32, 32)
    backend.gate.set()
    assert all(client.end for client in clients)
