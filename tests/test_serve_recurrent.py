"""Models whose state can't be truncated (recurrent, hybrid) over HTTP: prefixes are reused whole or recomputed."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from export.gguf import convert
from tests.support.server import ServerProcess, serving

ANSWER_TOKENS = 12
BEGINNING = "You are a careful helper who answers in one short sentence and never guesses a number or a name. "
QUESTIONS = (
    "Where is the river?",
    "Count to nine, slowly.",
    "def main() -> None:",
    "Das Wetter ist heute",
    "1 2 3 4 5 6",
)


def mamba(**ids: int) -> Any:
    """Recurrent in every layer."""
    from transformers import MambaConfig, MambaForCausalLM

    return MambaForCausalLM(MambaConfig(hidden_size=64, num_hidden_layers=2, state_size=16, **ids))


def lfm2(**ids: int) -> Any:
    """Short convolutions with a recurrent state, and attention with KV cells."""
    from transformers import Lfm2Config, Lfm2ForCausalLM

    config = Lfm2Config(
        hidden_size=64, intermediate_size=128, block_auto_adjust_ff_dim=False, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, layer_types=["conv", "full_attention"], **ids,
    )  # fmt: skip
    return Lfm2ForCausalLM(config)


@pytest.fixture(scope="module", params=[mamba, lfm2])
def model(request: pytest.FixtureRequest, base_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of about 3M parameters with SmolLM2's tokenizer, made with llama.cpp's converter."""
    import torch
    from transformers import AutoTokenizer

    directory = tmp_path_factory.mktemp("recurrent")
    tokenizer = AutoTokenizer.from_pretrained(base_directory)
    torch.manual_seed(0)
    # weights large enough that an answer depends on more than the last token
    network = request.param(vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2, initializer_range=0.3)
    network.half().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    convert.convert(directory, directory / "tiny.gguf", "float16")
    return directory / "tiny.gguf"


@pytest.fixture(scope="module")
def alone(model: Path) -> dict[str, str]:
    """The answer to each question, one at a time and without reuse."""
    with serving(model=model, prefix_cache=False) as server:
        answers = {question: ask(server, BEGINNING + question)[0] for question in QUESTIONS}
    assert len(set(answers.values())) == len(answers), "equal answers would prove nothing"
    return answers


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[ServerProcess]:
    with serving(model=model, max_sequences=4) as started:
        yield started


def tokens(server: ServerProcess, text: str) -> list[int]:
    found: list[int] = server.call("POST", "/tokenize", {"content": text})[2]["tokens"]
    return found


def ask(server: ServerProcess, prompt: str | list[int], limit: int = ANSWER_TOKENS) -> tuple[str, int]:
    """Return the greedy answer and the number of reused prompt tokens."""
    body = {"model": "default", "prompt": prompt, "max_tokens": limit, "temperature": 0, "ignore_eos": True}
    status, _, reply = server.call("POST", "/v1/completions", body)
    assert status == 200, reply
    return reply["choices"][0]["text"], reply["usage"]["prompt_tokens_details"]["cached_tokens"]


@pytest.mark.slow
def test_shared_prefix_does_not_change_answers(server: ServerProcess, alone: dict[str, str]) -> None:
    for _ in range(2):
        assert {question: ask(server, BEGINNING + question)[0] for question in QUESTIONS} == alone


def test_concurrent_answers_equal_sequential_answers(server: ServerProcess, alone: dict[str, str]) -> None:
    with ThreadPoolExecutor(12) as clients:
        found = list(clients.map(lambda question: ask(server, BEGINNING + question)[0], QUESTIONS * 4))
    assert found == list(alone.values()) * 4


def test_continued_conversation_reuses_the_cached_prefix(server: ServerProcess, model: Path) -> None:
    # as token ids: the text of random tokens would be tokenized differently
    first = tokens(server, "A conversation that nobody had before: the lamp, the stone and the harbour in winter.")
    ask(server, first, limit=1)
    longer = first + tokens(server, " And then? What did they find there?")
    continued, reused = ask(server, longer)
    with serving(model=model, prefix_cache=False) as fresh:
        assert (continued, 0) == ask(fresh, longer)
    assert reused == len(first)


def test_disconnecting_clients_do_not_affect_others(server: ServerProcess, alone: dict[str, str]) -> None:
    body = {"model": "default", "prompt": BEGINNING, "max_tokens": 300, "stream": True, "ignore_eos": True}
    for _ in range(6):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        assert connection.getresponse().readline().startswith(b"data: ")
        connection.close()
    assert [ask(server, BEGINNING + question)[0] for question in QUESTIONS] == list(alone.values())
