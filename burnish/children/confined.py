"""Run a module of the project under limits: python -P -m burnish.children.confined CPU FILE MEMORY MODULE WORDS...

The limits are those of burnish.children.Limits. With `check` alone it exits with 0 where the network could be left.
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
MOST_OPEN_FILES = 4096


def limit(kind: int, value: int) -> None:
    """Lower a resource limit; 0 leaves it. A lower one that is set already stays."""
    soft, hard = resource.getrlimit(kind)
    if value and (soft == resource.RLIM_INFINITY or value < soft):
        # beyond the soft limit of processor time SIGXCPU says what it was, beyond the hard one SIGKILL says nothing
        resource.setrlimit(kind, (value, hard if kind == resource.RLIMIT_CPU else value))


def leave_network() -> bool:
    """Move this process into a network namespace of its own, which has no way out; returns whether that was allowed.

    An ordinary user needs a user namespace for it, which many containers forbid. Root needs none, and would lose its
    right to other users' files in one. It must be the only thread.
    """
    user, group = os.getuid(), os.getgid()
    unshare = ctypes.CDLL(None).unshare
    if unshare(CLONE_NEWNET) == 0:
        return True
    if unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        return False
    # the same numbers inside, so that files and home directories are whose they were
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with suppress(OSError), open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    return True


def main(words: list[str]) -> None:
    """Lower the limits, leave the network and be the module."""
    if words == ["check"]:
        sys.exit(0 if leave_network() else 1)
    cpu, file, memory, name, *rest = words
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # of a model it would fill the disk
    limit(resource.RLIMIT_NOFILE, MOST_OPEN_FILES)
    limit(resource.RLIMIT_CPU, int(cpu))
    limit(resource.RLIMIT_FSIZE, int(file))
    limit(resource.RLIMIT_AS, int(memory))
    leave_network()
    only_packages()
    sys.argv = [name, *rest]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
