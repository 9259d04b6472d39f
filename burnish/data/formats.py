"""Rows → messages: the five ways in which data sets write a row, recognised by their keys and read strictly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import did_you_mean, nearest
from .files import DataError, RawRow, Unit, place
from .messages import NO_TOOLS, Message, as_context, check_order, kind, missing, read_turns

__all__ = ["FORMATS", "Columns", "Conversion", "Example", "Message", "convert", "recognise"]


@dataclass(frozen=True)
class Columns:
    """The columns that a format needs, and those that it may have."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @property
    def all(self) -> frozenset[str]:
        return frozenset((*self.required, *self.optional))


FORMATS: Mapping[str, Columns] = {
    "sharegpt": Columns(("conversations",), ("system",)),
    "messages": Columns(("messages",), ("system",)),
    "alpaca": Columns(("instruction", "output"), ("input", "system", "history")),
    "prompt-completion": Columns(("prompt", "completion"), ("system",)),
    "text": Columns(("text",)),
}
# what training would lose if such a column were passed over
REFUSED = {"tools": NO_TOOLS, "functions": NO_TOOLS} | dict.fromkeys(
    ("images", "videos", "audios"), "only text is trained"
)
MOST_KEYS_SHOWN = 12


@dataclass(frozen=True)
class Example:
    """One row as training takes it: a conversation, or a plain text.

    `line`, `row` and `unit` are the row's place in its file, as RawRow has them.
    """

    line: int
    messages: tuple[Message, ...] | None = None
    text: str | None = None
    row: int = 0
    unit: Unit = "line"

    @property
    def number(self) -> int:
        """What names the row in its file: its line, or its number where rows share lines."""
        return self.line if self.unit == "line" else self.row

    @property
    def where(self) -> str:
        """The row's place in its file, for messages."""
        return place(self.line, self.row, self.unit)


@dataclass(frozen=True)
class Conversion:
    """All rows of a file. `unused_columns` counts the rows that have a column which the format does not know."""

    format: str
    examples: tuple[Example, ...]
    unused_columns: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def recognise(rows: Sequence[RawRow], path: Path) -> str:
    """Return the format that more than half of the rows fit.

    Raises DataError, with the keys that the rows have, where none does or where several fit as well.
    """
    votes = Counter(name for row in rows for name in _fitting(row.value))
    ranked = votes.most_common(2)
    if len(ranked) == 2 and ranked[0][1] == ranked[1][1]:
        both = " and ".join(f"{name} ({_rows(count)})" for name, count in ranked)
        raise DataError(f"{path}: the rows fit {both} alike; say with data.format which is meant")
    if not ranked or ranked[0][1] * 2 <= len(rows):
        raise DataError(_unrecognised(rows, votes, path))
    return ranked[0][0]


def convert(rows: Sequence[RawRow], format: str, path: Path) -> Conversion:
    """Return the rows as examples, in order. Raises DataError with every fault of every row."""
    if format not in FORMATS:
        raise DataError(f"data.format: unknown format '{format}'{did_you_mean(format, FORMATS)}")
    examples: list[Example] = []
    faults: list[str] = []
    unused: Counter[str] = Counter()
    seen: set[str] = set()
    for raw in rows:
        example, row = _convert_row(raw, format)
        faults += [f"{path}: {raw.where}: {fault}" for fault in row.faults]
        unused.update(row.unused())
        seen.update(row.value)
        examples += [example] if example else []
    if faults:
        raise DataError(faults)
    absent = FORMATS[format].all - seen
    near = {column: name for column in unused if (name := nearest(column, absent))}
    notes = [f"the column '{column}' is not used; did you mean '{name}'?" for column, name in near.items()]
    return Conversion(format, tuple(examples), dict(unused), tuple(notes))


@dataclass
class _Row:
    """A row that is being read: its cells, the faults found in it, and the keys inside turns that say nothing."""

    value: dict[str, Any]
    known: frozenset[str]
    faults: list[str] = field(default_factory=list)
    inner: set[str] = field(default_factory=set)

    def text(self, key: str, needed: bool = True) -> str | None:
        """Return a cell's text: "" where it is not there and not needed, None where that is a fault."""
        value = self.value.get(key)
        if value is None and not needed:
            return ""
        if key not in self.value:
            self.faults.append(missing(key, self.value, self.known))
        elif not isinstance(value, str):
            self.faults.append(f"'{key}' is {kind(value)}, expected text")
        else:
            return value
        return None

    def response(self, key: str) -> str:
        """Return the text that is learned; an empty one is a fault."""
        text = self.text(key)
        if text is not None and not text.strip():
            self.faults.append(f"'{key}' is empty: there is nothing to learn")
        return text or ""

    def turns(self, key: str, first: int = 1) -> list[Message]:
        if key not in self.value:
            self.faults.append(missing(key, self.value, self.known))
            return []
        return read_turns(self.value[key], key, self.faults, self.inner, first)

    def unused(self) -> set[str]:
        return self.inner | {key for key, value in self.value.items() if value is not None and key not in self.known}


def _convert_row(raw: RawRow, format: str) -> tuple[Example | None, _Row]:
    if isinstance(raw.value, str) and format == "text":
        row = _Row({"text": raw.value}, FORMATS["text"].all)
    elif not isinstance(raw.value, dict):
        return None, _Row({}, frozenset(), [f"the row is {kind(raw.value)}, expected an object"])
    else:
        row = _Row(raw.value, FORMATS[format].all | {"conversation"} if format == "sharegpt" else FORMATS[format].all)
    for column, why in REFUSED.items():
        if row.value.get(column) not in (None, "", "[]", [], {}):
            row.faults.append(f"'{column}': {why}; take the column out, or train without these rows")
    if format == "text":
        example = Example(raw.line, None, row.response("text"), raw.row, raw.unit)
    else:
        messages = tuple(_with_system(row, _READERS[format](row)))
        example = Example(raw.line, messages, None, raw.row, raw.unit)
    return (None if row.faults else example), row


