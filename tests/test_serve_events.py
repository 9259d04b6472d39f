"""Delivery of events: none lost, in order, with one timer per request; fast paths give the same chunks."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from serve.decoding.stop_conditions import StopConditions
from serve.engine.delivery import EventBridge, EventQueue, Timeout
from serve.engine.events import Delta, Event, Finished, TokenLogprob
from serve.engine.observer import Snapshot
from serve.engine.sequence import SamplingParams, Sequence
from serve.http.output_parsers import PlainText
from serve.http.response_objects import Reply
from serve.http.schema import StreamOptions
from serve.http.sse import Frames, frame
from serve.metrics import Metrics


def test_events_from_a_different_thread_arrive_complete_and_in_order() -> None:
    async def receive() -> list[str]:
        bridge, got, done = EventBridge(), list[str](), asyncio.Event()

        def sink(event: Event) -> None:
            assert isinstance(event, Delta)
            got.append(event.text)
            if event.text == "299":
                done.set()

        def send() -> None:
            for number in range(300):
                bridge.deliver([(sink, Delta(str(number)))])

        thread = threading.Thread(target=send)
        thread.start()
        bridge.open(asyncio.get_running_loop())  # earlier events are not lost
        await asyncio.wait_for(done.wait(), 10)
        thread.join()
        return got

    assert asyncio.run(receive()) == [str(number) for number in range(300)]


def test_reader_gets_all_events_and_wakes_on_keep_alive_and_deadline() -> None:
    async def read() -> None:
        loop = asyncio.get_running_loop()
        queue = EventQueue(loop.time() + 0.5, pause_s=0.1)
        queue.put(0, Delta("a"))
        queue.put(1, Delta("b"))
        assert await queue.take() == [(0, Delta("a")), (1, Delta("b"))]
        for _ in range(3):  # continuous events are not a pause, even if the timer was set before them
            loop.call_later(0.06, queue.put, 0, Delta("c"))
            assert len(await queue.take()) == 1
        began = loop.time()
        assert await queue.take() == [] and 0.05 < loop.time() - began < 0.2
        with pytest.raises(Timeout):
            while True:
                await queue.take()
        assert 0.45 < loop.time() - began + 0.25 < 1
        queue.close()

    asyncio.run(read())


def test_without_keep_alive_only_the_deadline_wakes_the_reader() -> None:
    async def read() -> float:
        began = time.monotonic()
        queue = EventQueue(asyncio.get_running_loop().time() + 0.2, None)
        assert await queue.take() == []
        with pytest.raises(Timeout):
            await queue.take()
        return time.monotonic() - began

    assert 0.15 < asyncio.run(read()) < 1


def reply(chat: bool) -> Reply:
    tokenizer = SimpleNamespace(piece=lambda token: b"x")
    served: Any = SimpleNamespace(name='a "name" \\u0000', fingerprint="fp_1", tokenizer=tokenizer)
    return Reply(served, chat, id="1", created=2)


@given(st.text(min_size=1), st.booleans(), st.booleans())
def test_fast_path_writes_the_same_text_chunk(text: str, chat: bool, usage: bool) -> None:
    text = text.encode("utf-8", "replace").decode()
    answer = reply(chat)
    extra = {"usage": None} if usage else {}
    made = answer.chunk(1, {"content": text}, None, None) if chat else answer.text_chunk(1, text, None, None)
    options = StreamOptions(include_usage=usage)
    frames = Frames(answer, options, [PlainText(), PlainText()], 1)
    assert frames.of(1, Delta("first")) != frames.of(0, Delta("first"))
    assert frames.of(1, Delta(text)) == frame({**made, **extra})


def test_text_offsets_continue_over_chunks_without_logprobs() -> None:
    frames = Frames(reply(chat=False), StreamOptions(), [PlainText()], 1)
    frames.of(0, Delta("abc"))
    last = frames.of(0, Finished("length", "d", [TokenLogprob(1, b"d", -1.0)], 1, 0, 2))
    choice = json.loads(last.removeprefix(b"data: "))["choices"][0]
    assert choice["logprobs"]["text_offset"] == [3] and choice["finish_reason"] == "length"


def test_metrics_are_valid_prometheus_text() -> None:
    metrics = Metrics()
    metrics.watch(lambda: Snapshot(running=1, waiting=2, cells=9, used_cells=4, running_cells=3))
    one = Sequence("s", (1, 2, 3), SamplingParams(), StopConditions(1, 9), lambda event: None)
    for seconds, first in ((0.02, True), (0.002, False), (0.0021, False), (99.0, False)):
        metrics.token(one, seconds, first)
    metrics.step(0.5)
    metrics.preempted(2)
    metrics.preempted(3)
    metrics.finished(one, "stop")
    families = list(text_string_to_metric_families(metrics.text().decode()))
    values = {(s.name, s.labels.get("le", s.labels.get("reason", ""))): s.value for f in families for s in f.samples}
    assert values["burnish_generated_tokens_total", ""] == 4 and values["burnish_prompt_tokens_total", ""] == 3
    assert values["burnish_preemptions_total", ""] == 5 and values["burnish_step_seconds_total", ""] == 0.5
    assert values["burnish_sequences_total", "stop"] == 1 and values["burnish_cells_running", ""] == 3
    assert values["burnish_cells_total", ""] == 9 and values["burnish_cells_used", ""] == 4
    assert values["burnish_sequences_running", ""] == 1 and values["burnish_queue_depth", ""] == 2
    between = "burnish_time_between_tokens_seconds"
    # a bucket counts values up to its bound
    assert [values[f"{between}_bucket", end] for end in ("0.002", "0.005", "2.5", "+Inf")] == [1, 2, 2, 3]
    assert values[f"{between}_count", ""] == 3 and values[f"{between}_sum", ""] == pytest.approx(99.0041)
    assert values["burnish_time_to_first_token_seconds_bucket", "0.025"] == 1


def test_sse_events_contain_no_unicode_line_separators() -> None:
    """httpx's iter_lines and others split at U+2028 and similar characters, inside an event's JSON."""
    text = "a\u2028b\u2029c\x85d\x0b\x0c\x1c\x1d\x1e\r\ne"
    (line,) = [line for line in frame({"content": text}).decode().splitlines() if line]
    assert json.loads(line.removeprefix("data: ")) == {"content": text}
