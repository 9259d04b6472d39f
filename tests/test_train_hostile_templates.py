"""`check` and `train` with hostile templates: a quick one-line error."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from burnish.errors import UserError
from tests.support.hostile_templates import HOSTILE
from tests.support.thorough import named
from train.__main__ import main

# the template is rendered with several endings before the first row; each may take the full time limit
MAX_RENDERINGS = 6
LIMIT_S = 0.5


def check(base: Path, data: Path, source: str) -> str:
    template = data.with_name("hostile.jinja")
    template.write_text(source, encoding="utf-8", errors="replace")
    words = ["--base.id", str(base), "--data.path", str(data), "--chat.template", str(template)]
    with pytest.raises(UserError) as caught:
        main(["check", *words, "--chat.template_timeout_s", str(LIMIT_S)])
    return caught.value.report()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nested loops", "no result within 0.5 s"),
        ("text times", "512 MiB"),
        ("joined cycles", "exceeds a limit"),
        ("division by zero", "division by zero"),
        ("raise an error of terminal escapes", r"\x1b[2J"),
        ("deep blocks", "too many statically nested blocks"),
        ("macro that calls itself", "endless recursion"),
        ("globals", "unsafe"),
    ],
)
def test_check_reports_a_hostile_template_in_one_line(tiny_base: Path, rows: Path, name: str, message: str) -> None:
    began = time.monotonic()
    report = check(tiny_base, rows, HOSTILE[name])
    assert message in report and report.isprintable() and report.startswith("error: ")
    assert time.monotonic() - began < 30 + MAX_RENDERINGS * LIMIT_S


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    named(HOSTILE, "nested lists, printed", "list of ranges", "too long", "encoding", "deep lists"),
)
def test_check_terminates_for_every_hostile_template(tiny_base: Path, rows: Path, name: str) -> None:
    began = time.monotonic()
    report = check(tiny_base, rows, HOSTILE[name])
    assert all(map(str.isprintable, report.split("\n"))) and time.monotonic() - began < 90
