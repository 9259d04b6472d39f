"""Compare answering a file with `serve generate` and with HTTP clients of our own server: rows per second.

    python -m bench.generate --model FILE.gguf [--rows 200] [--max-tokens 32] [--clients 16] [--rounds 3]

Both load the same model with the same settings and answer the same rows greedily, each row for exactly --max-tokens
tokens. The rounds alternate. Loading is not counted: time runs from the first question to the last answer.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.serve.loads import Prompts

PROMPT_WORDS = 24
RATE = re.compile(r"([\d.]+) rows/s")
READY = re.compile(r"ready: http://\S+?:(\d+)/v1")


def bodies(rows: int, max_tokens: int, seed: str) -> list[dict[str, Any]]:
    """Return requests with prompts that nothing has cached."""
    prompts = Prompts(seed)
    fields = {"model": "default", "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
    return [{**fields, "messages": [prompts.question(PROMPT_WORDS)]} for _ in range(rows)]


def in_process(settings: Sequence[str], requests: Sequence[dict[str, Any]]) -> float:
    """Return the rows per second of `serve generate`."""
    fields = {name: value for name, value in requests[0].items() if name not in ("model", "messages")}
    with tempfile.TemporaryDirectory() as directory:
        data, out = Path(directory, "rows.jsonl"), Path(directory, "out.jsonl")
        data.write_text("".join(json.dumps({"messages": body["messages"]}) + "\n" for body in requests))
        words = ["--data", str(data), "--out", str(out), "--fields", json.dumps(fields)]
        done = subprocess.run(
            [sys.executable, "-m", "serve", "generate", *settings, *words], capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(RATE.findall(done.stderr)[-1])


@contextmanager
def server(settings: Sequence[str]) -> Iterator[int]:
    """Run a server during the block; yield its port."""
    words = [sys.executable, "-m", "serve", *settings, "--port", "0"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if found := READY.search(line):
                break
        else:
            raise SystemExit("the server did not start")
        with ThreadPoolExecutor(1) as pool:
            pool.submit(process.stderr.read)  # so that its log does not fill the pipe
            yield int(found[1])
            process.terminate()
    finally:
        process.kill()
        process.wait()


def over_http(settings: Sequence[str], requests: Sequence[dict[str, Any]], clients: int) -> float:
    """Return the rows per second of clients that share the rows, each with a connection that stays open."""
    waiting = iter(requests)

    def client(connection: http.client.HTTPConnection) -> int:
        count = 0
        for body in waiting:
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
            reply = connection.getresponse()
            content = reply.read()
            if reply.status != 200:
                raise SystemExit(content.decode())
            count += 1
        connection.close()
        return count

    with server(settings) as port, ThreadPoolExecutor(clients) as pool:
        started = time.monotonic()
        done = list(pool.map(client, [http.client.HTTPConnection("127.0.0.1", port) for _ in range(clients)]))
        return sum(done) / (time.monotonic() - started)


def main() -> int:
    """Run the rounds and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.generate", description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    settings = ["--model", options.model, "--context_length", "512"]
    rates: dict[str, list[float]] = {"serve generate": [], f"{options.clients} HTTP clients": []}
    for number in range(options.rounds):
        requests = bodies(options.rows, options.max_tokens, f"{number}-{random.random()}")
        measured = in_process(settings, requests), over_http(settings, requests, options.clients)
        for name, rate in zip(rates, measured, strict=True):
            rates[name].append(rate)
            print(f"round {number + 1}: {name}: {rate:.2f} rows/s", flush=True)
    print("\n| way | rows/s, median | all rounds |\n|---|---|---|")
    for name, found in rates.items():
        print(f"| {name} | {statistics.median(found):.2f} | {', '.join(f'{rate:.2f}' for rate in found)} |")
    one, other = (statistics.median(found) for found in rates.values())
    print(f"\nratio {one / other:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
