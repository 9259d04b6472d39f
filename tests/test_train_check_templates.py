"""The check command's output about chat templates, from files to the terminal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from burnish.errors import UserError
from tests.support import templates as sources
from train.__main__ import main


def written(path: Path, *conversations: list[tuple[str, str]]) -> Path:
    rows = [{"messages": [{"role": role, "content": text} for role, text in turns]} for turns in conversations]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def boats(tmp_path: Path) -> Path:
    return written(
        tmp_path / "boats.jsonl",
        *([("user", f"When does boat {i} leave?"), ("assistant", f"Boat {i} leaves at {i}.")] for i in range(12)),
    )


def check(base: Path, data: Path, source: str, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[str, str]:
    template = data.with_suffix(".jinja")
    template.write_text(source)
    assert (
        main(["check", "--base.id", str(base), "--data.path", str(data), "--chat.template", str(template), *more]) == 0
    )
    return capsys.readouterr()


@pytest.mark.slow
def test_check_shows_text_added_before_responses(
    tiny_base: Path, boats: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = check(tiny_base, boats, sources.HYBRID, capsys)[0]
    assert r"template        writes '<think>\n\n</think>\n\n' before 12 of 12 responses" in shown
    assert "⟦<think>\n\n</think>\n\nBoat 0 leaves at 0.<|im_end|>⟧" in shown
    shown = check(tiny_base, boats, sources.HYBRID, capsys, "--chat.template_kwargs", "{enable_thinking: false}")[0]
    assert "<think>\n\n</think>\n\n⟦Boat 0 leaves at 0.<|im_end|>⟧" in shown
    assert "template  " not in shown


@pytest.mark.slow
def test_check_shows_text_after_the_last_turn_and_changed_history(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = written(
        tmp_path / "rows.jsonl",
        *(
            [("user", f"hi {i}"), ("assistant", f" hello {i}"), ("user", "bye"), ("assistant", f"so long {i}")]
            for i in range(10)
        ),
    )
    shown = check(tiny_base, data, sources.TWICE, capsys)[0]
    assert "writes '<|endoftext|>' after the last turn, which is not trained" in shown
    assert "changes spaces or accents in 10 of 20 responses" in shown
    assert "terminators     <|im_end|>\n" in shown
    shown = check(tiny_base, data, sources.CHANNELS, capsys)[0]
    assert "renders earlier turns differently: 10 conversations became 20 rows" in shown
    assert "terminators     <|endoftext|>\n" in shown


def test_preview_marks_all_trained_text(tiny_base: Path, boats: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = check(tiny_base, boats, sources.STRICT, capsys, "--data.assistant_only_loss", "false")[0]
    assert "⟦<|im_start|>user\nWhen does boat 0 leave?<|im_end|>\n<|im_start|>assistant\nBoat 0" in shown
    assert "trained (100%); data.assistant_only_loss is false" in shown


def test_same_error_in_all_rows_is_one_line(tiny_base: Path, boats: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}{% endfor %}"
    with pytest.raises(UserError) as caught:
        check(tiny_base, boats, source + sources.OPENS, capsys)
    (line,) = caught.value.report().splitlines()
    assert line.startswith(f"error: {boats}: line 1: assistant turn 1: the template does not end it with an end token")
    assert line.endswith("(the same in 12 rows, also line 2, line 3, line 4, ...)")


def test_too_long_rows_are_reported_in_one_line(
    tiny_base: Path, boats: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError) as caught:
        check(tiny_base, boats, sources.STRICT, capsys, "--data.max_length", "16")
    (line,) = caught.value.report().splitlines()
    assert f"{boats}: 12 of 12 rows are longer than data.max_length 16 (line 1: " in line
    assert "line 3: " in line and "line 4: " not in line and "... the longest has " in line


def test_text_rows_without_a_chat_template_cause_a_warning(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = shutil.copytree(tiny_base, tmp_path / "base")
    (base / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((base / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    data = tmp_path / "texts.jsonl"
    data.write_text("".join(json.dumps({"text": f"Boat {i} leaves at noon."}) + "\n" for i in range(12)))
    assert main(["check", "--base.id", str(base), "--data.path", str(data)]) == 0
    assert "warning: the base has no chat template: the trained model will serve" in capsys.readouterr().err
