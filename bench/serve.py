"""Throughput and latency against other servers of the same GGUF, interleaved, as ratios to llama-server.

    python -m bench.serve --model runs/latest/gguf/NAME-Q8_0.gguf [--clients 1,8] [--loads new,long] [--json F]

All servers of a comparison run at once and are asked in turn, so what else the machine does hits them alike. An idle
server costs nothing. Every request streams, at temperature 0, and generates the same number of tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.serve_peers import PEERS, Load, PeerMissing, Running, start
from burnish.llama import Model

ANSWER_TOKENS = (24, 72)  # answers end at different times, as they do in the world
NEW_PROMPT_WORDS = 40
SYSTEM_TOKENS = 400
LONG_PROMPT_TOKENS = 1_500
STREAM_TOKENS = 160
WORDS = (
    *("river", "stone", "lamp", "copper", "winter", "garden", "engine", "paper", "silver", "market", "harbour"),
    *("signal", "bridge", "cotton", "window", "planet", "forest", "anchor", "basket", "candle", "desert", "empire"),
    *("feather", "glacier", "hammer", "island", "jacket", "kettle", "ladder", "meadow", "needle", "orchard"),
)


@dataclass
class Answer:
    """One request: when it was sent, when each piece came, how many tokens it had (seconds of the monotonic clock)."""

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

    def row(self, cpu_s: float) -> dict[str, float]:
        """Return the figures: tokens/s, time to first token p50 and p95, time between tokens p95 (seconds).

        `cpu_ms` is the processor time a token: on a busy machine it says more than the clock (a load's unmeasured first
        pass is in it, the same for every server).
        """
        firsts = sorted(a.first for a in self.answers)
        return {
            "cpu_ms": 1000 * cpu_s / max(1, sum(a.tokens for a in self.answers)),
            "tokens_per_s": sum(a.tokens for a in self.answers) / self.seconds,
            "ttft_p50": quantile(firsts, 0.5),
            "ttft_p95": quantile(firsts, 0.95),
            "between_p95": quantile(sorted(self.gaps), 0.95),
            "failed": sum(bool(a.failed) for a in self.answers),
        }


def quantile(values: list[float], share: float) -> float:
    """Return a quantile of sorted values (the next higher one)."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


async def ask(port: int, messages: list[dict[str, str]], tokens: int, extra: dict[str, Any]) -> Answer:
    """Stream one chat completion over a plain socket: the client must cost as little as it can."""
    body = {"model": "default", "messages": messages, "max_tokens": tokens, "temperature": 0, "stream": True, **extra}
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


def extras(server: str, model: Model) -> dict[str, Any]:
    """Return how this server is told to go on to the last token."""
    if server.startswith(("burnish", "llama-server")):
        return {"ignore_eos": True}
    return {"logit_bias": {str(token): -100 for token in model.eog_ids()}}


class Prompts:
    """Makes prompts of known length that no server has seen."""

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
    """Every client sends its requests one after another, all clients at once."""

    async def client(requests: list[list[dict[str, str]]]) -> list[Answer]:
        return [await ask(server.port, messages, length_of(messages), extra) for messages in requests]

    begun = time.monotonic()
    every = await asyncio.gather(*map(client, conversations))
    answers = [answer for answers in every for answer in answers]
    return Sample(answers, time.monotonic() - begun, gaps_of(answers))


def length_of(messages: list[dict[str, str]]) -> int:
    """Return how long the answer to these messages is: drawn, but the same for every server."""
    return random.Random(messages[-1]["content"]).randint(*ANSWER_TOKENS)


def gaps_of(answers: list[Answer]) -> list[float]:
    """Return the times between the tokens of each answer."""
    return [b - a for answer in answers for a, b in zip(answer.pieces, answer.pieces[1:], strict=False)]


async def new_prompts(server: Running, clients: int, prompts: Prompts, extra: dict[str, Any]) -> Sample:
    """Prompts that share nothing but the template's first words."""
    each = 2 if clients >= 16 else 3
    return await closed_loop(server, [[[prompts.question()] for _ in range(each)] for _ in range(clients)], extra)


async def repeated(server: Running, clients: int, prompts: Prompts, extra: dict[str, Any]) -> Sample:
    """The same few prompts again and again; the first pass is not measured."""
    few = [[prompts.question()] for _ in range(clients)]
    await closed_loop(server, [[messages] for messages in few], extra)
    return await closed_loop(server, [[messages] * 2 for messages in few], extra)


async def shared_first(server: Running, clients: int, prompts: Prompts, extra: dict[str, Any]) -> Sample:
    """One new system prompt for all clients, each with its own first question."""
    system = prompts.system(SYSTEM_TOKENS)
    return await closed_loop(server, [[[system, prompts.question(12)]] for _ in range(clients)], extra)


async def shared_steady(server: Running, clients: int, prompts: Prompts, extra: dict[str, Any]) -> Sample:
    """The same, once every client has had its first answer."""
    system = prompts.system(SYSTEM_TOKENS)
    await closed_loop(server, [[[system, prompts.question(12)]] for _ in range(clients)], extra)
    return await closed_loop(
        server, [[[system, prompts.question(12)] for _ in range(2)] for _ in range(clients)], extra
    )


