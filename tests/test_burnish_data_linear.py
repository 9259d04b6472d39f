"""Reading time is linear in the size of the data, also for invalid data."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from burnish.data.files import DataError, read_rows

FEW, TIMES = 3000, 10
MOST = 40  # a quadratic reader would take 100 times as long; the margin allows for noise


def keys_twice(count: int) -> str:
    return "{" + ", ".join(f'"k{n % (count // 2)}": 1' for n in range(count)) + "}"


def header_twice(count: int) -> str:
    return ",".join(f"c{n % (count // 2)}" for n in range(count)) + "\n" + ",".join("1" for _ in range(count)) + "\n"


def header_without_names(count: int) -> str:
    return "," * count + "\n" + "\n".join(",".join(f"{n}{i}" for n in range(count + 1)) for i in range(2)) + "\n"


def many_faulty_lines(count: int) -> str:
    return "\n".join(json.dumps({"text": "x"})[:-1] for _ in range(count))


def seconds(path: Path) -> float:
    """Return the shortest of three measurements."""
    tries = []
    for _ in range(3):
        started = time.process_time()
        try:
            read_rows(path)
        except DataError:
            pass
        tries.append(time.process_time() - started)
    return min(tries)


@pytest.mark.parametrize("make", [keys_twice, header_twice, header_without_names, many_faulty_lines])
def test_reading_time_is_linear_in_file_size(make: Callable[[int], str], tmp_path: Path) -> None:
    suffix = ".csv" if "header" in make.__name__ else ".jsonl"
    taken = []
    for count in (FEW, FEW * TIMES):
        path = tmp_path / f"{count}{suffix}"
        path.write_text(make(count))
        taken.append(seconds(path))
    assert taken[1] < MOST * max(taken[0], 0.002), taken


@pytest.mark.parametrize("name", ["part-{}.jsonl", "data.{}.jsonl", "notes-{}.md"])
def test_large_directory_is_listed_in_linear_time(name: str, tmp_path: Path) -> None:
    taken = []
    for count in (300, 3000):
        directory = tmp_path / str(count)
        directory.mkdir()
        for n in range(count):
            (directory / name.format(f"{n:05}")).write_text('{"text": "x"}\n')
        taken.append(seconds(directory))
    assert taken[1] < MOST * max(taken[0], 0.002), taken
