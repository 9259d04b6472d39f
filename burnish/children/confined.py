"""Run a project module with limits: python -P -m burnish.children.confined CPU FILE MEMORY MODULE WORDS...

burnish.children.Limits describes the limits. With `check` alone, the exit code is 0 if leaving the network works.
"""

from __future__ import annotations

import ctypes
import os
import resource
import runpy
import sys
from contextlib import suppress

from .path import only_packages

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000  # unshare(2)
MAX_OPEN_FILES = 4096


def limit(kind: int, value: int) -> None:
    """Lower a resource limit. A value of 0, or a lower existing limit, leaves it unchanged."""
    soft, hard = resource.getrlimit(kind)
    if value and (soft == resource.RLIM_INFINITY or value < soft):
        # exceeding the soft CPU limit raises SIGXCPU, which identifies the cause; the hard limit raises SIGKILL
        resource.setrlimit(kind, (value, hard if kind == resource.RLIMIT_CPU else value))


def leave_network() -> bool:
    """Move this process into a new network namespace without interfaces; return whether that was allowed.

    Ordinary users also need a user namespace, which many containers forbid. Root doesn't, and would lose access to
    other users' files in one. The process must be single-threaded.
    """
    user, group = os.getuid(), os.getgid()
    unshare = ctypes.CDLL(None).unshare
    if unshare(CLONE_NEWNET) == 0:
        return True
    if unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        return False
    # map the ids to themselves, so that file ownership is preserved
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with suppress(OSError), open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    return True


def main(words: list[str]) -> None:
    """Lower the limits, leave the network and run the module."""
    if words == ["check"]:
        sys.exit(0 if leave_network() else 1)
    cpu, file, memory, name, *rest = words
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump containing a model would fill the disk
    limit(resource.RLIMIT_NOFILE, MAX_OPEN_FILES)
    limit(resource.RLIMIT_CPU, int(cpu))
    limit(resource.RLIMIT_FSIZE, int(file))
    limit(resource.RLIMIT_AS, int(memory))
    leave_network()
    only_packages()
    sys.argv = [name, *rest]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
