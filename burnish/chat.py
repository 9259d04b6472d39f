"""The chat-template renderer of train, export and serve: sandboxed, with limits on time, memory and output, and with
the clock frozen to a recorded date."""

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

MOST_TEMPLATE_BYTES = 4 << 20
TEMPLATES = Path(__file__).parent / "templates"
# special tokens that apply_chat_template of transformers passes to templates -> the GGUF keys of their ids
TOKEN_KEYS: Mapping[str, str] = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
    "sep_token": "tokenizer.ggml.seperator_token_id",  # spelled so in the format
    "pad_token": "tokenizer.ggml.padding_token_id",
    "cls_token": "tokenizer.ggml.cls_token_id",
    "mask_token": "tokenizer.ggml.mask_token_id",
}
# variables that the renderer sets itself, so that nobody else can
RESERVED_VARIABLES = frozenset({"self", "messages", "tools", "add_generation_prompt", *TOKEN_KEYS})
# messages have reasoning as `reasoning_content`; templates read one of these names
THOUGHT = "reasoning_content"
THOUGHT_FIELDS = (THOUGHT, "thinking", "reasoning")


# most characters of a template, and of the message that it raises
MOST_SOURCE, MOST_MESSAGE = 1 << 20, 400
TIMEOUT_S = 5.0


class ChatError(UserError):
    """A template can't be compiled, or refuses the messages."""


