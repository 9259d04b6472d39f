"""data.columns: templates that build the prompt, response, turns or text of a row from its columns."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...errors import did_you_mean
from ..faults import DataError
from .cells import CellFault, Condition, Reader, Template, filled, unknown_names, used_names

SETTING = "data.columns"
SHAPES = (
    "{user, assistant} with or without {system}, {prompt, completion}, {text}, or a list of turns such as"
    " [{role: user, content: ...}, {role: assistant, content: ...}]"
)
ROLES = ("system", "user", "assistant")
THOUGHT = "reasoning_content"
TURN_KEYS = ("role", "content", THOUGHT, "train", "if")
CHAT_KEYS, TEXT_KEYS = ("system", "user", "assistant", THOUGHT), ("prompt", "completion")
Kind = Literal["messages", "completion", "text"]


@dataclass(frozen=True)
class TurnTemplate:
    """A turn, omitted from a row if `condition` is false or, if `optional`, if its text is empty."""

    role: str
    content: Template
    thought: Template | None = None
    condition: Condition | None = None
    train: bool = True
    optional: bool = False


@dataclass(frozen=True)
class Shaped:
    """A row built from columns: `value` in the format `format`. `prompt` is an untrained start of a text."""

    value: dict[str, Any]
    format: Literal["messages", "text"]
    prompt: str = ""


@dataclass(frozen=True)
class ColumnMap:
    """The templates of data.columns. Picklable. Call `check` on the first rows, then `shape` for every row."""

    kind: Kind
    turns: tuple[TurnTemplate, ...]

    @property
    def format(self) -> Literal["messages", "text"]:
        """The format of the resulting rows."""
        return "messages" if self.kind == "messages" else "text"

    @property
    def readers(self) -> tuple[Reader, ...]:
        """All templates and conditions."""
        found = (part for turn in self.turns for part in (turn.content, turn.thought, turn.condition))
        return tuple(part for part in found if part is not None)

    @property
    def used(self) -> frozenset[str]:
        """The columns in use."""
        return used_names(self.readers)

    def check(self, columns: Collection[str], title: str) -> None:
        """Raise DataError listing every name that is not a column."""
        if faults := unknown_names(self.readers, columns, title):
            raise DataError(faults)

    def shape(self, row: Mapping[str, Any]) -> Shaped:
        """Return a row's text or turns. Raises CellFault."""
        cells = filled(row, self.used)
        if self.kind == "text":
            return Shaped({"text": self.turns[0].content.render(cells)}, "text")
        if self.kind == "completion":
            prompt, completion = (turn.content.render(cells) for turn in self.turns)
            if not completion.strip():
                raise CellFault(f"{SETTING}.completion is empty for this row, so there is nothing to train on")
            return Shaped({"text": prompt + completion}, "text", prompt)
        turns = [made for turn in self.turns if (made := _turn(turn, cells)) is not None]
        return Shaped({"messages": turns}, "messages")


def _turn(turn: TurnTemplate, cells: Mapping[str, Any]) -> dict[str, Any] | None:
    if turn.condition is not None and not turn.condition.holds(cells):
        return None
    content = turn.content.render(cells)
    if not content.strip():
        if turn.optional:
            return None
        raise CellFault(f"{turn.content.place} is empty for this row")
    made = {"role": turn.role, "content": content}
    if turn.role == "assistant" and not turn.train:
        made["train"] = False  # type: ignore[assignment]
    if turn.thought is not None and (thought := turn.thought.render(cells)).strip():
        made[THOUGHT] = thought
    return made


def parse_columns(value: Any, setting: str = SETTING) -> ColumnMap:
    """Parse the setting into templates. Raises ValueError stating what is expected."""
    if isinstance(value, Mapping) and set(value) == {"messages"}:
        value = value["messages"]
    if isinstance(value, Sequence) and not isinstance(value, str):
        found = ColumnMap("messages", tuple(_listed(turn, f"{setting}[{n}]") for n, turn in enumerate(value)))
    elif isinstance(value, Mapping) and value:
        found = _by_name(value, setting)
    else:
        raise ValueError(f"expected {SHAPES}")
    roles = [turn.role for turn in found.turns]
    if found.kind == "messages" and not {"user", "assistant"} <= set(roles):
        raise ValueError(f"at least one user turn and one assistant turn are required; expected one of: {SHAPES}")
    for reader in found.readers:
        try:
            reader.check()
        except CellFault as error:
            raise ValueError(f"{reader.place}: {error}") from None
    if not found.used and "row" not in "".join(reader.source for reader in found.readers):
        raise ValueError("no template uses a column: write a column as {{ name }}")
    return found


def _by_name(value: Mapping[str, Any], setting: str) -> ColumnMap:
    texts = {str(key): _text(template, f"{setting}.{key}") for key, template in value.items()}
    if set(texts) == {"text"}:
        return ColumnMap("text", (TurnTemplate("text", texts["text"]),))
    if set(texts) == set(TEXT_KEYS):
        return ColumnMap("completion", tuple(TurnTemplate(key, texts[key]) for key in TEXT_KEYS))
    for key in texts:
        if key not in (*CHAT_KEYS, *TEXT_KEYS, "text", "messages"):
            raise ValueError(f"unknown key '{key}'{did_you_mean(key, (*CHAT_KEYS, *TEXT_KEYS, 'text'))}")
    if not {"user", "assistant"} <= set(texts) <= set(CHAT_KEYS):
        raise ValueError(f"has {', '.join(texts)}; expected {SHAPES}")
    thought = texts.get(THOUGHT)
    turns = [TurnTemplate("system", texts["system"], optional=True)] if "system" in texts else []
    user, assistant = TurnTemplate("user", texts["user"]), TurnTemplate("assistant", texts["assistant"], thought)
    return ColumnMap("messages", (*turns, user, assistant))


def _listed(turn: Any, place: str) -> TurnTemplate:
    if not isinstance(turn, Mapping):
        raise ValueError(f"{place}: expected a turn with role and content")
    for key in turn:
        if key not in TURN_KEYS:
            raise ValueError(f"{place}: unknown key '{key}'{did_you_mean(str(key), TURN_KEYS)}")
    role = turn.get("role")
    if role not in ROLES:
        raise ValueError(f"{place}.role is {role!r}; expected {', '.join(ROLES)}")
    if not isinstance(train := turn.get("train", True), bool):
        raise ValueError(f"{place}.train is {train!r}; expected true or false")
    thought, condition = turn.get(THOUGHT), turn.get("if")
    return TurnTemplate(
        role,
        _text(turn.get("content"), f"{place}.content"),
        None if thought is None else _text(thought, f"{place}.{THOUGHT}"),
        None if condition is None else Condition(_text(condition, f"{place}.if").source, f"{place}.if"),
        train,
        role == "system",
    )


def _text(value: Any, place: str) -> Template:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{place}: expected a template, such as '{{{{ question }}}}'")
    return Template(value, place)
