"""Convert rows to messages: five formats, recognised by their keys and read strictly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ..errors import did_you_mean, nearest
from .columns.cells import CellFault, CellLimit
from .columns.reading import Reshape
from .faults import DataError, kind, missing
from .files import RawRow
from .messages import Found, Message, as_context, check_order, is_turns, read_turns
from .notes import Losses
from .recognition import recognise
from .schema import FORMATS, THOUGHTS
from .shapes.example import Conversion, Example, with_lf
from .shapes.turns import SHAPES, expanded
from .tables import parsed_list
from .tools.conversation import connected
from .tools.definitions import Definition, read_tools
from .tools.hermes import is_hermes, lists_tools, structured, without_list
from .tools.nulls import without_null_arguments, without_null_schemas

__all__ = ["FORMATS", "Conversion", "Example", "Message", "Misfits", "Newlines", "convert", "recognise"]

Newlines = Literal["keep", "lf"]
Misfits = Literal["error", "drop"]
MAX_FAULTS = 10_000  # of a file that are kept; the others are counted
DROP = "; data.tool_faults: drop leaves out the rows whose calls do not match their tools"
# columns that can't be trained and must not be ignored silently
REFUSED = dict.fromkeys(("images", "videos", "audios"), "only text can be trained; remove the column, or these rows")
REFUSED["functions"] = "tool definitions are read from the column 'tools': rename this one to 'tools'"
# of the formats without turns
NO_TURNS = "only conversations (messages, ShareGPT) can have tool calls"


def convert(
    rows: Iterable[RawRow], format: str, path: Path, newlines: Newlines = "keep", misfits: Misfits = "error"
) -> Conversion:
    """Return the rows as examples, in order. Raises DataError with every error of every row.

    With `newlines` "lf" every CR LF and lone CR in a text becomes LF. With `misfits` "drop" rows whose calls do not fit
    their tools are left out; that none is left is an error.
    """
    converter = Converter(format, str(path), newlines, misfits)
    examples = tuple(example for raw in rows if (example := converter.add(raw)) is not None)
    return replace(converter.conversion(), examples=examples)


@dataclass
class Converter:
    """Converts a file's rows one by one. Parts of a file can be converted in other processes and merged in order."""

    format: str
    path: str
    newlines: Newlines = "keep"
    misfits: Misfits = "error"
    reshape: Reshape | None = None
    faults: list[str] = field(default_factory=list)
    more: int = 0  # faults that were not kept
    converted: int = 0
    unused: Counter[str] = field(default_factory=Counter)
    seen: set[str] = field(default_factory=set)
    misfit: str = ""  # what does not fit in the first such row
    stopped: bool = False  # a template takes too long, and would for every other row
    losses: Losses = field(init=False)

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise DataError(f"data.format: unknown format '{self.format}'{did_you_mean(self.format, FORMATS)}")
        self.losses = Losses(self.format)

    def empty(self) -> Converter:
        """Return a converter with the same settings, for another part of the file."""
        return Converter(self.format, self.path, self.newlines, self.misfits, self.reshape)

    def add(self, raw: RawRow) -> Example | None:
        """Return the row as an example; None if it has errors, which are added to `faults`, or is left out.

        Once `stopped`, rows are not read.
        """
        if self.stopped:
            return None
        example, row = _reshaped(raw, self.reshape) if self.reshape else _convert_row(raw, self.format)
        self.stopped = row.stopped
        told = [*row.faults, *(row.misfits if self.misfits == "error" else ())]
        self.faults += [f"{self.path}: {raw.where}: {fault}" for fault in told]
        self.losses.misfits += bool(row.misfits)
        if row.misfits:
            self.misfit = self.misfit or f"{raw.where}: {row.misfits[0]}"
            return None
        self.unused.update(row.unused_keys())
        self.seen.update(row.value)
        self.losses.add(row.value, row, row.known)
        if example is None:
            return None
        plain = with_lf(example) if self.newlines == "lf" else example
        self.losses.newlines += plain is not example
        self.losses.hermes += row.hermes
        self.losses.listed += row.listed
        self.losses.nulls += row.nulls
        self.converted += 1
        return plain

    def merge(self, other: Converter) -> None:
        """Add the findings in the file's next rows."""
        kept = other.faults[: max(0, MAX_FAULTS - len(self.faults))]
        self.faults += kept
        self.more += other.more + len(other.faults) - len(kept)
        self.converted += other.converted
        self.unused.update(other.unused)
        self.seen |= other.seen
        self.misfit = self.misfit or other.misfit
        self.stopped |= other.stopped
        self.losses.merge(other.losses)

    def conversion(self) -> Conversion:
        """Return the findings, without the examples. Raises DataError with every error."""
        faults, misfits = self.faults, self.losses.misfits
        if faults:
            hint = DROP if misfits and self.misfits == "error" else ""
            raise DataError([*faults[:-1], faults[-1] + hint], self.more)
        if misfits and not self.converted:
            every = "the only row's calls do" if misfits == 1 else f"the calls of all {misfits:,} rows do"
            raise DataError(
                f"{self.path}: {every} not fit the tools, so data.tool_faults drop leaves none; first: {self.misfit}"
            )
        absent = frozenset() if self.reshape else FORMATS[self.format].all - self.seen
        near = {column: name for column in self.unused if (name := nearest(column, absent))}
        notes = [f"the column '{column}' is not used; did you mean '{name}'?" for column, name in near.items()]
        shown = {column: count for column, count in self.unused.items() if column not in self.losses.named}
        return Conversion(self.format, (), shown, (*notes, *self.losses.notes()), tuple(self.losses.remarks()))


