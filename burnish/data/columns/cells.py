"""Templates and expressions over a row's cells: Jinja, in the sandbox and within the limits of chat templates."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import meta, nodes

from ...chat import one_line
from ...errors import did_you_mean, nearest
from ...rendering.bounds import BoundExceeded, bounded
from ...rendering.sandbox import OutputTooLong, Sandbox, make
from ..faults import Undecoded, kind

ROW = "row"  # all cells by name, for columns whose names are not words
TIMEOUT_S = 5.0
MOST_SOURCE = 1 << 16
MOST_NAMES_SHOWN = 20
# a line of nothing but tags leaves no line; a line break after other tags is text
_TAGS_ONLY = re.compile(r"^[ \t]*((?:\{%(?:(?!%\})[^\n])*%\}[ \t]*)+)\n", re.MULTILINE)
EPOCH = datetime(2000, 1, 1)  # templates over columns have no use for the date


class CellFault(Exception):
    """Raised when a template can't be compiled, or can't be rendered for a row."""


class CellLimit(CellFault):
    """A template exceeded its time or memory, and is likely to for every other row: stop at the first."""


class _Strict(jinja2.StrictUndefined):
    """An undefined column. `checked` rejects unknown names before the first row, so here a row only lacks the cell."""

    __slots__ = ()


@dataclass(frozen=True)
class Template:
    """A template over columns, with the name of its setting. Picklable; compiled once per process."""

    source: str
    place: str

    def check(self) -> None:
        """Raise CellFault if the template can't be compiled."""
        _compiled(self.source)

    def render(self, cells: Mapping[str, Any]) -> str:
        """Return the text for a row's cells (`filled`). Raises CellFault."""
        compiled = _compiled(self.source)
        return str(_limited(lambda: compiled.render(**_named(cells)), self.place))

    def names(self) -> Iterator[tuple[str, int]]:
        """Yield (column, line) for every column used in the template."""
        return _names(_environment().parse(self.source))

    def braces(self, columns: Collection[str]) -> list[str]:
        """Return the columns written in single braces, as in Python's str.format, if the template uses no others."""
        plain = "{{" not in self.source and "{%" not in self.source
        return [name for name in columns if plain and f"{{{name}}}" in self.source]


@dataclass(frozen=True)
class Condition:
    """A boolean expression over columns, with the name of its setting. Picklable."""

    source: str
    place: str

    def check(self) -> None:
        """Raise CellFault if the expression can't be compiled."""
        _expression(self.source)

    def holds(self, cells: Mapping[str, Any]) -> bool:
        """Return whether the expression is true for a row's cells (`filled`). Raises CellFault."""
        compiled = _expression(self.source)
        return bool(_limited(lambda: compiled(**_named(cells)), self.place))

    def names(self) -> Iterator[tuple[str, int]]:
        """Yield (column, line) for every column used in the expression."""
        return _names(_environment().parse("{{ (" + self.source + ") }}"))


Reader = Template | Condition


def unknown_names(readers: Collection[Reader], columns: Collection[str], title: str) -> list[str]:
    """Return an error for every name that is not a column: the setting, the line, and the nearest column."""
    unknown = missing_names(readers, columns)
    faults: dict[str, str] = {}
    for reader in readers:
        for name, line in reader.names():
            if name in unknown:
                where = f"{reader.place}, line {line}" if "\n" in reader.source.strip() else reader.place
                faults.setdefault(name, f"{where}: '{name}' is not a column of {title}{_hint(name, columns)}")
    for reader in readers:
        if isinstance(reader, Template) and (plain := reader.braces(columns)):
            shown = f"{{{plain[0]}}}"
            faults.setdefault(shown, f"{reader.place}: {shown} would be literal text: write {{{{ {plain[0]} }}}}")
    return list(faults.values())


def missing_names(readers: Collection[Reader], columns: Collection[str]) -> frozenset[str]:
    """Return the names used in templates and conditions that are no columns."""
    return used_names(readers) - {*columns, ROW, *_environment().globals}


def used_names(readers: Collection[Reader]) -> frozenset[str]:
    """Return the columns used in templates and conditions."""
    return frozenset(name for reader in readers for name, _ in reader.names())


