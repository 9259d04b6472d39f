"""The soak test reports errors and growth, or that there were none."""

from __future__ import annotations

import random
import subprocess
import sys
from typing import Any

import pytest

from bench.soak_process import Sample
from bench.soak_serve import Tally, growth, well_behaved
from tests.support.commands import ROOT


class Answers:
    """A server that gives the same reply to every request."""

    def __init__(self, status: int, text: str) -> None:
        self.reply = status, {"choices": [{"text": text}]}

    def ask(self, body: dict[str, Any], timeout: float = 0) -> tuple[int, dict[str, Any]]:
        return self.reply


@pytest.mark.parametrize(
    ("status", "text", "message"),
    [(200, "Rome is", None), (200, "Paris", "wrong answer"), (500, "Rome", "a known question: 500"), (429, "", None)],
)
def test_wrong_answers_and_server_errors_are_recorded(status: int, text: str, message: str | None) -> None:
    tally = Tally()
    well_behaved(Answers(status, text), tally, random.Random(1), {"Capital?": "Rome"})  # type: ignore[arg-type]
    assert (message in tally.faults[0]) if message else not tally.faults


def test_memory_growth_is_distinguished_from_fluctuation() -> None:
    waves = [Sample(100 + 20 * (number % 2), 20, 12) for number in range(40)]
    assert growth(waves, waves[0]) == []
    leak = [Sample(100 + 2 * number, 20, 12) for number in range(40)]
    assert growth(leak, leak[0])[0].startswith("memory grew by")
    assert "open files" in growth(waves, Sample(100, 60, 12))[0]
    assert "threads" in growth(waves, Sample(100, 20, 60))[0]


@pytest.mark.slow
def test_short_soak_has_no_errors() -> None:
    command = [sys.executable, "-m", "bench.soak_serve", "--minutes", "0.2", "--clients", "8"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.endswith("no errors\n"), done.stdout + done.stderr
