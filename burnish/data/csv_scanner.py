"""Parse CSV text into rows with line numbers, keyed by the header. Quoting follows RFC 4180.

Spaces around a quoted cell, and columns added by a spreadsheet or pandas, are skipped with a note.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from ..console import counted

SEPARATORS = ",;\t|"
_END = re.compile(r"\r\n|\r|\n")
_SEP_LINE = re.compile(r'"?sep=([^\r\n])"?[ \t]*(?:\r\n|\r|\n|\Z)', re.IGNORECASE)
_QUOTED = re.compile(r'"(?:[^"]++|"")*+"')
_OF_A_WORD = re.compile(r'[^\s,;|"]')
_DIGIT = re.compile(r"[0-9]")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
MAX_SHOWN = 3

Record = tuple[int, list[str]]


def scan_csv(text: str, faults: list[str], notes: list[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line, row) from a CSV with a header. Adds errors to `faults`, and skipped parts to `notes`."""
    scanner = _Scanner(text)
    records: list[Record] = []
    empty: list[int] = []
    for line, cells in scanner.records():
        if any(map(str.strip, cells)):
            records.append((line, cells))
        else:
            empty.append(line)
    if empty:
        notes.append(f"{counted(len(empty), 'row')} without text skipped (first: line {empty[0]})")
    if lines := scanner.skipped_blanks:
        notes.append(f"spaces around quoted cells skipped in {counted(len(lines), 'row')} (first: line {lines[0]})")
    if records:
        yield from _Table(records[0], records[1:], faults, notes).rows()
    if scanner.fault:
        faults.append(scanner.fault)


class _Scanner:
    """A position in CSV text. `skipped_blanks` are the lines of records with spaces around a quoted cell."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position, self.line = 0, 1
        self.skipped_blanks: list[int] = []
        self.fault = ""
        self.separator = self._declared() or _guess_separator(text)
        blank = "[ \\t\\xa0]" if self.separator != "\t" else "[ \\xa0]"
        after = f"(?={re.escape(self.separator)}|\\r|\\n|\\Z)"
        self._quoted = re.compile(f'({blank}*+)"((?:[^"]++|"")*+)"({blank}*+){after}')
        self._opens = re.compile(f'{blank}*+"')
        self._plain = re.compile(f"[^{re.escape(self.separator)}\\r\\n]*+")

    def records(self) -> Iterator[tuple[int, list[str]]]:
        """Yield (line, cells) for every record except empty lines; stop at the first malformed one (`fault`)."""
        while self.position < len(self.text):
            line, start = self.line, self.position
            cells = self._record()
            if self.fault:
                return
            bare = self.position == start  # an empty line; a quoted "" is an empty cell
            end = _END.match(self.text, self.position)
            self.position = end.end() if end else len(self.text)
            self.line += _breaks(self.text, start, self.position)
            if not bare:
                yield line, cells

    def _record(self) -> list[str]:
        cells: list[str] = []
        while True:
            cells.append(self._cell(len(cells) + 1))
            if self.fault or not self.text.startswith(self.separator, self.position):
                return cells
            self.position += 1

    def _cell(self, number: int) -> str:
        if match := self._quoted.match(self.text, self.position):
            self.position = match.end()
            if (match[1] or match[3]) and self.skipped_blanks[-1:] != [self.line]:
                self.skipped_blanks.append(self.line)
            return match[2].replace('""', '"')
        if self._opens.match(self.text, self.position):
            self.fault = f"line {self.line}: malformed CSV in the record that starts here: {self._why(number)}"
            return ""
        match = self._plain.match(self.text, self.position)
        assert match is not None
        self.position = match.end()
        return match.group()

    def _why(self, number: int) -> str:
        """Return the error in a cell that starts with a quote."""
        closed = _QUOTED.search(self.text, self.position)
        if closed is None:
            return f"the closing quote of cell {number} is missing"
        hint = r'"" instead of \"' if self.text[closed.end() - 2 : closed.end()] == r"\"" else '""'
        return f"text follows the closing quote of cell {number}; write a quote within a cell twice: {hint}"

    def _declared(self) -> str:
        """Read Excel's `sep=;` line and return the separator, or "" if there is none."""
        match = _SEP_LINE.match(self.text)
        if match is None:
            return ""
        self.position = match.end()
        self.line += _breaks(self.text, 0, self.position)
        return match[1]


