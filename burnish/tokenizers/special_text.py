"""Keep message text as text: special strings written by a person or a tool don't become control tokens.

A chat is rendered with sentinels in place of the first and last characters of special strings, so that all special
strings in the rendering come from the template. The text is split at these, the sentinels are replaced by the
original characters, and the pieces are encoded as text. Chats without such strings are rendered and encoded whole.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from ..chat import ChatError, ChatTemplate
from .finder import Finder
from .vocabulary import Part, Vocabulary

Reading = Literal["text", "parse"]

# strings that open and close reasoning or tool calls: in assistant turns these are always tokens
MARKERS = frozenset(
    {
        *("<think>", "</think>", "<seed:think>", "</seed:think>", "[THINK]", "[/THINK]", "◁think▷", "◁/think▷"),
        *("<|START_THINKING|>", "<|END_THINKING|>", "<|channel>", "<channel|>"),
        *("<tool_call>", "</tool_call>", "<tool_calls>", "</tool_calls>", "<|tool_call|>", "<|/tool_call|>"),
        *("<|tool_call>", "<tool_call|>", "<|tool_call_start|>", "<|tool_call_end|>", "<|python_tag|>"),
        *("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>"),
        *("<|tool_call_argument_begin|>", "<seed:tool_call>", "</seed:tool_call>"),
        *("<minimax:tool_call>", "</minimax:tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
        *("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<|START_ACTION|>", "<|END_ACTION|>"),
        *(
            "<｜tool▁calls▁begin｜>",
            "<｜tool▁calls▁end｜>",
            "<｜tool▁call▁begin｜>",
            "<｜tool▁call▁end｜>",
            "<｜tool▁sep｜>",
        ),
    }
)
STRUCTURED = frozenset({"name", "tool_calls"})  # assistant fields that the template puts between markers
_PRIVATE = re.compile("[\ue000-\uf8ff]")

Span = tuple[int, int]


@dataclass(frozen=True)
class Prompt:
    """A rendered chat. `controls` are its control tokens' spans [start, end); None: every special string is one."""

    text: str
    controls: tuple[Span, ...] | None = None

    def after(self, start: int) -> Prompt:
        """Return the prompt without its first `start` characters."""
        spans = self.controls and tuple((a - start, b - start) for a, b in self.controls if a >= start)
        return Prompt(self.text[start:], spans)


