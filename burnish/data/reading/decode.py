"""Decode UTF-8 in pieces, and find every line that is not UTF-8."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator

MARK = "\ufeff"  # the byte order mark
MOST_FAULTS = 1000


class Decoder:
    """Decodes pieces of a file. `faults` has one entry for each line that is not UTF-8; such lines become empty."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.line = 1

    def texts(self, pieces: Iterable[bytes]) -> Iterator[str]:
        """Yield the text, without a byte order mark, in pieces."""
        left, first = b"", True
        for piece in pieces:
            text, used = self._text(block := left + piece, final=False)
            left = block[used:]
            yield text.removeprefix(MARK) if first else text
            first = first and not text
        text, _ = self._text(left, final=True)
        yield text.removeprefix(MARK) if first else text

    def _text(self, block: bytes, final: bool) -> tuple[str, int]:
        """Decode the complete characters in a block; return the text and their number of bytes."""
        try:
            text, used = codecs.utf_8_decode(block, "strict", final)
        except UnicodeDecodeError:
            text, used = self._lines(block, final)
        self.line += text.count("\n")
        return text, used

    def _lines(self, block: bytes, final: bool) -> tuple[str, int]:
        """Decode a block line by line; a line at its end may be incomplete, and is left unless the file ends."""
        end = len(block) if final else block.rfind(b"\n") + 1
        if not end:  # a long line: drop the bytes that are not UTF-8
            self._fault(self.line, block)
            return block.decode("utf-8", "ignore"), len(block)
        lines = []
        for number, line in enumerate(block[:end].split(b"\n"), start=self.line):
            try:
                lines.append(line.decode("utf-8"))
            except UnicodeDecodeError:
                self._fault(number, line)
                lines.append("")
        return "\n".join(lines), end

    def _fault(self, number: int, line: bytes) -> None:
        if len(self.faults) > MOST_FAULTS or any(fault.startswith(f"line {number}:") for fault in self.faults[-1:]):
            return
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            self.faults.append(f"line {number}: byte 0x{line[error.start]:02x} is not UTF-8; save the file as UTF-8")
