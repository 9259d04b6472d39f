"""A worker: takes requests one at a time, renders and tokenizes, and answers."""

from __future__ import annotations

import resource
import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from burnish.chat import ChatError
from burnish.llama import LlamaError, Model
from burnish.rendering.bounds import MOST_BYTES, address_space, private_memory
from burnish.tokenizers.special_text import Chat, Prompt, find_strings, texts

from .frames import Kind, Reply, ids, read_request, value

# address space for the stack of a long text, beside the memory of a rendering: 1 MiB of one letter takes 350 MiB
STACK_BYTES = 1 << 30
# a worker whose memory has grown by this much is replaced, which gives it back; address space alone takes none, and the
# thread of a long text reserves as much for its stack
GROWN_BYTES = 64 << 20
# characters of a rendered chat that is returned as text
MOST_SHOWN = 4 << 20
# the timer of the rendering itself, which gives a better message, comes first
AFTER_S = 1.0


@dataclass(frozen=True)
class Texts:
    """A vocabulary and what makes ids of messages; None where the model has no template.

    `longest` is the most bytes of text that one token stands for, 0 where that has no bound.
    """

    model: Model
    chat: Chat | None
    longest: int

    def answer(self, request: Mapping[str, Any]) -> Reply:
        """Answer one request."""
        try:
            return self._answer(request)
        except (ChatError, LlamaError) as error:
            return value(str(error), Kind.REFUSED)
        except MemoryError:
            return value("there is not enough memory to tokenize this text", Kind.REFUSED)
        except RecursionError:
            return value("it is nested too deeply", Kind.REFUSED)

    def _answer(self, request: Mapping[str, Any]) -> Reply:
        do = request["do"]
        if do == "decode":
            return value(self.model.detokenize(request["ids"], special=True).decode("utf-8", "replace"))
        if do == "encode":
            return self._encode(request)
        if do == "prompt":
            long = self._too_long(request["text"], request["most"])
            return long or ids(self.model.tokenize_raw(request["text"]) or [max(self.model.bos_id, 0)])
        assert self.chat is not None, "has_template was not asked"
        if do == "strings":
            return value(next(find_strings(self.chat, request["messages"]), None))
        messages, variables, ending = request["messages"], request["variables"], request["ending"]
        if do == "render":
            return _shown(_rendered(self.chat, messages, variables, ending).text)
        return self._chat(self.chat, messages, variables, ending, request["most"])

    def _chat(
        self, chat: Chat, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], ending: str, most: int
    ) -> Reply:
        if self.longest and sum(map(len, texts((messages, variables)))) > most:
            # separating special strings from text takes longer than the rendering: not for a chat that can't fit
            plain = chat.template.render(messages, add_generation_prompt=True, **variables)
            if long := self._too_long(plain, most):
                return long
        prompt = _rendered(chat, messages, variables, ending)
        return self._too_long(prompt.text, most) or ids(chat.encode(prompt))

    def _encode(self, request: Mapping[str, Any]) -> Reply:
        text, add, parse = request["text"], request["add_special"], request["parse_special"]
        if add and parse:  # a start token that the text begins with is not put there twice
            found = self.model.tokenize_raw(text)
        else:
            found = self.model.tokenize(text, add_special=add, parse_special=parse)
        most = request["most_pieces"]
        if most is None:
            return value(found)
        if len(found) > most:
            return value(len(found), Kind.TOO_LONG)
        pieces = {i: self.model.piece(i, special=True).decode("utf-8", "replace") for i in set(found)}
        return value([{"id": i, "piece": pieces[i]} for i in found])

    def _too_long(self, text: str, most: int) -> Reply | None:
        """Refuse a text that can't fit into the context whatever its tokens are, before it is tokenized."""
        if not self.longest or len(text) <= most:
            return None
        least = -(-len(text.encode("utf-8", "replace")) // self.longest)
        return value(least, Kind.TOO_LONG) if least > most else None


def _shown(text: str) -> Reply:
    """Return a rendered chat as a text to be read."""
    if len(text) > MOST_SHOWN:
        raise ChatError(
            f"the template makes {len(text)} characters of these messages; at most {MOST_SHOWN} are returned"
        )
    return value(text)


def _rendered(chat: Chat, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], ending: str) -> Prompt:
    if ending == "continued":
        return chat.continued(messages, **variables)
    return chat.render(messages, add_generation_prompt=ending == "opening", **variables)


def serve(connection: socket.socket, tokenizer: Texts, timeout_s: float) -> None:
    """Answer requests until the server closes the connection. A request that takes too long ends the process."""
    _limit()
    start = private_memory()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    while (request := read_request(connection)) is not None:
        signal.setitimer(signal.ITIMER_REAL, timeout_s + AFTER_S)
        reply = tokenizer.answer(request)
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.sendall(Reply(reply.kind, reply.body, private_memory() > start + GROWN_BYTES).data())


def _limit() -> None:
    """Lower what this process may take, for good."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    most = address_space() + MOST_BYTES + STACK_BYTES
    most = most if soft == resource.RLIM_INFINITY else min(soft, most)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
