"""Hostile templates: each ends at a limit, with one printable line, and takes little memory."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import threading
import time

import pytest

from burnish.chat import MAX_SOURCE, ChatError, ChatTemplate, TemplateLimit
from burnish.rendering.bounds import BoundExceeded, bounded
from tests.support.commands import ROOT
from tests.support.hostile_templates import HOSTILE, MESSAGES

LIMIT_S = 0.5
# one native call may continue past the limit while memory lasts
NATIVE_S = 8.0
MAX_KIB = 800 << 10  # memory in use before, and the limit of 512 MiB


def busy() -> None:
    while True:
        pass


def test_hostile_templates_end_within_limits_with_a_one_line_error() -> None:
    command = [sys.executable, "-m", "tests.support.hostile_templates", str(LIMIT_S)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-500:]
    *expected, (_, most_kib, _) = [json.loads(line) for line in done.stdout.splitlines()]
    assert [name for name, _, _ in expected] == list(HOSTILE)
    assert [(name, seconds) for name, seconds, _ in expected if seconds > LIMIT_S + NATIVE_S] == []
    assert [(name, outcome) for name, _, outcome in expected if not outcome.isprintable() or len(outcome) > 1000] == []
    assert most_kib < MAX_KIB


def test_ordinary_templates_stay_within_the_limits() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    assert ChatTemplate("{{ messages[0].content * 3 }}", "2026-01-02").render(MESSAGES) == "HelloHelloHello"
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert signal.getitimer(signal.ITIMER_PROF)[0] == signal.getitimer(signal.ITIMER_VIRTUAL)[0] == 0


def test_exceeded_limit_is_reset_afterwards() -> None:
    with pytest.raises(BoundExceeded, match="more than 64 MiB"):
        bounded(lambda: bytearray(512 << 20), 5, 64 << 20)
    assert len(bytearray(512 << 20)) == 512 << 20
    with pytest.raises(BoundExceeded, match="within 0.05 s"):
        bounded(busy, 0.05)
    end = time.process_time() + 0.2
    while time.process_time() < end:  # no signal is delivered afterwards
        pass


def test_lower_process_limit_is_kept() -> None:
    # in a new process: an old one has unused memory within its address space
    code = (
        "import resource\nfrom burnish.rendering.bounds import BoundExceeded, address_space, bounded\n"
        "hard = resource.getrlimit(resource.RLIMIT_AS)[1]\n"
        "resource.setrlimit(resource.RLIMIT_AS, (address_space() + (256 << 20), hard))\n"
        "try: bounded(lambda: bytearray(300 << 20), 5)\nexcept BoundExceeded: print('bounded')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "bounded\n", done.stderr


def test_nested_call_shares_the_time_limit_of_the_outer_call() -> None:
    with pytest.raises(BoundExceeded, match=r"0\.05 s"):
        bounded(lambda: bounded(busy, 5), 0.05)


def test_rendering_works_outside_the_main_thread() -> None:
    found: list[str] = []
    template = ChatTemplate("{{ messages[0].content }}", "2026-01-02")
    thread = threading.Thread(target=lambda: found.append(template.render(MESSAGES)))
    thread.start()
    thread.join()
    assert found == ["Hello"]


def test_uninterruptible_native_code_ends_the_process() -> None:
    code = (
        "import burnish.rendering.bounds as b; b.GRACE_S = 0.5\n"
        "b.bounded(lambda: sum([[0] * 1000] * 99999, []), 0.2)"  # a single call with quadratic time
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGVTALRM


def test_limit_error_names_the_limit() -> None:
    with pytest.raises(TemplateLimit, match=r"no result within 0\.1 s"):
        ChatTemplate(HOSTILE["nested loops"], "2026-01-02", timeout_s=0.1).render(MESSAGES)
    with pytest.raises(TemplateLimit, match="64 million characters"):
        ChatTemplate("{% for i in range(9) %}{{ 'x' * 10 ** 7 }}{% endfor %}", "2026-01-02").render(MESSAGES)
    with pytest.raises(ChatError, match=f"at most {MAX_SOURCE}"):
        ChatTemplate(HOSTILE["too long"], "2026-01-02").check()
