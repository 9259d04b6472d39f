"""The terminal chat: its commands with a real client and server, Ctrl-C, and errors without a server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from serve.terminal import Conversation
from tests.support.commands import ROOT
from tests.support.server import serving


def chat(text: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serve", "chat", *options]
    return subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True, timeout=120)


def test_conversation_is_kept_until_reset() -> None:
    with serving() as server:
        lines = "/system Answer in one word.\nWhat is the capital of Italy?\n/reset\n/nonsense\n/quit\n"
        done = chat(lines, "--url", server.url, "--max_tokens", "12", "--temperature", "0")
        assert done.returncode == 0, done.stderr
        output = done.stdout.splitlines()
        assert "system message set" in output[0] and "Rome" in done.stdout and "\nconversation cleared\n" in done.stdout
        assert "/reset clears" in output[-1]


def test_missing_server_is_a_one_line_error() -> None:
    done = chat("hello\n", "--url", "http://127.0.0.1:9/v1")
    assert done.returncode == 2 and "no server responds" in done.stderr and "make serve" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_stops_the_answer_and_keeps_received_text(capsys: pytest.CaptureFixture[str]) -> None:
    def ask(messages: list[dict[str, str]]) -> Iterator[str]:
        yield "half an "
        raise KeyboardInterrupt

    conversation = Conversation("be brief")
    conversation.say("hello", ask)
    assert "half an  [stopped]" in capsys.readouterr().out
    assert [m["role"] for m in conversation.messages] == ["system", "user", "assistant"]
    assert conversation.messages[-1]["content"] == "half an "


@pytest.mark.slow
def test_missing_api_key_is_reported() -> None:
    with serving(environment={"BURNISH_SERVE_API_KEYS": "open-sesame"}) as server:
        assert "--api_key" in chat("x\n", "--url", server.url).stderr
        done = chat("Say yes.\n", "--url", server.url, "--api_key", "open-sesame", "--max_tokens", "4")
        assert done.returncode == 0 and done.stdout.strip()
