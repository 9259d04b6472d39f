"""`serve generate` answers every row of a file once, keeps its columns, and resumes after being killed."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from burnish.data.columns.mapping import parse_columns
from burnish.data.files import locate, read_rows
from burnish.errors import UserError
from serve.batch import answering, remote, tables
from serve.batch.endpoints import EndpointError, Json, Lost, Refused
from serve.batch.journal import open_journal
from serve.batch.prompts import Prompt, read_prompts
from serve.batch.results import Answer, Result
from serve.batch.settings import GenerateSettings
from serve.batch.stage import generate
from tests.support.commands import ROOT, Cli, own_environment, start_fresh
from tests.support.echo_server import CONTEXT, EchoServer, echoing

QUESTIONS = [f'Frage {i}: Grüße,\n"{i}"' for i in range(40)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path, **more: Any) -> list[Prompt]:
    return read_prompts(locate(str(path)), **more)


def ask(server: EchoServer, data: Path, out: Path, **more: Any) -> int:
    return generate(GenerateSettings(data=str(data), out=str(out), url=server.url + "v1", **more))


def asked(server: EchoServer) -> list[str]:
    """Return the last message of every request that reached the server."""
    return [body["messages"][-1]["content"] for body in server.proxy.requests]


@pytest.mark.parametrize("type", [".csv", ".jsonl", ".parquet"])
def test_rows_keep_their_columns_and_get_an_answer(type: str, tmp_path: Path) -> None:
    rows = [{"id": i, "prompt": text, "completion": "gold", "tags": ["a", text]} for i, text in enumerate(QUESTIONS)]
    out = tmp_path / f"out{type}"
    with echoing() as server:
        assert ask(server, write(tmp_path / "rows.jsonl", rows), out) == 0
    found = [row.value for row in read_rows(out)]
    assert [int(row["id"]) for row in found] == list(range(len(rows)))
    for row, text in zip(found, QUESTIONS, strict=True):
        tags = json.loads(row["tags"]) if type == ".csv" else row["tags"]
        assert (row["prompt"], row["completion"], tags) == (text, "gold", ["a", text])
        assert (row["answer"], row["finish_reason"]) == (text, "stop")
        assert int(row["prompt_tokens"]) == len(text.encode()) == int(row["completion_tokens"]) - 1
        assert row["error"] in (None, "")
    assert {path.name for path in tmp_path.iterdir()} == {"rows.jsonl", out.name}


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "Q"}]},
        {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "left out"}]},
        {"conversations": json.dumps([{"from": "human", "value": "Q"}])},
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "left out"}]},
        {"instruction": "Q", "input": ""},
        {"instruction": "Q", "input": "", "output": "left out"},
        {"prompt": "Q", "completion": None},
        {"prompt": [{"role": "user", "content": "Q"}]},
        {"instruction": "Q", "context": "", "response": "left out"},
        {"instruction": "Q", "context": "", "response": ""},
        {"data": ["Hi", "Hello", "Q"]},
        {"data": ["Hi", "Hello", "Q", "left out"]},
        {"prompt": "Q", "chosen": "left out", "rejected": "no"},
    ],
)
def test_prompts_of_all_formats_end_with_the_question(row: dict[str, Any], tmp_path: Path) -> None:
    (prompt,) = read(write(tmp_path / "rows.jsonl", [row]))
    assert prompt.messages[-1] == {"role": "user", "content": "Q"}
    assert (prompt.expected is not None) == ("left out" in json.dumps(row))
    assert prompt.value == row


QUIZ = {"question": "2+2?", "a": "3", "b": "4", "correct": "B"}
CHOICES = {"user": "{{ question }} A. {{ a }} B. {{ b }}", "assistant": "{{ correct }}"}


@pytest.mark.parametrize("row", [QUIZ, {**QUIZ, "correct": ""}, {k: v for k, v in QUIZ.items() if k != "correct"}])
def test_columns_build_the_question_without_an_answer(row: dict[str, str], tmp_path: Path) -> None:
    (prompt,) = read(write(tmp_path / "rows.jsonl", [row]), columns=parse_columns(CHOICES))
    assert prompt.messages == [{"role": "user", "content": "2+2? A. 3 B. 4"}]
    assert (prompt.expected.content if prompt.expected else "") == row.get("correct", "")
    assert prompt.value == row


def test_text_columns_build_the_start_of_a_text(tmp_path: Path) -> None:
    columns = parse_columns({"prompt": "Q: {{ question }}\nA:", "completion": " {{ correct }}"})
    first, second = read(write(tmp_path / "rows.jsonl", [QUIZ, {"question": "1+1?"}]), columns=columns)
    assert (first.text, first.expected and first.expected.content) == ("Q: 2+2?\nA:", " B")
    assert (second.text, second.expected) == ("Q: 1+1?\nA:", None)
    data = write(tmp_path / "rows.jsonl", [QUIZ])
    with echoing() as server:
        template = {"prompt": "Q: {{ question }}", "completion": "{{ correct }}"}
        assert ask(server, data, tmp_path / "out.jsonl", columns=template) == 0
    assert json.loads((tmp_path / "out.jsonl").read_text()) == {
        **QUIZ, "answer": "Q: 2+2?", "finish_reason": "stop", "prompt_tokens": 7, "completion_tokens": 8, "error": None,
    }  # fmt: skip


def test_columns_of_the_run_apply_if_the_rows_have_them(tmp_path: Path) -> None:
    trained = parse_columns(CHOICES)
    (with_columns,) = read(write(tmp_path / "a.jsonl", [QUIZ]), trained=trained)
    (other,) = read(write(tmp_path / "b.jsonl", [{"prompt": "Hi"}]), trained=trained)
    assert with_columns.messages[0]["content"].startswith("2+2?") and other.messages[0]["content"] == "Hi"


def test_missing_question_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'question' is not a column of .*did you mean 'questions'"):
        read(write(tmp_path / "rows.jsonl", [{"questions": "x", "a": "", "b": ""}]), columns=parse_columns(CHOICES))


def test_dialogue_in_a_text_is_split_into_turns(tmp_path: Path) -> None:
    text = "<human>: Hi\n<bot>: Hello\n<human>: Q\n<bot>: left out"
    (prompt,) = read(write(tmp_path / "rows.jsonl", [{"text": text}]))
    assert [message["content"] for message in prompt.messages] == ["Hi", "Hello", "Q"]
    assert prompt.expected and prompt.expected.content == "left out"


def test_several_answers_get_separate_rows(tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", [{"prompt": "a"}, {"prompt": "b"}])
    with echoing() as server:
        assert ask(server, data, tmp_path / "out.jsonl", n=3) == 0
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["prompt"], row["choice"], row["answer"]) for row in found] == [
        (p, c, p) for p in "ab" for c in range(3)
    ]


def test_failed_row_has_an_error_and_is_retried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "rows.jsonl", [{"prompt": text} for text in ("a", "b" * (CONTEXT + 1), "c")])
    out = tmp_path / "out.jsonl"
    with echoing() as server:
        for _ in range(2):
            assert ask(server, data, out) == 1
            assert "1 failed" in capsys.readouterr().err
        found = [json.loads(line) for line in out.read_text().splitlines()]
        assert [row["answer"] for row in found] == ["a", None, "c"]
        assert "maximum context length" in found[1]["error"]
        assert sorted(len(text) for text in asked(server)) == [1, 1, CONTEXT + 1, CONTEXT + 1]


def test_lost_server_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "RETRIES", 0)
    data, out = write(tmp_path / "rows.jsonl", [{"prompt": text} for text in QUESTIONS]), tmp_path / "out.jsonl"
    with echoing(["secret"]) as server, pytest.raises(EndpointError, match="OPENAI_API_KEY was rejected"):
        ask(server, data, out, url_model="echo")
    with pytest.raises(EndpointError, match="no server responds"):
        ask(server, data, out, url_model="echo")
    assert not out.exists()


def test_api_key_is_read_from_the_environment_and_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-value")
    data = write(tmp_path / "rows.jsonl", [{"prompt": "a"}, {"prompt": "b" * (CONTEXT + 1)}])
    with echoing(["secret-value"]) as server:
        assert ask(server, data, tmp_path / "out.jsonl") == 1
    written = list(tmp_path.glob("out.jsonl*"))
    assert len(written) == 2 and all("secret-value" not in path.read_text() for path in written)


def test_changed_settings_do_not_reuse_answers(tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", [{"prompt": "a"}, {"prompt": "b" * (CONTEXT + 1)}])
    with echoing() as server:
        ask(server, data, tmp_path / "out.jsonl", temperature=0.0)
        ask(server, data, tmp_path / "out.jsonl", temperature=0.5, overwrite=True)
        assert asked(server).count("a") == 2


@pytest.mark.parametrize(
    ("rows", "out", "more", "fault"),
    [
        ([{"prompt": "a", "answer": "b"}], "out.csv", {}, "already have 'answer', .* --prefix model_"),
        ([{"prompt": "a"}], "out.xlsx", {}, "unknown extension '.xlsx': expected .csv, .jsonl, .parquet"),
        ([{"prompt": "a"}], "rows.jsonl", {}, "is the input file"),
        (
            [{"prompt": "a"}],
            "there.csv",
            {},
            "already exists: choose another path, or replace it with --overwrite true",
        ),
        ([{"text": "a"}], "out.csv", {}, "rows of plain text have no question"),
        ([{"prompt": "a"}, {"prompt": 3}], "out.csv", {}, "line 2: 'prompt': expected text, got a number"),
    ],
)
def test_invalid_options_are_rejected_before_any_request(
    rows: list[dict[str, Any]], out: str, more: dict[str, Any], fault: str, tmp_path: Path
) -> None:
    (tmp_path / "there.csv").write_text("mine")
    data = write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UserError, match=fault):  # no server is at this address
        generate(GenerateSettings(data=str(data), out=str(tmp_path / out), url="http://127.0.0.1:9/v1", **more))
    assert (tmp_path / "there.csv").read_text() == "mine"


def test_prefix_option_keeps_an_existing_answer_column(tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", [{"prompt": "a", "answer": "gold"}])
    with echoing() as server:
        assert ask(server, data, tmp_path / "out.jsonl", prefix="model_") == 0
    row = json.loads((tmp_path / "out.jsonl").read_text())
    assert (row["answer"], row["model_answer"]) == ("gold", "a")


def test_only_parquet_requires_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    data = write(tmp_path / "rows.jsonl", [{"prompt": "a"}])
    with echoing() as server:
        with pytest.raises(UserError, match="writing Parquet needs pyarrow, which is not installed"):
            ask(server, data, tmp_path / "out.parquet")
        assert ask(server, data, tmp_path / "out.csv") == 0


def test_parquet_keeps_types_and_mixed_columns(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"n": 1, "f": None, "m": 1, "o": {"a": [1]}}, {"n": 2, "f": 0.5, "m": "two"}]
    tables.write_table(tmp_path / "t.parquet", ".parquet", ["n", "f", "m", "o"], lambda: rows)
    found = [row.value for row in read_rows(tmp_path / "t.parquet")]
    assert found[0] == {"n": 1, "f": None, "m": "1", "o": {"a": [1]}}
    assert found[1] == {"n": 2, "f": 0.5, "m": "two", "o": None}


class Instant:
    """An endpoint that answers at once, and counts the requests in flight; each answer has a kilobyte."""

    parallel = 8
    identity: dict[str, Any] = {}

    def __init__(self) -> None:
        self.open = self.most = self.count = 0
        self.fault, self.lost = "", False

    async def ask(self, path: str, body: Json) -> Json:
        self.open, self.count = self.open + 1, self.count + 1
        self.most = max(self.most, self.open)
        await asyncio.sleep(0)
        self.open -= 1
        if self.fault:
            raise Refused(self.fault)
        if self.lost:
            raise Lost(f"{self.count}: connection reset")
        message = {"role": "assistant", "content": body["messages"][-1]["content"] * 200}
        return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}


def test_memory_does_not_grow_with_ten_thousand_rows(tmp_path: Path) -> None:
    prompts = read(write(tmp_path / "rows.jsonl", [{"prompt": f"{i:06}"} for i in range(10_000)]))
    endpoint = Instant()
    with open_journal(tmp_path / "journal", len(prompts)) as journal:
        tracemalloc.start()
        asyncio.run(answering.answer(endpoint, prompts, journal, answering.completing({}), "rows", 8))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert journal.answered == endpoint.count == 10_000 and endpoint.most == 8
        assert peak < 1_500_000, "10,000 answers are 12 MB"
        assert (journal.get(777) or Result()).answers[0].text == "000777" * 200


def test_identical_failures_of_all_rows_stop_early(tmp_path: Path) -> None:
    prompts = read(write(tmp_path / "rows.jsonl", [{"prompt": str(i)} for i in range(500)]))
    endpoint = Instant()
    endpoint.fault = "Unknown parameter: 'tempratur'"
    fault = "the first 16 rows all failed: Unknown parameter"
    with open_journal(tmp_path / "journal", len(prompts)) as journal, pytest.raises(EndpointError, match=fault):
        asyncio.run(answering.answer(endpoint, prompts, journal, answering.completing({}), "rows", 8))
    assert endpoint.count < 40


def test_rows_without_an_answer_in_time_fail_and_the_others_are_answered(tmp_path: Path) -> None:
    texts = [f"slow {i}" if i % 10 == 3 else f"quick {i}" for i in range(30)]
    data, out = write(tmp_path / "rows.jsonl", [{"prompt": text} for text in texts]), tmp_path / "out.jsonl"
    with echoing() as server:
        server.proxy.app = without_answer("slow", server.proxy.app)
        assert ask(server, data, out, request_timeout_s=5.0) == 1
        assert sorted(asked(server)) == sorted(texts), "a row that took too long is not asked again at once"
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["answer"] for row in found] == [None if text.startswith("slow") else text for text in texts]
    assert all("no answer within 5 s" in row["error"] for row in found if row["answer"] is None)


def without_answer(word: str, app: ASGIApp) -> ASGIApp:
    """Return an application that never answers requests with this word."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        if word.encode() in message.get("body", b""):
            await asyncio.sleep(30)
        waiting = [message]

        async def again() -> Message:
            return waiting.pop() if waiting else await receive()

        await app(scope, again, send)

    return wrapped


