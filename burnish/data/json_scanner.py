"""Parse JSON values with line numbers from an array or a sequence of values in one linear pass."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

# Each fault costs a pass over the preceding text (json counts lines), so scanning stops after this many.
MOST_FAULTS = 100

_SPACE = re.compile(r"[ \t\r\n]*")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_HINTS = {
    "Expecting property name enclosed in double quotes": "put names in double quotes, and no comma before }",
    "Invalid control character at": r"write a line break or tab in a string as \n or \t",
    "Invalid \\escape": r"write a backslash as \\",
    "Unterminated string starting at": "the closing quote is missing",
}


def scan_json(text: str, faults: list[str]) -> Iterator[tuple[int, Any]]:
    """Yield (line, value) for every element of a JSON array, or for every value in a sequence of values.

    Values in a sequence may be separated by whitespace or nothing. Malformed values are added to `faults`;
    scanning resumes at the next object with the same indentation.
    """
    yield from _Scanner(text, faults).rows()


class _Scanner:
    """A position in the text and its line number, updated as the position advances."""

    def __init__(self, text: str, faults: list[str]) -> None:
        self.text, self.faults = text, faults
        self.position, self.line = 0, 1
        self.of_row: list[str] = []  # faults that the decoder's hooks found in the current value
        self.decoder = json.JSONDecoder(object_pairs_hook=self._object, parse_constant=self._constant)
        self.has_surrogates = _SURROGATE_ESCAPE.search(text) is not None

    def rows(self) -> Iterator[tuple[int, Any]]:
        self._skip_space()
        array = self.text.startswith("[", self.position)
        if array:
            self._move(self.position + 1)
            self._skip_space()
        while self._at_value(array):
            line, count = self.line, len(self.faults)
            whole, value = self._value()
            if len(self.faults) == count:
                yield line, value
            if len(self.faults) >= MOST_FAULTS:
                self.faults.append(f"line {self.line}: reading stopped here, after {MOST_FAULTS} faults")
                return
            self._skip_space()
            # after a broken value, the position is at the start of the next one or at the end of the text
            if self.position == len(self.text) if not whole else array and not self._separator():
                return

    def _at_value(self, array: bool) -> bool:
        """Return whether another value starts here; an invalid end is a fault."""
        here = self.text[self.position : self.position + 1]
        if array and not here:
            self._fault("the array that the file starts with is not closed by ]")
        elif array and here == "]":
            self._end_array()
        elif not array and here == ",":
            self._fault("a comma between rows outside an array: put the rows in [ ], or remove the commas")
        else:
            return bool(here)
        return False

    def _separator(self) -> bool:
        """Read the comma after an element. Returns False at the end."""
        here = self.text[self.position : self.position + 1]
        if here not in (",", "]", ""):
            self._fault("expected ',' or ']' after a row of the array")
        if here != ",":
            return True
        self._move(self.position + 1)
        self._skip_space()
        if not self.text.startswith("]", self.position):
            return True
        self._fault("a comma before the ] that closes the array")
        return False

    def _end_array(self) -> None:
        self._move(self.position + 1)
        self._skip_space()
        if self.position < len(self.text):
            self._fault("more text after the ] that closes the array")

    def _value(self) -> tuple[bool, Any]:
        """Decode one value and move past it; if it is malformed, move to the next row and return False."""
        start = self.position
        self.of_row.clear()
        try:
            value, end = self.decoder.raw_decode(self.text, start)
        except json.JSONDecodeError as error:
            self.faults.append(self._malformed(error))
            self._recover(start, error.pos)
            return False, None
        except (RecursionError, ValueError) as error:
            why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
            self.faults.append(f"{self._place(start)}: the row that starts here can't be read: {why}")
            self._recover(start, start)
            return False, None
        if self.has_surrogates and not _encodes(value):
            self.of_row.append(r"an unpaired surrogate escape (\ud800–\udfff)")
        self.faults += [f"{self._place(start)}: {fault}" for fault in dict.fromkeys(self.of_row)]
        self._move(end)
        return True, value

    def _malformed(self, error: json.JSONDecodeError) -> str:
        hint = _HINTS.get(error.msg, "")
        begins = f", in the row that starts on line {self.line}" if error.lineno != self.line else ""
        text = error.msg[0].lower() + error.msg[1:] + (f" ({hint})" if hint else "")
        return f"line {error.lineno}, column {error.colno}: malformed JSON{begins}: {text}"

    def _recover(self, start: int, broken: int) -> None:
        """Skip to the next line where an object opens at the broken value's indentation, or to the end."""
        indent = self.text[self.text.rfind("\n", 0, start) + 1 : start]
        # a more deeply indented object is part of the broken row
        opening = "\n" + ("" if indent.strip(" \t") else indent) + "{"
        # an unclosed row fails at the start of the next one
        found = self.text.find(opening, max(start, broken + 1 - len(opening)))
        self._move(found + len(opening) - 1 if found >= 0 else len(self.text))

    def _place(self, start: int) -> str:
        """Return a value's line, and its column unless it is the first value on the line."""
        before = self.text[self.text.rfind("\n", 0, start) + 1 : start]
        return f"line {self.line}" + (f", column {len(before) + 1}" if before.strip(" \t\r[") else "")

    def _fault(self, text: str) -> None:
        column = self.position - self.text.rfind("\n", 0, self.position)
        self.faults.append(f"line {self.line}, column {column}: {text}")

    def _skip_space(self) -> None:
        match = _SPACE.match(self.text, self.position)
        self._move(match.end() if match else self.position)

    def _move(self, position: int) -> None:
        self.line += self.text.count("\n", self.position, position)
        self.position = position

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            counts = Counter(name for name, _ in pairs)
            self.of_row += [f"'{name}' occurs twice in one object" for name, count in counts.items() if count > 1]
        return value

    def _constant(self, name: str) -> None:
        self.of_row.append(f"{name} is not valid JSON; write a number or null")


def _encodes(value: Any) -> bool:
    """Return whether a value can be encoded as UTF-8. Unpaired surrogates can't, and no tokenizer accepts them."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
