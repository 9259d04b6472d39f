"""python -m train run with a tiny real model: the run's files, interruptions and bad input."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from burnish.chat import load_template
from burnish.exam.rows import Exam
from burnish.files import file_sha256, text_sha256, tree_sha256
from burnish.records import TrainRecord
from burnish.run import Run
from tests.support.commands import GENERAL_ROWS, Cli, Start, fork, kill_after, start_fresh
from tests.support.thorough import some
from tests.support.weights import leave_only_the_header

pytestmark = pytest.mark.slow

SHORT = ("--data.max_length", "128", "--train.max_steps", "6", "--train.save_steps", "2", "--lora.lora_dropout", "0.1")


def arguments(base: Path, rows: Path, root: Path, name: str, *more: str) -> list[str]:
    return [
        "train",
        "run",
        "--base.id",
        str(base),
        "--data.path",
        str(rows),
        "--run.root",
        str(root),
        "--run.name",
        name,
        *SHORT,
        *more,
    ]


@pytest.fixture(scope="module")
def whole(tiny_base: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> Run:
    """An uninterrupted run."""
    root = tmp_path_factory.mktemp("runs")
    done = cli(*arguments(tiny_base, rows, root, "whole"))
    assert done.returncode == 0, done.stderr
    return Run(root / "whole")


def test_record_matches_the_files(whole: Run, rows: Path) -> None:
    record = whole.read(TrainRecord)
    assert record.adapter.sha256 == tree_sha256(whole.path / "adapter")
    assert record.exam.sha256 == tree_sha256(whole.path / "exam")
    assert record.data.sha256 == file_sha256(rows)
    assert (record.data.rows, record.data.eval_rows, record.data.format) == (22, 2, "messages")
    assert (record.data.duplicates, record.data.near_duplicates, record.data.eval_overlap) == (0, 0, 0)
    assert record.terminators == ["<|im_end|>"]
    assert record.metrics.eval_loss is not None
    assert (whole.path.parent / "latest").resolve() == whole.path.resolve()
    template = (whole.path / "adapter" / "chat_template.jinja").read_text()
    assert record.chat_template_sha256 == text_sha256(template)


def test_exam_contains_held_out_rows_and_general_text(whole: Run) -> None:
    exam = Exam.load(whole.path / "exam")
    kinds = [q.kind for q in exam.questions]
    assert kinds.count("heldout") == 2
    assert kinds.count("general") == whole.read(TrainRecord).exam.general_rows == GENERAL_ROWS
    assert exam.noise_kl < 1e-4
    held = exam.heldout()
    assert abs(exam.trained.true - exam.base_true)[held].max() > 0  # with and without the adapter


def test_eval_loss_equals_the_held_out_loss_of_the_exam(whole: Run) -> None:
    """Both are means over the same response tokens, so they must be equal."""
    exam = Exam.load(whole.path / "exam")
    eval_loss = whole.read(TrainRecord).metrics.eval_loss
    assert eval_loss == pytest.approx(-float(exam.trained.true[exam.heldout()].mean()), rel=1e-4)


def test_loss_curve_has_every_step(whole: Run) -> None:
    entries = [json.loads(line) for line in (whole.path / "logs" / "metrics.jsonl").read_text().splitlines()]
    assert [e["step"] for e in entries if "loss" in e] == [1, 2, 3, 4, 5, 6]
    assert list((whole.path / "logs").glob("events.*"))
    stats = json.loads((whole.path / "logs" / "trainer-stats.json").read_text())
    assert stats["global_step"] == 6
    assert datetime.fromisoformat(stats["created"]).tzinfo == UTC


def test_running_a_finished_run_again_does_nothing(whole: Run, tiny_base: Path, rows: Path, cli: Cli) -> None:
    before = (whole.path / "train.json").read_bytes()
    done = cli(*arguments(tiny_base, rows, whole.path.parent, "whole"))
    assert done.returncode == 0
    assert "finished and unchanged" in done.stderr
    assert (whole.path / "train.json").read_bytes() == before


def test_different_settings_for_an_existing_run_are_rejected_with_the_difference(
    whole: Run, tiny_base: Path, rows: Path, cli: Cli
) -> None:
    done = cli(
        *arguments(tiny_base, rows, whole.path.parent, "whole", "--lora.r", "4", "--train.learning_rate", "1e-3")
    )
    assert done.returncode == 2
    assert "lora.r: the run has 16, you set 4" in done.stderr
    assert "train.learning_rate" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("checkpoint", "start"), some([(2, start_fresh), (4, fork)], [0]))
def test_killed_run_resumes_to_the_same_adapter(
    whole: Run, tiny_base: Path, rows: Path, tmp_path: Path, cli: Cli, checkpoint: int, start: Start
) -> None:
    """Also in new interpreters, with different string hash seeds."""
    command = arguments(tiny_base, rows, tmp_path, "killed")
    kill_after(command, tmp_path / "killed" / "checkpoints" / f"checkpoint-{checkpoint}" / "complete", start)
    assert not (tmp_path / "killed" / "train.json").exists()
    (tmp_path / "killed" / "checkpoints" / "checkpoint-5").mkdir()  # a file half-written when the process was killed
    nameless = [a for a in command if a not in ("--run.name", "killed")]
    done = (cli.fresh if start is start_fresh else cli)(*nameless, "--resume")
    assert done.returncode == 0, done.stderr
    assert f"resuming from the checkpoint at step {checkpoint}" in done.stderr
    adapter = "adapter/adapter_model.safetensors"
    assert file_sha256(tmp_path / "killed" / adapter) == file_sha256(whole.path / adapter)
    steps = [json.loads(line) for line in (tmp_path / "killed" / "logs" / "metrics.jsonl").read_text().splitlines()]
    assert [e["step"] for e in steps if "loss" in e] == [1, 2, 3, 4, 5, 6]


def test_same_command_resumes_automatically(whole: Run, tiny_base: Path, rows: Path, tmp_path: Path, cli: Cli) -> None:
    command = arguments(tiny_base, rows, tmp_path, "killed")
    kill_after(command, tmp_path / "killed" / "checkpoints" / "checkpoint-2" / "complete")
    done = cli(*[a for a in command if a not in ("--run.name", "killed")])
    assert done.returncode == 0, done.stderr
    assert "resuming the unfinished run 'killed'" in done.stderr
    assert [p.name for p in tmp_path.iterdir() if not p.is_symlink()] == ["killed"]


def test_packed_rows_do_not_attend_to_each_other(tiny_base: Path) -> None:
    """Packing changes neither the loss of a row nor the tokens it attends to."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32).eval()
    one, two = torch.arange(10, 30)[None], torch.arange(40, 65)[None]
    positions = torch.cat([torch.arange(20), torch.arange(25)])[None]
    with torch.no_grad():
        packed = model(input_ids=torch.cat([one, two], 1), position_ids=positions, use_cache=False).logits[0]
        alone = torch.cat([model(input_ids=ids, use_cache=False).logits[0] for ids in (one, two)])
    assert torch.allclose(packed, alone, atol=1e-4)


