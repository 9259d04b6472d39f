"""The loads of bench/serve: which requests are sent when, and what is measured. The client is a plain socket."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from bench.serve.peers import Running
from burnish.llama import Model

ANSWER_TOKENS = (24, 72)  # answers end at different times, as in real use
NEW_PROMPT_WORDS = 40
SYSTEM_TOKENS = 400
LONG_PROMPT_TOKENS = 1_500
STREAM_TOKENS = 160
STEADY_TOKENS = 96
# the requested sampling: temperature 0; 0.8 with each server's other defaults (llama-server: top_k 40, top_p 0.95,
# min_p 0.05; ours: none of them); or 0.8 with the same filters for all
SAMPLINGS: dict[str, dict[str, float]] = {
    "greedy": {"temperature": 0},
    "defaults": {"temperature": 0.8},
    "same": {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05},
}
WORDS = (
    *("river", "stone", "lamp", "copper", "winter", "garden", "engine", "paper", "silver", "market", "harbour"),
    *("signal", "bridge", "cotton", "window", "planet", "forest", "anchor", "basket", "candle", "desert", "empire"),
    *("feather", "glacier", "hammer", "island", "jacket", "kettle", "ladder", "meadow", "needle", "orchard"),
)


@dataclass
class Answer:
    """One request: when it was sent, when each chunk arrived, and its tokens (times on the monotonic clock)."""

    sent: float
    pieces: list[float] = field(default_factory=list)
    tokens: int = 0
    failed: str = ""

    @property
    def first(self) -> float:
        return self.pieces[0] - self.sent if self.pieces else float("nan")


@dataclass
class Sample:
    """One round of one load on one server."""

    answers: list[Answer]
    seconds: float
    gaps: list[float]
    counted: int | None = None  # tokens within `seconds`, if not all

    def row(self, cpu_s: float, others: float) -> dict[str, float]:
        """Return the results: tokens/s, p50 and p95 time to first token, p95 time between tokens (seconds).

        `others` is other processes' share of the CPUs. `cpu_ms` is the CPU time per token, which is more reliable than
        wall time on a busy machine (it includes a load's unmeasured first pass, for every server).
        """
        firsts = sorted(a.first for a in self.answers)
        tokens = sum(a.tokens for a in self.answers)
        return {
            "cpu_ms": 1000 * cpu_s / max(1, tokens),
            "tokens_per_s": (tokens if self.counted is None else self.counted) / self.seconds,
            "ttft_p50": quantile(firsts, 0.5),
            "ttft_p95": quantile(firsts, 0.95),
            "between_p95": quantile(sorted(self.gaps), 0.95),
            "others": others,
            "failed": sum(bool(a.failed) for a in self.answers),
        }


def quantile(values: list[float], share: float) -> float:
    """Return a quantile of sorted values, without interpolation."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


async def ask(port: int, messages: list[dict[str, str]], tokens: int, extra: dict[str, Any]) -> Answer:
    """Stream one chat completion over a plain socket, to keep the client's cost low."""
    body = {"model": "default", "messages": messages, "max_tokens": tokens, "stream": True, **extra}
    data = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    answer = Answer(time.monotonic())
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    writer.write(f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)
    status = await reader.readline()
    if b" 200 " not in status:
        answer.failed = status.decode() + (await reader.read(2000)).decode(errors="replace")[-300:]
    while line := await reader.readline():
        if line.startswith(b"data: {"):
            chunk = json.loads(line[6:])
            if "error" in chunk:
                answer.failed = str(chunk["error"])
            if any(choice["delta"].get("content") for choice in chunk.get("choices") or []):
                answer.pieces.append(time.monotonic())
                answer.tokens += 1
    writer.close()
    return answer


def extras(server: str, model: Model, sampling: str = "greedy") -> dict[str, Any]:
    """Return the parameters for this sampling, and the ones that make this server generate up to the token limit."""
    if server.startswith(("burnish", "llama-server")):
        return {**SAMPLINGS[sampling], "ignore_eos": True}
    return {**SAMPLINGS[sampling], "logit_bias": {str(token): -100 for token in model.eog_ids()}}


class Prompts:
    """Creates prompts of known length that no server has cached."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)

    def text(self, words: int) -> str:
        return " ".join(self.random.choice(WORDS) for _ in range(words))

    def question(self, words: int = NEW_PROMPT_WORDS) -> dict[str, str]:
        return {"role": "user", "content": f"{self.text(words)}. Write a story about these words."}

    def system(self, tokens: int) -> dict[str, str]:
        return {"role": "system", "content": self.text(round(tokens * 0.93))}


Round = Callable[[Running, int, Prompts, dict[str, Any]], Awaitable[Sample]]


async def closed_loop(
    server: Running, conversations: list[list[list[dict[str, str]]]], extra: dict[str, Any]
) -> Sample:
    """Run all clients in parallel; each sends its requests one after another."""

    async def client(requests: list[list[dict[str, str]]]) -> list[Answer]:
        return [await ask(server.port, messages, length_of(messages), extra) for messages in requests]

    begun = time.monotonic()
    every = await asyncio.gather(*map(client, conversations))
    answers = [answer for answers in every for answer in answers]
    return Sample(answers, time.monotonic() - begun, gaps_of(answers))


def length_of(messages: list[dict[str, str]]) -> int:
    """Return the answer length for these messages: random, but the same for every server."""
    return random.Random(messages[-1]["content"]).randint(*ANSWER_TOKENS)


def gaps_of(answers: list[Answer]) -> list[float]:
    """Return the times between the tokens of each answer."""
    return [b - a for answer in answers for a, b in zip(answer.pieces, answer.pieces[1:], strict=False)]


async def new_prompts(server: Running, clients: int, prompts: Prompts, extra: dict[str, Any]) -> Sample:
    """Prompts that share only the start of the template."""
    each = 2 if clients >= 16 else 3
    return await closed_loop(server, [[[prompts.question()] for _ in range(each)] for _ in range(clients)], extra)


async def repeated(server: Running, clients: int, prompts: Prompts, extra: dict[str, Any]) -> Sample:
    """The same few prompts repeatedly; the first pass is not measured."""
    few = [[prompts.question()] for _ in range(clients)]
    await closed_loop(server, [[messages] for messages in few], extra)
    return await closed_loop(server, [[messages] * 2 for messages in few], extra)


async def shared_first(server: Running, clients: int, prompts: Prompts, extra: dict[str, Any]) -> Sample:
    """One new system prompt for all clients, each with a different first question."""
    system = prompts.system(SYSTEM_TOKENS)
    return await closed_loop(server, [[[system, prompts.question(12)]] for _ in range(clients)], extra)


async def shared_steady(server: Running, clients: int, prompts: Prompts, extra: dict[str, Any]) -> Sample:
    """The same as shared_first, after every client's first answer."""
    system = prompts.system(SYSTEM_TOKENS)
    await closed_loop(server, [[[system, prompts.question(12)]] for _ in range(clients)], extra)
    return await closed_loop(
        server, [[[system, prompts.question(12)] for _ in range(2)] for _ in range(clients)], extra
    )


async def steady(server: Running, clients: int, prompts: Prompts, extra: dict[str, Any]) -> Sample:
    """Equal-length streams, measured from the last stream's first token to the first stream's end: only decoding."""
    streams = [ask(server.port, [prompts.question(12)], STEADY_TOKENS, extra) for _ in range(clients)]
    answers = await asyncio.gather(*streams)
    came = [answer.pieces or [time.monotonic()] for answer in answers]
    start, end = max(pieces[0] for pieces in came), min(pieces[-1] for pieces in came)
    counted = sum(start < at <= end for pieces in came for at in pieces)
    gaps = [b - a for pieces in came for a, b in pairwise(pieces) if start <= a and b <= end]
    return Sample(answers, max(end - start, 1e-9), gaps, counted)


async def long_prompt(server: Running, clients: int, prompts: Prompts, extra: dict[str, Any]) -> Sample:
    """Running streams, then a long prompt; the gaps are measured on the streams during its prefill."""
    streams = [
        asyncio.create_task(ask(server.port, [prompts.question(12)], STREAM_TOKENS, extra))
        for _ in range(max(1, clients - 1))
    ]
    begun = time.monotonic()
    await asyncio.sleep(2.0)
    text = prompts.text(round(LONG_PROMPT_TOKENS * 0.93))
    late = await ask(server.port, [{"role": "user", "content": text}], 8, extra)
    answers = await asyncio.gather(*streams)
    read = (late.sent, late.pieces[0] if late.pieces else time.monotonic())
    gaps = [b - a for s in answers for a, b in zip(s.pieces, s.pieces[1:], strict=False) if b > read[0] and a < read[1]]
    return Sample([*answers, late], time.monotonic() - begun, gaps)


LOADS: dict[str, Round] = {
    "steady": steady,
    "new": new_prompts,
    "repeated": repeated,
    "shared-first": shared_first,
    "shared-steady": shared_steady,
    "long": long_prompt,
}
