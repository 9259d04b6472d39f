"""Warnings about rows that are well-formed but probably teach the wrong thing."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from burnish.console import counted
from burnish.data.formats import Example

from ..contents.digests import Contents
from .facts import Facts

MIN_ROWS = 10
# if one answer has a larger share, a model may learn to give it to everything
MAX_SAME_SHARE = 0.5
MAX_NAMES_SHOWN, MAX_LINES_SHOWN = 5, 3
GARBLED = {
    "replacement": "the replacement character U+FFFD marks lost text",
    "mojibake": "text looks wrongly decoded (as in 'Ã©' for 'é')",
    "control": "the text has invisible control characters",
}


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
    """Return the warnings for these rows; the arguments are those of `warnings_of` and `Facts`."""
    unit = unit or next((example.unit for example in examples), "line")
    facts = Facts(ends)
    for example in examples:
        facts.add(example)
    return warnings_of(facts, None if heldout else Contents.of(examples), unit, parsed, known)


def warnings_of(
    facts: Facts, contents: Contents | None, unit: str, parsed: bool = True, known: Collection[str] = ()
) -> list[LintWarning]:
    """Return the warnings, most serious first; `unit` is "line" or "row".

    `parsed`: special strings in the rows become control tokens. `known` are markers that another warning already names.
    `contents` compares the rows; None for held-out rows, whose texts alone are checked, since they are not trained.
    """
    found = [*_markup(facts, unit, parsed, known), *_texts(facts, unit), *_responses(facts, unit)]
    return found if contents is None else [*found, *_of_rows(facts, contents, unit)]


def _markup(facts: Facts, unit: str, parsed: bool, known: Collection[str]) -> Iterator[LintWarning]:
    advice = "fill them in, or the model learns to write them"
    yield from _named("placeholder", "placeholders", facts.rows_of("placeholder"), f"are in the rows: {advice}", unit)
    markers = {name: lines for name, lines in facts.rows_of("marker").items() if name not in known}
    advice = "they would become control tokens of a chat template; remove them"
    if not parsed:
        advice = "they are trained as ordinary text; remove them if they come from a rendered chat"
    yield from _named("marker", "chat-template markers", markers, f"are in the rows: {advice}", unit)


def _texts(facts: Facts, unit: str) -> Iterator[LintWarning]:
    for kind, text in GARBLED.items():
        if lines := facts.lines(kind):
            yield LintWarning(kind, f"{text}: {_counted(lines, unit)}", lines)
    advice = "were probably written by a program for empty cells: the model learns them; leave the cells empty"
    yield from _named("empty-cell", "texts that are only", facts.rows_of("empty-cell"), advice, unit)
    advice = "are in texts as literal characters: the model learns to write the backslash"
    yield from _named("escape", "escapes", facts.rows_of("escape"), advice, unit)
    advice = "are in texts and are trained; data.newlines: lf converts them to LF"
    yield from _named("line-end", "line ends", facts.rows_of("line-end"), advice, unit)
    advice = "are in texts: they change the tokens but not how the text looks; remove them"
    yield from _named("invisible", "invisible characters", facts.rows_of("invisible"), advice, unit)


def _responses(facts: Facts, unit: str) -> Iterator[LintWarning]:
    lines = facts.lines("quoted")
    if len(lines) > max(1, MAX_SAME_SHARE * facts.chats):  # probably left over from a table
        text = f"responses are entirely in quotes, which the model will also learn: {_counted(lines, unit)}"
        yield LintWarning("quoted", text, lines)
    if lines := facts.lines("whitespace"):
        text = (
            "responses start or end with spaces or line breaks, which the model will also learn:"
            f" {_counted(lines, unit)}"
        )
        yield LintWarning("whitespace", text, lines)


def _of_rows(facts: Facts, contents: Contents, unit: str) -> Iterator[LintWarning]:
    if facts.rows < MIN_ROWS:
        text = f"only {counted(facts.rows, 'row')}: with fewer than {MIN_ROWS} a model learns little"
        yield LintWarning("few", text, tuple(contents.numbers.tolist()))
    yield from _duplicates(contents, unit)
    yield from _same_response(contents, unit)
    yield from _conflicts(contents, unit)


def _duplicates(contents: Contents, unit: str) -> Iterator[LintWarning]:
    again, earlier = contents.repeats()
    if len(again):
        verb = "repeats" if len(again) == 1 else "repeat"
        first = f"first: {unit} {again[0]} repeats {unit} {earlier[0]}"
        yield LintWarning(
            "duplicate", f"{counted(len(again), 'row')} {verb} an earlier one ({first})", tuple(again.tolist())
        )


def _conflicts(contents: Contents, unit: str) -> Iterator[LintWarning]:
    """Warn about prompts with several answers: intended variety, or a contradiction."""
    if several := contents.conflicts():
        prompts = f"{len(several)} prompts have" if len(several) > 1 else "1 prompt has"
        text = f"{prompts} several different answers ({_where(several[0], unit)}); fix them unless this is intended"
        yield LintWarning("conflict", text, tuple(sorted(line for lines in several for line in lines)))


def _same_response(contents: Contents, unit: str) -> Iterator[LintWarning]:
    chats, lines, response = contents.commonest_response()
    if chats < MIN_ROWS or len(lines) <= chats * MAX_SAME_SHARE:
        return
    shown = response[:40] + ("…" if len(response) > 40 else "")
    text = (
        f"{len(lines)} of {counted(chats, 'row')} have the same response {shown!r}: the model may give it"
        " to every prompt"
    )
    yield LintWarning("same-response", text, _unique(iter(lines.tolist())))


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
