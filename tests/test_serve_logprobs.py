"""Log-probabilities in replies: tokens have distinct names, and large replies are encoded outside the event loop."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.engine.events import Delta, Event, Finished, PromptLogprobs, TokenLogprob
from serve.http.errors import ApiError
from serve.http.output_parsers import ParsedDelta, PlainText
from serve.http.replies.logprobs import of_chat, of_text
from serve.http.replies.writing import Joined, SliceEncoder, Writer, encode
from serve.http.requests import make_sequences, parse
from serve.http.response_objects import Answer, Echo, Reply
from serve.http.schema import CompletionRequest, StreamOptions
from serve.http.sse import Frames
from serve.served import Served
from tests.support.fake_model import END, ByteTokenizer

SERVED = Served("echo", ByteTokenizer(), frozenset({END}), (), 400, 0, "fp_0", {})
LEAF = (
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.recursive(LEAF, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner))


def scored(tokens: list[int], top: int) -> list[TokenLogprob]:
    alternatives = tuple((token, -1.0 - token / 1000) for token in range(97, 97 + top))
    return [TokenLogprob(token, bytes([token]), -0.5, alternatives) for token in tokens]


@given(st.sets(st.binary(max_size=4), min_size=2, max_size=2))
def test_tokens_with_different_bytes_have_different_strings(pair: set[bytes]) -> None:
    one, other = pair
    entry = TokenLogprob(0, one, -2.0, ((1, -1.0),))
    found = of_text([entry], lambda token: other, 0)
    assert found is not None and len(found["top_logprobs"][0]) == 2  # the token is not the most likely one
    assert found["top_logprobs"][0][found["tokens"][0]] == -2.0


def test_partial_characters_are_shown_as_bytes() -> None:
    entry = TokenLogprob(0, b" \xe2\x80", -2.0, ((1, -1.0), (2, -1.5)))
    pieces = {1: b"\xe2", 2: "ü".encode()}
    text, chat = of_text([entry], pieces.__getitem__, 0), of_chat([entry], pieces.__getitem__)
    assert text is not None and text["tokens"] == ["bytes: \\xe2\\x80"]
    assert text["top_logprobs"] == [{"bytes:\\xe2": -1.0, "ü": -1.5, "bytes: \\xe2\\x80": -2.0}]
    assert chat is not None and [chat["content"][0][name] for name in ("token", "bytes")] == [
        " \\xe2\\x80",
        [32, 226, 128],
    ]
    assert [top["bytes"] for top in chat["content"][0]["top_logprobs"]] == [[226], [195, 188]]


@given(VALUES)
def test_json_encoded_in_slices_equals_json_encoded_whole(value: Any) -> None:
    long, short = [value] * 600, [value]

    def reply(both: Any) -> Any:
        return {"choices": [{"logprobs": {"long": both, "none": []}}] * 2, "value": value}

    for lists in ((long, short), (long,), ([], long), ([], [])):
        assert SliceEncoder().encode(reply(Joined(lists))) == encode(reply([entry for part in lists for entry in part]))
    assert SliceEncoder().encode(reply(long)) == encode(reply(long))


def test_large_reply_does_not_block_other_requests() -> None:
    tokens = [97 + number % 26 for number in range(4000)]
    reply = Reply(SERVED, False, [Echo("a" * len(tokens), tokens)], each=8)
    end = Finished("length", "b", scored([98], 5), len(tokens), 0, 1)
    answers = [Answer(end, ParsedDelta("b"), scored(tokens[1:], 5) if index == 0 else None) for index in range(8)]

    async def run() -> tuple[bytes, int]:
        ticks = 0
        making = asyncio.create_task(
            Writer().make(lambda: SliceEncoder().encode(reply.whole(answers, 1)), 8 * 6 * len(tokens)),
        )
        while not making.done():
            await asyncio.sleep(0.001)
            ticks += 1
        return await making, ticks

    body, ticks = asyncio.run(run())
    choices = json.loads(body)["choices"]
    assert ticks > 2 and len(choices) == 8
    assert all(len(values) == len(tokens) + 1 for choice in choices for values in choice["logprobs"].values())
    assert choices[0]["logprobs"] == choices[7]["logprobs"]


def test_prompt_logprobs_are_computed_once_for_several_choices() -> None:
    body = {"model": "echo", "prompt": ["ab", "cd"], "echo": True, "logprobs": 1, "n": 3}
    request = parse(CompletionRequest, json.dumps(body).encode())
    sequences = make_sequences(request, [[97, 98], [99, 100]], SERVED, 400, [lambda event: None] * 6)
    assert [s.params.prompt_logprobs for s in sequences] == [1, None, None] * 2


def test_echoed_prompt_is_streamed_before_the_completion() -> None:
    reply = Reply(SERVED, False, [Echo("ab", [97, 98])], each=2)
    frames = Frames(reply, StreamOptions(), [PlainText(), PlainText()], 2, scored=True)
    events: list[tuple[int, Event]] = [(1, Delta("x")), (1, Finished("stop", "y", [], 2, 0, 2))]
    assert frames.of_all(events) == b""
    later = frames.of_all([(0, PromptLogprobs(scored([98], 0))), (0, Delta("z"))]).split(b"\n\n")[:-1]
    choices = [json.loads(frame.removeprefix(b"data: "))["choices"][0] for frame in later]
    assert [(choice["index"], choice["text"]) for choice in choices] == [
        (0, "ab"),
        (1, "ab"),
        (1, "x"),
        (1, "y"),
        (0, "z"),
    ]
    assert choices[1]["logprobs"] == choices[0]["logprobs"] and choices[3]["finish_reason"] == "stop"


@pytest.mark.parametrize(("n", "fits"), [(None, True), (13, True), (14, False)])
def test_echo_with_logprobs_and_too_many_choices_is_rejected(n: int | None, fits: bool) -> None:
    body = {"model": "echo", "prompt": "a", "echo": True, "logprobs": 0, "n": n}
    request, prompts = parse(CompletionRequest, json.dumps(body).encode()), [[97] * 10_000]
    sinks = [lambda event: None] * (n or 1)
    if fits:
        assert len(make_sequences(request, prompts, SERVED, 20_000, sinks)) == len(sinks)
        return
    with pytest.raises(ApiError, match="140000 prompt tokens.*at most 131072") as refused:
        make_sequences(request, prompts, SERVED, 20_000, sinks)
    assert (refused.value.status, refused.value.param) == (400, "n")
