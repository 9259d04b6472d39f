"""OpenAI's API with a real model: every reply, chunk and error follows the schema, checked with real clients."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.support.server import ServerProcess, serving

QUESTION = "What is the capital of Italy? Answer in one short sentence."


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with serving(max_body_bytes=200_000, max_waiting=64, max_choices=4) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)


def chat(client: openai.OpenAI, text: str = QUESTION, **fields: Any) -> Any:
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(
        **{"model": "default", "messages": messages, "temperature": 0, "max_tokens": 24, **fields}
    )


def raw_chunks(server: ServerProcess, **fields: Any) -> list[dict[str, Any]]:
    status, headers, body = server.chat(QUESTION, stream=True, max_tokens=12, **fields)
    assert status == 200 and headers["content-type"].startswith("text/event-stream")
    events = [part for part in body.decode().split("\n\n") if part]
    assert events[-1] == "data: [DONE]" and all(event.startswith("data: ") for event in events)
    return [json.loads(event[6:]) for event in events[:-1]]


def test_streamed_text_equals_the_full_reply(client: openai.OpenAI) -> None:
    whole = chat(client)
    parts = list(chat(client, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in parts if c.choices) == whole.choices[0].message.content
    assert "Rome" in whole.choices[0].message.content
    assert parts[-1].usage is not None and parts[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert parts[-2].choices[0].finish_reason == whole.choices[0].finish_reason


def test_concurrent_clients_get_their_own_answers(client: openai.OpenAI) -> None:
    capitals = {"Italy": "Rome", "France": "Paris", "Japan": "Tokyo", "Germany": "Berlin", "Spain": "Madrid"}
    alone = {c: chat(client, QUESTION.replace("Italy", c)).choices[0].message.content for c in capitals}
    together: dict[str, str] = {}

    def ask(country: str) -> None:
        together[country] = chat(client, QUESTION.replace("Italy", country)).choices[0].message.content

    threads = [threading.Thread(target=ask, args=(country,)) for country in capitals]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(capitals[c] in together[c] for c in capitals) >= 4
    # batched arithmetic is not bit-identical, so the texts may diverge, but not from the first words
    assert sum(together[c][:12] == alone[c][:12] for c in capitals) >= 4


def test_response_has_every_required_field(server: ServerProcess) -> None:
    _, headers, body = server.chat(QUESTION, max_tokens=3)
    assert {"id", "object", "created", "model", "choices", "usage", "system_fingerprint"} <= set(body)
    assert body["object"] == "chat.completion" and body["id"].startswith("chatcmpl-")
    (choice,) = body["choices"]
    assert {"finish_reason", "index", "message", "logprobs"} <= set(choice) and choice["finish_reason"] == "length"
    assert {"role", "content", "refusal"} <= set(choice["message"]) and choice["message"]["refusal"] is None
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["completion_tokens"] == 3 and "cached_tokens" in usage["prompt_tokens_details"]
    assert headers["x-request-id"].startswith("req_")


def test_stream_chunks_and_usage_follow_the_openai_schema(server: ServerProcess) -> None:
    plain = raw_chunks(server)
    assert all("usage" not in chunk for chunk in plain)
    counted = raw_chunks(server, stream_options={"include_usage": True})
    assert all(chunk["usage"] is None for chunk in counted[:-1])
    assert counted[-1]["choices"] == [] and counted[-1]["usage"]["completion_tokens"] > 0
    assert len({chunk["id"] for chunk in counted}) == 1
    for chunk in counted[:-1]:
        assert chunk["object"] == "chat.completion.chunk"
        assert set(chunk["choices"][0]) == {"index", "delta", "logprobs", "finish_reason"}
    assert counted[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [c["choices"][0]["finish_reason"] for c in counted[:-1]][-1] in ("stop", "length")


@pytest.mark.parametrize(
    ("change", "status", "param", "code"),
    [
        ({"messages": None}, 400, "messages", "invalid_type"),
        ({"messages": ...}, 400, "messages", "missing_required_parameter"),
        ({"messages": []}, 400, "messages", "empty_array"),
        ({"messages": "hi"}, 400, "messages", "invalid_type"),
        ({"messages": [{"role": "usr", "content": "x"}]}, 400, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user", "content": 5}]}, 400, "messages[0].content", "invalid_type"),
        ({"messages": [{"role": "user"}]}, 400, "messages[0]", "invalid_value"),
        ({"model": ...}, 400, "model", "missing_required_parameter"),
        ({"model": "gpt-9"}, 404, None, "model_not_found"),
        ({"temperature": "hot"}, 400, "temperature", "invalid_type"),
        ({"temperature": 3}, 400, "temperature", "integer_above_max_value"),
        ({"temperature": -0.5}, 400, "temperature", "decimal_below_min_value"),
        ({"max_tokens": 0}, 400, "max_tokens", "integer_below_min_value"),
        ({"max_tokens": True}, 400, "max_tokens", "invalid_type"),
        ({"n": 99}, 400, "n", "integer_above_max_value"),
        ({"top_logprobs": 21, "logprobs": True}, 400, "top_logprobs", "integer_above_max_value"),
        ({"top_logprobs": 2}, 400, "top_logprobs", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options", "invalid_value"),
        ({"stop": ["a"] * 33}, 400, "stop", "array_above_max_length"),
        ({"max_tokns": 5}, 400, "max_tokns", "unknown_parameter"),
        ({"logit_bias": {"x": 1}}, 400, "logit_bias", "invalid_value"),
        ({"logit_bias": {"99999999": 1}}, 400, "logit_bias.99999999", "invalid_value"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400, "tools", "unsupported_parameter"),
        ({"messages": [{"role": "user", "content": "word " * 600}]}, 400, "messages", "context_length_exceeded"),
    ],
)
def test_invalid_request_gets_the_openai_error(
    server: ServerProcess, change: dict[str, Any], status: int, param: str | None, code: str
) -> None:
    body: dict[str, Any] = {"model": "default", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    body = {k: v for k, v in {**body, **change}.items() if v is not ...}
    got, headers, reply = server.call("POST", "/v1/chat/completions", body)
    assert got == status and "x-request-id" in headers
    assert set(reply["error"]) == {"message", "type", "param", "code"}
    assert (reply["error"]["type"], reply["error"]["code"]) == ("invalid_request_error", code)
    assert reply["error"]["param"] == param and reply["error"]["message"]


def test_body_that_is_not_a_json_object_gets_400(server: ServerProcess) -> None:
    for body in (b"", b"{", b"[1]", b"\xff\xfe", b'{"a": NaN}', b"[" * 100_000, b'{"n": ' + b"9" * 5000 + b"}"):
        status, _, reply = server.call("POST", "/v1/chat/completions", body)
        assert status == 400 and reply["error"]["type"] == "invalid_request_error"
    status, _, reply = server.call("POST", "/v1/chat/completions", b" " * 200_001)
    assert (status, reply["error"]["code"]) == (413, "request_too_large")
    assert server.call("GET", "/v1/nothing")[0] == 404 and server.call("GET", "/v1/chat/completions")[0] == 405


def test_optional_fields_are_accepted(server: ServerProcess) -> None:
    parts = [{"type": "text", "text": "What is the capital"}, {"type": "text", "text": " of Italy?"}]
    messages = [
        {"role": "developer", "content": "Answer briefly."},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None},
        {"role": "user", "content": "Well?"},
    ]
    harmless = {
        "user": "u",
        "store": False,
        "metadata": {"a": "b"},
        "service_tier": "auto",
        "tools": None,
        "stop": None,
    }
    extensions = {
        "min_p": 0.05,
        "top_k": 40,
        "repeat_penalty": 1.1,
        "ignore_eos": True,
        "chat_template_kwargs": {"x": 1},
    }
    body = {"model": "default", "messages": messages, "max_completion_tokens": 5, **harmless, **extensions}
    status, _, reply = server.call("POST", "/v1/chat/completions", body)
    assert status == 200 and reply["usage"]["completion_tokens"] == 5


def test_same_seed_repeats_the_answer_and_other_seeds_differ(client: openai.OpenAI) -> None:
    def text(seed: int) -> str:
        reply = chat(client, "Write one sentence about the sea.", temperature=1.5, seed=seed)
        return str(reply.choices[0].message.content)

    assert len({text(seed) for seed in (1, 2, 3)}) == 3


def test_several_choices_share_one_prefill(server: ServerProcess) -> None:
    before = server.metric("burnish_reused_tokens_total")
    body = {"model": "default", "messages": [{"role": "user", "content": "Name a river of your own choice, please."}]}
    _, _, reply = server.call("POST", "/v1/chat/completions", {**body, "n": 4, "max_tokens": 12, "temperature": 1.2})
    assert [c["index"] for c in reply["choices"]] == [0, 1, 2, 3]
    assert len({c["message"]["content"] for c in reply["choices"]}) > 1
    prompt = reply["usage"]["prompt_tokens"]
    assert server.metric("burnish_reused_tokens_total") - before >= 3 * (prompt - 1)
    assert reply["usage"]["completion_tokens"] <= 48


def test_repeated_prompt_is_counted_as_cached_tokens(server: ServerProcess) -> None:
    text = "Please say something about the history of the city of Ravenna and its mosaics."
    first = server.chat(text, max_tokens=2)[2]["usage"]
    again = server.chat(text, max_tokens=2)[2]["usage"]
    assert again["prompt_tokens_details"]["cached_tokens"] >= first["prompt_tokens"] - 1


def test_logprobs_match_the_text(client: openai.OpenAI) -> None:
    reply = chat(client, logprobs=True, top_logprobs=3, max_tokens=6)
    entries = reply.choices[0].logprobs.content
    assert b"".join(bytes(e.bytes) for e in entries).decode() == reply.choices[0].message.content
    for entry in entries:
        assert len(entry.top_logprobs) == 3 and entry.logprob <= 0
        assert entry.top_logprobs[0].token == entry.token  # temperature 0 selects the most likely
        assert entry.top_logprobs[0].logprob >= entry.top_logprobs[1].logprob
    streamed = [
        e
        for chunk in chat(client, logprobs=True, top_logprobs=3, max_tokens=6, stream=True)
        if chunk.choices and chunk.choices[0].logprobs
        for e in chunk.choices[0].logprobs.content
    ]
    assert [e.token for e in streamed] == [e.token for e in entries]


def test_stop_string_ends_the_answer_and_is_not_returned(client: openai.OpenAI) -> None:
    whole = chat(client, "Count from one to ten in words.", max_tokens=40).choices[0].message.content
    at = len(whole) // 2
    stop = whole[at : at + 5]
    expected = whole[: whole.index(stop)]
    cut = chat(client, "Count from one to ten in words.", max_tokens=40, stop=["never there", stop])
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == (expected, "stop")
    parts = chat(client, "Count from one to ten in words.", max_tokens=40, stop=stop, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in parts if c.choices) == expected


def test_logit_bias_forces_and_bans_tokens(client: openai.OpenAI, server: ServerProcess) -> None:
    token = server.call("POST", "/tokenize", {"content": " banana"})[2]["tokens"][0]
    forced = chat(client, logit_bias={str(token): 100}, max_tokens=3)
    assert forced.choices[0].message.content == " banana" * 3


def test_completions_accept_text_lists_and_token_ids(client: openai.OpenAI) -> None:
    reply = client.completions.create(
        model="default", prompt=["One, two, three,", "A, B, C, D,"], max_tokens=4, temperature=0, logprobs=2
    )
    assert reply.object == "text_completion" and " four" in reply.choices[0].text and " E" in reply.choices[1].text
    first = reply.choices[0].logprobs
    assert first is not None and "".join(first.tokens or []) == reply.choices[0].text
    parts = client.completions.create(
        model="default", prompt="One, two, three,", max_tokens=4, temperature=0, stream=True
    )
    assert "".join(c.choices[0].text for c in parts if c.choices) == reply.choices[0].text


def test_status_routes_and_chat_page_respond(server: ServerProcess, client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert "default" in names and client.models.retrieve(names[0]).object == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    ids = server.call("POST", "/tokenize", {"content": "Hello, wörld <|im_end|>"})[2]["tokens"]
    assert server.call("POST", "/detokenize", {"tokens": ids})[2] == {"content": "Hello, wörld <|im_end|>"}
    assert server.call("POST", "/detokenize", {"tokens": [10**9]})[0] == 400
    assert server.call("GET", "/health/live")[0] == server.call("GET", "/health/ready")[0] == 200
    assert server.call("GET", "/version")[2]["context_length"] == 512
    assert b"<title>Burnish chat</title>" in server.call("GET", "/")[2]


def test_request_id_is_echoed_or_generated(server: ServerProcess) -> None:
    sent = {"X-Request-ID": "my-id-7"}
    assert server.call("GET", "/v1/models", headers=sent)[1]["x-request-id"] == "my-id-7"
    for bad in ("a b", "x" * 500, "é"):
        assert server.call("GET", "/v1/models", headers={"X-Request-ID": bad})[1]["x-request-id"].startswith("req_")


def test_metrics_contain_the_documented_series(server: ServerProcess) -> None:
    server.chat(QUESTION, max_tokens=3)
    text = server.call("GET", "/metrics")[2].decode()
    for name in (
        "burnish_queue_depth",
        "burnish_sequences_running",
        "burnish_cells_used",
        "burnish_reused_tokens_total",
        "burnish_prompt_tokens_total",
        "burnish_generated_tokens_total",
        "burnish_time_to_first_token_seconds_bucket",
        "burnish_time_between_tokens_seconds_bucket",
        "burnish_preemptions_total",
        "burnish_errors_total",
    ):
        assert f"\n{name}" in text, name


def test_log_contains_token_counts_but_no_prompts(server: ServerProcess) -> None:
    server.chat("the secret word is xylophone", max_tokens=2, user="xylophone")
    server.call("POST", "/v1/chat/completions", {"model": "xylophone", "messages": "xylophone"})
    lines = [json.loads(line) for line in server.output.splitlines() if line.startswith("{")]
    assert "xylophone" not in server.output
    assert any(line.get("completion_tokens") == 2 and line["status"] == 200 for line in lines)
