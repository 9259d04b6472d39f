"""Throughput and latency against other servers of the same GGUF, interleaved, as ratios to llama-server.

    python -m bench.serve --model runs/latest/gguf/NAME-Q8_0.gguf [--clients 1,8] [--loads new,long] [--json F]

All servers in a comparison run at the same time and take the load in turn, so that other work on the machine affects
them equally; an idle server costs nothing. Every request streams and generates the same number of tokens. Each load
runs at temperature 0, at 0.8 with each server's defaults, and at 0.8 with the same top_k, top_p and min_p
(`--samplings`). Ratios are medians over the rounds; `others` is the share of CPU time used by neither the server nor
this client. In the "steady" load, each round also measures llama_decode alone; `of raw` is the server's rate as a share
of llama_decode's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.serve.loads import LOADS, SAMPLINGS, Prompts, extras, new_prompts
from bench.serve.peers import PEERS, Load, PeerMissing, Running, start
from bench.serve.raw import RawDecode
from burnish.llama import Model

# a round counts as disturbed if other processes used more than this share of the CPUs
MAX_OTHERS = 0.1
COMPARED = ("tokens_per_s", "ttft_p50", "between_p95", "cpu_ms")


@dataclass
class Meter:
    """Measures CPU use since its creation: by the server, and by processes other than the server and this client."""

    server: Running
    server_s: float = 0.0
    busy_s: float = field(default_factory=lambda: busy_s())
    own_s: float = field(default_factory=time.process_time)
    since: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.server_s = self.server.cpu_s()

    def read(self) -> tuple[float, float]:
        """Return the server's CPU time in seconds, and the other processes' share of the available CPU time."""
        server, own = self.server.cpu_s() - self.server_s, time.process_time() - self.own_s
        available = (time.monotonic() - self.since) * (os.cpu_count() or 1)
        return server, max(0.0, busy_s() - self.busy_s - server - own) / available


def busy_s() -> float:
    """Return the busy seconds of this machine's CPUs, including time stolen by a hypervisor."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def start_all(names: list[str], load: Load) -> list[Running]:
    """Start the servers; print one line for each that can't be started."""
    servers = []
    for name in names:
        try:
            servers.append(start(name, load))
        except PeerMissing as error:
            print(f"skipped: {error}", flush=True)
    return servers


async def compare(options: argparse.Namespace, clients: int, model: Model) -> list[dict[str, Any]]:
    """Run the loads on each server in turn with `clients` clients; return a row per load, sampling and server."""
    model_file = Path(options.model).resolve()
    load = Load(
        model_file, options.threads, clients, options.cells, python=options.peer_python, gpu_layers=options.gpu_layers
    )
    servers = start_all(options.servers, load)
    rows: list[dict[str, Any]] = []
    try:
        for server in servers:
            await new_prompts(server, min(clients, 2), Prompts("warm"), extras(server.name, model))
        for name in options.loads:
            with RawDecode(load) if name == "steady" else nullcontext() as raw:
                for sampling in options.samplings:
                    rounds = Rounds(name, sampling, clients, options.rounds, model)
                    await one_load(rounds, servers, raw, rows)
    finally:
        for server in servers:
            server.stop()
    return rows


@dataclass(frozen=True)
class Rounds:
    """The rounds to run on every server: `count` rounds of one load, sampling and client count."""

    load: str
    sampling: str
    clients: int
    count: int
    model: Model

    async def one(self, number: int, server: Running, raw_tokens_per_s: float | None) -> dict[str, float]:
        """Run one round on one server. Raises PeerMissing or OSError if the server has exited."""
        # new prompts in every round, the same for all servers
        prompts = Prompts(f"{self.load} {self.sampling} {self.clients} {number}")
        server.check()
        meter = Meter(server)
        extra = extras(server.name, self.model, self.sampling)
        row = (await LOADS[self.load](server, self.clients, prompts, extra)).row(*meter.read())
        return row if raw_tokens_per_s is None else {**row, "of_raw": row["tokens_per_s"] / raw_tokens_per_s}


async def one_load(rounds: Rounds, servers: list[Running], raw: RawDecode | None, rows: list[dict[str, Any]]) -> None:
    """Run all rounds of one load, add its rows and print them. A server that exits is removed from `servers`."""
    samples: dict[str, list[dict[str, float]]] = {server.name: [] for server in servers}
    for number in range(rounds.count):
        order = servers[number % len(servers) :] + servers[: number % len(servers)] if servers else []
        rate = raw.tokens_per_s() if raw else None
        for server in order:
            try:
                samples[server.name].append(await rounds.one(number, server, rate))
            except (PeerMissing, OSError) as error:
                print(f"skipped: {error if isinstance(error, PeerMissing) else f'{server.name}: {error}'}", flush=True)
                servers.remove(server)
                server.stop()
    measured = [summary(rounds.load, rounds.clients, server, samples[server.name]) for server in servers]
    measured = [{**row, "sampling": rounds.sampling} for row in measured]
    rows += measured
    for row in measured:
        print(line(row, rows), flush=True)


