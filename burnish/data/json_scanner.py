"""Parse JSON values with line numbers from an array or a sequence of values in one linear pass.

The text comes in pieces: only the piece that is being parsed is in memory.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

# Each error costs a pass over the preceding text in memory (json counts lines), so most of it is dropped after one.
MOST_FAULTS, MOST_BEFORE = 10_000, 1 << 16
# parsed text of the current line that is kept for finding columns
KEPT = 1000
# an incomplete \uXXXX escape or word ends at most this far before the end of the text
LONGEST_WORD = 16

_SPACE = re.compile(r"[ \t\r\n]*+")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_HINTS = {
    "Expecting property name enclosed in double quotes": "put names in double quotes, and no comma before }",
    "Invalid control character at": r"write a line break or tab in a string as \n or \t",
    "Invalid \\escape": r"write a backslash as \\",
    "Unterminated string starting at": "the closing quote is missing",
}


def scan_json(text: str | Iterable[str], faults: list[str]) -> Iterator[tuple[int, Any]]:
    """Yield (line, value) for every element of a JSON array, or for every value in a sequence of values.

    `text` may be an iterator of pieces of the text, which are read as they are needed. Values in a sequence may be
    separated by whitespace or nothing. Malformed values are added to `faults`; scanning resumes at the next object with
    the same indentation.
    """
    yield from _Scanner([text] if isinstance(text, str) else text, faults).rows()


class _Scanner:
    """A position in the text and its line number, updated as the position advances.

    `text` is the part of the text that is in memory; it begins on `first_line`, after `cut` characters of that line.
    """

    def __init__(self, pieces: Iterable[str], faults: list[str]) -> None:
        self.pieces, self.faults = iter(pieces), faults
        self.text, self.first_line, self.cut, self.ended = "", 1, 0, False
        self.position, self.line = 0, 1
        self.of_row: list[str] = []  # errors that the decoder's hooks found in the current value
        self.decoder = json.JSONDecoder(object_pairs_hook=self._object, parse_constant=self._constant)
        self.has_surrogates = False

    def _more(self) -> bool:
        """Read more text, at least doubling the rest, and drop the parsed part; return False at the end of the text."""
        wanted, pieces = len(self.text) - self.position, list[str]()
        while not self.ended and (not pieces or wanted > 0):
            piece = next(self.pieces, None)
            self.ended = piece is None
            pieces += [piece] if piece else []
            wanted -= len(piece or "")
        if not pieces:
            return False
        self._drop()
        self.text += "".join(pieces)
        self.has_surrogates = _SURROGATE_ESCAPE.search(self.text, self.position) is not None
        return True

    def _drop(self) -> None:
        """Drop the parsed part of the text."""
        start = self.text.rfind("\n", 0, self.position) + 1
        begin = max(start, self.position - KEPT)
        self.first_line += self.text.count("\n", 0, start)
        self.cut = begin - start + (0 if start else self.cut)
        self.text = self.text[begin:]
        self.position -= begin

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
                self.faults.append(f"line {self.line}: reading stopped here, after {MOST_FAULTS} errors")
                return
            self._skip_space()
            # after a broken value, the position is at the start of the next one or at the end of the text
            if self.position == len(self.text) if not whole else array and not self._separator():
                return

    def _at_value(self, array: bool) -> bool:
        """Return whether another value starts here; an invalid end is an error."""
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
            if end > len(self.text) - LONGEST_WORD and self.text[end - 1] not in '}]"' and self._more():
                return self._value()  # digits may follow
        except json.JSONDecodeError as error:
            if self._is_cut(error) and self._more():
                return self._value()
            self.faults.append(self._malformed(error))
            self._recover(start, error.pos)
            if self.position > MOST_BEFORE:
                self._drop()
            return False, None
        except (RecursionError, ValueError) as error:
            why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            self.faults.append(f"{self._place(start)}: the row that starts here can't be read: {why}")
            self._recover(start, start)
            return False, None
        if self.has_surrogates and not _encodes(value):
            self.of_row.append(r"an unpaired surrogate escape (\ud800–\udfff)")
        self.faults += [f"{self._place(start)}: {fault}" for fault in dict.fromkeys(self.of_row)]
        self._move(end)
        return True, value

    def _is_cut(self, error: json.JSONDecodeError) -> bool:
        """Return whether a value may be malformed only because the text in memory ends."""
        return error.msg.startswith("Unterminated string") or error.pos >= len(self.text) - LONGEST_WORD

    def _malformed(self, error: json.JSONDecodeError) -> str:
        hint = _HINTS.get(error.msg, "")
        line = self.first_line + error.lineno - 1
        begins = f", in the row that starts on line {self.line}" if line != self.line else ""
        text = error.msg[0].lower() + error.msg[1:] + (f" ({hint})" if hint else "")
        return f"line {line}, column {self._column(error.pos)}: malformed JSON{begins}: {text}"

    def _recover(self, start: int, broken: int) -> None:
        """Skip to the next line where an object opens at the broken value's indentation, or to the end."""
        line_start = self.text.rfind("\n", 0, start) + 1
        indent = self.text[line_start:start]
        # a more deeply indented object is part of the broken row
        opening = "\n" + ("" if indent.strip(" \t") or (self.cut and not line_start) else indent) + "{"
        # an unclosed row fails at the start of the next one
        self._move(max(start, broken + 1 - len(opening)))
        while (found := self.text.find(opening, self.position)) < 0:
            self._move(max(self.position, len(self.text) - len(opening)))
            if not self._more():
                self._move(len(self.text))
                return
        self._move(found + len(opening) - 1)

    def _place(self, start: int) -> str:
        """Return a value's line, and its column unless it is the first value on the line."""
        before = self.text[self.text.rfind("\n", 0, start) + 1 : start]
        return f"line {self.line}" + (f", column {self._column(start)}" if before.strip(" \t\r[") else "")

    def _column(self, position: int) -> int:
        end = self.text.rfind("\n", 0, position)
        return position - end + (self.cut if end < 0 else 0)

    def _fault(self, text: str) -> None:
        self.faults.append(f"line {self.line}, column {self._column(self.position)}: {text}")

    def _skip_space(self) -> None:
        """Skip whitespace; return at the next other character or at the end of the text."""
        while True:
            match = _SPACE.match(self.text, self.position)
            self._move(match.end() if match else self.position)
            if self.position < len(self.text) or not self._more():
                return

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
