"""Calls and results in one conversation: match results to calls, and check calls against the tools."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ...errors import did_you_mean
from .definitions import Definition
from .schema import argument_faults

if TYPE_CHECKING:
    from ..messages import Message

NO_TOOLS = "a turn calls tools, but the row defines none: add a column 'tools' with their definitions"


def connected(turns: Iterable[tuple[int, Message]], tools: Sequence[Definition], faults: list[str]) -> list[Message]:
    """Return the numbered turns with an id for every call and result; add errors in calls and results by turn.

    Arguments in untrained turns are not checked: a wrong call may be intentional there.
    """
    found: list[Message] = []
    open_ids: list[str] = []
    count = 0
    for number, message in turns:
        wrong: list[str] = []
        if message.calls:
            # nine letters and digits: what every template takes
            ids = tuple(given or f"call{count + n:05}" for n, given in enumerate(message.ids))
            count += len(ids)
            message, open_ids = replace(message, ids=ids), list(ids)
            wrong += call_faults(message, tools) if message.train or not tools else ()
        elif message.role == "tool":
            message = _answering(message, found, open_ids, wrong)
        else:
            open_ids = []
        found.append(message)
        faults += [f"turn {number}: {fault}" for fault in wrong]
    return found


def _answering(message: Message, before: Sequence[Message], open_ids: list[str], faults: list[str]) -> Message:
    """Return a result with the id of its call: the named call, or the first call without a result."""
    given = message.ids[0] if message.ids else ""
    if given and given not in open_ids:
        faults.append(f"'tool_call_id' is '{given}', but no call before it that lacks a result has that id")
        return message
    if not open_ids:
        faults.append("expected no tool result: every call before this turn already has one")
        return message
    identity = given or open_ids[0]
    open_ids.remove(identity)
    names = {i: call.name for m in before for i, call in zip(m.ids, m.calls, strict=False)}
    return replace(message, ids=(identity,), name=message.name or names.get(identity, ""))


def call_faults(message: Message, tools: Sequence[Definition]) -> list[str]:
    """Return the errors in a turn's calls according to the row's tools."""
    if not tools:
        return [NO_TOOLS]
    known = {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in tools}
    found = []
    for number, call in enumerate(message.calls, start=1):
        if call.name not in known:
            found.append(f"call {number}: no tool is named '{call.name}'{did_you_mean(call.name, known)}")
        else:
            wrong = argument_faults(call.value(), known[call.name])
            found += [f"call {number} ({call.name}): {fault}" for fault in wrong]
    return found
