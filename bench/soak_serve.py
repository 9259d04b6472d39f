"""Soak test: serve all kinds of clients for a long time, and report errors and growth.

    python -m bench.soak_serve [--model FILE.gguf] [--minutes 60] [--clients 16] [--seed 1]

Starts its own server on loopback. One client asks questions with known answers; half of the clients disconnect early, a
tenth is hostile (tools/hostile.py, slow and silent connections), and the rest reads whole streams. The exit code is 1
if a known answer was wrong or late, a reply was a 5xx, a stream was cut off, the server exited, or memory, files or
threads grew. Without --model, a tiny random model is served, which tests only the server.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.soak_process import Sample, Server
from tools import tiny_gguf
from tools.hostile import attack, exchange

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
SUBJECTS = ("rain", "iron", "salt", "tea", "wool", "glass", "clay", "moss", "ships", "bread", "snow", "gold")
# batch sizes change the last digits: an answer is known only up to the first token that leads by less than this (nats)
SURE = 0.3
KNOWN_TOKENS = 12
# with logits this far apart, most answers are the same on every CPU
SURE_MODEL = tiny_gguf.Size(vocabulary=1024, spread=10.0, words=True)
# time limit for a known answer, under load on a machine that may run other work
MAX_ANSWER_S = 180.0
# growth from the second to the last quarter of the run; allocator fragmentation is allowed
MAX_GROWTH_MIB = 24.0
MAX_GROWTH_FILES, MAX_GROWTH_THREADS = 4, 4


@dataclass
class Tally:
    """The results so far; any `faults` make the exit code 1."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)  # durations of health checks in seconds
    stop: threading.Event = field(default_factory=threading.Event)

    def fault(self, text: str) -> None:
        """Record an error with its time; the first fifty are kept."""
        self.counts["faults"] += 1
        if len(self.faults) < 50:
            self.faults.append(f"{time.strftime('%H:%M:%S')} {text}")

    def status(self, status: int, what: str) -> None:
        self.counts[f"{status // 100}xx"] += 1
        if status >= 500:
            self.fault(f"{what}: {status}")


def body(prompt: str, **fields: Any) -> dict[str, Any]:
    """Return a completion request at temperature 0."""
    return {"model": "default", "prompt": prompt, "temperature": 0, "max_tokens": KNOWN_TOKENS, **fields}


def known_answers(server: Server) -> dict[str, str]:
    """Query the idle server; keep the answers, up to the first token that is not much more likely than the second."""
    known: dict[str, str] = {}
    for subject in SUBJECTS:
        for words in ("A short note about {}:", "The history of {} begins", "1, 2, 3, 4, 5, {}, 1, 2, 3, 4, 5,"):
            prompt = words.format(subject)
            choice = server.ask(body(prompt, logprobs=2))[1]["choices"][0]
            gaps = [max(top.values()) - min(top.values()) for top in choice["logprobs"]["top_logprobs"] if len(top) > 1]
            sure = next((i for i, gap in enumerate(gaps) if gap < SURE), len(gaps))
            tokens = choice["logprobs"]["tokens"]
            # part of a character, which appears in the text only once complete
            sure = next((i for i, token in enumerate(tokens[:sure]) if token.startswith("bytes:")), sure)
            if sure >= 3:
                known[prompt] = "".join(tokens[:sure])
    return known


def well_behaved(server: Server, tally: Tally, rng: random.Random, known: dict[str, str]) -> None:
    """Ask a question with a known answer, and check it."""
    prompt, answer = rng.choice(list(known.items()))
    began = time.monotonic()
    status, reply = server.ask(body(prompt), MAX_ANSWER_S)
    tally.status(status, "a known question")
    if status == 200 and not str(reply["choices"][0]["text"]).startswith(answer):
        tally.fault(f"wrong answer to {prompt!r}: {reply['choices'][0]['text']!r}, not {answer!r}")
    tally.counts["known answers"] += status == 200
    tally.counts["longest known answer, ms"] = max(
        tally.counts["longest known answer, ms"], round(1000 * (time.monotonic() - began))
    )


def leaver(server: Server, tally: Tally, rng: random.Random) -> None:
    """Request a long answer and disconnect before its end."""
    data = json.dumps(
        body(f"{rng.random()} ", max_tokens=200, stream=rng.random() < 0.5, n=rng.choice((1, 1, 3)))
    ).encode()
    with server.connect() as connection:
        connection.sendall(HEAD.replace(b"1000", b"%d" % len(data)) + b"\r\n" + data[: rng.choice((5, len(data)))])
        connection.settimeout(rng.random() * 2)
        with suppress(TimeoutError):
            for _ in range(rng.randint(0, 20)):
                if not connection.recv(4096):
                    break
    tally.counts["left"] += 1


def reader(server: Server, tally: Tally, rng: random.Random) -> None:
    """Read a stream to its end."""
    request = body(f"{rng.random()} ", max_tokens=rng.choice((5, 20, 60)), stream=True, temperature=rng.choice((0, 1)))
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
    connection.request("POST", "/v1/completions", json.dumps(request), {"Content-Type": "application/json"})
    reply = connection.getresponse()
    data = reply.read()
    tally.status(reply.status, "a stream")
    if reply.status == 200 and (not data.endswith(b"data: [DONE]\n\n") or b'"error"' in data):
        tally.fault(f"a stream ended with {data[-200:]!r}")
    tally.counts["streams"] += 1
    connection.close()


