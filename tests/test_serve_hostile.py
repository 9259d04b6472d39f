"""Hostile requests on raw sockets: each gets a reply or a closed connection within seconds, never a 5xx.

BURNISH_FUZZ_REQUESTS=5000 sends more of them, BURNISH_FUZZ_SEED=7 different ones.
"""

from __future__ import annotations

import os
import random
import re
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.server import ServerProcess, serving
from tools import tiny_gguf
from tools.hostile import Attack, attack, exchange

REQUESTS = int(os.environ.get("BURNISH_FUZZ_REQUESTS", "300"))
SEED = int(os.environ.get("BURNISH_FUZZ_SEED", "1"))
MAX_SECONDS = 5.0
STATUS = re.compile(rb"HTTP/1\.1 (\d\d\d) ")


def answers(server: ServerProcess, sent: Attack) -> tuple[list[int], float]:
    """Send an attack; return the statuses received until the server closed, and the duration in seconds."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        data = exchange(connection, sent)
    return [int(found) for found in STATUS.findall(data)], time.monotonic() - began


def test_hostile_requests_end_quickly_and_never_with_a_5xx(tmp_path: Path) -> None:
    tiny_gguf.write(path := tmp_path / "tiny.gguf", template=tiny_gguf.CHATML)
    seen: Counter[int] = Counter()
    longest = 0.0
    with serving(
        model=path, context_length=64, header_timeout_s=1, body_timeout_s=1, idle_timeout_s=0.5, max_waiting=200
    ) as server:

        def one(number: int) -> None:
            nonlocal longest
            sent = attack(random.Random(f"{SEED} {number}"))
            statuses, seconds = answers(server, sent)
            assert not [status for status in statuses if status >= 500], (number, sent.kind, statuses)
            assert seconds < MAX_SECONDS, (number, sent.kind, seconds)
            longest = max(longest, seconds)
            seen.update(statuses)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(one, range(REQUESTS)))
        assert server.call("GET", "/health/ready")[0] == 200
        body = {"model": "default", "prompt": "x", "max_tokens": 1}
        assert server.call("POST", "/v1/completions", body)[0] == 200
        server.wait_idle()
        assert "Traceback" not in server.output and '"event": "internal error"' not in server.output
    print(f"{REQUESTS} requests, longest {longest:.2f} s, {dict(sorted(seen.items()))}")
    assert seen[200] and seen[400]
