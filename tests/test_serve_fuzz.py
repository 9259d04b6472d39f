"""Thousands of bad requests: each gets a 4xx in OpenAI's format or works; the server stays up and does not grow."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from serve.http.errors import ApiError
from serve.http.requests import parse
from serve.http.schema import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from tests.support.server import ServerProcess, serving
from tests.support.thorough import some

SCHEMAS: dict[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
    "/tokenize": TokenizeRequest,
    "/detokenize": DetokenizeRequest,
}
GOOD: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "default", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1},
    "/v1/completions": {"model": "default", "prompt": "x", "max_tokens": 1},
    "/tokenize": {"content": "x"},
    "/detokenize": {"tokens": [1]},
}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-3, 60_000)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12)
    | st.sampled_from(["user", "default", "\ud800", "\0", "<|im_end|>", "text"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8) | st.sampled_from(["role", "content", "type", "text"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A valid request with a few odd fields."""
    path = draw(st.sampled_from(sorted(SCHEMAS)))
    names = st.sampled_from(sorted(SCHEMAS[path].model_fields)) | st.text(max_size=8)
    return path, {**GOOD[path], **draw(st.dictionaries(names, JSON, max_size=3))}


@pytest.mark.slow
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(bodies())
def test_schema_errors_have_openai_codes(case: tuple[str, dict[str, Any]]) -> None:
    path, body = case
    try:
        parse(SCHEMAS[path], json.dumps(body).encode())  # type: ignore[type-var]
    except ApiError as error:
        fault = error.body()["error"]
        assert 400 <= error.status < 500 and fault["type"] == "invalid_request_error"
        assert isinstance(fault["message"], str) and fault["message"]
        assert fault["code"] is None or fault["code"].replace("_", "").isalpha()


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def fast_server(tiny_gguf: Path) -> Iterator[ServerProcess]:
    """A server with a tiny model, to measure the server's own memory."""
    with serving(model=tiny_gguf) as running:
        yield running


def post(server: ServerProcess, path: str, body: dict[str, Any]) -> None:
    body = {**body, "max_tokens": 1} if "max_tokens" in body and body.get("max_tokens") is None else body
    for name in ("max_tokens", "max_completion_tokens"):
        if isinstance(body.get(name), int) and (body[name] > 2 or body[name] == -1):
            body = {**body, name: 2}  # short answers: the test is about the request
    if path.startswith("/v1"):
        body.setdefault("max_tokens", 1)
    status, headers, reply = server.call("POST", path, json.dumps(body).encode())
    assert status < 500, (path, body, reply)
    assert "x-request-id" in headers
    if status >= 400:
        assert set(reply["error"]) == {"message", "type", "param", "code"}


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(bodies())
def test_random_requests_never_cause_a_5xx(server: ServerProcess, case: tuple[str, dict[str, Any]]) -> None:
    post(server, *case)


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(sorted(SCHEMAS)), st.binary(max_size=200))
def test_random_bytes_never_cause_a_5xx(server: ServerProcess, path: str, body: bytes) -> None:
    assert 400 <= server.call("POST", path, body)[0] < 500


@pytest.mark.slow
def test_thousands_of_bad_requests_do_not_grow_memory(fast_server: ServerProcess) -> None:
    rng = random.Random(5)

    def some() -> None:
        for _ in range(1500):
            path = rng.choice(sorted(SCHEMAS))
            body = dict(GOOD[path])
            body[rng.choice(sorted(SCHEMAS[path].model_fields))] = rng.choice(
                [None, -1, "x", [], {}, [[1]], 1e300, True]
            )
            body[f"f{rng.random()}"] = 1
            post(fast_server, path, body)

    some()
    before = fast_server.memory_kib()
    some()
    assert fast_server.memory_kib() - before < 8_000
    assert fast_server.call("GET", "/health/ready")[0] == 200


@pytest.mark.slow
def test_two_thousand_answers_do_not_grow_memory(fast_server: ServerProcess) -> None:
    def some(first: int, count: int) -> None:
        with ThreadPoolExecutor(8) as pool:
            ends = pool.map(lambda i: fast_server.chat(f"Number {i}.", max_tokens=3)[0], range(first, first + count))
            assert set(ends) == {200}

    some(0, 500)
    before = fast_server.memory_kib()
    some(500, 2000)
    assert fast_server.memory_kib() - before < 8_000


@pytest.mark.slow
def test_batched_answers_equal_sequential_answers() -> None:
    subjects = [*("rain", "snow", "wind", "fire", "iron", "gold", "salt", "milk"), *("bread", "tea", "wool", "silk")]
    subjects += ["glass", "clay", "sand", "moss"]
    verbs = some(["Describe", "Explain", "Write a line about", "Name a use of"], [0, 3])
    questions = [f"{verb} {subject}." for verb in verbs for subject in subjects]
    with serving(prefix_cache="false") as server:

        def ask(question: str) -> str:
            reply = server.chat(question, max_tokens=20)[2]
            return str(reply["choices"][0]["message"]["content"])

        alone = [ask(question) for question in questions]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(ask, questions))
        same = sum(a == b for a, b in zip(alone, together, strict=True))
        print(f"{same} of {len(questions)} batched answers equal the single ones")
        assert same >= 0.95 * len(questions)
        assert [ask(q) for q in questions[:4]] == alone[:4]


@pytest.mark.slow
def test_seed_is_exactly_repeatable_without_batching_and_prefix_reuse() -> None:
    with serving(prefix_cache="false") as server:
        texts = {
            server.chat("Write about the sea.", temperature=1.3, seed=11, max_tokens=40)[2]["choices"][0]["message"][
                "content"
            ]
            for _ in range(3)
        }
        assert len(texts) == 1
