"""The parent of the workers: python -m serve.llama.text CONTROL SETTINGS, both numbers of inherited descriptors.

It loads the vocabulary, says on the control socket what the server needs to know, and forks a worker for each socket
that it is sent. It does nothing that a text or a template could harm, but for one trial rendering under its limits.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
from contextlib import suppress
from typing import Any

from burnish.chat import ChatError, ChatTemplate, TemplateLimit
from burnish.children.path import only_packages
from burnish.errors import run_edge
from burnish.llama import Model
from burnish.tokenizers import vocabulary
from burnish.tokenizers.special_text import Chat

from .frames import CONTROL, FORK, KILL
from .worker import Texts, serve

TRIAL = [{"role": "user", "content": "Hello"}]
# tokenizers in which every token stands for a bounded part of the text; others drop characters, or fold words into one
BOUNDED_TOKENS = frozenset({"llama", "gpt2", "gemma4"})


def main() -> int:
    """Load, report, and fork until the server has gone; returns the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # of a terminal or a container: the server decides
        signal.signal(number, signal.SIG_IGN)
    control = socket.socket(fileno=int(sys.argv[1]))
    with open(int(sys.argv[2]), "rb") as file:
        settings: dict[str, Any] = json.load(file)
    with Model.open(settings["model"], vocab_only=True) as model:
        template = settings["template"] and ChatTemplate(**settings["template"])
        chat = Chat(template, vocabulary.from_gguf(model), settings["reading"]) if template else None
        texts = Texts(model, chat, _longest(model))
        with suppress(BrokenPipeError, ConnectionResetError):  # the server has gone, perhaps before all was loaded
            control.send(json.dumps({"fault": _fault(template)}).encode())
            _prepare(texts)
            gc.collect()
            gc.freeze()  # pages that the collector does not touch stay shared
            _fork_on_request(control, texts, settings["timeout_s"])
    return 0


def _fork_on_request(control: socket.socket, texts: Texts, timeout_s: float) -> None:
    workers: dict[int, int] = {}  # process by the worker's number; one that has not been waited for keeps its id
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
            with suppress(OSError):  # no process is left: the socket is closed, and the server asks again
                workers[number] = _forked(control, descriptors[0], texts, timeout_s)


def _forked(control: socket.socket, descriptor: int, texts: Texts, timeout_s: float) -> int:
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
        with suppress(OSError):  # the server has gone, or has closed the socket of a request that nobody waits for
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
    """Say why no chat can be rendered, if that is so; a template may refuse the trial and take other chats."""
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


def _prepare(texts: Texts) -> None:
    """Compute what texts of some kind need, once: each worker would compute it again."""
    texts.model.prepare()
    with suppress(ChatError):  # of a template that can't be compiled: the fault has been reported
        if texts.chat is not None:
            texts.chat.prepare()


def _longest(model: Model) -> int:
    """Return the most bytes that a token stands for; its own text has at least as many."""
    if model.metadata().get("tokenizer.ggml.model") not in BOUNDED_TOKENS:
        return 0
    return max((len(model.token_text(i).encode("utf-8", "replace")) for i in range(model.n_vocab)), default=0)


if __name__ == "__main__":
    only_packages()
    run_edge(main)
