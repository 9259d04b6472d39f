"""Install external package sets, each in its own environment, and run their tests: python -m tools.external [NAME ...].

A set is requirements/external-<name>.txt (Python: a virtual environment) or .json (npm: node_modules, after which its
own script "build" runs), installed into <venv>/external/<name>. Tests of a set are marked `external(name="<name>")`; if
it can't be installed, they are skipped with the reason. Results are written to
bench/results/external-<name>-<date>.md.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INSTALLED = "installed"  # file with the installed pins, written last
PREFIX = "external-"
INSTALL_TIMEOUT_S = 3600  # n8n: 2,300 packages
NO_TESTS = 5  # pytest's exit code
ALSO = {"node": ("chromium",)}  # sets whose tests need another one too


def sets() -> dict[str, Path]:
    """Return each set's file by name."""
    found = sorted((ROOT / "requirements").glob(f"{PREFIX}*"))
    return {path.stem.removeprefix(PREFIX): path for path in found if path.suffix in (".txt", ".json")}


def home(name: str) -> Path:
    """Return a set's installation directory."""
    return Path(sys.prefix) / "external" / name


def install(name: str, path: Path) -> str:
    """Install a set unless its pins are already installed; return why that failed, or ""."""
    directory = home(name)
    if (directory / INSTALLED).is_file() and (directory / INSTALLED).read_text() == path.read_text():
        return ""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    print(f"external: installing {path.relative_to(ROOT)}", flush=True)
    why = _npm(directory, path) if path.suffix == ".json" else _pip(directory, path)
    if why:
        (directory / "reason").write_text(why + "\n")
        return why
    (directory / INSTALLED).write_text(path.read_text())
    return ""


def _npm(directory: Path, path: Path) -> str:
    if shutil.which("npm") is None:
        return "node and npm are not installed"
    shutil.copyfile(path, directory / "package.json")
    why = _ran(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"], directory)
    return why or _ran(["npm", "run", "build", "--if-present"], directory)  # the set's own script


def _pip(directory: Path, path: Path) -> str:
    if why := _ran([sys.executable, "-m", "venv", str(directory)], ROOT):
        return why
    # the set is complete; pip would not accept a package's pin for the same package with an extra
    pip = [str(directory / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps"]
    return _ran([*pip, "-r", str(path)], ROOT)


def _ran(command: list[str], where: Path) -> str:
    try:
        done = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"{command[0]} did not finish within {INSTALL_TIMEOUT_S} s"
    return (done.stderr.strip() or done.stdout.strip())[-300:] if done.returncode else ""


def run(name: str, path: Path) -> int:
    """Install one set, run its tests and record the results; return pytest's exit code."""
    why = "; ".join(filter(None, (install(needed, sets()[needed]) for needed in (name, *ALSO.get(name, ())))))
    if why:
        print(f"external: {name}: installation failed: {why}", flush=True)
    report = home(name) / "report.xml"
    report.unlink(missing_ok=True)
    started = time.monotonic()
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        f'external(name="{name}")',
        f"--junitxml={report}",
        "-ojunit_family=xunit1",  # with the figures that tests record
        "--durations=5",
    ]
    code = subprocess.run(command, cwd=ROOT).returncode
    if code == NO_TESTS:
        print(f"external: {name}: no test is marked external(name={name!r})", flush=True)
        return code
    if report.is_file() and not why:  # skipped tests are not a result
        _record(name, path, report, time.monotonic() - started)
    return code


def _record(name: str, path: Path, report: Path, seconds: float) -> None:
    suite = next(ElementTree.parse(report).iter("testsuite"))
    total, failed, errors, skipped = (int(suite.get(k, 0)) for k in ("tests", "failures", "errors", "skipped"))
    if skipped == total:
        print(f"external: {name}: every test was skipped, which is not a result: see the reasons above", flush=True)
        return
    date = time.strftime("%Y-%m-%d", time.gmtime())
    lines = [
        f"# External tests: {name}, {date}",
        "",
        f"`make test-external ONLY={name}`: {total - failed - errors - skipped} passed, {failed + errors} failed, "
        f"{skipped} skipped, {seconds:.0f} s.",
        "",
        "Packages: " + ", ".join(_pins(path)) + ".",
        "",
        "| test | outcome |",
        "|---|---|",
        *(f"| {case.get('classname')}::{case.get('name')} | {_outcome(case)} |" for case in suite.iter("testcase")),
    ]
    if measured := [(p.get("name"), p.get("value")) for p in suite.iter("property")]:
        lines += ["", "| recorded by the test | |", "|---|---|", *(f"| {name} | {value} |" for name, value in measured)]
    target = ROOT / "bench" / "results" / f"{PREFIX}{name}-{date}.md"
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"external: {name}: recorded in {target.relative_to(ROOT)}", flush=True)


def _outcome(case: ElementTree.Element) -> str:
    for child in case:
        if child.tag in ("failure", "error", "skipped"):
            first = (child.get("message") or "").strip().split("\n")[:1]
            return f"{child.tag}: {''.join(first)}".replace("|", "\\|")
    return f"passed, {float(case.get('time', 0)):.1f} s"


def _pins(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return [f"{name} {version}" for name, version in json.loads(text)["dependencies"].items()]
    return re.findall(r"^([\w.\[\]-]+==[^ ;\n]+)", text, re.MULTILINE)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the named sets, or all; return 1 if a test failed."""
    known = sets()
    parser = argparse.ArgumentParser(prog="python -m tools.external", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"sets to run: {', '.join(known)}; all by default")
    names = parser.parse_args(argv).names or list(known)
    if unknown := set(names) - set(known):
        parser.error(f"unknown set {', '.join(sorted(unknown))}; expected {', '.join(known)}")
    codes = {name: run(name, known[name]) for name in names}
    return int(any(codes.values()))


if __name__ == "__main__":
    sys.exit(main())
