"""Find suspicious content in well-formed texts: empty cells, escapes, line endings, invisible characters."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

# how programs export empty cells; \N is from MySQL and PostgreSQL
EMPTY_CELLS = frozenset(
    {"nan", "-nan", "none", "null", "nil", "na", "n/a", "<na>", "nat", "undefined", "(null)", "\\n"}
    | {"#n/a", "#na", "#value!", "#ref!", "#name?", "#div/0!", "#null!"}
)
# LaTeX commands that look like a literal \n, \r, \t or \u
_LATEX = (
    r"(?:n(?:abla|atural|e|ear|eg|eq|eqq|ewline|ewcommand|ewpage|exists|geq|gtr|i|leq|less|mid|o|oindent|olimits|onumber"
    r"|ormalsize|ormal|ot|otag|otin|parallel|prec|sim|subseteq|succ|supseteq|u|um|warrow|earrow|searrow)"
    r"|[rtu][A-Za-z]*)(?![A-Za-z])"
)
_BREAK = re.compile(rf"(?<!\\)\\(?!{_LATEX})(?:r\\n|n)")
_UNICODE = re.compile(r"(?<!\\)\\u[0-9a-fA-F]{4}")
# code and paths, where backslashes are legitimate
_LITERALS = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`|\"(?:[^\"\\\n]|\\.)*\"|(?<!\w)'(?:[^'\\\n]|\\.)*'(?!\w)|\b[A-Za-z]:\\\S*|\\\\\w\S*",
    re.DOTALL,
)
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f"
    "\u3164\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e007f]"
)
ZWNJ, ZWJ, MARKS, TAGS = "\u200c", "\u200d", "\u200e\u200f\u061c", re.compile("[\U000e0000-\U000e007f]")
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]")
_BLACK_FLAG = "\U0001f3f4"


def empty_cells(text: str, question: bool) -> Iterator[str]:
    """Yield the text, or for a `question` its last line (an input), if it is only an empty-cell marker."""
    found = (text.rpartition("\n")[2] if question else text).strip()
    if found.lower() in EMPTY_CELLS:
        yield found


def escapes(text: str) -> Iterator[str]:
    r"""Yield \n or \uXXXX if a text contains the escape as literal characters.

    A literal \n counts only in a text without line breaks. Code, quotes, paths and LaTeX are ignored.
    """
    if "\\" not in text:
        return
    bare = _LITERALS.sub(" ", text)
    if "\n" not in text.strip() and _BREAK.search(bare):
        yield r"\n"
    if _UNICODE.search(bare):
        yield r"\uXXXX"


def line_ends(text: str) -> Iterator[str]:
    """Yield the kinds of line endings other than LF in a text: "CR LF" and "CR"."""
    if "\r\n" in text:
        yield "CR LF"
    if text.count("\r") > text.count("\r\n"):
        yield "CR"


def invisible(text: str) -> Iterator[str]:
    """Yield a text's invisible characters by code and name, except the ones needed by its script or an emoji."""
    if text.isascii():
        return
    rtl: bool | None = None
    for match in _INVISIBLE.finditer(text):
        character = match.group()
        if character in (ZWJ, ZWNJ) and _joins(text, match.start()):
            continue
        if character in MARKS:
            rtl = bool(_RIGHT_TO_LEFT.search(text)) if rtl is None else rtl
            if rtl:
                continue
        if TAGS.match(character) and _BLACK_FLAG in text:
            continue
        yield f"U+{ord(character):04X} {unicodedata.name(character, 'unassigned')}"


def _joins(text: str, at: int) -> bool:
    """Return whether a joiner follows an emoji or a letter from a joining script."""
    before = text[at - 1] if at else " "
    skin_or_form = before in ("\ufe0f", "\u20e3") or "\U0001f3fb" <= before <= "\U0001f3ff"
    return skin_or_form or unicodedata.category(before) in ("So", "Mn", "Mc") or "\u0600" <= before <= "\u1cff"
