"""Progress and messages: a bar on a terminal, plain lines elsewhere, JSON lines on request."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

PLAIN_INTERVAL_S = 10.0
# Characters that a terminal would act on or hide: C0 and C1 controls except tab and line feed, direction marks,
# zero-width characters, line separators, unpaired surrogates, tags.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


class Tick(Protocol):
    """Set a bar to `done`, with a short status text."""

    def __call__(self, done: float, text: str = "") -> None: ...


def as_json() -> bool:
    """Return whether log lines are in JSON: BURNISH_LOG_FORMAT=json."""
    return os.environ.get("BURNISH_LOG_FORMAT") == "json"


def printable(text: str, one_line: bool = False) -> str:
    """Make text safe to print on a terminal: control and hidden characters become escapes (\\x1b, \\u202e).

    All text from records, files or the Hub passes through here. `one_line` also escapes line feeds.
    """
    shown = _UNSAFE.sub(lambda found: found.group().encode("unicode_escape", "surrogatepass").decode(), text)
    return shown.replace("\n", "\\n") if one_line else shown


def cell(text: object) -> Text:
    """Return text for a table or panel: printable, and not parsed as markup."""
    return Text(printable(str(text), one_line=True))


def say(text: str, **fields: object) -> None:
    """Print a one-line status message; `fields` are added to JSON lines."""
    if as_json():
        print(json.dumps({"time": time.time(), "message": text, **fields}, default=str), file=sys.stderr, flush=True)
    else:
        print(printable(text), file=sys.stderr, flush=True)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun in singular or plural: "1 row", "3 rows"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(names: Sequence[str], limit: int) -> str:
    """Return the first `limit` names and the number of remaining ones; "none" if there are none."""
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "") or "none"


def gib(size: float) -> str:
    """Format a size in GiB, or in MiB or KiB if it is small."""
    if 0 < size < 2**20:
        return f"{size / 2**10:.0f} KiB"
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 / 10 else f"{max(0.0, size) / 2**20:.0f} MiB"


def millions(number: int) -> str:
    """Format a large number in millions, a small one in full: "8,030.3M", "24,576"."""
    return f"{number / 1e6:,.1f}M" if number >= 1e6 else f"{number:,}"


def warn(text: str) -> None:
    """Print a warning about something that works, but perhaps not as intended."""
    say(f"warning: {text}" if not as_json() else text, level="warning")


@contextmanager
def bar(title: str, total: float) -> Iterator[Tick]:
    """Show progress towards `total`: a live bar on a terminal, a line every few seconds elsewhere."""
    if sys.stderr.isatty() and not as_json():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task(escape(printable(title, one_line=True)), total=total, text="")

            def tick(done: float, text: str = "") -> None:
                progress.update(task, completed=done, text=escape(printable(text, one_line=True)))

            yield tick
    else:
        yield _plain(title, total)


def _plain(title: str, total: float) -> Tick:
    started = last = time.monotonic()
    finished = False

    def tick(done: float, text: str = "") -> None:
        nonlocal last, finished
        if finished or (time.monotonic() - last < PLAIN_INTERVAL_S and done < total):
            return
        last, finished = time.monotonic(), done >= total
        left = (last - started) / done * (total - done) if done else 0.0
        say(
            f"{title} {done:.0f}/{total:.0f} {text}" + (f", {left:.0f} s left" if done < total else ""),
            done=done,
            total=total,
        )

    return tick
