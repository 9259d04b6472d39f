"""llama.cpp's tokenizer with texts that would crash it or take minutes: the same ids in linear time."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from burnish.llama import Model, division
from burnish.tokenizers.finder import Finder
from tests.support.commands import ROOT
from tests.support.server import small_model
from tests.support.thorough import THOROUGH, named, some
from tests.support.tokenizers import llama_cpp_vocabularies
from tools import tiny_gguf

KINDS = ["deepseek-llm", "gemma-4", "gpt-2", "llama-bpe", "llama-spm", "phi-3", "qwen2", "bert-bge"]
RUNS = ["a", "A", " ", "\n", "1", "!", "é", "漢", "🙂", "́", "aA", "a ", "<"]
# pre-tokenizers that llama.cpp splits with std::regex, which recurses
RECURSING = [
    *("afmoe", "bailingmoe", "bloom", "chameleon", "deepseek-coder", "deepseek-llm", "deepseek-v3", "exaone-moe"),
    *("gpt-4o", "granite-embed-multi-97m", "hunyuan-dense", "hy_v4", "jais-2", "joyai-llm", "llama4", "minimax-m2"),
    *("poro-chat", "seed-coder", "spark2_5", "tekken", "tiny_aya", "ufakzeka", "viking", "youtu"),
]
VOCABULARIES = llama_cpp_vocabularies()
SHORT = range(len(VOCABULARIES))
# tokenize a run of one character class in a child process, because it may crash
RUN = """
import sys
from burnish.llama import Model
with Model.open(sys.argv[1], vocab_only=True) as model:
    for unit in sys.argv[3:]:
        model.tokenize(unit * (int(sys.argv[2]) // len(unit.encode())))
"""


def vocabulary(kind: str) -> Path:
    return next(path for path in llama_cpp_vocabularies() if path.stem == f"ggml-vocab-{kind}")


@pytest.fixture(scope="module")
def models() -> Iterator[dict[str, Model]]:
    found = {kind: Model.open(vocabulary(kind), vocab_only=True) for kind in KINDS}
    yield found
    for model in found.values():
        model.close()


def undivided(model: Model, text: str, add_special: bool, parse_special: bool) -> list[int]:
    return model._call(text.encode("utf-8", "replace"), add_special, parse_special)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_divided_text_gives_the_ids_of_the_whole_text(
    kind: str, data: st.DataObject, models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models[kind]
    specials = sorted(model._dividers[1].specials)
    parts = st.one_of(
        st.sampled_from(specials),
        st.sampled_from(specials).flatmap(lambda s: st.integers(1, len(s)).map(lambda n: s[:n])),
        st.sampled_from(specials).flatmap(lambda s: st.integers(0, len(s) - 1).map(lambda n: s[n:])),
        st.sampled_from([" ", "  ", "\n", "\t ", "word", " two words", "é", "<", "|>", "123"]),
        st.text(max_size=8),
    )
    text = "".join(data.draw(st.lists(parts, max_size=40)))
    add, parse = data.draw(st.booleans()), data.draw(st.booleans())
    monkeypatch.setattr(division, "PIECE", data.draw(st.integers(1, 24)))
    monkeypatch.setattr("burnish.llama.model.LONG_BYTES", 4)
    assert model.tokenize(text, add_special=add, parse_special=parse) == undivided(model, text, add, parse)


def test_user_defined_control_token_is_text_unless_parsed(
    models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, text = models["gemma-4"], "<audio|><|tool_response><audio|>"
    whole = undivided(model, text, False, False)
    monkeypatch.setattr(division, "PIECE", 1)
    monkeypatch.setattr("burnish.llama.model.LONG_BYTES", 4)
    assert model.tokenize(text, parse_special=False) == whole


def test_overlapping_special_strings_are_not_split() -> None:
    """llama.cpp matches the longest token first, anywhere in the text; matching from the left would split it."""
    divider = division.Divider({"<a>": False, "a>bbbb<": False})
    text = "<a>bbbb<a>" + "x" * division.PIECE
    assert list(divider.pieces("y" * division.PIECE + text)) == ["y" * division.PIECE + text]


def test_repeated_special_strings_take_linear_time() -> None:
    for kind, unit in (("qwen2", "<|im_end|>"), ("llama-spm", "</s>"), ("phi-3", "<|end|> \n")):
        with Model.open(vocabulary(kind), vocab_only=True) as model:
            began = time.monotonic()
            ids = model.tokenize(unit * 80_000)
            assert len(ids) >= 80_000 and len(set(ids)) <= 2
            assert time.monotonic() - began < 20, kind


def test_special_string_search_starts_at_any_offset() -> None:
    finder = Finder(frozenset({"<a>", "a>"}))
    assert list(finder.find("<a><a>", 1)) == [(1, 3, "a>"), (3, 6, "<a>")]
    assert [start for start, _, _ in finder.every("<a><a>", 0, 2)] == [0, 1]


@pytest.mark.parametrize("kind", ["deepseek-llm", "deepseek-coder"])
def test_40_kilobytes_of_one_character_do_not_crash(kind: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(vocabulary(kind)), "40000", *RUNS],
        cwd=ROOT, capture_output=True, text=True, timeout=300, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-300:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "size"),
    # SentencePiece's 1 MiB take minutes
    some([(path.stem.removeprefix("ggml-vocab-"), size) for size in (40_000, 1 << 20) for path in VOCABULARIES], SHORT)
    + ([] if THOROUGH else [("gpt-2", 1 << 20)]),
)
def test_no_vocabulary_crashes_on_a_long_run_of_characters(kind: str, size: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(vocabulary(kind)), str(size), *RUNS],
        cwd=ROOT, capture_output=True, text=True, timeout=1200, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-300:]


@pytest.mark.parametrize(
    "pre",
    [
        name if name == "tekken" else pytest.param(name, marks=pytest.mark.slow)
        for name in named(RECURSING, "tekken", "gpt-4o", "llama4", "deepseek-v3", "hunyuan-dense", "bloom", "viking")
    ],
)
def test_no_pre_tokenizer_crashes_on_a_long_run_of_characters(pre: str, tmp_path: Path) -> None:
    tiny_gguf.write(tmp_path / "tiny.gguf", pre=pre)
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path / "tiny.gguf"), "100000", *RUNS],
        cwd=ROOT, capture_output=True, text=True, timeout=600, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-300:]


def test_text_tokenized_on_a_large_stack_has_the_same_ids() -> None:
    with Model.open(small_model(), vocab_only=True) as model:
        text = "The boat leaves at noon. Naïve café, 37 €.\n" * 300
        assert model.tokenize(text) == undivided(model, text, False, True)
