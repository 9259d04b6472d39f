"""The Tokenizer of a GGUF: its vocabulary and its chat template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from burnish.llama import Model
from burnish.tokenizers.special_text import Chat, find_strings


class LlamaTokenizer:
    """`chat` makes ids of messages; None where the model has no template."""

    def __init__(self, model: Model, chat: Chat | None) -> None:
        self.model, self.chat = model, chat

    @property
    def vocab_size(self) -> int:
        return self.model.n_vocab

    @property
    def has_template(self) -> bool:
        return self.chat is not None

    def encode(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        if add_special and parse_special:  # a start token that the text begins with is not put there twice
            return self.model.tokenize_raw(text)
        return self.model.tokenize(text, add_special=add_special, parse_special=parse_special)

    def encode_prompt(self, text: str) -> list[int]:
        return self.model.tokenize_raw(text) or [max(self.model.bos_id, 0)]

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> list[int]:
        assert self.chat is not None, "has_template was not asked"
        return self.chat.ids(messages, add_generation_prompt=True, **variables)

    def special_strings(self, messages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, str, str]]:
        return find_strings(self.chat, messages) if self.chat is not None else iter(())

    def piece(self, token: int) -> bytes:
        return self.model.piece(token, special=True)

    def decode(self, ids: Sequence[int]) -> str:
        return self.model.detokenize(ids, special=True).decode("utf-8", "replace")
