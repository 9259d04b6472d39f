"""The one chat-template renderer of train, export and serve: sandboxed, with the clock frozen to a recorded date."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, Protocol

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .errors import UserError, did_you_mean

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
RESERVED_VARIABLES = frozenset({"messages", "add_generation_prompt", *TOKEN_KEYS})
# a message's thought is `reasoning_content`; templates read it under one of these names
THOUGHT = "reasoning_content"
THOUGHT_FIELDS = (THOUGHT, "thinking", "reasoning")


class ChatError(UserError):
    """A template that can't be compiled, or messages that it refuses."""


class GgufModel(Protocol):
    """What a template needs of a GGUF file (burnish.llama.Model)."""

    @property
    def n_vocab(self) -> int: ...
    @property
    def chat_template(self) -> str | None: ...
    def metadata(self) -> dict[str, str]: ...
    def token_text(self, token: int) -> str: ...


class _Generation(Extension):
    """Accept transformers' {% generation %} blocks, which only mark what the assistant wrote."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja chat template, the special tokens that it may name, and the date that it believes it is.

    `date` (YYYY-MM-DD) is what strftime_now sees, so that the ids do not change by the day. `variables`
    (enable_thinking ...) are set in every rendering that does not set them itself. `source` keeps \n alone as line
    break, as Jinja renders it: transformers reads \r\n from a file as \n, and its sha256 would be another.
    """

    source: str
    date: str
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", self.source.replace("\r\n", "\n").replace("\r", "\n"))

    @cached_property
    def _environment(self) -> ImmutableSandboxedEnvironment:
        moment = datetime.fromisoformat(self.date)
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = moment.strftime
        return environment

    @cached_property
    def _parsed(self) -> nodes.Template:
        try:
            return self._environment.parse(self.source)
        except jinja2.TemplateError as error:
            raise _not_a_template(error) from None

    @cached_property
    def _compiled(self) -> jinja2.Template:
        try:
            return self._environment.from_string(self.source)
        except jinja2.TemplateError as error:
            raise _not_a_template(error) from None

    @cached_property
    def literals(self) -> frozenset[str]:
        """The strings in the template's expressions: all that it can look for in a message ("</think>").

        Raises ChatError where the source is not a template.
        """
        found = self._parsed.find_all(nodes.Const)
        return frozenset(const.value for const in found if isinstance(const.value, str) and const.value)

    @cached_property
    def missing_tokens(self) -> tuple[str, ...]:
        """The special tokens that the template names and does not have: they render as nothing.

        Raises ChatError where the source is not a template.
        """
        named = meta.find_undeclared_variables(self._parsed)
        return tuple(name for name in TOKEN_KEYS if name in named and name not in self.special_tokens)

    @cached_property
    def written(self) -> str:
        """The text in the template: its literals and what stands between its tags, without comments.

        Raises ChatError where the source is not a template.
        """
        between = (node.data for node in self._parsed.find_all(nodes.TemplateData))
        return "\n".join((*between, *sorted(self.literals)))

    @cached_property
    def thought_field(self) -> str | None:
        """The field of a message in which the template reads a thought; None where it reads none.

        Raises ChatError where the source is not a template.
        """
        read = {node.attr for node in self._parsed.find_all(nodes.Getattr)} | self.literals
        return next((name for name in THOUGHT_FIELDS if name in read), None)

    def names(self, variable: str) -> bool:
        """Whether the template has a variable of this name."""
        return variable in meta.find_undeclared_variables(self._parsed)

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
        try:
            return self._compiled.render(
                messages=self._thoughts_named(messages), add_generation_prompt=add_generation_prompt, **known
            )
        except (jinja2.TemplateError, TypeError, ValueError, OverflowError) as error:
            raise ChatError(f"the chat template refuses these messages: {error}") from None

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
        return path.read_text(encoding="utf-8-sig")  # a byte order mark would be a character of every prompt
    except (OSError, UnicodeDecodeError) as error:
        raise ChatError(f"{path}: the chat template can't be read: {error}") from None


def _not_a_template(error: jinja2.TemplateError) -> ChatError:
    line = getattr(error, "lineno", None)
    return ChatError(f"chat template{f' line {line}' if line else ''}: {error}")


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(value: Any, indent: int | None = None, ensure_ascii: bool = False, **options: Any) -> str:
    """Write JSON as transformers does: no HTML escapes, non-ASCII as it is."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)
