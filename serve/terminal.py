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
HELP = "/reset clears the conversation, /system TEXT sets the system message, /quit exits; Ctrl-C stops a reply"


class ChatError(UserError):
    """Raised when the server can't be reached or returned an error."""


class Ask(Protocol):
    """Send the conversation and yield the text of the reply as it arrives."""

    def __call__(self, messages: list[dict[str, str]]) -> Iterable[str]: ...


class Conversation:
    """The messages so far."""

    def __init__(self, system: str | None = None) -> None:
        self.system = system
        self.turns: list[dict[str, str]] = []

    @property
    def messages(self) -> list[dict[str, str]]:
        """The messages to send."""
        return ([{"role": "system", "content": self.system}] if self.system else []) + self.turns

    def command(self, line: str) -> str | None:
        """Run a line that begins with "/"; return the text to print, or None to exit."""
        word, _, rest = line.partition(" ")
        if word == "/quit":
            return None
        if word == "/reset":
            self.turns = []
            return "conversation cleared"
        if word == "/system":
            self.system, self.turns = rest.strip() or None, []
            return f"system message {'set' if self.system else 'removed'}, conversation cleared"
        return HELP

    def say(self, text: str, ask: Ask) -> None:
        """Send a line and print the reply as it arrives; after Ctrl-C, the part received so far is kept."""
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
    """Run the chat and return the exit code. Raises ChatError if the server can't be reached."""
    parser = argparse.ArgumentParser(
        prog="python -m serve chat", description="Chat with a running server.", epilog=HELP
    )
    parser.add_argument("--url", default=DEFAULT_URL, help=f"the server's API [{DEFAULT_URL}]")
    parser.add_argument("--api_key", default=os.environ.get("OPENAI_API_KEY", "none"), help="[$OPENAI_API_KEY]")
    parser.add_argument("--model", default="default", help="model name [default]")
    parser.add_argument("--system", default=None, help="system message")
    parser.add_argument("--temperature", type=float, default=None, help="sampling temperature; 0 for greedy decoding")
    parser.add_argument("--max_tokens", type=int, default=None, help="maximum tokens per reply")
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
            message = conversation.command(line)
            if message is None:
                return 0
            print(message)
        elif line:
            conversation.say(line, ask)


def _connect(options: argparse.Namespace) -> Ask:
    """Return a function that queries the server. Raises ChatError at once if the server can't be reached."""
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
        return ChatError(f"no server responds at {url}: start one with `make serve`, or pass another address as --url")
    if isinstance(error, openai.AuthenticationError):
        return ChatError(f"{url} rejected the API key: pass --api_key or set OPENAI_API_KEY")
    return ChatError(f"{url}: {getattr(error, 'message', error)}")