class TemplateLimit(ChatError):
    """A template exceeds the limits on time, memory or output."""


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
    """A Jinja chat template with its special tokens, its date and its default variables.

    `date` (YYYY-MM-DD) is the date for strftime_now, so that the ids do not change from day to day. `variables`
    (enable_thinking ...) apply to every rendering that does not set them itself. `shape` is the form in which it
    expects tool calls (see burnish.dialects.find). Line breaks in `source` become \n, as Jinja renders them:
    transformers reads \r\n from a file as \n, and the sha256 would differ.

    A template comes from a stranger: any failure is a ChatError, raised at most `timeout_s` after its start.
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
        """Call Jinja. Raises ChatError for any exception, with the message that `fault` makes of it."""

        def guarded() -> Result:
            try:
                return call()
            except (OutputTooLong, MemoryError):
                raise
            except Exception as error:  # raised by the template; its text is computed under the limits too
                raise ChatError(fault(error)) from None

        try:
            return bounded(guarded, self.timeout_s)
        except (BoundExceeded, OutputTooLong) as error:
            raise TemplateLimit(f"the chat template exceeds a limit: {error}") from None

    @cached_property
    def _parsed(self) -> nodes.Template:
        if len(self.source) > MOST_SOURCE:
            raise ChatError(f"the chat template has {len(self.source)} characters, expected at most {MOST_SOURCE}")
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
        """The strings in the template's expressions: everything it can search messages for ("</think>").

        Raises ChatError if the source is not a template.
        """
        return self._read.literals

    @cached_property
    def missing_tokens(self) -> tuple[str, ...]:
        """The special tokens that the template uses but does not have: they render as "".

        Raises ChatError if the source is not a template.
        """
        return tuple(name for name in TOKEN_KEYS if name in self._read.variables and name not in self.special_tokens)

    @property
    def written(self) -> str:
        """The text in the template: its literals and the text between its tags, without comments.

        Raises ChatError if the source is not a template.
        """
        return "\n".join((*self._read.between, *sorted(self.literals)))

    @cached_property
    def thought_field(self) -> str | None:
        """The message field from which the template reads reasoning; None if it reads none.

        Raises ChatError if the source is not a template.
        """
        read = self._read.attributes | self.literals
        return next((name for name in THOUGHT_FIELDS if name in read), None)

    def names(self, variable: str) -> bool:
        """Return whether the template uses a variable of this name."""
        return variable in self._read.variables

    def taking(self, shape: Shape) -> ChatTemplate:
        """Return the template with another shape; what was compiled is kept."""
        found = copy.copy(self)
        object.__setattr__(found, "shape", shape)
        return found

    def check(self) -> None:
        """Raise ChatError if the template can't be compiled."""
        _ = self._compiled

    def render(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False, **variables: Any
    ) -> str:
        """Return the text of `messages` (role, content, ...), optionally with the start of the next assistant turn.

        `variables` (tools, enable_thinking, ...) override the template's own. A message's `reasoning_content` is passed
        under the name that the template reads. Raises ChatError if the template refuses the messages.
        """
        known = {**self.special_tokens, **self.variables, **variables}
        named, compiled = self._thoughts_named(self.shape.messages(messages)), self._compiled
        return self._limited(
            lambda: compiled.render(messages=named, add_generation_prompt=add_generation_prompt, **known),
            lambda error: f"the chat template refuses these messages: {one_line(error)}",
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
    """Return the template of a transformers tokenizer, or `source` with the tokenizer's special tokens.

    Returns None if there is neither. Of several templates the one named "default" is used. `variables` are set in every
    rendering.
    """
    found = source or tokenizer.chat_template
    if isinstance(found, Mapping):
        found = found.get("default")
    if found is not None and not isinstance(found, str):
        raise ChatError(f"the tokenizer's chat_template is a {type(found).__name__}, expected a string")
    named = {name: str(value) for name in TOKEN_KEYS if (value := getattr(tokenizer, name, None)) is not None}
    return ChatTemplate(found, date, named, variables or {}) if found else None


def from_gguf(model: GgufModel, date: str, variables: Mapping[str, Any] | None = None) -> ChatTemplate | None:
    """Return the template in a GGUF's metadata, with the special tokens given there; None if there is none.

    A token without a key stays undefined, as with a tokenizer that lacks it: llama.cpp's default ids (11 for a
    byte-level vocabulary) are meaningless. `missing_tokens` has what the template lacks.
    """
    if not model.chat_template:
        return None
    metadata = model.metadata()
    said = {name: metadata.get(key, "") for name, key in TOKEN_KEYS.items()}
    ids = {name: int(value) for name, value in said.items() if value.isdecimal()}
    named = {name: model.token_text(i) for name, i in ids.items() if 0 <= i < model.n_vocab}
    return ChatTemplate(model.chat_template, date, named, variables or {})


def named_templates() -> list[str]:
    """Return the names of the templates that come with Burnish."""
    return sorted(path.stem for path in TEMPLATES.glob("*.jinja"))


def load_template(name_or_file: str) -> str:
    """Return the source of a template by name (chatml, llama-3.1, ...) or from a .jinja file."""
    path = TEMPLATES / f"{name_or_file}.jinja"
    if "/" in name_or_file or name_or_file.endswith((".jinja", ".j2")):
        path = Path(name_or_file)
    elif not path.is_file():
        raise ChatError(f"unknown chat template '{name_or_file}'{did_you_mean(name_or_file, named_templates())}")
    try:
        # a byte order mark would become part of every prompt
        return read_regular(path, MOST_TEMPLATE_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ChatError(f"{path}: the chat template can't be read: {why}") from None


@dataclass(frozen=True)
class _Read:
    """A template's source, parsed: strings, text between tags, attributes, free variables."""

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
    """Return an error's message as one printable line of limited length, or its type if the message is empty."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply, or recurses without end"
    try:
        said = str(error)[: 4 * MOST_MESSAGE]
    except Exception:  # the template's own code makes the text
        said = ""
    words = " ".join(said.split()) or type(error).__name__
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in words)
    return shown if len(shown) <= MOST_MESSAGE else f"{shown[:MOST_MESSAGE]}…"


def _not_a_template(error: Exception) -> str:
    line = getattr(error, "lineno", None) if isinstance(error, jinja2.TemplateError) else None
    return f"chat template{f' line {line}' if line else ''}: {one_line(error)}"
