"""JSON text → values with line numbers: an array, or values one after another, in one linear pass."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

# Every fault costs a pass over the text up to it (json counts its lines), so that a file of nothing else ends here.
MOST_FAULTS = 100

_SPACE = re.compile(r"[ \t\r\n]*")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_HINTS = {
    "Expecting property name enclosed in double quotes": "names stand in double quotes, and no comma stands before }",
    "Invalid control character at": r"a line break or tab within a text is written \n or \t",
    "Invalid \\escape": r"a backslash is written \\",
    "Unterminated string starting at": "the closing quote is missing",
}


def scan_json(text: str, faults: list[str]) -> Iterator[tuple[int, Any]]:
    """Yield (line, value) for every element of a JSON array, or every value of those one after another.

    Between the values of the latter may be nothing, blanks or line breaks. What is malformed is added to `faults`, and
    the scan goes on with the next value that stands as deep as the broken one.
    """
    yield from _Scanner(text, faults).rows()


class _Scanner:
    """A position in the text, and its line: lines are counted once, as the position moves on."""

    def __init__(self, text: str, faults: list[str]) -> None:
        self.text, self.faults = text, faults
        self.position, self.line = 0, 1
        self.of_row: list[str] = []  # faults that the decoder's hooks find in the current value
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
            # behind a broken value stands the next one's beginning, or the end of the text
            if self.position == len(self.text) if not whole else array and not self._separator():
                return

    def _at_value(self, array: bool) -> bool:
        """Whether another value is to be read here; what ends the rows wrongly is a fault."""
        here = self.text[self.position : self.position + 1]
        if array and not here:
            self._fault("the array that the file begins with is not closed by ]")
        elif array and here == "]":
            self._end_array()
        elif not array and here == ",":
            self._fault("a comma between rows that stand in no array: put the rows in [ ], or take the commas out")
        else:
            return bool(here)
        return False

    def _separator(self) -> bool:
        """Read the comma behind an element. Returns False where nothing more is to be read."""
        here = self.text[self.position : self.position + 1]
        if here not in (",", "]", ""):
            self._fault("expected ',' or ']' behind a row of the array")
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
        """Decode one value and move behind it; of a malformed one return False, and move to the next row."""
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
            self.faults.append(f"{self._place(start)}: the row that begins here can't be read: {why}")
            self._recover(start, start)
            return False, None
        if self.has_surrogates and not _encodes(value):
            self.of_row.append(r"a \ud800–\udfff escape that is half of a character")
        self.faults += [f"{self._place(start)}: {fault}" for fault in dict.fromkeys(self.of_row)]
        self._move(end)
        return True, value

    def _malformed(self, error: json.JSONDecodeError) -> str:
        hint = _HINTS.get(error.msg, "")
        begins = f", in the row that begins on line {self.line}" if error.lineno != self.line else ""
        text = error.msg[0].lower() + error.msg[1:] + (f" ({hint})" if hint else "")
        return f"line {error.lineno}, column {error.colno}: malformed JSON{begins}: {text}"

    def _recover(self, start: int, broken: int) -> None:
        """Move to the next line on which an object opens at the indentation of the broken value, or to the end."""
        indent = self.text[self.text.rfind("\n", 0, start) + 1 : start]
        # an object that opens deeper is a part of the broken row
        opening = "\n" + ("" if indent.strip(" \t") else indent) + "{"
        # an unclosed row breaks where the next one opens
        found = self.text.find(opening, max(start, broken + 1 - len(opening)))
        self._move(found + len(opening) - 1 if found >= 0 else len(self.text))

    def _place(self, start: int) -> str:
        """Return the line of a value, and its column where another one stands before it on that line."""
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
            self.of_row += [f"'{name}' stands twice in one object" for name, count in counts.items() if count > 1]
        return value

    def _constant(self, name: str) -> None:
        self.of_row.append(f"{name} is not JSON; write a number or null")


def _encodes(value: Any) -> bool:
    """Whether all text in a value is encodable: halves of surrogate pairs are not, and no tokenizer takes them."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