def test_training_with_packing_works(tiny_base: Path, rows: Path, tmp_path: Path, cli: Cli) -> None:
    done = cli(*arguments(tiny_base, rows, tmp_path, "packed", "--data.packing", "true"))
    assert done.returncode == 0, done.stderr


FAULTS = [
    (("--lora.target_modules", "q_prj,k_proj"), "no layer 'q_prj' (did you mean 'q_proj'?)"),
    (("--data.max_length", "16"), "line 1: 4"),
    (("--base.id", "/nowhere/model"), "no such file or directory"),
    (("--base.id", "nobody/nothing"), "base.id nobody/nothing"),
    (("--data.path", "nowhere.jsonl"), "nowhere.jsonl: no such file"),
    (("--run.root", "/proc/runs"), "/proc/runs can't be written"),
    (("--lora.rank", "4"), "did you mean '--lora.r'?"),
    (("--chat.template", "chatlm"), "did you mean 'chatml'?"),
]


@pytest.mark.parametrize(
    ("change", "message"), FAULTS, ids=[c[0][0].removeprefix("--") + "=" + c[0][1][:8] for c in FAULTS]
)
def test_invalid_input_is_one_line_with_exit_code_2(
    change: tuple[str, str], message: str, tiny_base: Path, rows: Path, tmp_path: Path, cli: Cli
) -> None:
    done = cli(*arguments(tiny_base, rows, tmp_path, "bad"), *change, HF_HUB_OFFLINE="1")
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "bad" / "train.json").exists()