@dataclass(frozen=True)
class Chat:
    """A template and a vocabulary for encoding messages. `reading`: whether special strings in messages are text.

    `variables` apply to every rendering, in addition to the template's own variables.
    """

    template: ChatTemplate
    vocabulary: Vocabulary
    reading: Reading = "text"
    variables: Mapping[str, Any] = field(default_factory=dict)
    _finder: Finder = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_finder", Finder(frozenset(self.vocabulary.specials)))

    def prepare(self) -> None:
        """Precompute everything needed for special strings. Raises ChatError like `literals`."""
        self._finder.prepare()
        _ = self._ids, self.template.literals

    def offering(self, tools: Sequence[Mapping[str, Any]]) -> Chat:
        """Return the chat with these tools shown to the model; unchanged if there are none."""
        if not tools:
            return self
        chat = copy.copy(self)  # keeps precomputed values
        object.__setattr__(chat, "variables", {**self.variables, "tools": list(tools)})
        return chat

    def ids(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False, **kw: Any) -> list[int]:
        """Return a chat's ids. Raises ChatError if the template rejects it or a string can't be encoded as text."""
        return self.encode(self.render(messages, add_generation_prompt, **kw))

    def render(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False, **variables: Any
    ) -> Prompt:
        """Render a chat, distinguishing the template's control tokens from the messages' text."""
        variables = {**self.template.variables, **self.variables, **variables}
        messages = self.template.shape.messages(messages)
        kept = (messages, variables)
        if self.reading == "parse" or not any(self._finder.edge.search(text) for text in texts(kept)):
            return Prompt(self.template.render(messages, add_generation_prompt, **variables))
        hide = _Sentinels(self._finder, self.template, texts(kept))
        hidden = [hide.message(message) for message in messages]
        marked = self.template.render(hidden, add_generation_prompt, **hide.value(variables))
        prompt = self._restored(marked, hide)
        same = prompt.controls == self._spans(prompt.text)
        if hide.strings:
            return Prompt(prompt.text) if same else prompt
        # no message contains a special string: use the plain rendering, unless the template assembles one from parts
        text = self.template.render(messages, add_generation_prompt, **variables)
        return Prompt(text) if same or text != prompt.text else prompt

    def continued(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> Prompt:
        """Render a chat that ends with the last message's text, for the model to continue. Raises ChatError.

        The template's text after the message (an end token, a line break) is omitted, as is trailing whitespace if the
        template strips it.
        """
        last = messages[-1]
        mark = _unused((*texts(messages), *texts(variables), self.template.source))
        prompt = self.render([*messages[:-1], {**last, "content": f"{last['content']}{mark} "}], **variables)
        end = prompt.text.rfind(mark)
        if end < 0:
            raise ChatError("the chat template does not render the last message, so it can't be continued")
        stripped = prompt.text[end + 1 : end + 2] != " "
        text = prompt.text[:end].rstrip() if stripped else prompt.text[:end]
        spans = prompt.controls and tuple(span for span in prompt.controls if span[1] <= len(text))
        return Prompt(text, spans)

    def encode(self, prompt: Prompt) -> list[int]:
        """Return a rendered chat's ids. Raises ChatError if a string in it can't be encoded as text."""
        if prompt.controls is None:
            ids, spans = self.vocabulary.parse(prompt.text), self._spans(prompt.text)
            if self.reading == "parse" or len(self._control(ids, [prompt.text])) <= len(spans):
                return ids
            prompt = Prompt(prompt.text, spans)  # the normalizer turned other text into a special string
        for cut in (self.vocabulary.always_parsed, frozenset(self.vocabulary.specials)):
            parts = list(self._parts(prompt, cut))
            ids = self.vocabulary.spell(parts)
            if self._control(ids, parts) == [part for part in parts if isinstance(part, int)]:
                return ids
        raise ChatError(
            "this tokenizer always parses the special strings in these messages as control tokens"
            f" ({', '.join(self.strings(prompt.text)[:3])}): remove them, or set special_tokens to parse"
        )

    def strings(self, text: str, assistant: bool = False) -> list[str]:
        """Return the distinct special strings in a text; for an assistant turn, without the markers."""
        found = (string for _, _, string in self._finder.find(text))
        return [s for s in dict.fromkeys(found) if not (assistant and s in MARKERS)]

    def _spans(self, text: str) -> tuple[Span, ...]:
        return tuple((start, end) for start, end, _ in self._finder.find(text))

    def _control(self, ids: Sequence[int], parts: Sequence[Part]) -> list[int]:
        """Return the control tokens among the ids; the unknown token counts only if `parts` contain it."""
        found = [i for i in ids if i in self._ids]
        unknown = self.vocabulary.unknown
        if unknown not in found:
            return found
        string = next((s for s, i in self.vocabulary.specials.items() if i == unknown), None)
        meant = any(part == unknown or (isinstance(part, str) and string and string in part) for part in parts)
        return [i for i in found if meant or i != unknown]

    @cached_property
    def _ids(self) -> frozenset[int]:
        return frozenset(self.vocabulary.specials.values())

    def _restored(self, marked: str, hide: _Sentinels) -> Prompt:
        """Replace the sentinels with the original characters; special strings found before that are the template's."""
        parts: list[str] = []
        controls: list[Span] = []
        length = last = 0
        for start, end, string in self._finder.find(marked):
            parts += (hide.back(marked[last:start]), string)
            length += len(parts[-2]) + len(string)
            controls.append((length - len(string), length))
            last = end
        return Prompt("".join(parts) + hide.back(marked[last:]), tuple(controls))

    def _parts(self, prompt: Prompt, cut: frozenset[str]) -> Iterator[Part]:
        """Yield a prompt's texts and control ids; strings in `cut` are split after the first character."""
        last = 0
        assert prompt.controls is not None
        for start, end in (*prompt.controls, (len(prompt.text), len(prompt.text))):
            text = prompt.text[last:start]
            at = 0
            for begin, _, string in self._finder.find(text):
                if string in cut:
                    yield text[at : begin + 1]
                    at = begin + 1
            if text[at:]:
                yield text[at:]
            if end > start:
                yield self.vocabulary.specials[prompt.text[start:end]]
            last = end


class _Sentinels:
    """Replaces characters in a chat's texts with sentinels: private-use characters that occur nowhere in the chat.

    Lengths, whitespace and letters don't change, so templates strip, split and compare as before. A string that the
    template searches for ("</think>") stays visible, unless it is special and not an assistant marker.
    """

    def __init__(self, finder: Finder, template: ChatTemplate, there: Iterator[str]) -> None:
        self.finder = finder
        self.strings: set[str] = set()  # the hidden special strings
        whole = "\n".join((*there, template.source, *finder.strings))
        used, lower = set(_PRIVATE.findall(whole)), whole.lower()
        free = (c for c in map(chr, range(0xE000, 0xF900)) if c not in used and f"\\u{ord(c):04x}" not in lower)
        self.sentinels = dict(zip(sorted(finder.edges), free, strict=False))
        if len(self.sentinels) < len(finder.edges):
            raise ChatError("the messages use nearly all private-use characters: special strings can't be masked")
        looked_for = sorted((s for s in template.literals if finder.edge.search(s)), key=len, reverse=True)
        self.looked_for = re.compile("|".join(map(re.escape, looked_for)) or r"(?!)")
        # in ASCII JSON, sentinels are escaped
        self.originals = {s: c for c, s in self.sentinels.items()}
        self.originals |= {f"\\u{ord(s):04x}": c for c, s in self.sentinels.items()}
        self.sentinel = re.compile("|".join(map(re.escape, self.originals)))

    def message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        assistant = message.get("role") == "assistant"
        return {
            key: value if key == "role" else self.value(value, assistant and key not in STRUCTURED)
            for key, value in message.items()
        }

    def value(self, value: Any, markers: bool = False) -> Any:
        """Return a value with its texts' special strings hidden; `markers` keeps reasoning and tool-call markers."""
        if isinstance(value, str):
            return self._text(value, markers)
        if isinstance(value, Mapping):
            return {self.value(key, markers): self.value(inner, markers) for key, inner in value.items()}
        return [self.value(inner, markers) for inner in value] if isinstance(value, list | tuple) else value

    def back(self, text: str) -> str:
        return self.sentinel.sub(lambda match: self.originals[match.group()], text)

    def _text(self, text: str, markers: bool) -> str:
        if not self.finder.edge.search(text):
            return text
        visible = bytearray(len(text))
        for match in self.looked_for.finditer(text):
            visible[match.start() : match.end()] = b"\x01" * len(match.group())
        for start, end, string in self.finder.find(text):
            kept = markers and string in MARKERS
            visible[start:end] = (b"\x01" if kept else b"\x00") * (end - start)
            if not kept:
                self.strings.add(string)
        return self.finder.edge.sub(
            lambda match: match.group() if visible[match.start()] else self.sentinels[match.group()], text
        )


def _unused(there: Iterable[str]) -> str:
    """Return a character that does not occur in any of the texts."""
    used = set("".join(there))
    return next(c for c in map(chr, range(0xF0000, 0xFFFFE)) if c not in used)


def texts(value: Any) -> Iterator[str]:
    """Yield every text in the messages, including object keys, except roles."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | Mapping):  # the check for an abstract class is slow
        for key, inner in value.items():
            if key != "role":
                yield from texts(key) if not isinstance(key, str) else (key,)
                yield from texts(inner) if not isinstance(inner, str) else (inner,)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from texts(inner)


def find_strings(chat: Chat, messages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, str, str]]:
    """Yield the message index, field and string for every special string that must stay text."""
    for index, message in enumerate(messages):
        for key, value in message.items():
            assistant = message.get("role") == "assistant" and key not in STRUCTURED
            for text in texts(value) if key != "role" else ():
                yield from ((index, key, string) for string in chat.strings(text, assistant))
