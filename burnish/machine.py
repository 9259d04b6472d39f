"""The processors and memory available to this process under its cgroup and CPU affinity."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
CGROUP_OF_SELF = Path("/proc/self/cgroup")
MEMINFO = Path("/proc/meminfo")
CPUINFO = Path("/proc/cpuinfo")
CPUS = Path("/sys/devices/system/cpu")
STAT = Path("/proc/stat")
# cgroup v1 writes "no limit" as a number near 2**63
NO_LIMIT_BYTES = 1 << 60


def cpu_count() -> int:
    """Return how many threads can compute at once: the physical cores in the affinity mask, at most the cgroup quota.

    Hardware threads on the same core share its arithmetic units, so a core counts once. At least 1.
    """
    allowed = os.sched_getaffinity(0)
    cores = {_core(cpu) for cpu in allowed}
    quota = cpu_quota()
    return max(1, min(len(cores), math.ceil(quota)) if quota else len(cores))


def cpu_flags() -> frozenset[str]:
    """Return the CPU's feature flags; empty if the kernel doesn't list them."""
    try:
        lines = CPUINFO.read_text().split("\n")
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))


def cpu_quota() -> float | None:
    """Return the cgroup's CPU limit in processors (may be fractional, such as 1.5), or None if there is none."""
    quotas = []
    for directory in _cgroup_directories("cpu"):
        if limits := _read(directory / "cpu.max"):
            limit, per = limits.split()
            quotas += [float(limit) / float(per)] if limit != "max" else []
        elif (quota := _read(directory / "cpu.cfs_quota_us")) and (period := _read(directory / "cpu.cfs_period_us")):
            quotas += [float(quota) / float(period)] if float(quota) > 0 else []
    return min(quotas, default=None)


def processor_use() -> tuple[int, float, float] | None:
    """Return the number of logical processors in the affinity mask, their busy seconds, and this process's CPU seconds.

    Work at a lower priority than this process (nice) is not counted, since it yields. None if the kernel does not
    report these; its counters have a resolution of 0.01 s.
    """
    try:
        lines = STAT.read_text().split("\n")
    except OSError:
        return None
    allowed = os.sched_getaffinity(0)
    rows = [fields for line in lines if (fields := line.split()) and _number(fields[0]) in allowed]
    # user, nice, system, idle, iowait, irq, softirq; hypervisor time (steal) is not counted
    counted = (1, 3, 6, 7) if os.getpriority(os.PRIO_PROCESS, 0) <= 0 else (1, 2, 3, 6, 7)
    ticks = sum(int(fields[column]) for fields in rows for column in counted)
    return (len(rows), ticks / os.sysconf("SC_CLK_TCK"), time.process_time()) if rows else None


def _number(name: str) -> int:
    """Return 3 for "cpu3"; -1 for other names and for the total line ("cpu")."""
    return int(name[3:]) if name.startswith("cpu") and name[3:].isdigit() else -1


def memory_limit_bytes() -> int:
    """Return the maximum memory for this process: the smaller of the machine's memory and the cgroup's limit."""
    limits = [_meminfo("MemTotal")]
    for directory in _cgroup_directories("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(directory / name)
            if text and text != "max" and int(text) < NO_LIMIT_BYTES:
                limits.append(int(text))
    return min(limits)


def memory_available_bytes() -> int:
    """Return the memory that can be allocated without swapping: MemAvailable, at most what the cgroup's limit leaves.

    A cgroup's usage includes file cache; inactive file pages are freed when memory is needed.
    """
    free = [_meminfo("MemAvailable")]
    for directory in _cgroup_directories("memory"):
        for limit_name, used_name, files_name in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, used = _read(directory / limit_name), _read(directory / used_name)
            if limit and used and limit != "max" and int(limit) < NO_LIMIT_BYTES:
                free.append(int(limit) - max(0, int(used) - _statistic(directory, files_name)))
    return max(0, min(free))


def _statistic(directory: Path, key: str) -> int:
    """Return a value from a cgroup's memory.stat in bytes; 0 if it is missing."""
    lines = (_read(directory / "memory.stat") or "").split("\n")
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{key} ")), 0)


def _core(cpu: int) -> str:
    """Return an id for a logical processor's physical core, or the processor's number if the topology is unknown."""
    return _read(CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list") or str(cpu)


def _cgroup_directories(controller: str) -> list[Path]:
    """Return the directories of this process's cgroup and of its parents, nearest first, for cgroup v2 and v1."""
    found: list[Path] = []
    for line in (_read(CGROUP_OF_SELF) or "").split("\n"):
        number, controllers, path = line.split(":", 2)
        if number == "0":
            root = CGROUP
        elif controller in controllers.split(","):
            root = CGROUP / controller
        else:
            continue
        # in a container the path is the host's, but the files are mounted at the root
        here = root / path.lstrip("/")
        found += [p for p in (here, *here.parents) if p == root or root in p.parents]
    return found


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _meminfo(key: str) -> int:
    """Return a value from /proc/meminfo in bytes."""
    for line in (_read(MEMINFO) or "").split("\n"):
        name, _, rest = line.partition(":")
        if name == key:
            return int(rest.split()[0]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
