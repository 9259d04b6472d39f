"""Data of the guides, from a table or a URL to a served answer, with one config and five steps."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.commands import Cli
from tests.support.server import serving

pytestmark = pytest.mark.slow
PROMPT = (
    "Dựa vào ngữ cảnh, hãy đặt một câu hỏi trắc nghiệm và cho biết đáp án đúng.\n\n### Ngữ cảnh\n{}\n\n### Phản hồi\n"
)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def web(directory: Path) -> Iterator[str]:
    """Serve a directory on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(directory)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def made(
    cli: Cli, base: Path, config: str, data: str, root: Path, *others: str, **environment: str
) -> dict[str, object]:
    """Train five steps with a config and export the run; return the data of its record."""
    where = ("--run.root", str(root), "--run.name", "guide")
    small = ("--data.max_length", "256", "--train.max_steps", "5", "--base.quantization", "none", "--exam.answers", "0")
    small += ("--exam.general_rows", "2", "--exam.rows", "8")
    small += ("--train.optim", "auto", "--lora.r", "4", "--train.per_device_train_batch_size", "2")
    more = ("--train.gradient_accumulation_steps", "1", "--base.id", str(base), "--data.path", data)
    done = cli("train", "run", "--config", f"configs/{config}.yaml", *where, *small, *more, *others, **environment)
    assert done.returncode == 0, done.stderr
    done = cli("export", "run", *where, "--gguf.quants", "Q8_0")
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads((root / "guide" / "train.json").read_text())["data"]
    return found


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """A spreadsheet's export: semicolons, a byte order mark, blank cells."""
    path = tmp_path / "câu hỏi.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        names = ["context", "question", "answer_a", "answer_b", "answer_c", "answer_d", "correct_answer", "ghi chú"]
        writer = csv.writer(file, delimiter=";")
        writer.writerow(names)
        for n in range(24):
            writer.writerow([f"Thùng {n}.", f"Số {n}?", n, n + 1, "" if n % 2 else n + 2, "", "A", ""])
    return path


def test_multiple_choice_table_as_chat_turns(cli: Cli, tiny_base: Path, questions: Path, tmp_path: Path) -> None:
    data = made(cli, tiny_base, "multiple-choice", str(questions), tmp_path)
    assert data["format"] == "messages"
    with serving(model=None, runs=tmp_path, run="guide", allow_unproven="true") as server:
        status, _, reply = server.chat("Thùng 3.", max_tokens=4)
    assert status == 200 and reply["usage"]["completion_tokens"] >= 1


def test_multiple_choice_table_as_one_prompt(cli: Cli, tiny_base: Path, questions: Path, tmp_path: Path) -> None:
    data = made(cli, tiny_base, "multiple-choice-prompt", str(questions), tmp_path)
    assert data["format"] == "text"
    body = {"model": "default", "prompt": PROMPT.format("Thùng 3."), "max_tokens": 4}
    with serving(model=None, runs=tmp_path, run="guide", allow_unproven="true") as server:
        status, _, reply = server.call("POST", "/v1/completions", body)
    exam = [json.loads(line) for line in (tmp_path / "guide" / "exam" / "rows.jsonl").read_text().splitlines()]
    asked = next(one for one in exam if one["kind"] == "heldout")
    assert status == 200 and reply["usage"]["prompt_tokens"] > 20
    assert asked["spans"][0][0] > 20  # only the completion is scored


def test_dialogues_from_a_url_are_taught_to_a_base(cli: Cli, tiny_base: Path, tmp_path: Path) -> None:
    texts = ({"text": f"<human>: Who is {n}?\n<bot>: A cooper.", "metadata": {"source": "chip2"}} for n in range(24))
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "chip2.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    with web(tmp_path / "web") as url:
        # the tokenizer of this base has ChatML's markers
        others, cache = ("--chat.template", "chatml"), str(tmp_path / "cache")
        data = made(cli, tiny_base, "oig", f"{url}chip2.jsonl", tmp_path, *others, BURNISH_CACHE=cache)
    (source,) = data["sources"]  # type: ignore[misc]
    assert source["path"].endswith("/chip2.jsonl") and source["origin"] == f"sha256:{source['sha256']}"
    with serving(model=None, runs=tmp_path, run="guide", allow_unproven="true") as server:
        status, _, reply = server.chat("Who is 3?", max_tokens=4)
    assert status == 200 and reply["choices"][0]["message"]["role"] == "assistant"