def _guess_separator(text: str) -> str:
    """Return the most frequent separator outside quoted cells in the first line that contains a word."""
    word = _OF_A_WORD.search(text)
    if word is None:
        return SEPARATORS[0]
    start = max(text.rfind("\n", 0, word.start()), text.rfind("\r", 0, word.start())) + 1
    end = _END.search(text, word.start())
    head = _QUOTED.sub("", text[start : end.start() if end else len(text)])
    return max(SEPARATORS, key=head.count)


def _breaks(text: str, start: int, end: int) -> int:
    r"""Count the line ends (\n, \r\n or \r) in a section of the text."""
    return text.count("\n", start, end) + text.count("\r", start, end) - text.count("\r\n", start, end)


class _Table:
    """The records under a header. `names` are the header's cells, "" for an unnamed column."""

    def __init__(self, header: Record, records: Sequence[Record], faults: list[str], notes: list[str]) -> None:
        self.records, self.faults, self.notes = records, faults, notes
        self.line, names = header
        self.names = [name.strip().strip("\ufeff") for name in names]
        self.needed = max((n for n, name in enumerate(self.names, start=1) if name), default=0)

    def rows(self) -> Iterator[tuple[int, dict[str, str]]]:
        if self._index_without_name():
            self.names.insert(0, "")
            self.needed += 1
        twice = sorted(name for name, count in Counter(self.names).items() if name and count > 1)
        self.faults += [f"line {self.line}: the header has '{name}' twice" for name in twice]
        self._unnamed()
        if wider := [line for line, cells in self.records if len(cells) > len(self.names) and self._fits(cells)]:
            self.notes.append(
                f"empty cells at the end of {counted(len(wider), 'row')} skipped (first: line {wider[0]})"
            )
        for line, cells in self.records:
            if self._fits(cells):
                yield line, {name: cell for name, cell in zip(self.names, cells, strict=False) if name}
            else:
                self.faults.append(f"line {line}: expected {len(self.names)} cells as in the header, got {len(cells)}")

    def _fits(self, cells: Sequence[str]) -> bool:
        """Return whether a record has all named cells and no text beyond the header's columns."""
        return len(cells) >= self.needed and not any(map(str.strip, cells[len(self.names) :]))

    def _index_without_name(self) -> bool:
        """Return whether every record starts with an extra cell: a row number or name, as written by R."""
        wider = len(self.names) + 1
        if not self.records or "" in self.names or any(len(cells) != wider for _, cells in self.records):
            return False
        first = [cells[0].strip() for _, cells in self.records]
        # an unquoted comma in the first text also adds a cell, but one with words, and a space after the comma
        if any(cells[1][:1].isspace() for _, cells in self.records) or not all(map(_DIGIT.search, first)):
            return False
        return any(cells[-1].strip() for _, cells in self.records) and _is_index(first)

    def _unnamed(self) -> None:
        """Note which unnamed columns are skipped: a row index on the left, and columns without text."""
        empty: list[int] = []
        first_named = next((n for n, name in enumerate(self.names) if name), len(self.names))
        for column in (n for n, name in enumerate(self.names) if not name):
            found = [(line, cells[column]) for line, cells in self.records if column < len(cells)]
            filled = [(line, cell.strip()) for line, cell in found if cell.strip()]
            if not filled:
                empty.append(column + 1)
            elif column < first_named and _is_index([cell for _, cell in filled]):
                shown = ", ".join(cell for _, cell in filled[:MAX_SHOWN])
                self.notes.append(f"column {column + 1} has no name and looks like a row index ({shown} ...): not used")
            else:
                rows = counted(len(filled), "row")
                self.faults.append(
                    f"line {self.line}: column {column + 1} of the header has no name, and {rows}"
                    f" {'has' if len(filled) == 1 else 'have'} text in it (first: line {filled[0][0]})"
                )
        if empty:
            self.notes.append(f"{counted(len(empty), 'unnamed column')} without text skipped")


def _is_index(cells: Sequence[str]) -> bool:
    """Return whether cells look like a row index: numbers, or short unique words."""
    if all(_NUMBER.fullmatch(cell) for cell in cells):
        return True
    return len(set(cells)) == len(cells) and all(len(cell) <= 64 and len(cell.split()) <= 2 for cell in cells)
