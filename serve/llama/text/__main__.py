"""The parent of the workers: python -m serve.llama.text CONTROL SETTINGS, two inherited file descriptors.

It loads the vocabulary, reports over the control socket, and forks a worker for each socket it receives. It processes
no untrusted text itself, except for one trial rendering of the template under limits.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import replace
from typing import Any

from burnish.chat import ChatError, ChatTemplate, TemplateLimit
from burnish.children.path import only_packages
from burnish.dialects.find import Found, fitted
from burnish.errors import run_edge
from burnish.llama import Model
from burnish.rendering.shape import Shape
from burnish.tokenizers import vocabulary
from burnish.tokenizers.special_text import Chat

from ...decoding.constraints.answer import Style
from ...decoding.constraints.check import Checker
from ..token_table import marks, matchers
from .frames import CONTROL, FORK, KILL
from .worker import TextCodec, serve

TRIAL = [{"role": "user", "content": "Hello"}]
# tokenizers whose tokens each cover a bounded part of the text; others drop characters or merge whole words
BOUNDED_TOKENS = frozenset({"llama", "gpt2", "gemma4"})


def main() -> int:
    """Load, report, and fork workers until the server exits; return the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the server handles these and then closes the socket
        signal.signal(number, signal.SIG_IGN)
    control = socket.socket(fileno=int(sys.argv[1]))
    with open(int(sys.argv[2]), "rb") as file:
        settings: dict[str, Any] = json.load(file)
    with Model.open(settings["model"], vocab_only=True) as model:
        template, fault, found = _examined(settings["template"], settings["tool_dialect"])
        chat = Chat(template, vocabulary.from_gguf(model), settings["reading"]) if template else None
        texts = TextCodec(model, chat, _max_token_bytes(model))
        with suppress(BrokenPipeError, ConnectionResetError):  # the server has exited, perhaps during loading
            control.send(json.dumps({"fault": fault, "dialects": found.to_json()}).encode())
            _prepare(texts)
            if compiling := matchers(model, settings["end_tokens"], found):
                texts = replace(texts, checker=Checker(compiling, Style(found, marks(model, found))))
            gc.collect()
            gc.freeze()  # pages the collector does not touch stay shared
            _fork_on_request(control, texts, settings["timeout_s"])
    return 0


def _examined(data: dict[str, Any] | None, dialect: str | None) -> tuple[ChatTemplate | None, str | None, Found]:
    """Return the server's template, why no chat can be rendered, and how the template writes calls and reasoning.

    `dialect`: the recorded one, with which training proved its rows.
    """
    template = ChatTemplate(**{**data, "shape": Shape(**data["shape"])}) if data else None
    fault = _fault(template)
    if template is None or fault is not None:
        return template, fault, Found()
    template, found = fitted(template, dialect)
    return template, None, found


def _fork_on_request(control: socket.socket, texts: TextCodec, timeout_s: float) -> None:
    workers: dict[int, int] = {}  # process id by worker number; the id can't be reused before the process is reaped
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, CONTROL.size, 1)
        if not data:
            return
        _reap(workers)
        command, number = CONTROL.unpack(data)
        if command == KILL and number in workers:
            with suppress(ProcessLookupError):
                os.kill(workers[number], signal.SIGKILL)
        elif command == FORK:
            with suppress(OSError):  # process limit reached: the socket is closed, and the server retries
                workers[number] = _forked(control, descriptors[0], texts, timeout_s)


def _forked(control: socket.socket, descriptor: int, texts: TextCodec, timeout_s: float) -> int:
    """Fork a worker for a socket; return its process id. Raises OSError."""
    try:
        process = os.fork()
    except OSError:
        os.close(descriptor)
        raise
    if process:
        os.close(descriptor)
        return process
    code = 1
    try:
        control.close()
        with suppress(OSError):  # the server has exited or closed the socket of a cancelled request
            serve(socket.socket(fileno=descriptor), texts, timeout_s)
        code = 0
    finally:
        os._exit(code)


def _reap(workers: dict[int, int]) -> None:
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG)[0]) != 0:
            for number in [n for n, process in workers.items() if process == ended]:
                del workers[number]


def _fault(template: ChatTemplate | None) -> str | None:
    """Return why no chat can be rendered, or None. A template may reject the trial and accept other chats."""
    if template is None:
        return None
    try:
        template.check()
    except ChatError as error:
        return str(error)
    try:
        template.render(TRIAL, add_generation_prompt=True)
    except TemplateLimit as error:
        return str(error)
    except ChatError:
        return None
    return None


def _prepare(texts: TextCodec) -> None:
    """Compute lazily built tables once, before forking: otherwise each worker would compute them again."""
    texts.model.prepare()
    with suppress(ChatError):  # the template can't be compiled, which has been reported
        if texts.chat is not None:
            texts.chat.prepare()


def _max_token_bytes(model: Model) -> int:
    """Return an upper bound on the text bytes covered by one token, or 0 if there is none."""
    if model.metadata().get("tokenizer.ggml.model") not in BOUNDED_TOKENS:
        return 0
    return max((len(model.token_text(i).encode("utf-8", "replace")) for i in range(model.n_vocab)), default=0)


if __name__ == "__main__":
    only_packages()
    run_edge(main)
