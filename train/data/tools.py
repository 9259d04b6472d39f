"""Check rows with tools against the chat template: it must render the tools, and calls must parse back."""

from __future__ import annotations

from burnish.chat import ChatTemplate
from burnish.config import ConfigError
from burnish.console import counted
from burnish.data.formats import Example, Message
from burnish.dialects.comparison import difference
from burnish.dialects.definitions import parameters
from burnish.dialects.events import Parsed
from burnish.dialects.find import Found, fitted
from burnish.dialects.reader import parse

ADVICE = "set chat.template to chatml-tools, or to a .jinja file that supports tools"


def fit(template: ChatTemplate, dialect: str | None) -> tuple[ChatTemplate, Found]:
    """Return the template with the call shape it expects, and its formats of calls and reasoning.

    Raises ConfigError if its calls can't be parsed with the given dialect.
    """
    template, found = fitted(template, dialect)
    if dialect and found.dialect is None:
        raise ConfigError(f"chat.tool_dialect {dialect} does not read the template's calls: {found.why}")
    return template, found


def check_tools(found: Found, tools: int, results: int) -> None:
    """Raise ConfigError if rows have tools, or their results, and the template can't render them."""
    if tools and (found.dialect is None or not found.defines):
        raise ConfigError(f"{_rows(tools, 'tools')}, and {found.why}: {ADVICE}")
    # without its result, a call would be followed by an answer from nothing
    if results and not found.results:
        raise ConfigError(f"{_rows(results, 'results of tools')}, and {found.why}: {ADVICE}")


def _rows(count: int, what: str) -> str:
    return f"{counted(count, 'row')} {'has' if count == 1 else 'have'} {what}"


def reading_fault(message: Message, example: Example, text: str, before: str, found: Found) -> str:
    """Return how the server would parse a trained turn differently from the row, or "".

    `text` is the trained turn without its end token; `before` is the end of its prompt.
    """
    thoughts = found.thoughts
    opened = thoughts is not None and thoughts.open_in(before)
    read = parse(text, found.dialect, thoughts, opened, parameters(example.tools))
    return difference(_said(message, text, found), read)


def _said(message: Message, text: str, found: Found) -> Parsed:
    """Return a turn's parsed parts. Reasoning may be in the content; reasoning omitted by the template is dropped."""
    reasoning = message.reasoning if message.reasoning.strip() in text else ""
    content = message.content
    if found.thoughts and found.thoughts.end in content:
        inner = parse(content, None, found.thoughts, found.thoughts.begin not in content)
        content, reasoning = inner.content, reasoning or inner.reasoning
    return Parsed(content, reasoning, message.calls)
