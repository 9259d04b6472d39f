"""List, compare and prune runs: python -m tools.runs list | compare a,b | prune [a,b].

list prints a table and writes runs/index.html. compare prints the differences between runs. prune deletes what finished
runs no longer need, or whole runs that are named, and asks first.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from burnish.config import ConfigError
from burnish.console import say
from burnish.errors import did_you_mean, run_edge
from burnish.overview.page import write_index
from burnish.overview.summary import UNFINISHED, Summary, summaries, summary
from burnish.run import RunError, named_run

from .compare import compare
from .prune import candidates, prune
from .table import listing


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.runs", description=__doc__, allow_abbrev=False)
    parser.add_argument("command", choices=("list", "compare", "prune"))
    parser.add_argument("names", nargs="?", default="", help="comma-separated run ids")
    parser.add_argument("--root", type=Path, default=Path("runs"), help="directory for all runs")
    parser.add_argument("--yes", action="store_true", help="prune without confirmation")
    options = parser.parse_args(argv)
    root: Path = options.root
    names = [name.strip() for name in options.names.split(",") if name.strip()]
    if options.command == "compare":
        if len(set(names)) < 2:
            raise ConfigError("RUNS: expected two or more runs, such as RUNS=one,two")
        return compare([_named(root, name) for name in names])
    if options.command == "prune":
        return _prune(root, names, options.yes)
    found = summaries(root)
    listing(found)
    if root.is_dir():
        say(f"runs: {write_index(root, found)}")
    return 0


def _named(root: Path, name: str) -> Summary:
    return summary(named_run(root, name))


def _prune(root: Path, names: Sequence[str], yes: bool) -> int:
    """Prune the named runs, or parts of all runs. Raises RunError for a name that is not a run id in `root`."""
    runs = {one.run.id: one for one in summaries(root)}
    if unknown := [name for name in names if name not in runs]:
        raise RunError([f"no run '{name}' in {root}/{did_you_mean(name, runs)}" for name in unknown])
    chosen = [runs[name] for name in dict.fromkeys(names)] if names else list(runs.values())
    code = prune(candidates(chosen, bool(names)), yes)
    left = [one.run.id for one in runs.values() if one.state == UNFINISHED and not names]
    if left:
        names_left = ",".join(left)
        say(f"prune: unfinished training runs: {', '.join(left)}; RUNS={names_left} deletes them")
    return code


if __name__ == "__main__":
    run_edge(lambda: main(sys.argv[1:]))