async def long_prompt(server: Running, clients: int, prompts: Prompts, extra: dict[str, Any]) -> Sample:
    """Running streams, then a long prompt; the gaps are those of the streams while it is being read."""
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
    "new": new_prompts,
    "repeated": repeated,
    "shared-first": shared_first,
    "shared-steady": shared_steady,
    "long": long_prompt,
}


def start_all(names: list[str], load: Load) -> list[Running]:
    """Start what can be started; say in one line what can't."""
    servers = []
    for name in names:
        try:
            servers.append(start(name, load))
        except PeerMissing as error:
            print(f"left out: {error}", flush=True)
    return servers


async def compare(options: argparse.Namespace, clients: int, loads: list[str], model: Model) -> list[dict[str, Any]]:
    """Run the loads at one number of clients on every server, in turn; return one row a load and server."""
    load = Load(Path(options.model).resolve(), options.threads, clients, options.cells, options.peer_python)
    servers = start_all(options.servers, load)
    rows: list[dict[str, Any]] = []
    try:
        for server in servers:
            await new_prompts(server, min(clients, 2), Prompts("warm"), extras(server.name, model))
        for name in loads:
            await one_load(name, clients, servers, options.rounds, model, rows)
    finally:
        for server in servers:
            server.stop()
    return rows


async def one_load(
    name: str, clients: int, servers: list[Running], rounds: int, model: Model, rows: list[dict[str, Any]]
) -> None:
    """Run one load for all rounds, add its rows and print them. A server that ends is taken out of `servers`."""
    samples: dict[str, list[dict[str, float]]] = {server.name: [] for server in servers}
    for number in range(rounds):
        order = servers[number % len(servers) :] + servers[: number % len(servers)] if servers else []
        for server in order:
            # new words for every round, the same for all servers of a round
            prompts = Prompts(f"{name} {clients} {number}")
            try:
                server.check()
                before = server.cpu_s()
                sample = await LOADS[name](server, clients, prompts, extras(server.name, model))
                samples[server.name].append(sample.row(server.cpu_s() - before))
            except (PeerMissing, OSError) as error:
                print(f"left out: {error if isinstance(error, PeerMissing) else f'{server.name}: {error}'}", flush=True)
                servers.remove(server)
                server.stop()
    for server in servers:
        rows.append(summary(name, clients, server, samples[server.name]))
        print(line(rows[-1], rows), flush=True)


def summary(load: str, clients: int, server: Running, samples: list[dict[str, float]]) -> dict[str, Any]:
    """Return the medians of the rounds, and the spread of the throughput."""
    row: dict[str, Any] = {key: statistics.median(s[key] for s in samples) for key in samples[0]}
    rates = [s["tokens_per_s"] for s in samples]
    spread = {"low": min(rates), "high": max(rates), "memory_mib": server.memory_mib()}
    return {"load": load, "clients": clients, "server": server.name, **row, **spread}


def line(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Return a row for the terminal, with its ratios to llama-server where that has run."""
    text = (
        f"{row['load']:13} {row['clients']:3} {row['server']:17} {row['tokens_per_s']:6.1f} tok/s "
        f"[{row['low']:.0f}-{row['high']:.0f}]  ttft {row['ttft_p50']:.2f}/{row['ttft_p95']:.2f} s  "
        f"between p95 {row['between_p95'] * 1000:5.0f} ms  cpu {row['cpu_ms']:4.1f} ms  {row['memory_mib']:4.0f} MiB"
    )
    same = [r for r in rows if (r["load"], r["clients"]) == (row["load"], row["clients"])]
    ours = next((r for r in same if r["server"] == "burnish"), None)
    peer = next((r for r in same if r["server"] == "llama-server"), None)
    if ours and peer and row in (ours, peer):
        ratios = [ours[key] / peer[key] for key in ("tokens_per_s", "ttft_p50", "between_p95", "cpu_ms")]
        text += "   ratio {:.2f}, ttft {:.2f}, between {:.2f}, cpu {:.2f}".format(*ratios)
    return text + (f"   {row['failed']:.0f} FAILED" if row["failed"] else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", required=True, help="the GGUF that every server loads")
    parser.add_argument("--servers", default="burnish,llama-server", help=f"of {', '.join(PEERS)}")
    parser.add_argument("--clients", default="1,2,4,8,16,32", help="numbers of clients")
    parser.add_argument("--loads", default=",".join(LOADS), help=f"of {', '.join(LOADS)}")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each load on each server")
    parser.add_argument("--threads", type=int, default=2, help="threads of each server")
    parser.add_argument("--cells", type=int, default=2048, help="cells for each client")
    parser.add_argument(
        "--peer-python", default=sys.executable, help="a Python with what llama-cpp-python's servers need"
    )
    parser.add_argument("--json", help="file for the rows")
    options = parser.parse_args()
    options.servers = options.servers.split(",")
    for given, known in ((options.servers, PEERS), (options.loads.split(","), LOADS)):
        if unknown := set(given) - set(known):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; there is {', '.join(known)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers are stopped, too
    rows: list[dict[str, Any]] = []
    with Model.open(options.model, vocab_only=True) as model:
        for clients in map(int, options.clients.split(",")):
            rows += asyncio.run(compare(options, clients, options.loads.split(","), model))
            if options.json:
                Path(options.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
