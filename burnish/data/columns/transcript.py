"""Split a dialogue in one text into turns: `Human: ...` `Bot: ...`, `### Instruction:` `### Response:` and others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

ROLES = ("system", "user", "assistant")
LONGEST_MARK = 64


@dataclass(frozen=True)
class Transcript:
    """The markers at the start of a line that begin a turn, by role; a role may have several. Picklable."""

    name: str
    marks: tuple[tuple[str, str], ...]  # (mark, role)

    def split(self, text: str) -> list[dict[str, Any]] | str:
        """Return the turns of a text, or the reason why it can't be split.

        Text before the first marker is a system turn; whitespace around turns is dropped. In single-exchange formats,
        an input belongs to the preceding instruction.
        """
        parts = _pattern(self).split(text)
        roles = dict(self.marks)
        turns: list[dict[str, Any]] = [{"role": "system", "content": parts[0].strip()}] if parts[0].strip() else []
        for mark, content in zip(parts[1::2], parts[2::2], strict=True):
            role, content = roles[mark], content.strip()
            if role == "input":
                if not turns or turns[-1]["role"] != "user":
                    return f"'{mark}' does not follow an instruction"
                turns[-1]["content"] = f"{turns[-1]['content']}\n{content}".strip()
            else:
                turns.append({"role": role, "content": content})
        while turns and turns[-1]["role"] == "user" and not turns[-1]["content"]:
            turns.pop()  # a mark for the next turn, which has no text
        return turns if len(parts) > 1 else f"no line begins with a marker such as {self._shown()}"

    def _shown(self) -> str:
        return " or ".join(f"'{mark}'" for mark, role in self.marks if role in ("user", "assistant"))


def _style(name: str, user: str | Sequence[str], assistant: str | Sequence[str], **others: str) -> Transcript:
    marks = [(mark, role) for role, given in (("user", user), ("assistant", assistant)) for mark in _each(given)]
    return Transcript(name, (*marks, *((mark, role) for role, mark in others.items())))


def _each(given: str | Sequence[str]) -> Sequence[str]:
    return (given,) if isinstance(given, str) else given


STYLES: Mapping[str, Transcript] = {
    style.name: style
    for style in (
        _style("<human>", "<human>:", "<bot>:", system="<system>:"),
        _style("human-bot", ("Human:", "User:"), "Bot:", system="System:"),
        _style("human-assistant", "Human:", ("Assistant:", "AI:"), system="System:"),
        _style("user-assistant", "User:", ("Assistant:", "AI:"), system="System:"),
        _style("###", "### Human:", "### Assistant:", system="### System:"),
        _style("instruction", "### Instruction:", "### Response:", system="### System:", input="### Input:"),
        _style("question-answer", ("Question:", "Q:"), ("Answer:", "A:")),
    )
}


# recognised without being asked for; question and answer may be meant as one text
RECOGNISED = tuple(name for name in STYLES if name != "question-answer")


def parse_transcript(value: Any) -> Transcript:
    """Return a named style, or custom markers ({user: "Customer:", assistant: "Agent:"}). Raises ValueError."""
    if isinstance(value, str):
        if value not in STYLES:
            raise ValueError(f"unknown transcript '{value}'; known: {', '.join(STYLES)}, or markers by role")
        return STYLES[value]
    if not isinstance(value, Mapping) or not {"user", "assistant"} <= set(value) <= {*ROLES, "input"}:
        raise ValueError(
            "expected markers by role: {user: 'Customer:', assistant: 'Agent:'}, and optionally system, input"
        )
    for role, mark in value.items():
        if not isinstance(mark, str) or not mark.strip() or len(mark) > LONGEST_MARK or "\n" in mark:
            raise ValueError(f"{role}: expected the text that begins a turn, such as 'Customer:'")
    if len({mark.strip() for mark in value.values()}) < len(value):
        raise ValueError("two roles have the same marker")
    return Transcript("marks", tuple((mark.strip(), role) for role, mark in value.items()))


def recognise_transcript(texts: Iterable[str]) -> Transcript | None:
    """Return the style that matches more than half of the texts, or None."""
    texts = list(texts)
    fitting = {name: sum(_is_dialogue(STYLES[name], text) for text in texts) for name in RECOGNISED}
    best = max(fitting, key=fitting.__getitem__)
    return STYLES[best] if 2 * fitting[best] > len(texts) else None


def _is_dialogue(style: Transcript, text: str) -> bool:
    """Return whether a text begins with a user turn (possibly after a preamble) and contains an answer."""
    turns = style.split(text)
    if isinstance(turns, str):
        return False
    roles = [turn["role"] for turn in turns]
    if roles[0] == "system" and style.name != "instruction" and not text.lstrip().startswith(_system_mark(style)):
        return False  # prose before the first mark: it may be an article with an interview
    return roles[-2:] == ["user", "assistant"] and all(turn["content"] for turn in turns)


def _system_mark(style: Transcript) -> str:
    return next((mark for mark, role in style.marks if role == "system"), "\0")


@lru_cache(maxsize=64)
def _pattern(style: Transcript) -> re.Pattern[str]:
    """Match a marker at the start of a line; a final colon may be followed by a line break."""
    marks = sorted((mark for mark, _ in style.marks), key=len, reverse=True)
    return re.compile(rf"^[ \t]*({'|'.join(map(re.escape, marks))})", re.MULTILINE)
