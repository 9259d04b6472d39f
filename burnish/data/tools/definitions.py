"""The tools of a row: a list of definitions or its JSON text, as bare functions or in OpenAI's format."""

from __future__ import annotations

import json
from typing import Any

from ...dialects.definitions import definition
from ..faults import kind
from ..tables import as_object, parsed

Definition = dict[str, Any]
NONE = "leave the cell empty, or [], in rows without tools"


def read_tools(value: Any, faults: list[str]) -> tuple[Definition, ...]:
    """Return the definitions of a row's tools; add errors to `faults`."""
    if isinstance(value, str):
        if not value.strip():
            return ()
        wrong: list[str] = []
        value = parsed(text := value, wrong)
        if value is None:
            faults.append(f"'tools': expected a list of definitions as JSON, got text: {_why(text, wrong)}")
            return ()
    if value == {}:
        faults.append(f"'tools': expected a list of definitions, got an empty object; {NONE}")
        return ()
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        faults.append(f"'tools': expected a list of definitions, got {kind(value)}")
        return ()
    found = [tool for n, item in enumerate(value, start=1) if (tool := _tool(item, n, faults)) is not None]
    names = [tool["function"]["name"] for tool in found]
    faults += [f"'tools' defines '{name}' twice" for name in dict.fromkeys(names) if names.count(name) > 1]
    return tuple(found)


def _why(text: str, wrong: list[str]) -> str:
    """Return why a text is not a list: JSON errors (`wrong`), null, or several values."""
    if wrong:
        return "; ".join(wrong)
    return f"null; {NONE}" if text.strip() == "null" else "several values; put them in one list"


def _tool(given: Any, number: int, faults: list[str]) -> Definition | None:
    where = f"tool {number}"
    if (item := as_object(given)) is None:
        faults.append(f"{where}: expected an object with name, description and parameters, got {kind(given)}")
        return None
    function = item.get("function", item)
    if item.get("type", "function") != "function" and "function" not in item and "name" not in item:
        faults.append(f"{where} is of type {item['type']!r}, expected 'function'")
        return None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"].strip():
        faults.append(f"{where} has no name")
        return None
    if (parameters := function.get("parameters")) is not None and not isinstance(parameters, dict):
        faults.append(f"{where} ('{function['name']}'): expected a JSON schema in 'parameters', got {kind(parameters)}")
        return None
    return definition(item)


def shown(tools: tuple[Definition, ...]) -> str:
    """Return the definitions as one text, for comparing rows."""
    return json.dumps(tools, ensure_ascii=False, sort_keys=True) if tools else ""