def _with_system(row: _Row, messages: list[Message]) -> list[Message]:
    """Put the text of the column `system` first."""
    system = row.text("system", needed=False)
    if not system:
        return messages
    if messages and messages[0].role == "system":
        row.faults.append("'system' is given, and the first turn is a system turn as well")
    return [Message("system", system), *messages]


def _sharegpt(row: _Row) -> list[Message]:
    names = [name for name in ("conversations", "conversation") if row.value.get(name) is not None]
    if len(names) == 2:
        row.faults.append("it has both 'conversations' and 'conversation'")
    return _ordered(row, row.turns(names[0] if names else "conversations"))


def _messages(row: _Row) -> list[Message]:
    return _ordered(row, row.turns("messages"))


def _ordered(row: _Row, messages: list[Message]) -> list[Message]:
    if not row.faults:  # after a turn that could not be read, the order would be told wrongly
        check_order(messages, row.faults)
    return messages


def _alpaca(row: _Row) -> list[Message]:
    """The user's turn is the instruction, and on the next line the input where there is one."""
    history = _history(row)
    parts = row.text("instruction"), row.text("input", needed=False)
    user = "\n".join(part for part in parts if part and part.strip())
    if not user and None not in parts:
        row.faults.append("'instruction' and 'input' are both empty")
    return [*history, Message("user", user), Message("assistant", row.response("output"))]


def _history(row: _Row) -> list[Message]:
    """Earlier turns: a list of pairs of the user's text and the assistant's, which are learned as well."""
    pairs = row.value.get("history")
    if pairs in (None, "", "[]"):
        return []
    if not isinstance(pairs, list):
        row.faults.append(f"'history' is {kind(pairs)}, expected a list of [user, assistant] pairs")
        return []
    messages = []
    for number, pair in enumerate(pairs, start=1):
        if isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) and text.strip() for text in pair):
            messages += [Message("user", pair[0]), Message("assistant", pair[1])]
        else:
            row.faults.append(f"pair {number} of 'history' is not a pair of two texts [user, assistant]")
    return messages


def _prompt_completion(row: _Row) -> list[Message]:
    """Two texts are a user's turn and the response; of two lists of turns only the completion's are learned."""
    prompt, completion = row.value.get("prompt"), row.value.get("completion")
    if isinstance(prompt, list) and isinstance(completion, list):
        before = row.turns("prompt")
        return _ordered(row, [*as_context(before), *row.turns("completion", first=len(prompt) + 1)])
    if isinstance(prompt, list) and isinstance(completion, str):
        row.faults.append("'prompt' is a list of turns and 'completion' is text; both are texts, or both lists")
        return []
    text, response = row.text("prompt"), row.response("completion")
    if text is not None and not text.strip():
        row.faults.append("'prompt' is empty")
    return [Message("user", text or ""), Message("assistant", response)]


_READERS: Mapping[str, Callable[[_Row], list[Message]]] = {
    "sharegpt": _sharegpt,
    "messages": _messages,
    "alpaca": _alpaca,
    "prompt-completion": _prompt_completion,
}


def _fitting(value: Any) -> list[str]:
    """Return the formats whose required keys a row has; text only where no other fits, as it often stands beside."""
    if isinstance(value, str):
        return ["text"]
    if not isinstance(value, dict):
        return []
    keys = {key for key, cell in value.items() if cell is not None}
    keys |= {"conversations"} if "conversation" in keys else set()
    fitting = [name for name, columns in FORMATS.items() if keys.issuperset(columns.required)]
    return [name for name in fitting if name != "text"] or fitting


def _rows(count: int) -> str:
    return f"{count} row{'' if count == 1 else 's'}"


def _unrecognised(rows: Sequence[RawRow], votes: Counter[str], path: Path) -> str:
    keys = Counter(key for row in rows if isinstance(row.value, dict) for key in row.value)
    found = ", ".join(f"'{key}' ({_rows(count)})" for key, count in keys.most_common(MOST_KEYS_SHOWN))
    known = "; ".join(f"{name} needs {' and '.join(columns.required)}" for name, columns in FORMATS.items())
    some = ", ".join(f"{name} fits {count} of {len(rows)} rows" for name, count in votes.most_common())
    head = f"most rows fit no format ({some})" if some else "the rows fit no format"
    return f"{path}: {head}; keys found: {found or 'none'}; {known}{_guess(rows, keys)}"


def _guess(rows: Sequence[RawRow], keys: Counter[str]) -> str:
    """Say what was probably meant by rows that fit no format."""
    if {"chosen", "rejected"} <= keys.keys():
        return "; pairs of chosen and rejected answers are not trained: make a completion of the chosen one"
    only = rows[0].value if len(rows) == 1 and isinstance(rows[0].value, dict) else {}
    if inner := [
        key for key, value in only.items() if isinstance(value, list) and value and isinstance(value[0], dict)
    ]:
        return f"; the rows seem to stand under '{inner[0]}': give that list alone"
    wanted = {name for columns in FORMATS.values() for name in columns.required} - keys.keys()
    near = {key: name for key in keys if (name := nearest(key, wanted))}
    return "".join(f"; by '{key}', did you mean '{name}'?" for key, name in near.items())
