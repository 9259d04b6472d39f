"""Run llama.cpp's converter and quantizer as child processes, so that Ctrl-C works at any time."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from burnish import children
from burnish.console import bar
from burnish.errors import UserError, did_you_mean
from burnish.files import atomic_file
from burnish.llama import quantization_types
from burnish.process import crashed, exit_reason
from burnish.tokenizers.llama_cpp import CONVERT, CONVERTER, refusal, refuses

STEP = re.compile(r"(\d+)/(\d+)")
SIXTEEN_BIT = {"float16": "F16", "bfloat16": "BF16"}


class GgufError(UserError):
    """Raised when a conversion or quantization failed; the message contains the last output lines."""


class UnconvertibleError(GgufError):
    """Raised when the converter does not support the merged checkpoint."""


class _EndedError(GgufError):
    """A child process failed; `code` is its exit code, `last` its last output line."""

    def __init__(self, what: str, code: int, lines: Sequence[str]) -> None:
        super().__init__(f"{what}: failed ({exit_reason(code)}): {' / '.join(lines[-3:]) or 'no output'}")
        self.code, self.last = code, lines[-1] if lines else ""


def check_types(names: Sequence[str]) -> list[str]:
    """Return quantization types in the runtime's spelling. Raises GgufError listing every unknown type."""
    known = {name.upper(): name for name in quantization_types()}
    faults = [f"gguf.quants: no type '{n}'{did_you_mean(n.upper(), known)}" for n in names if n.upper() not in known]
    if faults:
        raise GgufError(faults)
    return list(dict.fromkeys(known[n.upper()] for n in names))


def check_converter() -> None:
    """Raise GgufError if the converter for this runtime's commit is not installed."""
    if not CONVERTER.is_file():
        raise GgufError(f"{CONVERTER}: llama.cpp's converter is missing: run `make setup`")


def convert(merged: Path, target: Path, dtype: str) -> dict[str, int]:
    """Convert a merged checkpoint to a 16-bit GGUF file, written atomically.

    Returns no fallbacks, since every tensor has the requested type. Raises UnconvertibleError if the converter does
    not support the model.
    """
    with atomic_file(target) as temporary, bar(f"convert {SIXTEEN_BIT[dtype]}", 100) as tick:
        size = sum(file.stat().st_size for file in merged.iterdir())
        words = (str(merged.resolve()), "--outfile", str(temporary.resolve()), "--outtype", SIXTEEN_BIT[dtype].lower())
        command = children.confined(children.Limits.of(size, 2 * size), CONVERT, *words)
        try:
            _child(command, lambda done, total: tick(100 * done / total), "convert")
        except _EndedError as error:
            if crashed(error.code) or not refuses(error.last):
                raise
            raise UnconvertibleError(refusal(error.last)) from None
        tick(100)
        _verify(temporary)
    return {}


def quantize(source: Path, target: Path, type_name: str) -> dict[str, int]:
    """Quantize a 16-bit GGUF file to the named type; the result is written atomically.

    Returns the number of tensors whose shape forced another type, keyed by "wanted -> taken".
    """
    with atomic_file(target) as temporary, bar(f"quantize {type_name}", 100) as tick:
        limits = children.Limits.of(source.stat().st_size, 2 * source.stat().st_size)
        words = ("quantize", str(source.resolve()), str(temporary.resolve()), type_name)
        command = children.confined(limits, "burnish.llama", *words)
        lines = _child(command, lambda done, total: tick(100 * done / total), f"quantize to {type_name}")
        tick(100)
        _verify(temporary)
    return dict(Counter(line.split(" ", 2)[2] for line in lines if line.startswith("fallback ")))


def _verify(path: Path) -> None:
    """Raise GgufError if a file does not load. Loading runs in a child process, so a crash does not end the export."""
    limits = children.Limits.of(path.stat().st_size, 0)
    command = children.confined(limits, "burnish.llama", "load-test", str(path.resolve()))
    _child(command, lambda done, total: None, f"load test of {path.name}")


def _child(command: list[str], progress: Callable[[int, int], None], what: str) -> list[str]:
    """Run a child process, report n/m progress, return its lines. Raises GgufError with the last ones on failure."""
    lines: list[str] = []
    # the converter redraws its bar with carriage returns, which universal newlines split into lines
    with subprocess.Popen(
        command,
        cwd=children.ROOT,
        env=children.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                lines.append(line.rstrip())
                if (step := STEP.search(line)) and 0 < int(step[1]) <= int(step[2]):
                    progress(int(step[1]), int(step[2]))
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise _EndedError(what, process.returncode, lines)
    return lines
