"""Warnings about rows that are well-formed but probably teach the wrong thing."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from burnish.console import counted
from burnish.data.formats import Example, Message
from burnish.data.tools.definitions import shown

from . import suspects
from .dedupe import repeats

MIN_ROWS = 10
# if one answer has a larger share, a model may learn to give it to everything
MAX_SAME_SHARE = 0.5
MAX_NAMES_SHOWN, MAX_LINES_SHOWN = 5, 3

_PLACEHOLDER = re.compile(r"(?<!\{)\{\{\s*([^\W\d][\w .-]{0,40}?)\s*\}\}(?!\})")
# control tokens of common chat templates, without <think>
_MARKER = re.compile(
    r"<[|｜][\w▁]{1,40}[|｜]>|</?s>|<(?:bos|eos|pad|unk)>"
    r"|<(?:start|end)_of_turn>|<</?SYS>>|\[/?(?:INST|SYSTEM_PROMPT)\]"
)
# UTF-8 read as Windows-1252: é becomes Ã©, ’ becomes â€™
_MOJIBAKE = re.compile(r"â€.|Ã[\u0080-\u00bf]|Â[\u00a0-\u00bf]|ï»¿|ðŸ")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_QUOTED = re.compile(r'\s*"[^"]*"\s*')


@dataclass(frozen=True)
class LintWarning:
    """One warning. `kind` is a fixed word for programs, `text` is for people, `lines` are the affected rows.

    Rows are given by their line, or by their number if rows share lines (`Example.number`).
    """

    kind: str
    text: str
    lines: tuple[int, ...]


def lint(
    examples: Sequence[Example],
    unit: str = "line",
    parsed: bool = True,
    known: Collection[str] = (),
    heldout: bool = False,
    ends: Collection[str] = (),
) -> list[LintWarning]:
    """Return the warnings for these rows, most serious first; `unit` is "line" or "row", "" for the rows' own.

    `parsed`: special strings in the rows become control tokens. `known` are markers that another warning already names,
    `ends` the base's end tokens, which may end a plain text. For held-out rows only the texts are checked, since they
    are not trained.
    """
    unit = unit or next((example.unit for example in examples), "line")
    found: list[LintWarning] = []
    checks: tuple[Check, ...] = (_placeholders, partial(_markers, parsed=parsed, known=known, ends=ends), *_OF_TEXTS)
    for check in checks if heldout else (*checks, *_OF_ROWS):
        found += check(examples, unit)
    return found


Check = Callable[[Sequence[Example], str], list[LintWarning]]


def _placeholders(examples: Sequence[Example], unit: str) -> list[LintWarning]:
    named = _matches(examples, _PLACEHOLDER, lambda match: "{{" + match.group(1) + "}}")
    advice = "fill them in, or the model learns to write them"
    return _named("placeholder", "placeholders", named, f"are in the rows: {advice}", unit)


def _markers(
    examples: Sequence[Example], unit: str, parsed: bool, known: Collection[str], ends: Collection[str]
) -> list[LintWarning]:
    unended = [_without_end(example, ends) for example in examples]
    matches = _matches(unended, _MARKER, lambda match: match.group())
    named = {name: lines for name, lines in matches.items() if name not in known}
    advice = "they would become control tokens of a chat template; remove them"
    if not parsed:
        advice = "they are trained as ordinary text; remove them if they come from a rendered chat"
    return _named("marker", "chat-template markers", named, f"are in the rows: {advice}", unit)


def _without_end(example: Example, ends: Collection[str]) -> Example:
    """Return a plain-text row without its final end token; return other rows unchanged."""
    text = (example.text or "").rstrip()
    end = next((end for end in ends if end and text.endswith(end)), None)
    return example if end is None else replace(example, text=text.removesuffix(end))


def _garbled(examples: Sequence[Example], unit: str) -> list[LintWarning]:
    """Warn about text that was damaged earlier."""
    kinds = {
        "replacement": (re.compile("\ufffd"), "the replacement character U+FFFD marks lost text"),
        "mojibake": (_MOJIBAKE, "text looks wrongly decoded (as in 'Ã©' for 'é')"),
        "control": (_CONTROL, "the text has invisible control characters"),
    }
    found = []
    for kind, (pattern, text) in kinds.items():
        if lines := _unique(e.number for e in examples if any(pattern.search(part) for _, part in e.texts())):
            found.append(LintWarning(kind, f"{text}: {_counted(lines, unit)}", lines))
    return found


def _empty_cells(examples: Sequence[Example], unit: str) -> list[LintWarning]:
    found: defaultdict[str, dict[int, None]] = defaultdict(dict)
    for example in examples:
        for role, text in _without_results(example):
            for name in suspects.empty_cells(text, role == "user"):
                found[f"'{name}'"][example.number] = None
    advice = "were probably written by a program for empty cells: the model learns them; leave the cells empty"
    return _named("empty-cell", "texts that are only", _ordered(found), advice, unit)


def _escapes(examples: Sequence[Example], unit: str) -> list[LintWarning]:
    named = _found(examples, suspects.escapes, _without_results)
    advice = "are in texts as literal characters: the model learns to write the backslash"
    return _named("escape", "escapes", named, advice, unit)


def _line_ends(examples: Sequence[Example], unit: str) -> list[LintWarning]:
    named = _found(examples, suspects.line_ends, _without_results)
    advice = "are in texts and are trained; data.newlines: lf converts them to LF"
    return _named("line-end", "line ends", named, advice, unit)


def _invisible(examples: Sequence[Example], unit: str) -> list[LintWarning]:
    named = _found(examples, suspects.invisible)
    advice = "are in texts: they change the tokens but not how the text looks; remove them"
    return _named("invisible", "invisible characters", named, advice, unit)


def _quoted(examples: Sequence[Example], unit: str) -> list[LintWarning]:
    """Warn if most responses are completely in quotes, probably left over from a table."""
    responses = [e for e in examples if e.messages]
    lines = _unique(e.number for e in responses if e.messages and _QUOTED.fullmatch(e.messages[-1].content))
    if len(lines) < 2 or len(lines) <= MAX_SAME_SHARE * len(responses):
        return []
    text = f"responses are entirely in quotes, which the model will also learn: {_counted(lines, unit)}"
    return [LintWarning("quoted", text, lines)]


def _few(examples: Sequence[Example], unit: str) -> list[LintWarning]:
    if len(examples) >= MIN_ROWS:
        return []
    text = f"only {counted(len(examples), 'row')}: with fewer than {MIN_ROWS} a model learns little"
    return [LintWarning("few", text, tuple(e.number for e in examples))]


def _duplicates(examples: Sequence[Example], unit: str) -> list[LintWarning]:
    again = [(example.number, earlier.number) for example, earlier in repeats(examples)]
    if not again:
        return []
    line, earlier = again[0]
    verb = "repeats" if len(again) == 1 else "repeat"
    text = f"{counted(len(again), 'row')} {verb} an earlier one (first: {unit} {line} repeats {unit} {earlier})"
    return [LintWarning("duplicate", text, tuple(line for line, _ in again))]


def _conflicts(examples: Sequence[Example], unit: str) -> list[LintWarning]:
    """Warn about prompts with several answers: intended variety, or a contradiction."""
    answers: defaultdict[tuple[str, tuple[Message, ...]], dict[str, int]] = defaultdict(dict)
    for example in examples:
        if example.messages:
            prompt = shown(example.tools), example.messages[:-1]
            answers[prompt].setdefault(example.messages[-1].whole, example.number)
    several = [tuple(lines.values()) for lines in answers.values() if len(lines) > 1]
    if not several:
        return []
    prompts = f"{len(several)} prompts have" if len(several) > 1 else "1 prompt has"
    text = f"{prompts} several different answers ({_where(several[0], unit)}); fix them unless this is intended"
    return [LintWarning("conflict", text, tuple(sorted(line for lines in several for line in lines)))]


def _same_response(examples: Sequence[Example], unit: str) -> list[LintWarning]:
    responses = Counter(e.messages[-1].whole for e in examples if e.messages)
    if responses.total() < MIN_ROWS:
        return []
    response, count = responses.most_common(1)[0]
    if count <= responses.total() * MAX_SAME_SHARE:
        return []
    lines = _unique(e.number for e in examples if e.messages and e.messages[-1].whole == response)
    shown = response[:40] + ("…" if len(response) > 40 else "")
    rows = counted(responses.total(), "row")
    text = f"{count} of {rows} have the same response {shown!r}: the model may give it to every prompt"
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
    text = (
        f"responses start or end with spaces or line breaks, which the model will also learn: {_counted(lines, unit)}"
    )
    return [LintWarning("whitespace", text, lines)]


_OF_TEXTS: tuple[Check, ...] = (_garbled, _empty_cells, _escapes, _line_ends, _invisible, _quoted, _whitespace)
_OF_ROWS: tuple[Check, ...] = (_few, _duplicates, _same_response, _conflicts)


def _matches(
    examples: Sequence[Example], pattern: re.Pattern[str], name: Callable[[re.Match[str]], str]
) -> dict[str, tuple[int, ...]]:
    """Return the lines of every name that the pattern finds, most frequent first."""
    return _found(examples, lambda text: map(name, pattern.finditer(text)))


def _without_results(example: Example) -> Iterator[tuple[str, str]]:
    """Yield the texts of a row except tool results, which are never trained."""
    return ((role, text) for role, text in example.texts() if role != "tool")


def _found(
    examples: Sequence[Example],
    names: Callable[[str], Iterable[str]],
    texts: Callable[[Example], Iterable[tuple[str, str]]] = Example.texts,
) -> dict[str, tuple[int, ...]]:
    """Return the lines of every name found in a text, most frequent first."""
    found: defaultdict[str, dict[int, None]] = defaultdict(dict)
    for example in examples:
        for _, text in texts(example):
            for name in names(text):
                found[name][example.number] = None
    return _ordered(found)


def _ordered(found: Mapping[str, dict[int, None]]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(lines) for key, lines in sorted(found.items(), key=lambda item: -len(item[1]))}


def _named(kind: str, what: str, named: dict[str, tuple[int, ...]], tail: str, unit: str) -> list[LintWarning]:
    """Return one warning with the names found, the number of rows and the first row of each."""
    if not named:
        return []
    lines = tuple(sorted({line for lines in named.values() for line in lines}))
    return [LintWarning(kind, f"{what} {rows_named(named, unit)} {tail}", lines)]


def rows_named(named: Mapping[str, tuple[int, ...]], unit: str) -> str:
    """Return "NAME (3 rows, first line 7) and NAME (1 row, first line 9)", limited to the first few."""
    shown = [
        f"{name} ({counted(len(lines), 'row')}, first {unit} {lines[0]})"
        for name, lines in list(named.items())[:MAX_NAMES_SHOWN]
    ]
    if more := len(named) - len(shown):
        shown.append(f"{more} more")
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _counted(lines: Sequence[int], unit: str) -> str:
    """Return "3 rows, lines 3, 7 and 9"."""
    return f"{counted(len(lines), 'row')}, {_where(lines, unit)}"


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