def test_endpoint_that_ignores_n_is_reported(tmp_path: Path) -> None:
    prompts = read(write(tmp_path / "rows.jsonl", [{"prompt": "a"}]))
    with open_journal(tmp_path / "journal", 1) as journal:
        asyncio.run(answering.answer(Instant(), prompts, journal, answering.completing({"n": 3}), "rows", 1))
        assert "expected 3 answers (n), got 1" in str((journal.get(0) or Result()).error)


@pytest.mark.parametrize("rows", [3, 500])
def test_server_that_answers_no_row_ends_the_command(rows: int, tmp_path: Path) -> None:
    prompts = read(write(tmp_path / "rows.jsonl", [{"prompt": str(i)} for i in range(rows)]))
    endpoint = Instant()
    with open_journal(tmp_path / "journal", rows) as journal:
        if rows > 100:  # some are answered before it is lost
            asyncio.run(answering.answer(endpoint, prompts[:100], journal, answering.completing({}), "rows", 8))
        endpoint.lost = True
        with pytest.raises(EndpointError, match="reset"):
            asyncio.run(answering.answer(endpoint, prompts, journal, answering.completing({}), "rows", 8))
    assert endpoint.count < 140


def test_truncated_journal_loses_only_its_last_line(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    results = [Result((Answer(f"ä{i}", "stop"),), i, 2) for i in range(5)]
    with open_journal(path, 5) as journal:
        for row, result in enumerate(results):
            journal.add(row, result)
    whole = path.read_bytes()
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        with open_journal(path, 5) as journal:
            done = whole[:end].count(b"\n")
            assert [row in journal for row in range(5)] == [row < done for row in range(5)]
            journal.add(4, results[4])
        with open_journal(path, 5) as journal:
            assert journal.get(4) == results[4]


def test_full_disk_names_the_journal_and_keeps_the_answers(tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", [{"prompt": f"{i:04}" * 200} for i in range(40)])
    words = [sys.executable, "-m", "serve", "generate", "--data", str(data), "--out", str(tmp_path / "out.jsonl")]
    with echoing() as server:
        words += ["--url", f"{server.url}v1"]
        limited = ["bash", "-c", 'ulimit -f 8; trap "" XFSZ; exec "$@"', "limited", *words]
        done = subprocess.run(limited, cwd=ROOT, env=own_environment(), capture_output=True, text=True)
        (journal,) = tmp_path.glob("*.journal")
        assert done.returncode == 2 and done.stderr.count("error: ") == 1 and "Traceback" not in done.stderr
        assert f"error: {journal} can't be written (File too large)" in done.stderr
        again = subprocess.run(words, cwd=ROOT, env=own_environment(), capture_output=True, text=True)
        assert again.returncode == 0 and "of 40 rows are already answered" in again.stderr


def test_second_command_on_a_journal_is_rejected(tmp_path: Path) -> None:
    path, fault = tmp_path / "journal", "another process is answering"
    with open_journal(path, 1), pytest.raises(UserError, match=fault), open_journal(path, 1):
        pass


@pytest.mark.slow
def test_killed_command_answers_every_row_once(tiny_gguf: Path, tmp_path: Path, cli: Cli) -> None:
    data = write(tmp_path / "rows.jsonl", [{"id": i, "prompt": f"Question {i}"} for i in range(300)])
    out = tmp_path / "out.csv"
    command = ["serve", "generate", "--data", str(data), "--out", str(out), "--model", str(tiny_gguf)]
    command += ["--max_tokens", "8", "--seed", "1", "--context_length", "256", "--max_sequences", "4"]
    chance = random.Random(7)

    def lines() -> int:
        return sum(path.read_bytes().count(b"\n") for path in tmp_path.glob("out.csv.*.journal"))

    for _ in range(4):
        process, goal = start_fresh(command), lines() + chance.randrange(1, 40)
        deadline = time.monotonic() + 120
        while lines() < goal and process.poll() is None and time.monotonic() < deadline:
            time.sleep(chance.random() / 100)
        assert process.poll() is None, "it ended before it could be killed"
        process.kill()
        process.wait()
    assert not out.exists()
    (path,) = tmp_path.glob("out.csv.*.journal")
    before = path.read_bytes()
    done = cli(*command)
    assert done.returncode == 0, done.stderr
    kept = [json.loads(line)["row"] for line in before.split(b"\n")[:-1]]
    assert f"{len(kept)} of 300 rows are already answered" in done.stderr
    assert len(kept) == len(set(kept)), "a row was asked twice"
    rows = [row.value for row in read_rows(out)]
    assert [int(row["id"]) for row in rows] == list(range(300))
    assert all(row["finish_reason"] in ("stop", "length") for row in rows)
    assert not path.exists()


def test_local_model_answers_like_the_server(tiny_gguf: Path, tmp_path: Path, cli: Cli) -> None:
    from tests.support.server import serving

    data = write(tmp_path / "rows.jsonl", [{"prompt": f"Question {i}"} for i in range(6)])
    fields = ["--data", str(data), "--max_tokens", "6", "--temperature", "0"]
    local = cli("serve", "generate", *fields, "--out", str(tmp_path / "a.csv"), "--model", str(tiny_gguf))
    assert local.returncode == 0, local.stderr
    with serving(model=tiny_gguf) as server:
        remote = cli("serve", "generate", *fields, "--out", str(tmp_path / "b.csv"), "--url", server.url)
    assert remote.returncode == 0, remote.stderr
    found, other = ([row.value for row in read_rows(tmp_path / name)] for name in ("a.csv", "b.csv"))
    assert [row["prompt_tokens"] for row in found] == [row["prompt_tokens"] for row in other]
    assert [row["error"] for row in found] == [None] * 6 or all(not row["error"] for row in found)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"url": "http://x/v1", "run": "one"}, "url and run: the rows are answered by one model"),
        ({"url_model": "m"}, "url_model needs url"),
        ({"columns": CHOICES, "format": "alpaca"}, "columns and format alpaca"),
        ({"fields": {"stream": True, "n": 2}}, "n, stream can't be set here"),
        ({"columns": {"user": "{{ a }}"}}, "columns"),
    ],
)
def test_contradictory_settings_are_rejected(settings: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        GenerateSettings.model_validate({"data": "d", "out": "o.csv", **settings})
