"""The chat-template renderer for train, export and serve: sandboxed, with time, memory and output limits and with
the clock frozen at a recorded date."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import jinja2
from jinja2 import meta, nodes

from .errors import UserError, did_you_mean
from .files import read_regular
from .rendering.bounds import BoundExceeded, bounded
from .rendering.sandbox import OutputTooLong, Sandbox, make
from .rendering.shape import Shape

Result = TypeVar("Result")

MAX_TEMPLATE_BYTES = 4 << 20
TEMPLATES = Path(__file__).parent / "templates"
# special tokens that transformers' apply_chat_template passes to templates -> the GGUF keys of their ids
TOKEN_KEYS: Mapping[str, str] = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
    "sep_token": "tokenizer.ggml.seperator_token_id",  # misspelled in the format itself
    "pad_token": "tokenizer.ggml.padding_token_id",
    "cls_token": "tokenizer.ggml.cls_token_id",
    "mask_token": "tokenizer.ggml.mask_token_id",
}
# variables that only the renderer may set
RESERVED_VARIABLES = frozenset({"self", "messages", "tools", "add_generation_prompt", *TOKEN_KEYS})
# messages store reasoning in `reasoning_content`; templates read one of these names
THOUGHT = "reasoning_content"
THOUGHT_FIELDS = (THOUGHT, "thinking", "reasoning")


# maximum characters in a template, and in the message it raises
MAX_SOURCE, MAX_MESSAGE = 1 << 20, 400
TIMEOUT_S = 5.0


class ChatError(UserError):
    """Raised when a template can't be compiled, or rejects the messages."""


class TemplateLimit(ChatError):
    """A template exceeds its time, memory or output limit."""


