"""Wait for a long-running child process, printing a progress line every few seconds."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Mapping, Sequence

from ..console import say
from .command import ROOT

INTERVAL_S = 10.0
STEP = re.compile(rb"step: (.+)|(\d{1,3})%\|")  # the child's own line, or a tqdm bar over model tensors


def watched(command: Sequence[str], environment: Mapping[str, str], title: str) -> tuple[int, str]:
    """Run a child to completion and return its exit code and stderr; `title` prefixes each progress line.

    The child reports steps as "step: ..." lines. An exception here, including Ctrl-C, kills the child.
    """
    started = time.monotonic()
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as child:
        while True:
            try:
                errors = child.communicate(timeout=INTERVAL_S)[1]
                return child.returncode, errors.decode("utf-8", "replace")
            except subprocess.TimeoutExpired as error:
                say(f"{title}: {_step(error.stderr or b'')}{time.monotonic() - started:.0f} s so far")
            except BaseException:
                child.kill()
                raise


def _step(written: bytes) -> str:
    """Return a child's last reported step, or "" if there is none."""
    last = next(iter(reversed(STEP.findall(written))), None)
    if last is None:
        return ""
    return f"{last[0].decode('utf-8', 'replace').strip()}, " if last[0] else f"{int(last[1])}% of the tensors read, "
