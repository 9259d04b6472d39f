"""The check command on files as written by common programs; suspicious content is reported with its rows."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from burnish.data.files import DataError
from tests.support.commands import Cli
from train.data.sources import read_sources
from train.settings import DataSection

OPTIONS = ("--data.max_length", "256")


def check(cli: Cli, base: Path, data: Path, *more: str) -> tuple[int, str, str]:
    """Return the exit code, standard output and standard error."""
    done = cli("train", "check", "--base.id", str(base), "--data.path", str(data), *OPTIONS, *more)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def chats(answers: list[str]) -> list[Any]:
    def turns(number: int, answer: str) -> list[Any]:
        return [{"role": "user", "content": f"question {number}, held out"}, {"role": "assistant", "content": answer}]

    return [{"messages": turns(number, answer)} for number, answer in enumerate(answers)]


def jsonl(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.slow
def test_csv_saved_by_excel_is_accepted_and_the_eval_file_is_linted(cli: Cli, tiny_base: Path, tmp_path: Path) -> None:
    """Separator line, byte order mark, CR LF, empty columns and rows; a quote and a space in the path."""
    data = tmp_path / "anna's rows.csv"
    cells = [f'question {n};"answer {n}:\r\nsecond line";nan;' for n in range(12)]
    text = "\r\n".join(["\ufeffsep=;", "instruction;output;input;", *cells, ";;;", ";;;", ""])
    data.write_text(text, encoding="utf-8", newline="")
    held = tmp_path / "held out.jsonl.gz"
    answers = [r"one\n\ntwo", "a\r\nb", "zero\u200bwidth", "None", "soft\u00adhyphen", "{{name}}", "fine"]
    held.write_bytes(gzip.compress(jsonl(chats(answers)).encode()))
    code, shown, output = check(cli, tiny_base, data, "--data.eval_path", str(held))
    assert code == 0, output
    assert "12 for training, 7 held out" in shown
    for line in (
        f"data: {data}: 12 rows, format alpaca",
        f"data: {data}: 2 rows without text skipped (first: line 27)",
        f"data: {data}: 1 unnamed column without text skipped",
        "warning: texts that are only 'nan' (12 rows, first line 3)",
        "warning: line ends CR LF (12 rows, first line 3)",
        rf"warning: data.eval_path {held}: escapes \n (1 row, first line 1)",
        f"warning: data.eval_path {held}: line ends CR LF (1 row, first line 2)",
        f"warning: data.eval_path {held}: texts that are only 'None' (1 row, first line 4)",
        f"warning: data.eval_path {held}: placeholders {{{{name}}}} (1 row, first line 6)",
    ):
        assert line in output, line
    assert "U+200B ZERO WIDTH SPACE (1 row, first line 3) and U+00AD SOFT HYPHEN (1 row, first line 5)" in output
    code, shown, output = check(cli, tiny_base, data, "--data.eval_path", str(held), "--data.newlines", "lf")
    assert code == 0, output
    assert f"data: {data}: CR LF and CR became LF (12 rows; data.newlines lf)" in output
    assert "line ends" not in output
    assert "\r" not in shown


def test_directory_of_files_with_flags_and_reasoning_is_accepted(cli: Cli, tiny_base: Path, tmp_path: Path) -> None:
    data = tmp_path / "my parts"
    data.mkdir()
    for part in range(2):
        turns = [
            [
                {"role": "system", "content": ""},
                {"role": "user", "content": f"question {part} {n}"},
                {"role": "assistant", "content": "BAD DRAFT", "loss": False},
                {"role": "user", "content": "Again.", "weight": 1},
                {"role": "assistant", "content": f"answer {part} {n}", "loss": True},
            ]
            for n in range(6)
        ]
        (data / f"part-{part}.jsonl").write_text(jsonl([{"messages": json.dumps(row)} for row in turns]))
    code, shown, output = check(cli, tiny_base, data)
    assert code == 0, output
    assert "a directory, read as one dataset: part-0.jsonl (rows 1 to 6), part-1.jsonl (rows 7 to 12)" in output
    assert f"data: {data}: empty system turns were dropped (12 rows)" in output
    assert "messages[].weight (12 rows) on turns that are not the assistant's: ignored" in output
    assert "⟦answer" in shown
    assert "⟦BAD" not in shown


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("rows.jsonl", jsonl([{"instruction": "q", "output": n} for n in range(30)]),
         "line 1: 'output': expected text, got a number (30 lines: 1, 2, 3 and 27 more)"),
        ("rows.csv", "prompt,completion\n" + 'q,"a" b\n' * 3, "line 2: malformed CSV in the record that starts here"),
        ("rows.csv", "prompt;completion\nFähre;täglich\nFähre;täglich\n".encode("cp1252"),
         "line 2: byte 0xe4 is not UTF-8; save the file as UTF-8 (2 lines: 2, 3)"),
        ("rows.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504), "is an old Office file"),
    ],
)  # fmt: skip
def test_same_error_in_many_rows_is_one_line(
    cli: Cli, tiny_base: Path, tmp_path: Path, name: str, content: str | bytes, expected: str
) -> None:
    data = tmp_path / name
    data.write_bytes(content.encode() if isinstance(content, str) else content)
    code, _, output = check(cli, tiny_base, data)
    assert code == 2
    (fault,) = (line for line in output.splitlines() if line.startswith("error: "))
    assert fault.removeprefix(f"error: {data}").lstrip(": ").startswith(expected)


@pytest.mark.parametrize("setting", ["path", "eval_path"])
def test_data_url_with_an_unsupported_scheme_is_rejected(setting: str) -> None:
    rows = str(Path(__file__).parent.parent / "examples" / "quickstart.json")
    with pytest.raises(DataError, match="^s3://bucket/rows.jsonl: s3:// is not supported: download it first"):
        read_sources(DataSection.model_validate({"path": rows, setting: "s3://bucket/rows.jsonl"}))


def test_page_shows_warnings_with_rows_and_text_with_its_trained_part(
    cli: Cli, tiny_base: Path, tmp_path: Path
) -> None:
    data, page = tmp_path / "rows.jsonl", tmp_path / "out" / "check.html"
    rows = chats([f"answer {n}" for n in range(30)])
    rows[4]["messages"][0]["content"] = "{{name}} <script>alert(1)</script>"
    rows[5]["messages"][1]["content"] = "word " * 3000
    data.write_text(jsonl([*rows, rows[0]]))
    code, _, output = check(cli, tiny_base, data, "--data.max_length", "20000", "--html", str(page))
    assert code == 0 and f"page: {page}" in output, output
    html = page.read_text(encoding="utf-8")
    assert "{{name}}" in html and "&lt;script&gt;" in html and "<script" not in html
    assert "http" not in html.replace("http-equiv", "") and page.stat().st_mode & 0o077 == 0
    assert html.count('class="card row"') == 20 + 3 * 3
    assert '<span class="learned">word' in html and "tokens are not shown" in html and "learned special" in html
    assert '<div class="text">31</div>' in html and '<div class="text">5</div>' in html
