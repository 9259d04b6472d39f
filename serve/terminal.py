"""A streaming chat in the terminal, through the official openai client: python -m serve chat."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from burnish.console import printable
from burnish.errors import UserError

DEFAULT_URL = "http://127.0.0.1:8000/v1"
HELP = "/reset forgets the conversation, /system TEXT sets the system message, /quit leaves; Ctrl-C stops an answer"


class ChatError(UserError):
    """No server answers, or it refuses."""


class Ask(Protocol):
    """Send the conversation, yield the answer's text as it comes."""

    def __call__(self, messages: list[dict[str, str]]) -> Iterable[str]: ...


class Conversation:
    """The messages so far."""

    def __init__(self, system: str | None = None) -> None:
        self.system = system
        self.turns: list[dict[str, str]] = []

    @property
    def messages(self) -> list[dict[str, str]]:
        """What is sent."""
        return ([{"role": "system", "content": self.system}] if self.system else []) + self.turns

    def command(self, line: str) -> str | None:
        """Carry out a line that begins with "/"; return what to say, None to leave."""
        word, _, rest = line.partition(" ")
        if word == "/quit":
            return None
        if word == "/reset":
            self.turns = []
            return "the conversation is forgotten"
        if word == "/system":
            self.system, self.turns = rest.strip() or None, []
            return "the system message is set, a new conversation begins" if self.system else "no system message"
        return HELP

    def say(self, text: str, ask: Ask) -> None:
        """Send a line and print the answer while it comes; Ctrl-C keeps what came so far."""
        self.turns.append({"role": "user", "content": text})
        answer = ""
        try:
            for part in ask(self.messages):
                answer += part
                print(printable(part), end="", flush=True)
        except KeyboardInterrupt:
            print(" [stopped]", end="")
        except BaseException:
            self.turns.pop()
            raise
        print()
        self.turns.append({"role": "assistant", "content": answer})


def main(argv: Sequence[str]) -> int:
    """Run the chat; returns the exit code. Raises ChatError where no server answers."""
    parser = argparse.ArgumentParser(
        prog="python -m serve chat", description="Chat with a running server.", epilog=HELP
    )
    parser.add_argument("--url", default=DEFAULT_URL, help=f"the server's API [{DEFAULT_URL}]")
    parser.add_argument("--api_key", default=os.environ.get("OPENAI_API_KEY", "none"), help="[$OPENAI_API_KEY]")
    parser.add_argument("--model", default="default", help="model name [default]")
    parser.add_argument("--system", default=None, help="system message")
    parser.add_argument("--temperature", type=float, default=None, help="0 for the likeliest answer")
    parser.add_argument("--max_tokens", type=int, default=None, help="longest answer in tokens")
    options = parser.parse_args(list(argv))
    ask = _connect(options)
    conversation = Conversation(options.system)
    if sys.stdin.isatty():
        print(HELP)
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return 0
        if line.startswith("/"):
            said = conversation.command(line)
            if said is None:
                return 0
            print(said)
        elif line:
            conversation.say(line, ask)


def _connect(options: argparse.Namespace) -> Ask:
    """Return a function that asks the server; a server that does not answer is reported before the first prompt."""
    import openai

    client = openai.OpenAI(base_url=options.url, api_key=options.api_key)
    extra: dict[str, Any] = {
        key: value
        for key, value in (("temperature", options.temperature), ("max_tokens", options.max_tokens))
        if value is not None
    }

    def ask(messages: list[dict[str, str]]) -> Iterable[str]:
        try:
            request: Any = {"model": options.model, "messages": messages, "stream": True, **extra}
            stream: Any = client.chat.completions.create(**request)
            with stream:
                for chunk in stream:
                    if chunk.choices and chunk.choices[0].delta.content:
                        yield chunk.choices[0].delta.content
        except openai.APIError as error:
            raise _explain(error, options.url) from None

    try:
        client.with_options(max_retries=0, timeout=10).models.list()
    except openai.APIError as error:
        raise _explain(error, options.url) from None
    return ask


def _explain(error: Exception, url: str) -> ChatError:
    import openai

    if isinstance(error, openai.APIConnectionError):
        return ChatError(f"no server answers at {url}: start one with `make serve`, or give --url")
    if isinstance(error, openai.AuthenticationError):
        return ChatError(f"{url} wants an API key: give --api_key, or set OPENAI_API_KEY")
    return ChatError(f"{url}: {getattr(error, 'message', error)}")
