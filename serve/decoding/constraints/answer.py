"""The grammar of a chat answer: reasoning first, if the template has it, then content or calls.

Its parts are llguidance grammars in Lark's syntax. Text never contains a special token, so that a marker that is one
needs no lookahead; a marker that is plain text ends a lazy lexeme.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from burnish.dialects.find import Found
from burnish.dialects.form import ID, CallForm
from burnish.dialects.formats.channels import CHANNEL, END, MESSAGE, START
from burnish.dialects.thoughts import CHANNELS, Thoughts

from .schema.places import Json

ANY = "/(?s:.*)/"
GAP = "/[ \\n]{1,4}/"  # the template's whitespace after reasoning
IDENTITY = "/[a-zA-Z0-9]{9}/"
CONTENT = "content"


@dataclass(frozen=True)
class Style:
    """A template's answer format, and which of its markers are tokens, by their text."""

    found: Found = field(default_factory=Found)
    marks: Mapping[str, int] = field(default_factory=dict)

    @property
    def form(self) -> CallForm | None:
        """The format of calls; None if they can't be constrained."""
        return self.found.form

    def literal(self, text: str) -> str:
        """Return a text as a sequence in Lark's syntax: strings, tokens, and a call's id."""
        names = "|".join(map(re.escape, sorted((*self.marks, ID), key=len, reverse=True)))
        parts = (part for part in re.split(f"({names})", text) if part)
        return " ".join(self._part(part) for part in parts)

    def _part(self, part: str) -> str:
        if part == ID:
            return IDENTITY
        return f"<[{self.marks[part]}]>" if part in self.marks else json.dumps(part, ensure_ascii=False)


@dataclass(frozen=True)
class Tools:
    """The tools that may be called, with the grammars of their arguments; `needed`: at least one call must be made."""

    arguments: Mapping[str, Json]
    needed: bool
    parallel: bool


def answer(style: Style, content: Json | None, tools: Tools | None, opened: bool) -> list[Json]:
    """Return the grammars of an answer; the first describes the whole. `opened`: the prompt has opened reasoning.

    `content` is what the content must be, None for any text.
    """
    rules: list[str] = []
    grammars: list[Json] = []
    if content is not None and not (tools and tools.needed):
        grammars.append({"name": CONTENT, **content})
    thoughts = style.found.thoughts
    if thoughts is CHANNELS:
        before, text = _channels(style, rules)
    else:
        before, text = _thought(style, thoughts, opened, rules) if thoughts else "", ""
    body = f"{text} @{CONTENT}" if content is not None else f"{text} TEXT"
    if tools is not None and style.form is not None:
        body = _with_calls(style, style.form, tools, body, content is not None or bool(text), rules)
        grammars += [{"name": f"a{i}", **grammar} for i, grammar in enumerate(tools.arguments.values())]
    lines = [f"start: {before} body", f"body: {body}", *rules, f"TEXT: {ANY}"]
    return [{"lark_grammar": "\n".join(lines) + "\n"}, *grammars]


def _thought(style: Style, thoughts: Thoughts, opened: bool, rules: list[str]) -> str:
    """Add the rules for reasoning, and return its symbol; reasoning is optional unless the prompt has opened it."""
    end = thoughts.end.strip()
    if end in style.marks:
        rules.append(f"inside: {ANY} <[{style.marks[end]}]>")
    else:
        rules.append(f"inside[lazy]: /(?s:.*){_escaped(end)}/")
    begin = "" if opened else style.literal(thoughts.begin.strip())
    rules += [f"thought: {begin} inside gap?", f"gap: {GAP}"]
    return "thought" if opened else "thought?"


def _channels(style: Style, rules: list[str]) -> tuple[str, str]:
    """Add the rules for gpt-oss messages; return the symbols for reasoning and for the start of the content."""
    between = style.literal(f"{END}{START}assistant")
    rules.append(f"thought: {style.literal(f'{CHANNEL}analysis{MESSAGE}')} {ANY} {between}")
    return "thought*", style.literal(f"{CHANNEL}final{MESSAGE}")


def _with_calls(style: Style, form: CallForm, tools: Tools, body: str, apart: bool, rules: list[str]) -> str:
    """Add the rules for calls, and return the body: calls, or the previous body if none are required.

    `apart`: nothing of the body can be the start of a call.
    """
    names = (f"{json.dumps(name)} middle @a{i}" for i, name in enumerate(tools.arguments))
    again = "(again one)*" if form.again and tools.parallel else ""
    rules += [f"one: {' | '.join(names)}", f"middle: {style.literal(form.middle)}"]
    rules += [f"again: {style.literal(form.again)}"] if again else []
    rest = f"one {again} {style.literal(form.end)}"
    whole = f"{style.literal(form.begin)} {rest}"
    if tools.needed:
        return whole
    if apart:
        return f"{whole} | {body}"
    if form.opening in style.marks:
        return f"TEXT? {whole} | {body}"
    if len(form.opening) == 1:  # calls have no marker: they are the whole answer
        rules.append(f"other: /[^\\s{_escaped(form.opening)}](?s:.*)/")
        return f"{whole} | other"
    rules.append(f"lead[lazy]: /(?s:.*){_escaped(form.opening)}/")
    after = style.literal(form.begin.removeprefix(form.opening))
    return f"lead {after} {rest} | {body}"


def _escaped(text: str) -> str:
    """Return a text as a regular expression between slashes."""
    return re.sub(r"([.^$*+?{}\[\]|()\\/])", r"\\\1", text).replace("\n", "\\n")


def spacing(form: CallForm) -> dict[str, str]:
    """Return the library's options for the whitespace of arguments."""
    return {"item_separator": _escaped(form.comma), "key_separator": _escaped(form.colon)}
