"""Find the parts of a dataset in a zip archive. Members are read in place, without extracting them to disk."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath

from ...console import listed
from ...files import open_regular
from ..compression import ZIP_MAGICS, office, unpacked_limit
from ..faults import DataError
from ..reading.part import Part
from .directory import MAX_NAMES_SHOWN, check_parts, is_data

MOST_MEMBERS = 1000
ENCRYPTED = 0x1  # a flag of a member


def is_archive(path: Path) -> bool:
    """Return whether a file is a zip archive that is not an office document."""
    try:
        with open_regular(path) as file:
            if not file.read(4).startswith(ZIP_MAGICS):
                return False
            return not office(zipfile.ZipFile(file).namelist())
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError, EOFError):
        return False  # reading it names the error


def find_members(path: Path, label: str, notes: list[str]) -> list[Part]:
    """Return an archive's data files, sorted by name; add other members to `notes`.

    Raises DataError if there are none, if one is encrypted, or if they unpack to more than the limit for the archive's
    size.
    """
    title = label or str(path)
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
    files = [info for info in infos if not info.is_dir() and not _hidden(info.filename)]
    found = sorted((info for info in files if _is_part(info)), key=lambda info: info.filename)
    others = sorted({info.filename for info in files} - {info.filename for info in found})
    if not found:
        there = f"found: {listed(others, MAX_NAMES_SHOWN)}" if others else "empty"
        raise DataError(f"{title}: no data files found in the zip archive ({there})")
    _check(title, found, path.stat().st_size)
    check_parts(title, [PurePosixPath(info.filename).name for info in found])
    if others:
        notes.append(f"not read: {listed(others, MAX_NAMES_SHOWN)}")
    return [Part(path, info.filename, label) for info in found]


def _check(title: str, found: Sequence[zipfile.ZipInfo], packed: int) -> None:
    """Raise DataError if members can't be read, or unpack to more than the limit for the archive's size."""
    if len(found) > MOST_MEMBERS:
        raise DataError(f"{title}: expected a zip archive with at most {MOST_MEMBERS:,} files, got {len(found):,}")
    names = [info.filename for info in found]
    if twice := next((name for name, after in pairwise(names) if name == after), None):
        raise DataError(f"{title}: the zip archive contains {twice} twice")
    if locked := [info.filename for info in found if info.flag_bits & ENCRYPTED]:
        raise DataError(f"{title}: {locked[0]} is encrypted: unpack the archive and pass the file or the directory")
    limit, why = unpacked_limit(packed)
    if sum(info.file_size for info in found) > limit:
        raise DataError(
            f"{title} is a zip archive that unpacks to more than {limit / 2**20:,.0f} MiB, {why}: if that"
            " size is intended, unpack it first"
        )


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "_")) for part in PurePosixPath(name.replace("\\", "/")).parts if part != "..")


def _is_part(info: zipfile.ZipInfo) -> bool:
    """Return whether a member is a data file; a link would contain only a path."""
    return is_data(PurePosixPath(info.filename).name) and not stat.S_ISLNK(info.external_attr >> 16)
