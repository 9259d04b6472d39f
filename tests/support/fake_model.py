"""A pure Python model that implements the engine's protocols and echoes the prompt."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from burnish.chat import ChatError
from burnish.errors import UserError
from serve.engine.backend import DONE, Output, Sampled
from serve.engine.events import TokenLogprob
from serve.engine.kv_cells import Op
from serve.engine.sequence import Sequence as Answer
from serve.engine.step import FillerToken, ScheduledTokens
from serve.engine.tokenizer import Ending, PromptTooLong

END = 256
VOCAB_SIZE = 257


class ByteTokenizer:
    """Each byte is a token; the template joins the contents of the messages."""

    vocab_size = VOCAB_SIZE
    has_template = True

    async def encode_json(
        self, text: str, *, add_special: bool = False, parse_special: bool = True, max_pieces: int | None = None
    ) -> bytes:
        ids = list(text.encode())
        if max_pieces is None:
            return json.dumps(ids).encode()
        if len(ids) > max_pieces:
            raise PromptTooLong(len(ids))
        return json.dumps([{"id": i, "piece": self.piece(i).decode("utf-8", "replace")} for i in ids]).encode()

    async def encode_prompt(self, text: str, limit: int) -> list[int]:
        return list(text.encode()) or [0]

    async def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], ending: Ending, limit: int
    ) -> list[int]:
        return list(json.loads(await self.render_json(messages, variables, ending)).encode())

    async def render_json(
        self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], ending: Ending
    ) -> bytes:
        if any(not message["content"] for message in messages):
            raise ChatError("a message is empty")
        return json.dumps(str(variables.get("between", "")).join(message["content"] for message in messages)).encode()

    async def special_string(self, messages: Sequence[Mapping[str, Any]]) -> tuple[int, str, str] | None:
        spelled = (index for index, message in enumerate(messages) if "<end>" in message["content"])
        return next(((index, "content", "<end>") for index in spelled), None)

    def piece(self, token: int) -> bytes:
        return b"<end>" if token == END else bytes([token])

    async def decode(self, ids: Sequence[int]) -> str:
        return b"".join(map(self.piece, ids)).decode("utf-8", "replace")

    async def decode_json(self, ids: Sequence[int]) -> bytes:
        return json.dumps(await self.decode(ids)).encode()


@dataclass
class TokenCache:
    """A backend's cache: the tokens of each slot. Every batch must continue at the end of its slots."""

    slots: dict[int, list[int]] = field(default_factory=dict)

    def apply(self, ops: Sequence[Op]) -> None:
        for op in ops:
            if op.kind == "fork":
                self.slots[op.slot] = self.slots[op.source][: op.length]
            else:
                del self.slots.setdefault(op.slot, [])[op.length :]

    def append(self, batch: Sequence[ScheduledTokens | FillerToken]) -> None:
        """Append the tokens of a batch."""
        for part in batch:
            held = self.slots.setdefault(part.slot, [])
            assert len(held) == part.start
            held += part.tokens


class EchoBackend(TokenCache):
    """Repeats the prompt, then returns the end token."""

    def decode(self, batch: Sequence[ScheduledTokens | FillerToken]) -> int:
        self.append(batch)
        return DONE

    def prefers_serial(self, rows: int) -> bool:
        return False

    def sample(self, outputs: Sequence[Output]) -> list[Sampled | UserError]:
        return [self.next_token(output) for output in outputs]

    def next_token(self, output: Output) -> Sampled | UserError:
        sequence, allowed = output.sequence, output.allowed
        at = sequence.generated
        token = sequence.prompt[at] if at < len(sequence.prompt) else END
        if allowed is not None and not allowed[token]:
            token = int(allowed.argmax())
        wanted = sequence.params.logprobs
        data = bytes([token]) if token != END else b"<end>"
        return Sampled(token, None if wanted is None else TokenLogprob(token, data, -0.5, ((token, -0.5),) * wanted))

    def forced(self, sequence: Answer, tokens: Sequence[int]) -> None:
        pass

    def score(self, tokens: Sequence[int], index: int, top: int) -> list[TokenLogprob]:
        return [TokenLogprob(token, bytes([token]), -0.25, ((token, -0.25),) * top) for token in tokens]

    def piece(self, token: int) -> bytes:
        return b"" if token == END else bytes([token])

    def release(self, sequence: Answer) -> None:
        pass