def hostile(server: Server, tally: Tally, rng: random.Random) -> None:
    """Send one attack, or hold open connections that send little or nothing."""
    tally.counts["attacks"] += 1
    if rng.random() < 0.1:
        held = [server.connect() for _ in range(rng.choice((1, 20, 200)))]
        for connection in held:
            connection.sendall(rng.choice((b"", HEAD, HEAD + b"\r\n{")))
        tally.stop.wait(rng.random() * 3)
        for connection in held:
            connection.close()
        return
    sent = attack(rng)
    with server.connect() as connection:
        data = exchange(connection, sent)
    if data[:12].startswith(b"HTTP/1.1 "):
        tally.status(int(data[9:12]), f"an attack ({sent.kind})")


def health(server: Server, tally: Tally) -> None:
    """Check the server's health, and record how long that takes."""
    began = time.monotonic()
    status = server.get("/health/ready")[0]
    tally.waits.append(time.monotonic() - began)
    if status != 200:
        tally.fault(f"/health/ready: {status}")
    tally.stop.wait(0.5)


def forever(tally: Tally, name: str, act: Callable[[], None]) -> None:
    """Repeat an action until the time is up. A lost connection is an error, except for clients that provoke it."""
    while not tally.stop.is_set():
        try:
            act()
        except (OSError, http.client.HTTPException) as error:
            if name not in ("hostile", "leaver") and not tally.stop.is_set():
                tally.fault(f"{name}: {type(error).__name__} {error}")
            tally.stop.wait(0.05)


def clients(server: Server, tally: Tally, count: int, seed: int, known: dict[str, str]) -> list[threading.Thread]:
    """Return the client threads: one well-behaved, a tenth hostile, half leavers, the rest readers; health checks."""
    acts: dict[str, Callable[[random.Random], None]] = {
        "well-behaved": lambda rng: well_behaved(server, tally, rng, known),
        "hostile": lambda rng: hostile(server, tally, rng),
        "leaver": lambda rng: leaver(server, tally, rng),
        "reader": lambda rng: reader(server, tally, rng),
        "health": lambda rng: health(server, tally),
    }
    names = ["well-behaved", *["hostile"] * max(1, round(count / 10)), *["leaver"] * (count // 2)]
    names += [*["reader"] * (count - len(names)), "health"]

    def thread(number: int, name: str) -> threading.Thread:
        rng = random.Random(f"{seed} {number}")
        return threading.Thread(target=forever, args=(tally, name, lambda: acts[name](rng)), daemon=True)

    return [thread(number, name) for number, name in enumerate(names)]


def growth(samples: list[Sample], end: Sample) -> list[str]:
    """Return what has grown: memory from the second to the last quarter, files and threads over the run."""
    quarter = max(1, len(samples) // 4)
    early, late = samples[quarter : 2 * quarter] or samples[:1], samples[-quarter:]
    more = statistics.median(s.rss_mib for s in late) - statistics.median(s.rss_mib for s in early)
    faults = [f"memory grew by {more:.0f} MiB"] if more > MAX_GROWTH_MIB else []
    if end.files > samples[0].files + MAX_GROWTH_FILES:
        faults.append(f"{end.files} open files at the end, {samples[0].files} at the start")
    if end.threads > max(s.threads for s in early) + MAX_GROWTH_THREADS:
        faults.append(f"{end.threads} threads at the end, {samples[0].threads} at the start")
    return faults


def soak(server: Server, tally: Tally, minutes: float, count: int, seed: int) -> list[Sample]:
    """Run all clients; return a sample of the server every few seconds."""
    known = known_answers(server)
    if not known:
        raise SystemExit("error: this model has no answer that is certain enough to check: choose another with --model")
    samples, end = [server.sample()], time.monotonic() + 60 * minutes
    threads = clients(server, tally, count, seed, known)
    for thread in threads:
        thread.start()
    reported = time.monotonic()
    while time.monotonic() < end and server.alive():
        time.sleep(min(2.0, 60 * minutes / 20))
        samples.append(server.sample())
        if time.monotonic() - reported > 60:
            reported = time.monotonic()
            print(
                f"{(end - reported) / 60:.0f} minutes left: {samples[-1]}, {tally.counts['faults']} errors", flush=True
            )
    tally.stop.set()
    for thread in threads:
        thread.join(30)
    server.settle()
    return samples


def report(server: Server, tally: Tally, samples: list[Sample]) -> bool:
    """Print the results; return whether there were no errors."""
    if not server.alive():
        tally.fault("the server exited")
    else:
        tally.faults += growth(samples, end := server.sample())
        print(f"start: {samples[0]}\nend:   {end}\nmax:   {max(samples, key=lambda sample: sample.rss_mib)}")
    tally.faults += server.logged_faults()
    print("counts: " + ", ".join(f"{name} {number}" for name, number in sorted(tally.counts.items())))
    waits = sorted(tally.waits) or [0.0]
    print(f"health checks: {len(waits)}, median {waits[len(waits) // 2]:.3f} s, longest {waits[-1]:.3f} s")
    for fault in tally.faults:
        print(f"fault: {fault}")
    return not tally.faults


def main() -> int:
    """Run the soak test; return 0 if there were no errors."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.soak_serve", description="Serve for a long time under clients of every kind."
    )
    parser.add_argument("--model", type=Path, help="GGUF file; a tiny random model by default")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or Path(folder, "tiny.gguf")
        if options.model is None:
            tiny_gguf.write(model, SURE_MODEL, template=tiny_gguf.CHATML)
        tally = Tally()
        with Server(model, Path(folder, "log")) as server:
            samples = soak(server, tally, options.minutes, options.clients, options.seed)
            right = report(server, tally, samples)
    print("no errors" if right else f"{len(tally.faults)} errors")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
