"""The data benchmark counts the memory of a command's whole process tree."""

from __future__ import annotations

import os
import subprocess
import sys

from bench.data import processes_of, pss_bytes

HOLDS = "import time; held = b'x' * (64 << 20); print('there', flush=True); time.sleep(600)"


def test_memory_of_descendants_is_counted() -> None:
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLDS!r}])"
    before = pss_bytes(os.getpid())
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "there\n"
        tree = list(processes_of(process.pid))
        assert len(tree) == 2 and set(tree) < set(processes_of(os.getpid()))
        assert pss_bytes(process.pid) > 64 << 20
        assert pss_bytes(os.getpid()) > before + (64 << 20) - (32 << 20)
        for one in tree:
            os.kill(one, 9)
