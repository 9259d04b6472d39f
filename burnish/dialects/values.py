"""Convert values in model-specific notations to JSON text incrementally, in one pass and with bounded depth."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from .events import BrokenCall, Waiting, Writing
from .source import Source

# maximum nesting depth of objects and lists
MAX_DEPTH = 64
JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_CLOSING = {"{": "}", "[": "]", "(": ")"}
_AS_JSON = {"{": "{", "[": "[", "(": "[", "}": "}", "]": "]", ")": "]"}
_WORD = re.compile(r"[-+.0-9A-Za-z_]*")
_JSON_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_PLAIN = {'"': re.compile(r'[^"\\\n]*'), "'": re.compile(r"[^'\\\n]*")}
_HEX = re.compile(r"[0-9A-Fa-f]+")
_JSON_ESCAPES = frozenset('"\\/bfnrt')
_PYTHON_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\\": "\\", "'": "'", '"': '"'}
_CODES = {"x": 2, "u": 4, "U": 8}


@dataclass(frozen=True)
class Notation:
    """A notation for values. `quotes` start and end a string, `literals` maps words to JSON.

    `escapes` in strings are "json", "python", or none: then a string extends unescaped to the next quote.
    """

    quotes: tuple[str, ...] = ('"',)
    escapes: str = "json"
    literals: Mapping[str, str] = field(default_factory=lambda: {"true": "true", "false": "false", "null": "null"})
    openings: tuple[str, ...] = ("{", "[")
    bare_key: re.Pattern[str] | None = None


JSON = Notation()


def json_text(source: Source, notation: Notation = JSON) -> Writing[None]:
    """Read one value and yield it as JSON text, spaced like json.dumps output. Raises BrokenCall if there is none."""
    closings: list[str] = []
    while True:
        yield from source.blanks()
        opening = yield from source.starts(*notation.openings)
        if opening:
            if len(closings) == MAX_DEPTH:
                raise BrokenCall
            yield _AS_JSON[opening]
            yield from source.blanks()
            if not (yield from source.starts(_CLOSING[opening])):
                closings.append(_CLOSING[opening])
                if opening == "{":
                    yield from _key(source, notation)
                continue
            yield _AS_JSON[_CLOSING[opening]]
        else:
            yield from _scalar(source, notation)
        if not (yield from _closed(source, notation, closings)):
            return


def _closed(source: Source, notation: Notation, closings: list[str]) -> Writing[bool]:
    """Read the closing brackets after a value, up to a comma. Return whether another value follows."""
    while closings:
        yield from source.blanks()
        found = yield from source.expect(",", closings[-1])
        if found == ",":
            yield ", "
            if closings[-1] == "}":
                yield from source.blanks()
                yield from _key(source, notation)
            return True
        yield _AS_JSON[closings.pop()]
    return False


def _key(source: Source, notation: Notation) -> Writing[None]:
    quote = yield from source.starts(*notation.quotes)
    if quote:
        yield from _string(source, notation, quote)
    else:
        key = (yield from source.word(notation.bare_key)) if notation.bare_key else ""
        if not key:
            raise BrokenCall
        yield json.dumps(key, ensure_ascii=False)
    yield from source.blanks()
    yield from source.expect(":")
    yield ": "


def _scalar(source: Source, notation: Notation) -> Writing[None]:
    quote = yield from source.starts(*notation.quotes)
    if quote:
        yield from _string(source, notation, quote)
        return
    word = yield from source.word(_WORD)
    if word in notation.literals:
        yield notation.literals[word]
    elif JSON_NUMBER.fullmatch(word):
        yield word
    else:
        raise BrokenCall


def _string(source: Source, notation: Notation, quote: str) -> Writing[None]:
    """Yield a string after its opening quote."""
    yield '"'
    if notation.escapes == "json":
        yield from _json_string(source)
    elif notation.escapes == "python":
        yield from _python_string(source, quote)
    else:
        yield from escaped_until(source, (quote,))
    yield '"'


def escaped_until(source: Source, ends: tuple[str, ...]) -> Writing[None]:
    """Write the text before one of `ends` as the inside of a JSON string. Raises BrokenCall if none follows."""
    pieces = source.until(ends)
    while True:
        try:
            piece = next(pieces)
        except StopIteration as end:
            if not end.value:
                raise BrokenCall from None
            return
        yield piece if piece is None else escaped(piece)


def _json_string(source: Source) -> Writing[None]:
    while True:
        yield from source.run(_JSON_PLAIN)
        character = yield from source.take(1)
        if character == '"':
            return
        if character != "\\":
            raise BrokenCall
        escape = yield from source.take(1)
        if escape == "u":
            yield f"\\u{(yield from _code(source, 4))}"
        elif escape and escape in _JSON_ESCAPES:
            yield f"\\{escape}"
        else:
            raise BrokenCall


def _python_string(source: Source, quote: str) -> Writing[None]:
    while True:
        pieces = source.run(_PLAIN[quote])
        for piece in pieces:
            yield piece if piece is None else escaped(piece)
        character = yield from source.take(1)
        if character == quote:
            return
        if character != "\\":
            raise BrokenCall
        escape = yield from source.take(1)
        if escape in _CODES:
            yield _character((yield from _code(source, _CODES[escape])))
        elif escape in _PYTHON_ESCAPES:
            yield escaped(_PYTHON_ESCAPES[escape])
        elif escape:  # as in Python, which keeps the backslash of "\d+"
            yield escaped("\\" + escape)
        else:
            raise BrokenCall


def _code(source: Source, digits: int) -> Waiting[str]:
    code = yield from source.take(digits)
    if len(code) != digits or not _HEX.fullmatch(code):
        raise BrokenCall
    return code


def _character(code: str) -> str:
    """Return the character with a hexadecimal code as JSON text; an unpaired surrogate stays escaped."""
    number = int(code, 16)
    if number > 0x10FFFF:
        raise BrokenCall
    return json.dumps(chr(number))[1:-1]


def escaped(text: str) -> str:
    """Escape text for use inside a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def json_string(source: Source) -> Waiting[str]:
    """Read one JSON string and return its text. Raises BrokenCall, including for an unpaired surrogate."""
    yield from source.expect('"')
    pieces: list[str] = []
    for piece in _json_string(source):
        if piece is None:
            yield None
        else:
            pieces.append(piece)
    text: str = json.loads(f'"{"".join(pieces)}"')
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise BrokenCall
    return text
