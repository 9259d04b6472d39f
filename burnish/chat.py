"""The one chat-template renderer of train, export and serve: sandboxed, with the clock frozen to a recorded date."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from burnish.errors import UserError, did_you_mean

TEMPLATES = Path(__file__).parent / "templates"


class ChatError(UserError):
    """A template that can't be compiled, or messages that it refuses."""


class _Generation(Extension):
    """Accept transformers' {% generation %} blocks, which only mark what the assistant wrote."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja chat template, the special tokens that it may name, and the date that it believes it is.

    `date` (YYYY-MM-DD) is what strftime_now sees, so that the ids do not change by the day. `source` keeps \n alone as
    line break, as Jinja renders it: transformers reads \r\n from a file as \n, and its sha256 would be another.
    """

    source: str
    date: str
    special_tokens: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", self.source.replace("\r\n", "\n").replace("\r", "\n"))

    @cached_property
    def _compiled(self) -> jinja2.Template:
        moment = datetime.fromisoformat(self.date)
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = moment.strftime
        try:
            return environment.from_string(self.source)
        except jinja2.TemplateError as error:
            line = getattr(error, "lineno", None)
            raise ChatError(f"chat template{f' line {line}' if line else ''}: {error}") from None

    def render(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False, **variables: Any
    ) -> str:
        """Return the text of `messages` (role, content, ...), with the opening of the next assistant turn if asked.

        `variables` (tools, enable_thinking, ...) go to the template. Raises ChatError where the template refuses.
        """
        try:
            return self._compiled.render(
                messages=messages, add_generation_prompt=add_generation_prompt, **{**self.special_tokens, **variables}
            )
        except (jinja2.TemplateError, TypeError, ValueError, OverflowError) as error:
            raise ChatError(f"the chat template refuses these messages: {error}") from None


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
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ChatError(f"{path}: the chat template can't be read: {error}") from None


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(value: Any, indent: int | None = None, ensure_ascii: bool = False, **options: Any) -> str:
    """Write JSON as transformers does: no HTML escapes, non-ASCII as it is."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)
