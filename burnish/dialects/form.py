"""The text format of a template's calls with JSON arguments, derived from rendered probes, for constrained decoding."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from .dialect import Dialect
from .probes import CALLS, IDS

# stands for a call's id, nine letters and digits
ID = "\0"
_SPACING = re.compile(r'\{"city"(?P<colon>\s*:\s*)"(?:[^"\\]|\\.)*"(?P<comma>\s*,\s*)"days"(?P=colon)3\}')


@dataclass(frozen=True)
class CallForm:
    """The text of calls: `begin`, a name, `middle`, the arguments; `again` precedes each further name; then `end`.

    `opening` is the marker or character at the start of `begin` that starts a call. `again` is "" if a turn has only
    one call. `comma` and `colon` are the JSON separators in arguments, with whitespace. ID is a placeholder for an id.
    """

    opening: str
    begin: str
    middle: str
    again: str
    end: str
    comma: str
    colon: str


def form_of(dialect: Dialect, one: str, two: str | None, ending: str) -> CallForm | None:
    """Return the form of a turn with one probe call, and with two; `ending` is the text after a turn's calls.

    None if the arguments are not a JSON object.
    """
    found = _split(one, 0, 0)
    if found is None:
        return None
    begin, middle, start, stop = found
    begin = _from_opening(dialect, begin)
    spacing = _SPACING.fullmatch(one[start:stop])
    if not begin or spacing is None:
        return None
    end = one[stop:].rstrip()
    for text in (ending.strip(), *dialect.ends):
        end = end.removesuffix(text).rstrip() if text else end
    second = _split(two, 1, stop) if two is not None and two[:stop] == one[:stop] else None
    opening = next((mark for mark in dialect.begins if begin.startswith(mark)), begin[0])
    begin, middle, again, end = map(_without_ids, (begin, middle, second[0] if second else "", end))
    return CallForm(opening, begin, middle, again, end, spacing["comma"], spacing["colon"])


def _split(text: str, number: int, after: int) -> tuple[str, str, int, int] | None:
    """Return the text from `after` to a probe call's name, the text from the name to the arguments, and their offsets.

    None if the call isn't found. The offsets are where the arguments begin and end.
    """
    call = CALLS[number]
    at = text.find(call.name, after)
    if at < 0:
        return None
    behind = at + len(call.name)
    for match in re.finditer(r"\{", text[behind:]):
        start = behind + match.start()
        try:
            value, stop = json.JSONDecoder().raw_decode(text, start)
        except ValueError:
            continue
        if value == call.value():
            return text[after:at], text[behind:start], start, stop
    return None


def _from_opening(dialect: Dialect, begin: str) -> str:
    """Return the text from the marker that starts the calls; a template may write other text before it."""
    places = [at for mark in dialect.begins if (at := begin.find(mark)) >= 0]
    return begin[min(places) :] if places else begin.lstrip() if dialect.opens else begin


def _without_ids(text: str) -> str:
    for identity in IDS:
        text = text.replace(identity, ID)
    return text
