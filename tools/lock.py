"""Resolve requirements/*.in into pinned requirements/*.txt with hashes: python -m tools.lock UV (make lock).

Packages already in a set keep their version; name them to upgrade: python -m tools.lock UV PACKAGE ...
torch is separate, in requirements/torch.txt and without a hash: its builds for CPU and CUDA are different files of one
version, and the CUDA build depends on NVIDIA's packages, which the sets leave out.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements"
# sets whose .in file lists all packages, so that nothing is resolved
WHOLE = ("cuda-build", "quickstart", "serve-cuda", "train-cuda")
OF_TORCH = re.compile(r"(torch|triton|nvidia-\S+|cuda-\S+)==")
# the only supported platform; uv writes this marker for packages that only some systems need
HERE = " ; python_full_version < '3.14' and platform_machine == 'x86_64' and sys_platform == 'linux'"
OPTIONS = "--quiet --universal --python-version 3.11 --no-annotate --no-header --generate-hashes --no-strip-markers"


def lock(uv: str, name: str, upgrade: Sequence[str]) -> None:
    """Write one set. Raises CalledProcessError if it can't be resolved."""
    target = REQUIREMENTS / f"{name}.txt"
    command = [uv, "pip", "compile", *OPTIONS.split(), *(["--no-deps"] if name in WHOLE else [])]
    command += [word for package in upgrade for word in ("--upgrade-package", package)]
    command += [str(REQUIREMENTS / f"{name}.in"), "-o", str(target)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    blocks = _blocks(target.read_text(encoding="utf-8"))
    kept = [block for block in blocks if name in WHOLE or not OF_TORCH.match(block)]
    head = f"# made by 'make lock' from {name}.in\n"
    target.write_text(head + "".join(block.replace(HERE, "") for block in kept), encoding="utf-8")


def _blocks(text: str) -> Iterator[str]:
    """Yield each requirement with its hash lines, without comments."""
    yield from re.findall(r"^[^#\s].*\n(?: .*\n)*", text, re.MULTILINE)


def main(argv: Sequence[str]) -> int:
    """Lock every set that has an .in file."""
    uv, *upgrade = argv
    for path in sorted(REQUIREMENTS.glob("*.in")):
        print(f"lock: {path.name}", file=sys.stderr)
        lock(uv, path.stem, upgrade)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
