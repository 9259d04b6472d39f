"""make ship: the order of the steps, the question, Ctrl-C, and skipped steps; the stages are fakes."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from export.settings import ExportSettings
from tests.support.commands import ROOT
from tests.support.terminal import CTRL_C, Terminal, terminal
from tools.ship import EXPORT_SECTIONS, SERVE_SECTION, TRAIN_SECTIONS, ShipError, by_stage, run_name
from train.settings import TrainSettings

# a stage that records its arguments; FAIL: the step that fails; HANG: the step that runs until Ctrl-C
STAGE = """
import json, os, pathlib, sys, time
stage, words = pathlib.Path(__file__).parent.name, sys.argv[1:]
step = {"run": stage}.get(words[0], words[0]) if stage != "serve" else "serve"
with open("steps", "a") as file:
    file.write(json.dumps([step, *words]) + "\\n")
if os.environ.get("FAIL") == step:
    print("error: it fails", file=sys.stderr)
    sys.exit(2)
if os.environ.get("HANG") == step:
    presses = 0
    try:
        print("hanging", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        try:
            time.sleep(0.3)
            print("cleaned up", flush=True)
        except KeyboardInterrupt:
            print("pressed twice", flush=True)
        sys.exit(130)
if step == "train":
    run = pathlib.Path(words[words.index("--run.root") + 1], words[words.index("--run.name") + 1])
    run.mkdir(parents=True, exist_ok=True)
    (run / "train.json").write_text("{}")
"""
ALL = ["check", "plan", "train", "export", "serve"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with fake stages, a config and data."""
    for stage in ("train", "export", "serve"):
        (tmp_path / stage).mkdir()
        # precedes the real stage on the path; the project's other modules are found after it
        (tmp_path / stage / "__init__.py").write_text(f"__path__.append({str(ROOT / stage)!r})\n")
        (tmp_path / stage / "__main__.py").write_text(STAGE)
    (tmp_path / "config.yaml").write_text("base:\n  id: some/base\n")
    (tmp_path / "my rows.jsonl").write_text("{}\n")
    return tmp_path


def environment(place: Path, more: dict[str, str]) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BURNISH_")}
    return {**clean, "PYTHONSAFEPATH": "1", "PYTHONPATH": f"{place}:{ROOT}", **more}


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "tools.ship", "--config", "config.yaml", "--data", "my rows.jsonl", *words]