@dataclass
class _Row(Found):
    """A row that is being read: its cells, the columns that were understood, and findings."""

    value: dict[str, Any] = field(default_factory=dict)
    known: frozenset[str] = frozenset()
    tools: tuple[Definition, ...] = ()
    misfits: list[str] = field(default_factory=list)  # calls and results that do not fit the tools
    hermes: bool = False  # calls and results were text between tags
    stopped: bool = False  # a template over columns takes too long
    listed: bool = False  # a system turn listed the tools
    nulls: bool = False  # definitions or arguments had nulls that are left out

    def text(self, key: str, needed: bool = True) -> str | None:
        """Return a cell's text; "" if it is absent and not needed; None, and an error, if it is invalid."""
        value = self.value.get(key)
        if value is None and not needed:
            return ""
        if key not in self.value:
            self.faults.append(missing(key, self.value, self.known))
        elif not isinstance(value, str):
            self.faults.append(f"'{key}': expected text, got {kind(value)}")
        else:
            return value
        return None

    def response(self, key: str) -> str:
        """Return the text to train on; an empty one is an error."""
        text = self.text(key)
        if text is not None and not text.strip():
            self.faults.append(f"'{key}' is empty, so there is nothing to train on")
        return text or ""

    def turns(self, key: str, first: int = 1) -> list[Message]:
        if key not in self.value:
            self.faults.append(missing(key, self.value, self.known))
            return []
        return read_turns(self.value[key], key, self, first)

    def thought(self) -> str:
        """Return the reasoning that a column of the row gives for its last response."""
        names = [name for name in THOUGHTS if isinstance(cell := self.value.get(name), str) and cell.strip()]
        self.thoughts.update(names)
        return "\n".join(dict.fromkeys(self.value[name] for name in names))

    def unused_keys(self) -> set[str]:
        used = self.known | self.thoughts
        return self.unused | {key for key, value in self.value.items() if value is not None and key not in used}


def _convert_row(raw: RawRow, format: str) -> tuple[Example | None, _Row]:
    known = FORMATS[format].all
    if isinstance(raw.value, str) and format == "text":
        row = _Row(value={"text": raw.value}, known=known)
    elif not isinstance(raw.value, dict):
        return None, _Row(faults=[f"expected an object, got {kind(raw.value)}"])
    else:
        row = _Row(value=raw.value, known=known | {"conversation"} if format == "sharegpt" else known)
    for column, why in REFUSED.items():
        if row.value.get(column) not in (None, "", "[]", [], {}):
            row.faults.append(f"'{column}': {why}")
    if "tools" in known:
        tools = read_tools(row.value["tools"], row.faults) if row.value.get("tools") is not None else ()
        row.tools = tuple(map(without_null_schemas, tools))
        row.nulls = row.tools != tools
    elif row.value.get("tools") not in (None, "", "[]", []):
        row.faults.append(f"'tools': {NO_TURNS}; remove the column, or these rows")
    messages: tuple[Message, ...] | None = None
    text = None
    if format == "text":
        text = row.response("text")
        row.thought()
    else:
        messages = tuple(_with_thought(row, _without_list(row, _with_system(row, _READERS[format](row)))))
    return (None if row.faults else Example(raw.line, messages, text, raw.row, raw.unit, raw.file, row.tools)), row


def _reshaped(raw: RawRow, reshape: Reshape) -> tuple[Example | None, _Row]:
    """Convert a row that is made of columns or split; the columns that are not read count as unused."""
    try:
        shaped = reshape.shape(raw.value)
    except CellFault as fault:
        return None, _Row(faults=[str(fault)], stopped=isinstance(fault, CellLimit))
    example, row = _convert_row(replace(raw, value=shaped.value), shaped.format)
    row.value, row.known = raw.value if isinstance(raw.value, dict) else {}, reshape.used
    return (replace(example, prompt=shaped.prompt) if example and shaped.prompt else example), row