class GgufModel(Protocol):
    """The part of burnish.llama.Model that a template needs."""

    @property
    def n_vocab(self) -> int: ...
    @property
    def chat_template(self) -> str | None: ...
    def metadata(self) -> dict[str, str]: ...
    def token_text(self, token: int) -> str: ...


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja chat template with its special tokens, date and default variables.

    `date` (YYYY-MM-DD) is the date for strftime_now, so that the ids do not change from day to day. `variables`
    (enable_thinking ...) are the defaults for every rendering. `shape` is the form in which the template expects
    tool calls (see burnish.dialects.find). Line breaks in `source` become line feeds, as in Jinja's output:
    transformers reads CRLF from a file as LF, and the sha256 would differ.

    Templates are untrusted: any failure is a ChatError, raised at most `timeout_s` after the start.
    """

    source: str
    date: str
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, Any] = field(default_factory=dict)
    timeout_s: float = TIMEOUT_S
    shape: Shape = field(default_factory=Shape)

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", self.source.replace("\r\n", "\n").replace("\r", "\n"))

    @cached_property
    def _environment(self) -> Sandbox:
        return make(datetime.fromisoformat(self.date))

    def _limited(self, call: Callable[[], Result], fault: Callable[[Exception], str]) -> Result:
        """Call Jinja. Raises ChatError for any exception, with the message formatted by `fault`."""

        def guarded() -> Result:
            try:
                return call()
            except (OutputTooLong, MemoryError):
                raise
            except Exception as error:  # raised by the template; the limits also apply while its message is computed
                raise ChatError(fault(error)) from None

        try:
            return bounded(guarded, self.timeout_s)
        except (BoundExceeded, OutputTooLong) as error:
            raise TemplateLimit(f"the chat template exceeds a limit: {error}") from None

    @cached_property
    def _parsed(self) -> nodes.Template:
        if len(self.source) > MAX_SOURCE:
            raise ChatError(f"the chat template: expected at most {MAX_SOURCE} characters, got {len(self.source)}")
        return self._limited(lambda: self._environment.parse(self.source), _not_a_template)

    @cached_property
    def _compiled(self) -> jinja2.Template:
        _ = self._parsed
        return self._limited(lambda: self._environment.from_string(self.source), _not_a_template)

    @cached_property
    def _read(self) -> _Read:
        return self._limited(lambda: _Read.of(self._parsed), _not_a_template)

    @property
    def literals(self) -> frozenset[str]:
        """The string literals in the template's expressions: everything it can search messages for ("</think>").

        Raises ChatError if the source is not a template.
        """
        return self._read.literals

    @cached_property
    def missing_tokens(self) -> tuple[str, ...]:
        """The special tokens that the template uses but that are not defined: they render as "".

        Raises ChatError if the source is not a template.
        """
        return tuple(name for name in TOKEN_KEYS if name in self._read.variables and name not in self.special_tokens)

    @property
    def written(self) -> str:
        """The template's text: its literals and the text between its tags, without comments.

        Raises ChatError if the source is not a template.
        """
        return "\n".join((*self._read.between, *sorted(self.literals)))

    @cached_property
    def thought_field(self) -> str | None:
        """The message field from which the template reads reasoning; None if it does not read any.

        Raises ChatError if the source is not a template.
        """
        read = self._read.attributes | self.literals
        return next((name for name in THOUGHT_FIELDS if name in read), None)

    def names(self, variable: str) -> bool:
        """Return whether the template uses a variable with this name."""
        return variable in self._read.variables

    def taking(self, shape: Shape) -> ChatTemplate:
        """Return the template with another shape, reusing the compiled code."""
        found = copy.copy(self)
        object.__setattr__(found, "shape", shape)
        return found

    def check(self) -> None:
        """Raise ChatError if the template can't be compiled."""
        _ = self._compiled

    def render(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False, **variables: Any
    ) -> str:
        """Render `messages` (role, content, ...) to text, optionally with the start of the next assistant turn.

        `variables` (tools, enable_thinking, ...) override the defaults. A message's `reasoning_content` is passed under
        the name that the template reads. Raises ChatError if the template rejects the messages.
        """
        known = {**self.special_tokens, **self.variables, **variables}
        named, compiled = self._thoughts_named(self.shape.messages(messages)), self._compiled
        return self._limited(
            lambda: compiled.render(messages=named, add_generation_prompt=add_generation_prompt, **known),
            lambda error: f"the chat template rejects these messages: {one_line(error)}",
        )

    def _thoughts_named(self, messages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        if not any(THOUGHT in message for message in messages):
            return messages
        name = self.thought_field
        if name is None or name == THOUGHT:
            return messages
        return [{name if key == THOUGHT else key: value for key, value in m.items()} for m in messages]


def from_tokenizer(
    tokenizer: Any, date: str, source: str | None = None, variables: Mapping[str, Any] | None = None
) -> ChatTemplate | None:
    """Return a transformers tokenizer's template, or `source` with the tokenizer's special tokens.

    Returns None if neither exists. If there are several templates, the one named "default" is used. `variables` are
    set in every rendering.
    """
    found = source or tokenizer.chat_template
    if isinstance(found, Mapping):
        found = found.get("default")
    if found is not None and not isinstance(found, str):
        raise ChatError(f"the tokenizer's chat_template: expected a string, got {type(found).__name__}")
    named = {name: str(value) for name in TOKEN_KEYS if (value := getattr(tokenizer, name, None)) is not None}
    return ChatTemplate(found, date, named, variables or {}) if found else None


def from_gguf(model: GgufModel, date: str, variables: Mapping[str, Any] | None = None) -> ChatTemplate | None:
    """Return the template from a GGUF file's metadata, with the special tokens defined there; None if it has none.

    A token without a key stays undefined, as in a tokenizer without that token: llama.cpp's default ids (11 for a
    byte-level vocabulary) are meaningless. `missing_tokens` lists the undefined tokens that the template uses.
    """
    if not model.chat_template:
        return None
    metadata = model.metadata()
    given = {name: metadata.get(key, "") for name, key in TOKEN_KEYS.items()}
    ids = {name: int(value) for name, value in given.items() if value.isdecimal()}
    named = {name: model.token_text(i) for name, i in ids.items() if 0 <= i < model.n_vocab}
    return ChatTemplate(model.chat_template, date, named, variables or {})


def named_templates() -> list[str]:
    """Return the names of Burnish's built-in templates."""
    return sorted(path.stem for path in TEMPLATES.glob("*.jinja"))


def load_template(name_or_file: str) -> str:
    """Return the source of a named template (chatml, llama-3.1, ...) or of a .jinja file."""
    path = TEMPLATES / f"{name_or_file}.jinja"
    if "/" in name_or_file or name_or_file.endswith((".jinja", ".j2")):
        path = Path(name_or_file)
    elif not path.is_file():
        raise ChatError(f"unknown chat template '{name_or_file}'{did_you_mean(name_or_file, named_templates())}")
    try:
        # a byte order mark would become part of every prompt
        return read_regular(path, MAX_TEMPLATE_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ChatError(f"{path}: the chat template can't be read: {why}") from None


@dataclass(frozen=True)
class _Read:
    """A parsed template: strings, text between tags, attributes, free variables."""

    literals: frozenset[str]
    between: tuple[str, ...]
    attributes: frozenset[str]
    variables: frozenset[str]

    @staticmethod
    def of(parsed: nodes.Template) -> _Read:
        constants = (const.value for const in parsed.find_all(nodes.Const))
        return _Read(
            frozenset(value for value in constants if isinstance(value, str) and value),
            tuple(node.data for node in parsed.find_all(nodes.TemplateData)),
            frozenset(node.attr for node in parsed.find_all(nodes.Getattr)),
            frozenset(meta.find_undeclared_variables(parsed)),
        )


def one_line(error: Exception) -> str:
    """Return an error message as one printable line of limited length, or the error's type if it is empty."""
    if isinstance(error, RecursionError):
        return "nested too deeply, or endless recursion"
    try:
        text = str(error)[: 4 * MAX_MESSAGE]
    except Exception:  # the message is computed by the template's code
        text = ""
    words = " ".join(text.split()) or type(error).__name__
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in words)
    return shown if len(shown) <= MAX_MESSAGE else f"{shown[:MAX_MESSAGE]}…"


def _not_a_template(error: Exception) -> str:
    line = getattr(error, "lineno", None) if isinstance(error, jinja2.TemplateError) else None
    return f"chat template{f' line {line}' if line else ''}: {one_line(error)}"