def filled(row: Mapping[str, Any], columns: Collection[str]) -> dict[str, Any]:
    """Return a row's cells for templates: a missing, null or blank cell is ""."""
    return dict.fromkeys(columns, "") | {
        name: "" if value is None or (isinstance(value, str) and not value.strip()) else value
        for name, value in row.items()
    }


def _hint(name: str, columns: Collection[str]) -> str:
    """Return the nearest column, in template syntax if its name is not an identifier."""
    spelled = {column.replace(" ", "_"): column for column in columns}
    near = nearest(name, spelled)
    if near is None:
        return did_you_mean(name, sorted(columns)[:MOST_NAMES_SHOWN])
    column = spelled[near]
    return f"; did you mean '{column}'?" + (
        "" if column.isidentifier() else f" Write {ROW}[{json.dumps(column, ensure_ascii=False)}]"
    )


def _named(cells: Mapping[str, Any]) -> dict[str, Any]:
    return {**cells, ROW: cells}


def _limited(call: Callable[[], Any], place: str) -> Any:
    def guarded() -> Any:
        try:
            return call()
        except (OutputTooLong, MemoryError):
            raise
        except Exception as error:  # raised by the template
            raise CellFault(f"{place}: {one_line(error)}") from None

    try:
        return bounded(guarded, TIMEOUT_S)
    except BoundExceeded as error:
        raise CellLimit(f"{place}: the template exceeds a limit: {error}; the other rows were not checked") from None
    except OutputTooLong as error:
        raise CellFault(f"{place}: the template exceeds a limit: {error}") from None


@lru_cache(maxsize=1)
def _environment() -> Sandbox:
    made = make(EPOCH)
    made.keep_trailing_newline = True  # a template's text is used as it is written
    made.trim_blocks = made.lstrip_blocks = False
    made.undefined = _Strict
    made.finalize = _shown
    return made


@lru_cache(maxsize=256)
def _compiled(source: str) -> jinja2.Template:
    _compile(lambda: _environment().parse(source), source)  # for errors with the line as it is written
    found: jinja2.Template = _compile(lambda: _environment().from_string(_TAGS_ONLY.sub(r"\1", source)), source)
    return found


@lru_cache(maxsize=256)
def _expression(source: str) -> Callable[..., Any]:
    def compiled() -> Callable[..., Any]:
        environment = _environment()
        environment.from_string("{{ (" + source + ") }}")  # for errors: an expression alone may be a statement
        return environment.compile_expression(source, undefined_to_none=False)

    found: Callable[..., Any] = _compile(compiled, source)
    return found


def _compile(call: Callable[[], Any], source: str) -> Any:
    if len(source) > MOST_SOURCE:
        raise CellFault(f"expected at most {MOST_SOURCE:,} characters, got {len(source):,}")
    try:
        return bounded(call, TIMEOUT_S)
    except jinja2.TemplateSyntaxError as error:
        hint = '; write a column as {{ name }}, or as {{ row["the name"] }} if its name is not a word'
        raise CellFault(f"line {error.lineno}: {one_line(error)}{hint if '{{' in source else ''}") from None
    except (BoundExceeded, RecursionError, jinja2.TemplateError) as error:
        raise CellFault(one_line(error)) from None


def _names(parsed: nodes.Template) -> Iterator[tuple[str, int]]:
    free = meta.find_undeclared_variables(parsed)
    for node in parsed.find_all(nodes.Name):
        if node.name in free and node.name != ROW:
            yield node.name, node.lineno
    for attribute in parsed.find_all(nodes.Getattr):
        if isinstance(attribute.node, nodes.Name) and attribute.node.name == ROW:
            yield attribute.attr, attribute.lineno
    for item in parsed.find_all(nodes.Getitem):
        of_row = isinstance(item.node, nodes.Name) and item.node.name == ROW
        if of_row and isinstance(item.arg, nodes.Const) and isinstance(item.arg.value, str):
            yield item.arg.value, item.lineno


def _shown(value: Any) -> Any:
    """Return a cell as text. Raises ValueError for lists and objects."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple, dict, Undecoded)):
        what = "a list" if isinstance(value, tuple) else kind(value)
        raise jinja2.TemplateRuntimeError(f"the value is {what}: use one element of it, or all of it with | tojson")
    return value
