"""Write docs/settings.md and docs/openai-api.md from the code: python -m tools.reference [--check] (make reference).

With --check nothing is written; the exit code is 1 if a page is out of date.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from . import api, settings

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = {"settings.md": settings.page, "openai-api.md": api.page}


def main(argv: Sequence[str] | None = None) -> int:
    """Write or compare both pages; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare; exit with 1 if a page is out of date")
    check = parser.parse_args(argv).check
    pages = {DOCS / name: make() for name, make in PAGES.items()}
    stale = [path for path, text in pages.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(f"docs/{path.name}: {'out of date: run `make reference`' if check else 'written'}")
        if not check:
            path.write_text(pages[path], encoding="utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
