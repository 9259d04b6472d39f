"""Errors that a user can fix: raised where the error is detected, printed once at the top level, with exit code 2."""

from __future__ import annotations

import difflib
import errno
import os
import re
import resource
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType

from .console import printable
from .process import ctrl_c_raises

KNOWN = "; known: "
MIN_LIKENESS = 0.75  # "context" and "text" have 0.73, "deepspeed" and "seed" 0.62; typos have 0.8 or more
MAX_AFTER_A_LETTER = 4  # "rank" may mean "r", "revision" does not
RESUMES = "interrupted: nothing unfinished was recorded; run the same command again to continue"
MAX_FAULTS_SHOWN, MAX_PLACES_SHOWN = 20, 3
# the location of an error in a data file
_PLACE = re.compile(r"\b((?:line \d+(?:, (?:row|column) \d+)?|row \d+)): ")
_NUMBER = re.compile(r"\d+")
# allocation failure messages from Python, the dynamic loader, C++ and torch
NO_MEMORY = re.compile(
    r"failed to map segment|[Cc]annot allocate memory|bad_alloc|can't start new thread|can't allocate memory"
)
# dynamic loader messages with other causes: a missing library, the loading order
OTHER_LACK = re.compile(r"cannot open shared object file|static TLS block")
DISK_FAULTS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO})


class UserError(Exception):
    """Raised when the user's input has errors; they are reported together.

    Each error is one line: its location, what was found, what was expected and, where useful, the remedy. `more` counts
    further errors, if there were too many to keep.
    """

    def __init__(self, faults: str | Sequence[str], more: int = 0) -> None:
        self.faults: tuple[str, ...] = (faults,) if isinstance(faults, str) else tuple(faults)
        self.more = more
        super().__init__("\n".join(self.faults))

    def report(self, limit: int = MAX_FAULTS_SHOWN) -> str:
        """Return the terminal message: at most `limit` distinct errors, and the number of remaining ones."""
        faults = grouped(self.faults)
        more = max(0, len(faults) - limit) + self.more
        lines = [f"error: {printable(fault, one_line=True)}" for fault in _listed_once(faults[:limit])]
        return "\n".join(lines + ([f"error: and {more:,} more errors like these"] if more > 0 else []))


def _listed_once(faults: Sequence[str]) -> list[str]:
    """If several errors end with the same list of known names, keep it only in the last one."""
    lists = [fault.rpartition(KNOWN)[2] if KNOWN in fault else None for fault in faults]
    again = {i for i, names in enumerate(lists) if names is not None and names in lists[i + 1 :]}
    return [fault.rpartition(KNOWN)[0] if i in again else fault for i, fault in enumerate(faults)]


def grouped(faults: Iterable[str]) -> list[str]:
    """Merge errors that differ only in line or row, with their count and first locations."""
    groups: dict[tuple[str, str], list[str]] = {}
    for fault in faults:
        before, place, after = _PLACE.split(fault, maxsplit=1) if _PLACE.search(fault) else (fault, "", "")
        groups.setdefault((before, after), []).append(place)
    return [
        before + (f"{places[0]}: {after}" if after else "") + (f" ({_places(places)})" if after and places[1:] else "")
        for (before, after), places in groups.items()
    ]


def _places(places: Sequence[str]) -> str:
    """Return "14 lines: 1, 2, 3 and 11 more", or "14 rows: ..." where rows share lines."""
    unit = "row" if all("row" in place for place in places) else "line"
    numbers = [_NUMBER.findall(place)[-1 if unit == "row" else 0] for place in places]
    more = len(numbers) - MAX_PLACES_SHOWN
    shown = ", ".join(numbers[:MAX_PLACES_SHOWN])
    return f"{len(numbers)} {unit}s: {shown} and {more} more" if more > 0 else f"{len(numbers)} {unit}s: {shown}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name most similar to `name`, or None if none is similar enough."""
    likeness = {candidate: _likeness(_plain(name), _plain(candidate)) for candidate in known}
    best = max(likeness, key=likeness.__getitem__, default=None)
    return best if best is not None and likeness[best] >= MIN_LIKENESS else None


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def _likeness(a: str, b: str) -> float:
    """Return the similarity of two names, 0 to 1, allowing for typos, abbreviations and omitted words."""
    short, long = sorted((a, b), key=len)
    begins = bool(short) and long.startswith(short) and (len(short) > 1 or len(long) <= MAX_AFTER_A_LETTER)
    some_words = len(short) > MAX_AFTER_A_LETTER and set(short.split("_")) <= set(long.split("_"))
    if 2 * len(short) < MIN_LIKENESS * (len(short) + len(long)):  # an upper bound on the ratio
        return MIN_LIKENESS if begins or some_words else 0.0
    ratio = difflib.SequenceMatcher(None, a, b, autojunk=False).ratio()
    return max(ratio, MIN_LIKENESS if begins or some_words else 0.0)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the nearest known name, else the list of known names."""
    candidates = sorted(known)
    near = nearest(name, candidates)
    return f"; did you mean '{near}'?" if near else f"{KNOWN}{', '.join(candidates)}"


def lack_of_memory(error: BaseException) -> str | None:
    """Return a one-line message if an error means that memory ran out; None for any other error."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    limited = soft != resource.RLIM_INFINITY
    # under an address-space limit a library fails to load, and its importer then raises its own error
    in_import = limited and isinstance(error, ImportError) and not isinstance(error, ModuleNotFoundError)
    if OTHER_LACK.search(str(error)):
        return None
    if not (isinstance(error, MemoryError) or NO_MEMORY.search(str(error)) or in_import):
        return None
    reason = str(error).strip().partition("\n")[0][:200] or "an allocation failed"
    way = "free some, or use a smaller model"
    if limited:
        way = f"raise the address-space limit of {soft >> 20:,} MiB (ulimit -v)"
    return f"not enough memory: {reason}: {way}"


def explain_lack_of_memory() -> None:
    """Print one line and exit with 2 if memory runs out during imports, before `run_edge`. Call this in main."""

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if (fault := lack_of_memory(error)) is None:
            sys.__excepthook__(kind, error, trace)
            return
        os.write(2, f"error: {fault}\n".encode())
        os._exit(2)

    sys.excepthook = hook


@contextmanager
def resumable() -> Iterator[None]:
    """Tell the user on Ctrl-C that rerunning the command resumes: the enclosed code keeps finished work."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(RESUMES) from None


def _unwrapped(main: Callable[[], int]) -> int:
    """Run `main`; raise the first error of a group of concurrent tasks by itself."""
    try:
        return main()
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from group


def run_edge(main: Callable[[], int]) -> None:
    """Run a command's `main` and exit: errors are reported with exit code 2, Ctrl-C exits with 130."""
    ctrl_c_raises()
    try:
        code = _unwrapped(main)
    except UserError as error:
        print(error.report(), file=sys.stderr)
        code = 2
    except OSError as error:
        if error.errno not in DISK_FAULTS:
            raise
        where = printable(str(error.filename or "disk"), one_line=True)
        print(f"error: {where}: {error.strerror}: free space or fix the problem, then run again", file=sys.stderr)
        code = 2
    except (MemoryError, RuntimeError, ImportError) as error:
        if (fault := lack_of_memory(error)) is None:
            raise
        print(f"error: {fault}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt as stop:
        print(str(stop) or "interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)
