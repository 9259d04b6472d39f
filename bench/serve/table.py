"""The rows written by bench/serve.py as a Markdown table: one server compared with another.

python -m bench.serve.table ROWS.json [--server burnish] [--peer llama-server]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from bench.serve.__main__ import ratios

SAMPLINGS = {
    "greedy": "temperature 0",
    "defaults": "0.8, each server's defaults",
    "same": "0.8, the same top_k, top_p, min_p",
}
HEAD = (
    "| load | sampling | clients | tokens/s, {} | {} | ratio | time to first token p50, ratio "
    "| between tokens p95, ratio | CPU time per token, ratio | share of llama_decode alone |"
)


def table(rows: list[dict[str, Any]], server: str, peer: str) -> str:
    """Return a table of the rows that exist for both servers, sampled ones first; * marks disturbed rounds."""
    found = {(r["load"], r["sampling"], r["clients"], r["server"]): r for r in rows}
    order = sorted(
        {key[:3] for key in found}, key=lambda key: (key[1] == "greedy", key[0], list(SAMPLINGS).index(key[1]))
    )
    lines = [HEAD.format(server, peer), "|" + "---|" * 10]
    lines += [
        _line(found[*key, server], found[*key, peer]) for key in order if {(*key, server), (*key, peer)} <= set(found)
    ]
    return "\n".join(lines)


def _line(row: dict[str, Any], peer: dict[str, Any]) -> str:
    ratio = ratios(row, peer)
    disturbed = " *" if row["disturbed"] or peer["disturbed"] else ""
    rates = [f"{r['tokens_per_s']:.1f} [{r['low']:.1f}–{r['high']:.1f}]" for r in (row, peer)]
    shares = [f"{r['of_raw']:.2f}" if "of_raw" in r else "–" for r in (row, peer)]
    cells = [
        *(row["load"] + disturbed, SAMPLINGS[row["sampling"]], str(row["clients"]), *rates),
        *(f"{ratio[key]:.2f}" for key in ("tokens_per_s", "ttft_p50", "between_p95", "cpu_ms")),
        f"{shares[0]}; {shares[1]}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("rows", type=Path, help="what bench.serve wrote with --json")
    parser.add_argument("--server", default="burnish")
    parser.add_argument("--peer", default="llama-server")
    options = parser.parse_args()
    print(table(json.loads(options.rows.read_text()), options.server, options.peer))


if __name__ == "__main__":
    main()