def test_base_without_a_template_lists_the_named_templates(
    tiny_base: Path, rows: Path, tmp_path: Path, cli: Cli
) -> None:
    import shutil

    bare = tmp_path / "bare"
    shutil.copytree(tiny_base, bare)
    (bare / "chat_template.jinja").unlink()
    done = cli(*arguments(bare, rows, tmp_path, "bare-run"))
    assert done.returncode == 2
    assert "no chat template: set chat.template to one of chatml" in done.stderr
    done = cli(*arguments(bare, rows, tmp_path, "bare-run", "--chat.template", "chatml"))
    assert done.returncode == 0, done.stderr
    assert "<|im_start|>" in (tmp_path / "bare-run" / "adapter" / "chat_template.jinja").read_text()


def test_check_loads_no_weights_and_shows_the_trained_text(
    tiny_base: Path, rows: Path, tmp_path: Path, cli: Cli
) -> None:
    import shutil

    empty = tmp_path / "no-weights"
    shutil.copytree(tiny_base, empty)
    leave_only_the_header(empty / "model.safetensors")
    done = cli("train", "check", "--base.id", str(empty), "--data.path", str(rows))
    assert done.returncode == 0, done.stderr
    assert "⟦assistant says" in done.stdout
    assert "<|im_end|>⟧" in done.stdout
    assert "median" in done.stdout


def test_lora_config_file_is_used(tiny_base: Path, rows: Path, tmp_path: Path, cli: Cli) -> None:
    config = tmp_path / "lora_config.json"
    config.write_text(
        json.dumps(
            {
                "r": 4,
                "lora_alpha": 8,
                "task_type": "CAUSAL LM",
                "target_modules": ["q_proj"],
                "peft_type": "LORA",
                "inference_mode": False,
                "lora_dropout": 0.05,
            }
        )
    )
    done = cli(*arguments(tiny_base, rows, tmp_path, "peft", "--lora.config_file", str(config)))
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "peft" / "adapter" / "adapter_config.json").read_text())
    assert (made["r"], made["lora_alpha"], made["target_modules"]) == (4, 8, ["q_proj"])
    assert made["lora_dropout"] == 0.1  # the command line takes precedence
    config.write_text(json.dumps({"r": 4, "use_dora": "yes", "lora_alfa": 8}))
    done = cli(*arguments(tiny_base, rows, tmp_path, "peft2", "--lora.config_file", str(config)))
    assert done.returncode == 2
    assert "did you mean 'lora_alpha'?" in done.stderr


def test_base_with_remote_code_names_the_setting(tiny_base: Path, rows: Path, tmp_path: Path, cli: Cli) -> None:
    import shutil

    foreign = tmp_path / "foreign"
    shutil.copytree(tiny_base, foreign)
    config = json.loads((foreign / "config.json").read_text())
    config |= {"model_type": "foreign", "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}}
    (foreign / "config.json").write_text(json.dumps(config))
    (foreign / "code.py").write_text("raise SystemExit('this must not run')\n")
    done = cli(*arguments(foreign, rows, tmp_path, "foreign-run"))
    assert done.returncode == 2, done.stderr
    assert "base.trust_remote_code: true" in done.stderr
    assert "must not run" not in done.stderr


@pytest.mark.slow
def test_checkpoints_contain_the_template_of_the_run(tiny_base: Path, rows: Path, tmp_path: Path, cli: Cli) -> None:
    own = tmp_path / "own.jinja"
    own.write_text("{#- the run's #}" + load_template("chatml"))
    short = ("--chat.template", str(own), "--train.max_steps", "1", "--train.save_steps", "1", "--exam.answers", "0")
    done = cli(*arguments(tiny_base, rows, tmp_path, "other", *short))
    assert done.returncode == 0, done.stderr
    for directory in ("adapter", "checkpoints/checkpoint-1"):
        assert (tmp_path / "other" / directory / "chat_template.jinja").read_text() == own.read_text()
    assert not list((tmp_path / "other").rglob("README.md"))