def summary(load: str, clients: int, server: Running, samples: list[dict[str, float]]) -> dict[str, Any]:
    """Return the medians of the rounds, the spread of the throughput, and the rounds themselves."""
    row: dict[str, Any] = {key: statistics.median(s[key] for s in samples) for key in samples[0]}
    rates = [s["tokens_per_s"] for s in samples]
    spread = {"low": min(rates), "high": max(rates), "memory_mib": server.memory_mib()}
    disturbed = sum(s["others"] > MAX_OTHERS for s in samples)
    return {
        "load": load,
        "sampling": "greedy",
        "clients": clients,
        "server": server.name,
        **row,
        **spread,
        "disturbed": disturbed,
        "rounds": samples,
    }


def ratios(row: dict[str, Any], peer: dict[str, Any]) -> dict[str, float]:
    """Return the medians of the per-round ratios: within a round, conditions are nearly the same for both servers."""
    pairs = list(zip(row["rounds"], peer["rounds"], strict=False))
    return {key: statistics.median(a[key] / b[key] for a, b in pairs) for key in COMPARED}


def line(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Return a row for the terminal, with its ratios to llama-server if that was measured."""
    text = (
        f"{row['load']:13} {row['sampling']:8} {row['clients']:3} {row['server']:17} {row['tokens_per_s']:6.1f} tok/s "
        f"[{row['low']:.0f}-{row['high']:.0f}]  ttft {row['ttft_p50']:.2f}/{row['ttft_p95']:.2f} s  "
        f"between p95 {row['between_p95'] * 1000:5.0f} ms  cpu {row['cpu_ms']:4.1f} ms  {row['memory_mib']:4.0f} MiB"
        f"  others {100 * row['others']:.0f}%"
    )
    text += f"  of raw {row['of_raw']:.2f}" if "of_raw" in row else ""
    same = [r for r in rows if all(r[key] == row[key] for key in ("load", "sampling", "clients"))]
    peer = next((r for r in same if r["server"] == "llama-server"), None)
    if peer and peer is not row:
        found = ratios(row, peer)
        text += "   ratio {:.2f}, ttft {:.2f}, between {:.2f}, cpu {:.2f}".format(*(found[key] for key in COMPARED))
    text += f"   {row['disturbed']} of {len(row['rounds'])} rounds DISTURBED" if row["disturbed"] else ""
    return text + (f"   {row['failed']:.0f} FAILED" if row["failed"] else "")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.serve", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", required=True, help="GGUF file that every server loads")
    parser.add_argument(
        "--servers", default="burnish,llama-server", help=f"comma-separated servers: {', '.join(PEERS)}"
    )
    parser.add_argument("--clients", default="1,2,4,8,16,32", help="comma-separated numbers of clients")
    parser.add_argument("--loads", default=",".join(LOADS), help=f"comma-separated loads: {', '.join(LOADS)}")
    parser.add_argument(
        "--samplings", default=",".join(SAMPLINGS), help=f"comma-separated samplings: {', '.join(SAMPLINGS)}"
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds per load and server")
    parser.add_argument("--threads", type=int, default=2, help="threads per server")
    parser.add_argument("--cells", type=int, default=2048, help="KV cells per client")
    parser.add_argument("--gpu-layers", type=int, default=0, help="layers to offload to a GPU, -1 for all")
    parser.add_argument(
        "--peer-python", default=sys.executable, help="Python with the packages of llama-cpp-python's servers"
    )
    parser.add_argument("--json", help="file for the rows")
    options = parser.parse_args()
    known: dict[str, Iterable[str]] = {"servers": PEERS, "loads": LOADS, "samplings": SAMPLINGS}
    for name, names in known.items():
        given = getattr(options, name).split(",")
        setattr(options, name, given)
        if unknown := set(given) - set(names):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; expected {', '.join(names)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # exit normally, so that the servers are stopped
    rows: list[dict[str, Any]] = []
    with Model.open(options.model, vocab_only=True) as model:
        for clients in map(int, options.clients.split(",")):
            rows += asyncio.run(compare(options, clients, model))
            if options.json:
                Path(options.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
