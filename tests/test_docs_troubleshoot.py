"""The messages quoted in docs/troubleshoot.md exist in the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest

from tests.support.commands import ROOT

PAGE = ROOT / "docs" / "troubleshoot.md"
VERDICTS = (" fail ", " inconclusive ")  # cells of export's table


def messages() -> list[str]:
    """Return the code in the first cell of every row, without Markdown escapes."""
    rows = re.findall(r"^\| `(.+?)`[^|]*\|", PAGE.read_text(encoding="utf-8").replace("\\|", "\0"), re.MULTILINE)
    return [row.replace("\0", "|") for row in rows if row not in VERDICTS]


@cache
def printed() -> str:
    """Return every string in the code, one per line, with an ellipsis for values inserted at run time."""
    files = [path for name in ("burnish", "train", "export", "serve", "tools") for path in (ROOT / name).rglob("*.py")]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in files]
    return "\n".join(text for tree in trees for node in ast.walk(tree) for text in _strings(node))


def _strings(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value


@pytest.mark.parametrize("message", messages())
def test_quoted_messages_exist_in_the_code(message: str) -> None:
    assert message in printed()


def test_troubleshoot_page_quotes_messages() -> None:
    assert len(messages()) > 60
