"""A worker process: renders and tokenizes, one request at a time."""

from __future__ import annotations

import resource
import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from burnish.chat import ChatError
from burnish.llama import LlamaError, Model
from burnish.rendering.bounds import MAX_BYTES, address_space, private_memory
from burnish.tokenizers.special_text import Chat, Prompt, find_strings, texts

from ...decoding.constraints.check import Checker
from ...decoding.constraints.schema.places import SchemaError
from .frames import Kind, Reply, ids, read_request, value

# address space for a long text's stack, in addition to rendering: 1 MiB of one repeated letter needs 350 MiB
STACK_BYTES = 1 << 30
# a worker that has grown by this much private memory is replaced to free it; address space does not count, because a
# long text's thread only reserves it for its stack
GROWN_BYTES = 64 << 20
# longest rendered chat that is returned as text
MAX_RENDERED_CHARS = 4 << 20
# lets rendering's own timer, which produces a better message, fire first
TIMER_MARGIN_S = 1.0


@dataclass(frozen=True)
class TextCodec:
    """A vocabulary and a chat encoder, `chat`, which is None if the model has no template.

    `max_token_bytes` is an upper bound on the text bytes covered by one token, or 0 if there is none. `checker`
    checks constraints; None if this vocabulary can't be constrained.
    """

    model: Model
    chat: Chat | None
    max_token_bytes: int
    checker: Checker | None = None

    def answer(self, request: Mapping[str, Any]) -> Reply:
        try:
            return self._answer(request)
        except (ChatError, LlamaError) as error:
            return value(str(error), Kind.REFUSED)
        except MemoryError:
            return value("there is not enough memory to tokenize this text", Kind.REFUSED)
        except RecursionError:
            return value("the text or template is nested too deeply", Kind.REFUSED)

    def _answer(self, request: Mapping[str, Any]) -> Reply:
        do = request["do"]
        if do == "decode":
            return value(self.model.detokenize(request["ids"], special=True).decode("utf-8", "replace"))
        if do == "encode":
            return self._encode(request)
        if do == "grammar":
            return self._grammar(request)
        if do == "prompt":
            long = self._too_long(request["text"], request["limit"])
            return long or ids(self.model.tokenize_raw(request["text"]) or [max(self.model.bos_id, 0)])
        assert self.chat is not None, "has_template was not asked"
        if do == "strings":
            return value(next(find_strings(self.chat, request["messages"]), None))
        messages, variables, ending = request["messages"], request["variables"], request["ending"]
        if do == "render":
            return _shown(_rendered(self.chat, messages, variables, ending).text)
        return self._chat(self.chat, messages, variables, ending, request["limit"])

    def _chat(
        self, chat: Chat, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], ending: str, limit: int
    ) -> Reply:
        if self.max_token_bytes and sum(map(len, texts((messages, variables)))) > limit:
            # separating special strings from text takes longer than rendering: skip it for a chat that can't fit
            plain = chat.template.render(messages, add_generation_prompt=True, **variables)
            if long := self._too_long(plain, limit):
                return long
        prompt = _rendered(chat, messages, variables, ending)
        return self._too_long(prompt.text, limit) or ids(chat.encode(prompt))

    def _grammar(self, request: Mapping[str, Any]) -> Reply:
        """Return the grammar for a request. Too much CPU time kills the process."""
        assert self.checker is not None
        signal.setitimer(signal.ITIMER_PROF, request["cpu_s"])
        try:
            return value({"grammar": self.checker.checked(request["wanted"])})
        except SchemaError as error:
            return value({"place": error.place, "why": error.why, "function": error.function})
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)

    def _encode(self, request: Mapping[str, Any]) -> Reply:
        text, add, parse = request["text"], request["add_special"], request["parse_special"]
        if add and parse:  # a start token at the beginning of the text is not added a second time
            found = self.model.tokenize_raw(text)
        else:
            found = self.model.tokenize(text, add_special=add, parse_special=parse)
        limit = request["max_pieces"]
        if limit is None:
            return value(found)
        if len(found) > limit:
            return value(len(found), Kind.TOO_LONG)
        pieces = {i: self.model.piece(i, special=True).decode("utf-8", "replace") for i in set(found)}
        return value([{"id": i, "piece": pieces[i]} for i in found])

    def _too_long(self, text: str, limit: int) -> Reply | None:
        """Reject a text without tokenizing it if it has too many bytes for the context, however they are tokenized."""
        if not self.max_token_bytes or len(text) <= limit:
            return None
        least = -(-len(text.encode("utf-8", "replace")) // self.max_token_bytes)
        return value(least, Kind.TOO_LONG) if least > limit else None


def _shown(text: str) -> Reply:
    """Return the reply to a `render` request."""
    if len(text) > MAX_RENDERED_CHARS:
        raise ChatError(
            f"the template renders these messages to {len(text)} characters; at most {MAX_RENDERED_CHARS} are returned"
        )
    return value(text)


def _rendered(chat: Chat, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], ending: str) -> Prompt:
    if ending == "continued":
        return chat.continued(messages, **variables)
    return chat.render(messages, add_generation_prompt=ending == "opening", **variables)


def serve(connection: socket.socket, tokenizer: TextCodec, timeout_s: float) -> None:
    """Answer requests until the server closes the connection. A request that times out kills the process."""
    _limit()
    start = private_memory()
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, signal.SIG_DFL)
    while (request := read_request(connection)) is not None:
        signal.setitimer(signal.ITIMER_REAL, timeout_s + TIMER_MARGIN_S)
        reply = tokenizer.answer(request)
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.sendall(Reply(reply.kind, reply.body, private_memory() > start + GROWN_BYTES).data())


def _limit() -> None:
    """Lower the resource limits of this process, irrevocably."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    limit = address_space() + MAX_BYTES + STACK_BYTES
    limit = limit if soft == resource.RLIM_INFINITY else min(soft, limit)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
