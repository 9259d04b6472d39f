"""The code of docs/tools.md answers questions with tools; the example's rows match their script."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from burnish.data.files import read_rows
from burnish.data.formats import convert
from tests.support.commands import ROOT, Cli
from tests.support.server import serving
from tests.support.thorough import THOROUGH
from tests.support.tool_caller import calling

PAGE, EXAMPLE = ROOT / "docs" / "tools.md", ROOT / "examples" / "tools.json"


def page_code(url: str) -> str:
    """Return the page's Python code, asking another server."""
    blocks = PAGE.read_text(encoding="utf-8").split("```python\n")[1:]
    code = "\n".join(block.split("```")[0] for block in blocks)
    assert "http://127.0.0.1:8000/v1" in code
    return code.replace("http://127.0.0.1:8000/v1", url)


def run_page(url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    exec(compile(page_code(url), str(PAGE), "exec"), names)
    return names


def test_tools_example_is_reproducible_and_has_five_tools() -> None:
    made = runpy.run_path(str(ROOT / "examples" / "make_tools.py"))
    assert EXAMPLE.read_text(encoding="utf-8") == made["text"]()
    examples = convert(list(read_rows(EXAMPLE)), "messages", EXAMPLE).examples
    assert {len(example.tools) for example in examples} == {5}
    called = {call.name for e in examples for m in e.messages or () for call in m.calls}
    assert called == {tool["function"]["name"] for tool in examples[0].tools}


def test_documented_loop_calls_tools_and_answers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with calling() as server:
        names = run_page(f"{server.url}v1", monkeypatch)
        said = capsys.readouterr().out.splitlines()
        unknown = names["answer"]([{"role": "user", "content": "Find barrels."}])
    assert said[0] == 'call: get_order {"order": "H-2210"}'
    assert json.loads(said[1]) == {"order": "H-2210", "status": "ready"}
    assert said[2] == "call: get_order {'order': 'H-877'}"
    assert json.loads(unknown) == {"error": "KeyError: 'find_barrels'"}


@pytest.mark.slow
@pytest.mark.skipif(not THOROUGH, reason="trains for 10 minutes or more: BURNISH_THOROUGH=1")
def test_documented_commands_work_with_a_model_trained_on_the_example(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--run.root", str(tmp_path), "--run.name", "tools")
    done = cli("train", "run", "--config", "configs/tools.yaml", *where, timeout=3 * 3600)
    assert done.returncode == 0, done.stderr
    done = cli("export", "run", *where, timeout=3600)
    assert done.returncode == 0, done.stderr
    with serving(model=None, runs=tmp_path, run="tools", context_length=2048) as server:
        run_page(server.url, monkeypatch)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == 'call: get_order {"order": "H-2210"}' and "ready" in said[1]
    assert said[2] == "call: get_order {'order': 'H-877'}"
