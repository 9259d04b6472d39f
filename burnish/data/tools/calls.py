"""The calls in an assistant turn: OpenAI's tool_calls and function_call, ShareGPT's function_call turns."""

from __future__ import annotations

from typing import Any

from ...dialects.events import Call
from ..faults import kind
from ..tables import as_object, dumped, parsed

# speakers of ShareGPT whose text is calls
CALLING = frozenset({"function_call", "tool_call"})
# those whose text is a result
RESULTS = frozenset({"tool", "function", "observation", "function_response", "tool_response", "ipython"})
CALL_KEYS = ("tool_calls", "function_call")
ARGUMENTS = ("arguments", "parameters")


def has_calls(turn: dict[str, Any]) -> bool:
    """Return whether a turn has calls in OpenAI's format."""
    return any(turn.get(key) for key in CALL_KEYS)


def read_calls(turn: dict[str, Any], faults: list[str]) -> tuple[tuple[Call, ...], tuple[str, ...]]:
    """Return a turn's calls in OpenAI's format, and their ids ("" if missing)."""
    if turn.get("tool_calls") and turn.get("function_call"):
        faults.append("'tool_calls' and 'function_call' are both set: remove one")
    value = turn.get("tool_calls") or [turn["function_call"]]
    return _list(value, "'tool_calls'", faults)


def calls_in_text(text: str, faults: list[str]) -> tuple[tuple[Call, ...], tuple[str, ...]]:
    """Return the calls in a ShareGPT turn's text: one call or a list of calls in JSON."""
    wrong: list[str] = []
    value = parsed(text, wrong)
    if value is None:
        faults.append(f"its text is not a call in JSON: {'; '.join(wrong) or 'more than one value'}")
        return (), ()
    return _list(value if isinstance(value, list) else [value], "its text", faults)


def _list(value: Any, what: str, faults: list[str]) -> tuple[tuple[Call, ...], tuple[str, ...]]:
    if isinstance(value, str):
        value = parsed(value) or value
    if not isinstance(value, list):
        faults.append(f"{what}: expected a list of calls, got {kind(value)}")
        return (), ()
    if not value:
        faults.append("no call found")
    calls, ids = [], []
    for number, item in enumerate(value, start=1):
        wrong: list[str] = []
        if (call := _call(item, wrong)) is not None:
            calls.append(call)
            ids.append(str(item.get("id") or "") if isinstance(item, dict) else "")
        faults += [f"call {number}: {fault}" for fault in wrong]
    return tuple(calls), tuple(ids)


def _call(given: Any, faults: list[str]) -> Call | None:
    if (item := as_object(given)) is None:
        faults.append(f"expected an object with name and arguments, got {kind(given)}")
        return None
    function = item.get("function", item)
    name = function.get("name") if isinstance(function, dict) else function
    if not isinstance(name, str) or not name.strip():
        faults.append("the name is missing")
        return None
    source = function if isinstance(function, dict) else item
    key = next((key for key in ARGUMENTS if key in source), "arguments")
    arguments = _arguments(source.get(key), key, faults)
    return None if arguments is None else Call(name, arguments)


def _arguments(value: Any, key: str, faults: list[str]) -> str | None:
    """Return arguments (an object or its JSON text) as JSON text; missing arguments become {}."""
    if isinstance(value, str) and value.strip():
        wrong: list[str] = []
        value = parsed(value, wrong)
        if wrong:
            faults.append(f"'{key}': expected a JSON object, got text: {'; '.join(wrong)}")
            return None
    if value is None or value == "":
        value = {}
    if not isinstance(value, dict):
        faults.append(f"'{key}': expected an object, got {kind(value)}")
        return None
    return dumped(value, f"'{key}'", faults)
