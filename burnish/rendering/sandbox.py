"""The template environment: Jinja's sandbox, without operations that run for hours in native code."""

from __future__ import annotations

import json
import operator
from collections.abc import Iterable
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import filters, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

# maximum characters in a rendering, far above any chat
MAX_OUTPUT = 64_000_000
# Python's integers are unbounded: 10**10**10 would never finish and can't be interrupted
MAX_BITS = 4096
# floats do not have more decimal places
MAX_PLACES = 400


class OutputTooLong(Exception):
    """A template's output exceeds the limit."""


class _Generation(Extension):
    """Support for transformers' {% generation %} blocks, which only mark assistant text."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Sandbox(ImmutableSandboxedEnvironment):
    """Limits numbers and output in templates; bounds.py limits time and memory."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * (max(right, 0) if operator == "**" else 1)
            if bits + (right.bit_length() if operator == "*" else 0) > MAX_BITS:
                raise OverflowError(f"an integer of more than {MAX_BITS} bits")
        return super().call_binop(context, operator, left, right)

    @staticmethod
    def concat(pieces: Iterable[str]) -> str:
        """Join a template's output. Raises OutputTooLong."""
        parts, size = [], 0
        for piece in pieces:
            size += len(piece)
            if size > MAX_OUTPUT:
                raise OutputTooLong(f"more than {MAX_OUTPUT // 10**6} million characters written")
            parts.append(piece)
        return "".join(parts)


def make(moment: datetime) -> Sandbox:
    """Return an environment like the one in transformers' apply_chat_template, with the clock set to `moment`."""
    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.filters["round"] = _round
    environment.filters["sum"] = _sum
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = moment.strftime
    return environment


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(value: Any, indent: int | None = None, ensure_ascii: bool = False, **options: Any) -> str:
    """Return JSON in transformers' style: no HTML escapes, non-ASCII characters unescaped."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _round(value: float, precision: int = 0, method: Any = "common") -> float:
    if abs(precision) > MAX_PLACES:
        raise OverflowError(f"round to {precision} places")
    return filters.do_round(value, precision, method)


@jinja2.pass_environment
def _sum(environment: jinja2.Environment, iterable: Any, attribute: str | int | None = None, start: Any = 0) -> Any:
    """Sum in Python, so that summing lists, which takes quadratic time, can be interrupted."""
    values = map(filters.make_attrgetter(environment, attribute), iterable) if attribute is not None else iterable
    for value in values:
        start = operator.add(start, value)
    return start
