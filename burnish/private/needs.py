"""Declare the private APIs in use, so that library versions without them can be reported."""

from __future__ import annotations

import inspect
import pkgutil
import re
from dataclasses import dataclass
from importlib import metadata


@dataclass(frozen=True)
class Need:
    """A private object by path ("module:Class.attribute"), and the consequence if it is missing (`use`).

    `assigned_in`: for instance attributes, the function that assigns it. `parameters`: required function parameters.
    """

    path: str
    use: str
    assigned_in: str | None = None
    parameters: tuple[str, ...] = ()


def missing(needs: tuple[Need, ...]) -> list[str]:
    """Return a sentence for each private API that the installed libraries lack."""
    return [_sentence(need) for need in needs if not _met(need)]


def _sentence(need: Need) -> str:
    package = need.path.partition(":")[0].partition(".")[0]
    parameters = f"({', '.join(need.parameters)})" if need.parameters else ""
    name = need.path.replace(":", ".") + parameters
    return f"{package} {metadata.version(package)} has no {name} any more: {need.use}"


def _met(need: Need) -> bool:
    try:
        if need.assigned_in:
            source = inspect.getsource(pkgutil.resolve_name(need.assigned_in))
            return re.search(rf"\b{need.path.rpartition('.')[2]}\b", source) is not None
        found = pkgutil.resolve_name(need.path)
        return not need.parameters or set(need.parameters) <= set(inspect.signature(found).parameters)
    except (ImportError, AttributeError):
        return False