def _with_system(row: _Row, messages: list[Message]) -> list[Message]:
    """Prepend the text of the column `system`, and drop empty system turns."""
    system = row.text("system", needed=False)
    there = [m for m in messages if m.role != "system" or m.content.strip()]
    row.blank_system = len(there) < len(messages) or row.value.get("system") == ""
    if not system or not system.strip():
        row.blank_system |= bool(system)
        return there
    if there and there[0].role == "system":
        if there[0].content == system:
            return there
        row.faults.append("the row has both a 'system' column and a system turn: keep one of them")
    return [Message("system", system), *there]


def _without_list(row: _Row, messages: list[Message]) -> list[Message]:
    """Cut the list of tools out of the system turn: the chat template writes the tools itself."""
    if not row.tools or not messages or messages[0].role != "system" or not lists_tools(messages[0].content):
        return messages
    row.listed = True
    rest = without_list(messages[0].content)
    return [replace(messages[0], content=rest), *messages[1:]] if rest else messages[1:]


def _with_thought(row: _Row, messages: list[Message]) -> list[Message]:
    """Set the last response's reasoning from a column."""
    thought = row.thought()
    if not thought or not messages or messages[-1].role != "assistant" or messages[-1].reasoning:
        return messages
    return [*messages[:-1], replace(messages[-1], reasoning=thought)]


def _sharegpt(row: _Row) -> list[Message]:
    names = [name for name in ("conversations", "conversation") if row.value.get(name) is not None]
    if len(names) == 2:
        row.faults.append("'conversations' and 'conversation' are both set: remove one")
    name = names[0] if names else "conversations"
    if isinstance(turns := expanded(row.value.get(name)), list):
        row.value = row.value | {name: turns}
    return _ordered(row, row.turns(name))


def _messages(row: _Row) -> list[Message]:
    return _ordered(row, row.turns("messages"))


def _shape(name: str, row: _Row) -> list[Message]:
    """Return the turns of a well-known dataset's row."""
    turns = SHAPES[name](row.value)
    if isinstance(turns, str):
        row.faults.append(turns)
        return []
    return _ordered(row, read_turns(turns, name, row))


def _ordered(row: _Row, messages: list[Message]) -> list[Message]:
    if row.faults:  # with an unreadable turn missing, errors about the order would be wrong
        return messages
    check_order(messages, row.faults)
    turns = list(enumerate(messages, start=1))
    if row.tools and is_hermes(messages):
        row.hermes, turns = True, list(structured(messages, row.faults))
    full = [(number, without_null_arguments(message, row.tools)) for number, message in turns]
    row.nulls |= full != turns
    return messages if row.faults else connected(full, row.tools, row.misfits)


def _alpaca(row: _Row) -> list[Message]:
    """Return history, a user turn (the instruction, then any input on the next line) and the response."""
    history = _history(row)
    parts = row.text("instruction"), _input(row)
    user = "\n".join(part for part in parts if part and part.strip())
    if not user and None not in parts:
        row.faults.append("'instruction' and 'input' are both empty")
    return [*history, Message("user", user), Message("assistant", row.response("output"))]


def _input(row: _Row) -> str | None:
    """Return the text of `input`, or of `context` if `input` is empty: some datasets use that name."""
    context = row.value.get("context")
    if row.value.get("input") not in (None, "") or not isinstance(context, str) or not context.strip():
        return row.text("input", needed=False)
    row.known, row.as_input = row.known | {"context"}, True
    return context


def _history(row: _Row) -> list[Message]:
    """Return the earlier turns from a list of [user, assistant] pairs; their responses are trained too."""
    pairs = row.value.get("history")
    if pairs in (None, "", "[]"):
        return []
    if isinstance(pairs, str) and pairs.lstrip().startswith("["):
        pairs = parsed_list(pairs, row.faults) or pairs
    if not isinstance(pairs, list):
        row.faults.append(f"'history': expected a list of [user, assistant] pairs, got {kind(pairs)}")
        return []
    messages = []
    for number, pair in enumerate(pairs, start=1):
        if isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) and text.strip() for text in pair):
            messages += [Message("user", pair[0]), Message("assistant", pair[1])]
        else:
            row.faults.append(f"pair {number} of 'history': expected two texts, [user, assistant]")
    return messages


def _prompt_completion(row: _Row) -> list[Message]:
    """Read two texts as user turn and response, or two lists of turns, of which only the completion is trained."""
    prompt, completion = row.value.get("prompt"), row.value.get("completion")
    if isinstance(prompt, str) and isinstance(completion, str) and is_turns(prompt) and is_turns(completion):
        prompt, completion = parsed_list(prompt, []), parsed_list(completion, [])
        row.value = row.value | {"prompt": prompt, "completion": completion}
    if isinstance(prompt, list) and isinstance(completion, list):
        before = row.turns("prompt")
        return _ordered(row, [*as_context(before), *row.turns("completion", first=len(prompt) + 1)])
    if isinstance(prompt, list) and isinstance(completion, str):
        row.faults.append("'prompt' is a list of turns and 'completion' is text; expected two texts or two lists")
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
    **{name: partial(_shape, name) for name in SHAPES},
}
