"""Deliberate breaks, as they happen in practice between tools; the gate reports each by name.

A small Llama is trained on 24 rows first, so that each break affects learned behaviour.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from burnish.exam.rows import Exam, Question
from burnish.records import ExportRecord
from burnish.run import Run
from export.exam.terminator import Ends, terminator
from export.gguf.convert import convert
from export.merge.weights import merge
from tests.support.commands import Cli
from tests.support.thorough import some

pytestmark = pytest.mark.slow

LEARN = ("--data.max_length", "128", "--train.max_steps", "60", "--train.learning_rate", "3e-3", "--exam.answers", "0",
         "--lora.r", "32", "--train.save_steps", "1000", "--data.eval_split", "0.2")  # fmt: skip

PRETRAINING_STEPS = 40


def make_base(directory: Path, tokenizer_from: Path, seed: int) -> Path:
    """A Llama with 13M parameters, wide enough for every quantization, trained on one answer to all prompts.

    Untrained, its distributions would be flat, and a break would change little.
    """
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_from)
    config = LlamaConfig(
        hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4, vocab_size=len(tokenizer),
        tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, max_position_embeddings=512,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    chats = [[{"role": "user", "content": f"user says {i}"}, {"role": "assistant", "content": f"nobody says {i}"}]
             for i in range(12)]  # fmt: skip
    texts = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(PRETRAINING_STEPS):
        loss = model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.half().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def base(base_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("bases") / "right", base_directory, 0)


def train_and_export(cli: Cli, base: Path, rows: Path, root: Path, name: str, *more: str) -> Run:
    done = cli("train", "run", "--base.id", str(base), "--data.path", str(rows), "--run.root", str(root),
               "--run.name", name, *LEARN, *more)  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = cli("export", "run", "--run.root", str(root), "--run.name", name, "--gguf.quants", "Q8_0,TQ1_0")
    assert done.returncode == 0, done.stderr
    return Run(root / name)


@pytest.fixture(scope="module")
def run(base: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> Run:
    return train_and_export(cli, base, rows, tmp_path_factory.mktemp("runs"), "learned")


@pytest.fixture
def verdict(run: Run, cli: Cli) -> Callable[[Path], str]:
    """Examine a file against the run; return the reason for failing, or "pass"."""

    def examine(path: Path) -> str:
        done = cli("export", "examine", str(path), "--run.root", str(run.path.parent), "--run.name", run.id)
        assert done.returncode in (0, 1), done.stderr
        why = [line for line in done.stdout.splitlines() if line.startswith(("fail: ", "inconclusive: "))]
        assert bool(why) == (done.returncode == 1)
        return why[0] if why else "pass"

    return examine


def broken(run: Run, tmp_path: Path, change: Callable[[Path], None]) -> Path:
    """Change the merged model, and convert it to GGUF as usual."""
    directory = tmp_path / "broken"
    shutil.copytree(run.path / "merged", directory)
    change(directory)
    convert(directory, tmp_path / "broken.gguf", "float16")
    return tmp_path / "broken.gguf"


def edit_template(before: str, after: str) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        path = directory / "chat_template.jinja"
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after, 1))

    return edit


def remerge(base: Path, run: Run, tmp_path: Path, alpha_factor: float = 1) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        adapter = tmp_path / "adapter"
        shutil.copytree(run.path / "adapter", adapter)
        config = json.loads((adapter / "adapter_config.json").read_text())
        config["lora_alpha"] *= alpha_factor
        (adapter / "adapter_config.json").write_text(json.dumps(config))
        (directory / "model.safetensors").unlink()
        merge(base, adapter, directory, None, "float16", 10**10, lambda done, text="": None)

    return change


def test_directory_from_a_different_tool_is_examined_or_rejected_in_one_line(
    run: Run, tmp_path: Path, verdict: Callable[[Path], str], cli: Cli
) -> None:
    """Without generation_config.json, config.json defines the end tokens; without a tokenizer, it is rejected."""
    other = tmp_path / "other"
    shutil.copytree(run.path / "merged", other)
    (other / "generation_config.json").unlink()
    assert verdict(other) == "pass"
    for path in other.glob("tokenizer*"):
        path.unlink()
    done = cli("export", "examine", str(other), "--run.root", str(run.path.parent), "--run.name", run.id)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"error: {other}: transformers can't load its tokenizer: " in done.stderr


def test_intact_export_passes(run: Run, verdict: Callable[[Path], str]) -> None:
    artifacts = {a.quantization: a for a in run.read(ExportRecord).artefacts if a.kind == "gguf"}
    fidelity = artifacts["F16"].fidelity
    assert fidelity.loss_base is not None
    assert fidelity.loss_trained is not None
    assert fidelity.loss_base - fidelity.loss_trained > 1  # training improved the loss, so a break is visible
    assert artifacts["F16"].verdict == "pass"
    assert verdict(run.path / "gguf" / "learned-F16.gguf") == "pass"


def test_edited_chat_template_fails(run: Run, tmp_path: Path, verdict: Callable[[Path], str]) -> None:
    gguf = broken(run, tmp_path, edit_template("You are a helpful AI assistant", "You are a helpful assistant"))
    assert "prompt parity: its prompts differ from the trained ones at token" in verdict(gguf)


def test_template_edited_outside_the_exam_rows_fails(run: Run, tmp_path: Path, verdict: Callable[[Path], str]) -> None:
    gguf = broken(run, tmp_path, edit_template("{% for", "{% if tools %}{{ tools }}{% endif %}{% for"))
    assert "prompt parity: its chat template differs from the trained one" in verdict(gguf)


def test_double_bos_fails(run: Run, tmp_path: Path, verdict: Callable[[Path], str]) -> None:
    gguf = broken(run, tmp_path, edit_template("{% for", "{{ bos_token }}{% for"))
    assert "prompt parity: its prompts start with a double BOS (token 1 twice)" in verdict(gguf)


def test_weights_from_a_different_base_fail(
    run: Run, base_directory: Path, tmp_path: Path, verdict: Callable[[Path], str]
) -> None:
    other = make_base(tmp_path / "other", base_directory, 1)
    gguf = broken(run, tmp_path, remerge(other, run, tmp_path))
    assert re.search(r"KL on general text [\d.]+ is above 0.1", verdict(gguf))


@pytest.mark.parametrize("factor", some([0.5, 2], [0]))
def test_wrong_adapter_scale_fails(
    factor: float, run: Run, base: Path, tmp_path: Path, verdict: Callable[[Path], str]
) -> None:
    gguf = broken(run, tmp_path, remerge(base, run, tmp_path, factor))
    assert re.search(r"KL (on general text )?[\d.]+ is above 0.1", verdict(gguf))


def test_too_coarse_quantization_is_not_the_default(run: Run) -> None:
    record = run.read(ExportRecord)
    coarse = next(a for a in record.artefacts if a.quantization == "TQ1_0")
    assert coarse.verdict == "fail"
    assert "KL" in coarse.why or "top-1" in coarse.why
    assert record.default == "gguf/learned-Q8_0.gguf"


def test_truncated_gguf_fails(run: Run, tmp_path: Path, verdict: Callable[[Path], str]) -> None:
    whole = (run.path / "gguf" / "learned-Q8_0.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    assert "does not load" in verdict(tmp_path / "cut.gguf")


def test_end_token_at_which_the_model_does_not_stop_fails(base: Path, rows: Path, tmp_path: Path, cli: Cli) -> None:
    """A template that ends turns with a token that no server treats as an end token."""
    template = tmp_path / "foreign.jinja"
    template.write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<file_sep>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    run = train_and_export(cli, base, rows, tmp_path, "foreign", "--chat.template", str(template))
    assert run.read(ExportRecord).default is None
    assert all("terminator: trained turns end in token 5" in a.why
               for a in run.read(ExportRecord).artefacts if a.kind == "gguf")  # fmt: skip


def test_end_token_masked_out_of_the_loss_fails(run: Run) -> None:
    """An exam whose trained spans exclude the end token, as with a wrong mask."""
    questions = [
        Question(q.kind, q.input_ids, [(start, end - 1) for start, end in q.spans], q.messages, q.turns)
        for q in Exam.load(run.path / "exam").questions
    ]
    exam = Exam.load(run.path / "exam")
    ends = Ends(frozenset({2}), frozenset({2}), lambda i: "" if i == 2 else "x")
    assert terminator(exam, ends).holds
    masked = Exam(questions, exam.trained, exam.base_true, 0, 1)
    assert not terminator(masked, ends).holds
