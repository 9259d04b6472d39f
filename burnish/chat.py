"""The one chat-template renderer of train, export and serve: sandboxed, under limits of time, memory and output, with
the clock frozen to a recorded date."""

from __future__ import annotations

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

Result = TypeVar("Result")

MOST_TEMPLATE_BYTES = 4 << 20
TEMPLATES = Path(__file__).parent / "templates"
# the tokens that templates may name, as transformers' apply_chat_template passes them, and the GGUF keys of their ids
TOKEN_KEYS: Mapping[str, str] = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
    "sep_token": "tokenizer.ggml.seperator_token_id",  # the format's own spelling
    "pad_token": "tokenizer.ggml.padding_token_id",
    "cls_token": "tokenizer.ggml.cls_token_id",
    "mask_token": "tokenizer.ggml.mask_token_id",
}
# what the renderer gives to a template by itself, so that nobody else can set it
RESERVED_VARIABLES = frozenset({"self", "messages", "add_generation_prompt", *TOKEN_KEYS})
# a message's thought is `reasoning_content`; templates read it under one of these names
THOUGHT = "reasoning_content"
THOUGHT_FIELDS = (THOUGHT, "thinking", "reasoning")


# characters of a template, and of what it says of its refusal
MOST_SOURCE, MOST_SAID = 1 << 20, 400
TIMEOUT_S = 5.0


class ChatError(UserError):
    """A template that can't be compiled, or messages that it refuses."""


class TemplateLimit(ChatError):
    """A template that takes more time, memory or output than a rendering may."""


class GgufModel(Protocol):
    """What a template needs of a GGUF file (burnish.llama.Model)."""

    @property
    def n_vocab(self) -> int: ...
    @property
    def chat_template(self) -> str | None: ...
    def metadata(self) -> dict[str, str]: ...
    def token_text(self, token: int) -> str: ...


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja chat template, the special tokens that it may name, and the date that it believes it is.

    `date` (YYYY-MM-DD) is what strftime_now sees, so that the ids do not change by the day. `variables`
    (enable_thinking ...) are set in every rendering that does not set them itself. `source` keeps \n alone as line
    break, as Jinja renders it: transformers reads \r\n from a file as \n, and its sha256 would be another.

    A template comes from a stranger: whatever it does is one ChatError, `timeout_s` after its start at the latest.
    """

    source: str
    date: str
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, Any] = field(default_factory=dict)
    timeout_s: float = TIMEOUT_S

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", self.source.replace("\r\n", "\n").replace("\r", "\n"))

    @cached_property
    def _environment(self) -> Sandbox:
        return make(datetime.fromisoformat(self.date))

    def _limited(self, call: Callable[[], Result], fault: Callable[[Exception], str]) -> Result:
        """Make a call of Jinja's. Raises ChatError whatever it raises; `fault` says what it failed at."""

        def guarded() -> Result:
            try:
                return call()
            except (OutputTooLong, MemoryError):
                raise
            except Exception as error:  # a template's own fault, of any kind; its text is computed under the limits too
                raise ChatError(fault(error)) from None

        try:
            return bounded(guarded, self.timeout_s)
        except (BoundExceeded, OutputTooLong) as error:
            raise TemplateLimit(f"the chat template exceeds a limit: {error}") from None

    @cached_property
    def _parsed(self) -> nodes.Template:
        if len(self.source) > MOST_SOURCE:
            raise ChatError(f"the chat template has {len(self.source)} characters, at most {MOST_SOURCE} are taken")
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
        """The strings in the template's expressions: all that it can look for in a message ("</think>").

        Raises ChatError where the source is not a template.
        """
        return self._read.literals

    @cached_property
    def missing_tokens(self) -> tuple[str, ...]:
        """The special tokens that the template names and does not have: they render as nothing.

        Raises ChatError where the source is not a template.
        """
        return tuple(name for name in TOKEN_KEYS if name in self._read.variables and name not in self.special_tokens)

    @property
    def written(self) -> str:
        """The text in the template: its literals and what stands between its tags, without comments.

        Raises ChatError where the source is not a template.
        """
        return "\n".join((*self._read.between, *sorted(self.literals)))

    @cached_property
    def thought_field(self) -> str | None:
        """The field of a message in which the template reads a thought; None where it reads none.

        Raises ChatError where the source is not a template.
        """
        read = self._read.attributes | self.literals
        return next((name for name in THOUGHT_FIELDS if name in read), None)

    def names(self, variable: str) -> bool:
        """Whether the template has a variable of this name."""
        return variable in self._read.variables

    def check(self) -> None:
        """Raise ChatError where the template can't be compiled."""
        _ = self._compiled

    def render(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False, **variables: Any
    ) -> str:
        """Return the text of `messages` (role, content, ...), with the opening of the next assistant turn if asked.

        `variables` (tools, enable_thinking, ...) go to the template, stronger than its own. A message's
        `reasoning_content` goes to it under the name that it reads. Raises ChatError where the template refuses.
        """
        known = {**self.special_tokens, **self.variables, **variables}
        named, compiled = self._thoughts_named(messages), self._compiled
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
    """Return the template of a transformers tokenizer, or `source` with that tokenizer's special tokens.

    None where neither has one. A tokenizer with several templates gives the one called "default". `variables` are set
    in every rendering.
    """
    found = source or tokenizer.chat_template
    if isinstance(found, Mapping):
        found = found.get("default")
    if found is not None and not isinstance(found, str):
        raise ChatError(f"the tokenizer's chat_template is a {type(found).__name__}, expected text")
    named = {name: str(value) for name in TOKEN_KEYS if (value := getattr(tokenizer, name, None)) is not None}
    return ChatTemplate(found, date, named, variables or {}) if found else None


def from_gguf(model: GgufModel, date: str, variables: Mapping[str, Any] | None = None) -> ChatTemplate | None:
    """Return the template in a GGUF's metadata, with the special tokens that the metadata name; None without one.

    A token without a key in the file stays undefined, as it does for a tokenizer that has none: llama.cpp's own
    default ids (11 for a byte-level vocabulary) stand for nothing. `missing_tokens` says what the template lacks.
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
        raise ChatError(f"no chat template is named '{name_or_file}'{did_you_mean(name_or_file, named_templates())}")
    try:
        # a byte order mark would be a character of every prompt
        return read_regular(path, MOST_TEMPLATE_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ChatError(f"{path}: the chat template can't be read: {why}") from None


@dataclass(frozen=True)
class _Read:
    """What a template's source says: its strings, its texts between tags, its attributes, its free variables."""

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
    """Return what an error says as one printable line of bounded length, by its type where it says nothing."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply, or calls itself without end"
    try:
        said = str(error)[: 4 * MOST_SAID]
    except Exception:  # its text is the template's own
        said = ""
    words = " ".join(said.split()) or type(error).__name__
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in words)
    return shown if len(shown) <= MOST_SAID else f"{shown[:MOST_SAID]}…"


def _not_a_template(error: Exception) -> str:
    line = getattr(error, "lineno", None) if isinstance(error, jinja2.TemplateError) else None
    return f"chat template{f' line {line}' if line else ''}: {one_line(error)}"