def ship(place: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run it without a terminal."""
    return subprocess.run(
        command(*words), cwd=place, env=environment(place, more), stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip


def on_terminal(place: Path, *words: str, **more: str) -> AbstractContextManager[Terminal]:
    return terminal(command(*words), place, environment(place, more))


def steps(place: Path) -> list[list[str]]:
    if not (place / "steps").exists():
        return []
    return [json.loads(line) for line in (place / "steps").read_text().splitlines()]


def names(place: Path) -> list[str]:
    return [step[0] for step in steps(place)]


def test_steps_run_in_order_on_one_run_with_headers(place: Path) -> None:
    done = ship(place, "--yes", "--base", "b", "--quants", "Q8_0", "--port", "8123", "--", "--lora.r", "8")
    assert done.returncode == 0, done.stderr
    assert names(place) == ALL
    assert [line[4:7] for line in done.stderr.splitlines() if line.startswith("===")] == [f"{n}/5" for n in range(1, 6)]
    check, plan, train, export, serve = (" ".join(step) for step in steps(place))
    run = "--run.name my-rows --run.root runs"
    assert train == f"train run --config config.yaml --data.path my rows.jsonl --base.id b --lora.r 8 {run}"
    assert plan.removeprefix("plan plan") == check.removeprefix("check check") == train.removeprefix("train run")
    assert export == f"export run --gguf.quants Q8_0 {run}"
    assert serve == "serve --run my-rows --runs runs --port 8123"


def test_ship_without_a_terminal_requires_yes_and_trains_nothing(place: Path) -> None:
    done = ship(place)
    assert done.returncode == 2 and names(place) == ["check", "plan"]
    assert done.stderr.count("error: ") == 1 and "pass YES=1" in done.stderr


@pytest.mark.parametrize(("answer", "goes_on"), [("y\n", True), ("yes\n", True), ("n\n", False), ("\n", False)])
def test_ship_asks_once_after_the_plan(place: Path, answer: str, goes_on: bool) -> None:
    with on_terminal(place) as made:
        made.wait_for("Continue? [y/N]")
        assert names(place) == ["check", "plan"]
        made.press(answer)
        assert made.wait() == 0
    assert names(place) == (ALL if goes_on else ["check", "plan"])
    assert ("nothing was started" in made.output) != goes_on
    assert (place / "runs").exists() == goes_on


def test_ctrl_c_at_the_question_starts_nothing(place: Path) -> None:
    with on_terminal(place) as made:
        made.wait_for("Continue? [y/N]")
        made.press(CTRL_C)
        assert made.wait() == 130
    assert "run the same command again to continue" in made.output and "Traceback" not in made.output
    assert names(place) == ["check", "plan"]


@pytest.mark.parametrize("step", ["plan", "train", "export"])
def test_same_command_resumes_after_ctrl_c(place: Path, step: str) -> None:
    with on_terminal(place, "--yes", HANG=step) as made:
        made.wait_for("hanging")
        made.press(CTRL_C)
        assert made.wait() == 130
    assert "cleaned up" in made.output and "Traceback" not in made.output, "the step ends first, undisturbed"
    before = names(place)
    assert before[-1] == step
    done = ship(place, "--yes")
    assert done.returncode == 0
    # for a trained run, only train's comparison and the remaining steps
    assert names(place)[len(before) :] == (ALL[2:] if step == "export" else ALL)
    assert ("skipped, run 'my-rows' is already trained" in done.stderr) == (step == "export")


def test_trained_run_needs_no_confirmation(place: Path) -> None:
    assert ship(place, "--yes").returncode == 0
    done = ship(place)
    assert done.returncode == 0 and "Next" not in done.stderr


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_ship_is_forwarded_to_the_step(place: Path, sent: signal.Signals) -> None:
    process = subprocess.Popen(
        command("--yes"), cwd=place, env=environment(place, {"HANG": "train"}), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    end = time.monotonic() + 60
    while names(place)[-1:] != ["train"]:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert process.stdout is not None and process.stdout.readline() == "hanging\n"
    process.send_signal(sent)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + sent
    assert ("cleaned up" in output) == (sent == signal.SIGINT)


def test_closing_the_terminal_ends_the_step(place: Path) -> None:
    with on_terminal(place, "--yes", HANG="train") as made:
        made.wait_for("hanging")
        (step,) = Path(f"/proc/{made.pid}/task/{made.pid}/children").read_text().split()
    end = time.monotonic() + 30
    while Path(f"/proc/{step}").exists():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("step", ALL[:4])
def test_failing_step_ends_ship_with_the_message_of_the_step(place: Path, step: str) -> None:
    done = ship(place, "--yes", FAIL=step)
    assert done.returncode == 2 and names(place)[-1] == step
    assert done.stderr.count("error: ") == 1


def test_set_is_passed_to_the_stage_with_that_setting(place: Path) -> None:
    words = ["--gate.max_kl=1", "--lora.r", "8", "--run.root", "elsewhere", "--max_steps", "2", "--serve.cells", "512"]
    done = ship(place, "--yes", "--run", "mine", "--", *words)
    assert done.returncode == 0, done.stderr
    output = {step[0]: " ".join(step[1:]) for step in steps(place)}
    assert "--lora.r 8" in output["train"] and "--max_steps 2" in output["train"] and "gate" not in output["train"]
    assert "--gate.max_kl=1" in output["export"] and "lora" not in output["export"]
    assert output["serve"] == "--run mine --runs elsewhere --port 8000 --cells 512"
    assert (place / "elsewhere" / "mine" / "train.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--quants", "Q4_K_X"], "gguf.quants: no type 'Q4_K_X'; did you mean 'Q4_K_"),
        (["--", "--gate.max_kl", "-1"], "gate.max_kl"),
        (["--", "--serve.cell", "512"], "did you mean '--cells'?"),
    ],
)
def test_settings_of_all_steps_are_checked_before_the_first(place: Path, words: list[str], message: str) -> None:
    done = ship(place, "--yes", *words)
    assert done.returncode == 2 and message in done.stderr and not steps(place)
    assert done.stderr.count("error: ") == 1


def test_port_in_use_is_reported_before_the_first_step(place: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = ship(place, "--yes", "--port", str(port))
    assert done.returncode == 2 and f"error: port {port} is in use" in done.stderr and not steps(place)


@pytest.mark.parametrize("port", ["0", "99999", "http"])
def test_invalid_port_is_rejected_before_the_first_step(place: Path, port: str) -> None:
    done = ship(place, "--yes", "--port", port)
    assert done.returncode == 2 and done.stderr == f"error: PORT={port}: expected a port, 1 to 65535\n"
    assert names(place) == []


def test_run_root_may_contain_an_equals_sign(place: Path) -> None:
    assert ship(place, "--yes", "--", "--run.root", "a=b").returncode == 0
    assert steps(place)[2][-1] == "a=b"


def test_every_settings_section_is_known_to_ship() -> None:
    sections = {name for name in TrainSettings.model_fields if name != "template_timeout_s"}
    assert sections == TRAIN_SECTIONS
    assert {*EXPORT_SECTIONS, "push", "template_timeout_s"} == set(ExportSettings.model_fields)
    assert SERVE_SECTION not in TRAIN_SECTIONS | EXPORT_SECTIONS
    assert by_stage(["--exam.rows", "4"]) == (["--exam.rows", "4"], [], [])


def test_run_name_in_the_config_is_rejected_before_the_first_step(place: Path) -> None:
    (place / "config.yaml").write_text("base:\n  id: x\nrun:\n  name: other\n")
    done = ship(place, "--yes")
    assert done.returncode == 2 and "has a section 'run'" in done.stderr and not steps(place)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("rows.jsonl", "rows"), ("/data/my rows.jsonl.gz", "my-rows"), ("parts/", "parts"), ("v1.2.csv", "v1.2"),
        ("", "quickstart"), ("-x.json", "x"),
    ],
)  # fmt: skip
def test_run_is_named_after_its_data(data: str, name: str) -> None:
    assert run_name(data, "configs/quickstart.yaml") == name


@pytest.mark.parametrize("data", ["latest.jsonl", "...", "漢.jsonl"])
def test_impossible_run_name_is_an_error(data: str) -> None:
    with pytest.raises(ShipError, match="RUN="):
        run_name(data, "configs/quickstart.yaml")


def test_in_containers_the_commands_get_the_same_arguments(place: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "docker.sh").write_text('#!/bin/sh\necho "$@" >> steps\n')
    (tools / "docker.sh").chmod(0o755)
    done = ship(place, "--where", "docker", "--yes")
    assert done.returncode == 0, done.stderr
    output = (place / "steps").read_text().splitlines()
    assert [line.split()[:2] for line in output] == [
        ["train", "check"], ["train", "plan"], ["train", "run"], ["export", "run"], ["serve", "--run"],
    ]  # fmt: skip
    assert "in containers" in done.stderr


def test_make_variables_are_passed_to_ship() -> None:
    own = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    variables = ["DATA=anna's rows.jsonl", "RUN=mine", "BASE=b", "QUANTS=Q8_0", "PORT=8123", "YES=1", "SET=--lora.r 8"]
    done = subprocess.run(
        ["make", "-n", f"VENV={sys.prefix}", "RUNNER=local", "ship", *variables],
        cwd=ROOT, env=own, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    (line,) = (line for line in done.stdout.splitlines() if " -m tools.ship " in line)
    output = shlex.split(line)
    output = output[output.index("tools.ship") + 1 :]
    assert output[:2] == ["--where", "local"] and output[output.index("--data") + 1] == "anna's rows.jsonl"
    assert output[-8:] == ["--run", "mine", "--quants", "Q8_0", "--yes", "--", "--lora.r", "8"]


def test_help_is_grouped_complete_and_fits_80_columns() -> None:
    done = subprocess.run(
        ["awk", "-f", "tools/help.awk", "Makefile"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    groups = [line for line in done.stdout.splitlines() if line and line[0].isupper() and "=" not in line]
    assert groups == ["Fine-tune and serve", "Your runs", "Containers", "Work on Burnish"]
    assert max(map(len, done.stdout.splitlines())) <= 80
    makefile = (ROOT / "Makefile").read_text()
    targets = [line.partition(":")[0] for line in makefile.splitlines() if " ## " in line and line[0].islower()]
    assert targets and all(f"  make {target} " in done.stdout for target in targets)
    first = done.stdout.partition("Containers")[0]
    assert [t for t in ("quickstart", "ship", "serve", "push") if f"make {t} " in first] and "make lint" not in first
