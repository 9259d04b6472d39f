"""Warnings over rows that are well-formed and still teach the wrong thing."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from burnish.data.formats import Example, Message

from .dedupe import repeats

MIN_ROWS = 10
# a share of one same answer above which a model may learn to give it to everything
MAX_SAME_SHARE = 0.5
MAX_NAMES_SHOWN, MAX_LINES_SHOWN = 5, 3

_PLACEHOLDER = re.compile(r"(?<!\{)\{\{\s*([^\W\d][\w .-]{0,40}?)\s*\}\}(?!\})")
# control tokens of the common chat templates; a thought's <think> is none of them
_MARKER = re.compile(
    r"<[|｜][\w▁]{1,40}[|｜]>|</?s>|<(?:bos|eos|pad|unk)>"
    r"|<(?:start|end)_of_turn>|<</?SYS>>|\[/?(?:INST|SYSTEM_PROMPT)\]"
)
# UTF-8 that was once read as Windows-1252: é became Ã©, ’ became â€™
_MOJIBAKE = re.compile(r"â€.|Ã[\u0080-\u00bf]|Â[\u00a0-\u00bf]|ï»¿|ðŸ")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff]")


@dataclass(frozen=True)
class LintWarning:
    """One thing to look at. `kind` is a fixed word for programs, `text` is for people, `lines` all rows it is in.

    Rows are named by their line, or by their number where rows share lines (`Example.number`).
    """

    kind: str
    text: str
    lines: tuple[int, ...]


def lint(
    examples: Sequence[Example], unit: str = "line", parsed: bool = True, known: Collection[str] = ()
) -> list[LintWarning]:
    """Return the warnings for these rows, the gravest first; `unit` is what their number counts ("line" or "row").

    `parsed`: special strings in the rows become control tokens. `known` are those that another warning names.
    """
    found: list[LintWarning] = []
    checks: tuple[Check, ...] = (_placeholders, partial(_markers, parsed=parsed, known=known), *_CHECKS)
    for check in checks:
        found += check(examples, unit)
    return found


Check = Callable[[Sequence[Example], str], list[LintWarning]]


def _placeholders(examples: Sequence[Example], unit: str) -> list[LintWarning]:
    named = _matches(examples, _PLACEHOLDER, lambda match: "{{" + match.group(1) + "}}")
    advice = "fill them in, or the model learns to say them"
    return _named("placeholder", "placeholders", named, f"stand in the rows: {advice}", unit)


def _markers(examples: Sequence[Example], unit: str, parsed: bool, known: Collection[str]) -> list[LintWarning]:
    matches = _matches(examples, _MARKER, lambda match: match.group())
    named = {name: lines for name, lines in matches.items() if name not in known}
    advice = "they would be read as control tokens of a chat template; take them out"
    if not parsed:
        advice = "they are trained as ordinary text; take them out if they come from a rendered chat"
    return _named("marker", "chat-template markers", named, f"stand in the rows: {advice}", unit)


def _garbled(examples: Sequence[Example], unit: str) -> list[LintWarning]:
    """Text that was damaged before it came here."""
    kinds = {
        "replacement": (re.compile("\ufffd"), "the replacement character U+FFFD stands where text was lost"),
        "mojibake": (_MOJIBAKE, "text looks wrongly decoded (as in 'Ã©' for 'é')"),
        "control": (_CONTROL, "invisible control characters stand in the text"),
    }
    found = []
    for kind, (pattern, text) in kinds.items():
        if lines := _unique(e.number for e in examples if any(pattern.search(part) for part in _texts(e))):
            found.append(LintWarning(kind, f"{text}: {_where(lines, unit)}", lines))
    return found


def _few(examples: Sequence[Example], unit: str) -> list[LintWarning]:
    if len(examples) >= MIN_ROWS:
        return []
    text = f"only {_rows(len(examples))}: a model learns little from fewer than {MIN_ROWS}, and repeats them"
    return [LintWarning("few", text, tuple(e.number for e in examples))]


def _duplicates(examples: Sequence[Example], unit: str) -> list[LintWarning]:
    again = [(example.number, earlier.number) for example, earlier in repeats(examples)]
    if not again:
        return []
    line, earlier = again[0]
    verb = "repeats" if len(again) == 1 else "repeat"
    text = f"{_rows(len(again))} {verb} an earlier one (first: {unit} {line} repeats {unit} {earlier})"
    return [LintWarning("duplicate", text, tuple(line for line, _ in again))]


def _conflicts(examples: Sequence[Example], unit: str) -> list[LintWarning]:
    """Prompts with several answers: meant as variety, or a contradiction."""
    answers: defaultdict[tuple[Message, ...], dict[str, int]] = defaultdict(dict)
    for example in examples:
        if example.messages:
            answers[example.messages[:-1]].setdefault(example.messages[-1].content, example.number)
    several = [tuple(lines.values()) for lines in answers.values() if len(lines) > 1]
    if not several:
        return []
    prompts = f"{len(several)} prompts have" if len(several) > 1 else "1 prompt has"
    text = f"{prompts} several different answers ({_where(several[0], unit)}); mend them, unless variety is meant"
    return [LintWarning("conflict", text, tuple(sorted(line for lines in several for line in lines)))]


def _same_response(examples: Sequence[Example], unit: str) -> list[LintWarning]:
    responses = Counter(e.messages[-1].content for e in examples if e.messages)
    if responses.total() < MIN_ROWS:
        return []
    response, count = responses.most_common(1)[0]
    if count <= responses.total() * MAX_SAME_SHARE:
        return []
    lines = _unique(e.number for e in examples if e.messages and e.messages[-1].content == response)
    shown = response[:40] + ("…" if len(response) > 40 else "")
    text = f"{count} of {_rows(responses.total())} have the same response {shown!r}: it may become the answer to all"
    return [LintWarning("same-response", text, lines)]


def _whitespace(examples: Sequence[Example], unit: str) -> list[LintWarning]:
    lines = _unique(
        e.number
        for e in examples
        for m in e.messages or ()
        if m.role == "assistant" and m.train and m.content != m.content.strip()
    )
    if not lines:
        return []
    text = f"responses begin or end with blanks or line breaks, which the model learns too: {_where(lines, unit)}"
    return [LintWarning("whitespace", text, lines)]


_CHECKS: tuple[Check, ...] = (
    _garbled,
    _few,
    _duplicates,
    _same_response,
    _conflicts,
    _whitespace,
)


def _texts(example: Example) -> Iterator[str]:
    if example.text is not None:
        yield example.text
    for message in example.messages or ():
        yield message.content


def _matches(
    examples: Sequence[Example], pattern: re.Pattern[str], name: Callable[[re.Match[str]], str]
) -> dict[str, tuple[int, ...]]:
    """Return the lines of every name that the pattern finds, the most frequent first."""
    found: defaultdict[str, dict[int, None]] = defaultdict(dict)
    for example in examples:
        for text in _texts(example):
            for match in pattern.finditer(text):
                found[name(match)][example.number] = None
    return {key: tuple(lines) for key, lines in sorted(found.items(), key=lambda item: -len(item[1]))}


def _named(kind: str, what: str, named: dict[str, tuple[int, ...]], tail: str, unit: str) -> list[LintWarning]:
    """Return one warning that names what was found, in how many rows, and where each is first."""
    if not named:
        return []
    lines = tuple(sorted({line for lines in named.values() for line in lines}))
    return [LintWarning(kind, f"{what} {rows_named(named, unit)} {tail}", lines)]


def rows_named(named: Mapping[str, tuple[int, ...]], unit: str) -> str:
    """Return "NAME (3 rows, first line 7) and NAME (1 row, first line 9)", the first few of many."""
    shown = [
        f"{name} ({_rows(len(lines))}, first {unit} {lines[0]})"
        for name, lines in list(named.items())[:MAX_NAMES_SHOWN]
    ]
    if more := len(named) - len(shown):
        shown.append(f"{more} more")
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _where(lines: Sequence[int], unit: str) -> str:
    """Return "line 3", or "lines 3, 7, 9 and 80 more"."""
    if len(lines) == 1:
        return f"{unit} {lines[0]}"
    shown = [str(line) for line in lines[:MAX_LINES_SHOWN]]
    more = len(lines) - len(shown)
    return f"{unit}s " + (
        ", ".join(shown) + f" and {more} more" if more else ", ".join(shown[:-1]) + f" and {shown[-1]}"
    )


def _unique(lines: Iterator[int]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(lines))


def _rows(count: int) -> str:
    return f"{count} row{'' if count == 1 else 's'}"
