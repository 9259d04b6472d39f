"""Terminal output: control characters and invisible characters are escaped."""

from __future__ import annotations

import errno
import io
import unicodedata
from contextlib import nullcontext, redirect_stderr

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from burnish.console import cell, gib, millions, printable, say, warn
from burnish.errors import RESUMES, UserError, resumable, run_edge
from burnish.records import Artifact, Fidelity
from export.__main__ import show

NASTY = "\x1b]0;title\x07\x1b[31m red \x9b2J \r\u202e gpj.exe \u200b \x00 \x7f"


@given(st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp", "L", "N", "P", "S", "Zs"])))
def test_only_control_and_hidden_characters_are_escaped(text: str) -> None:
    shown = printable(text)
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") and c not in "\t\n"]
    shown.encode()
    if all(unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in text):
        assert shown == text


def test_letters_of_every_script_and_emoji_are_not_escaped() -> None:
    for text in ("naïve", "日本語", "हिन्दी", "مرحبا", "👩‍👩‍👧", "a\tb\nc", "\u3000\xa0"):
        assert printable(text) == text


def test_multi_line_error_is_printed_on_one_line() -> None:
    output = UserError(f"x.json: why: {NASTY}\nerror: another").report()
    assert "\n" not in output and "\x1b" not in output and r"\x1b[31m" in output and r"\u202e" in output


@pytest.mark.parametrize("tell", [say, warn])
def test_messages_are_printed_with_escapes(tell: object) -> None:
    out = io.StringIO()
    with redirect_stderr(out):
        tell(NASTY)  # type: ignore[operator]
    assert "\x1b" not in out.getvalue() and "\x07" not in out.getvalue() and r"\x1b[31m" in out.getvalue()


def test_rejected_command_prints_escapes_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> int:
        raise UserError(NASTY)

    with pytest.raises(SystemExit):
        run_edge(refuse)
    assert capsys.readouterr().err.startswith(r"error: \x1b]0;title\x07\x1b[31m red ")


@pytest.mark.parametrize(
    ("error", "line"),
    [(UserError("no such file"), "error: no such file\n"),
     (OSError(errno.EIO, "Input/output error", "a.journal"), "error: a.journal: Input/output error: free space or")],
)  # fmt: skip
def test_error_of_a_concurrent_task_is_one_line(
    error: Exception, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing() -> int:
        raise ExceptionGroup("unhandled errors in a TaskGroup", [error])

    with pytest.raises(SystemExit, match="2"):
        run_edge(failing)
    assert capsys.readouterr().err.startswith(line)


@pytest.mark.parametrize("goes_on", [True, False])
def test_ctrl_c_mentions_resuming_only_for_resumable_commands(
    goes_on: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped() -> int:
        with resumable() if goes_on else nullcontext():
            raise KeyboardInterrupt

    with pytest.raises(SystemExit, match="130"):
        run_edge(stopped)
    assert capsys.readouterr().err == (f"{RESUMES}\n" if goes_on else "interrupted\n")


def test_small_numbers_are_not_rounded_to_zero() -> None:
    assert [gib(size) for size in (0, 1536, 700 * 2**10, 3 << 20, 5 << 30)] == [
        "0 MiB", "2 KiB", "700 KiB", "3 MiB", "5.0 GiB",
    ]  # fmt: skip
    assert [millions(number) for number in (24_576, 6_300_000, 8_030_261_248)] == ["24,576", "6.3M", "8,030.3M"]


def test_tables_escape_markup_and_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    nothing = Fidelity.model_validate({n: None for n, f in Fidelity.model_fields.items() if f.is_required()})
    artifact = Artifact(
        path="gguf/[bold]x[", kind="gguf", quantization="Q8_0", bytes=1, sha256="0" * 64, fidelity=nothing,
        verdict="fail", why=f"[/red] {NASTY}",
    )  # fmt: skip
    show(f"[/blue]{NASTY}", [artifact], None, {})
    output = capsys.readouterr().out
    assert "[/blue]" in output and "[bold]x[" in output and "[/red]" in output and "\x1b" not in output


def test_unjudged_figures_of_passing_artifacts_are_listed_below_the_table(
    capsys: pytest.CaptureFixture[str],
) -> None:
    nothing = Fidelity.model_validate({n: None for n, f in Fidelity.model_fields.items() if f.is_required()})
    found = [
        Artifact(path=path, kind="gguf", quantization="Q8_0", bytes=1, sha256="0" * 64, fidelity=nothing,
                 verdict="pass", why=f"all checks hold{why}")
        for path, why in (("a", "; gain not judged: x"), ("b", "; gain not judged: x"), ("c", ""))
    ]  # fmt: skip
    show("title", found, None, {})
    assert capsys.readouterr().out.splitlines()[-1] == "note: a, b: gain not judged: x"


def test_table_cells_are_plain_text() -> None:
    out = io.StringIO()
    Console(file=out, width=80).print(cell("[red]a[/red]\n\x1b[1mb"))
    assert out.getvalue() == "[red]a[/red]\\n\\x1b[1mb\n"
