"""A model's own Python code: llama.cpp's converter requests it, but it is never run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from burnish.files import tree_sha256
from burnish.tokenizers.llama_cpp import CONVERTER, VocabularyError, ids_by_llama_cpp
from export.merge.bases import TOKENIZER_FILES, without_code
from tests.support.commands import Cli
from tests.support.thorough import some
from tests.support.tokenizers import byte_level
from tests.support.training import command

# some for which the pinned converter loads a tokenizer with trust_remote_code=True; the first is run with every test
TRUSTING = ("ChatGLMModel", "DreamModel", "Glm4ForCausalLM", "LLaDAModelLM", "MiniMaxM1ForCausalLM", "QWenLMHeadModel")
REFUSED = "llama.cpp's converter needs the model's own Python code for its tokenizer, and Burnish never runs that code"
CODE = """
import pathlib
pathlib.Path({marker!r}).write_text("it ran")
from transformers import PreTrainedTokenizerFast
class Theirs(PreTrainedTokenizerFast):
    pass
"""


def foreign(directory: Path, architecture: str, marker: Path) -> Path:
    """Write a checkpoint without weights whose tokenizer requires the code next to it."""
    byte_level(directory)
    (directory / "theirs.py").write_text(CODE.format(marker=str(marker)))
    auto_map = {"AutoTokenizer": ["theirs.Theirs", "theirs.Theirs"], "AutoConfig": "theirs.Theirs"}
    config = {
        "architectures": [architecture], "model_type": "theirs", "auto_map": auto_map, "vocab_size": 600,
        "hidden_size": 32, "num_hidden_layers": 1, "num_layers": 1, "num_attention_heads": 2, "padded_vocab_size": 600,
        "intermediate_size": 64, "max_position_embeddings": 64, "seq_length": 64,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config))
    config = json.loads((directory / "tokenizer_config.json").read_text())
    (directory / "tokenizer_config.json").write_text(
        json.dumps({**config, "tokenizer_class": "Theirs", "auto_map": auto_map})
    )
    return directory


@pytest.mark.parametrize(
    "architecture",
    [name if i == 0 else pytest.param(name, marks=pytest.mark.slow) for i, name in enumerate(some(TRUSTING, [0, 2]))],
)
def test_converter_runs_no_code_from_the_model(architecture: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    directory = foreign(tmp_path / "model", architecture, marker)
    with pytest.raises(VocabularyError) as fault:
        ids_by_llama_cpp(directory, ["a"])
    assert not marker.exists()
    assert fault.value.faults == (REFUSED,)


def test_list_of_architectures_needing_remote_code_matches_the_converter() -> None:
    trusting = {
        path.stem: path.read_text().count("trust_remote_code=True")
        for path in sorted((CONVERTER.parent / "conversion").glob("*.py"))
        if "trust_remote_code=True" in path.read_text()
    }
    assert trusting == {
        "base": 3, "chatglm": 2, "deepseek": 1, "dream": 1, "glm": 1, "hunyuan": 2, "kimi_linear": 1, "llada": 1,
        "minimax": 1, "nemotron": 2,
    }  # fmt: skip


def test_files_copied_from_an_adapter_contain_no_code(tmp_path: Path) -> None:
    assert not any("*" in name or name.endswith(".py") for name in TOKENIZER_FILES)
    path = tmp_path / "tokenizer_config.json"
    path.write_text('{"auto_map": {"AutoTokenizer": ["tokenizer_theirs.Theirs", null]}, "bos_token": "<s>"}')
    without_code(path)
    assert json.loads(path.read_text()) == {"bos_token": "<s>"}


@pytest.mark.slow
def test_unneeded_remote_code_of_a_base_is_not_run(tiny_base: Path, rows: Path, tmp_path: Path, cli: Cli) -> None:
    marker, base = tmp_path / "ran", tmp_path / "base"
    shutil.copytree(tiny_base, base)
    auto_map = {
        "AutoConfig": "theirs.Theirs", "AutoModelForCausalLM": "theirs.Theirs", "AutoTokenizer": ["theirs.Theirs"] * 2,
    }  # fmt: skip
    for name in ("config.json", "tokenizer_config.json"):
        (base / name).write_text(json.dumps({**json.loads((base / name).read_text()), "auto_map": auto_map}))
    (base / "custom_generate").mkdir()
    for name in ("theirs.py", "custom_generate/generate.py", "json.py", "numpy.py"):
        (base / name).write_text(CODE.format(marker=str(marker)))
    done = cli(*command(base, rows, tmp_path / "runs", "--run.name", "mine", "--train.max_steps", "1"))
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "mine"
    # as an untrusted adapter may contain it
    (run / "adapter" / "theirs.py").write_text(CODE.format(marker=str(marker)))
    path = run / "adapter" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": auto_map}))
    record = json.loads((run / "train.json").read_text())
    record["adapter"]["sha256"] = tree_sha256(run / "adapter")
    (run / "train.json").write_text(json.dumps(record))
    done = cli("export", "run", "--run.root", str(tmp_path / "runs"), "--run.name", "mine", "--gguf.quants", "Q8_0")
    assert done.returncode == 0, done.stderr
    assert not marker.exists() and not list((run / "merged").rglob("*.py"))
    assert all("auto_map" not in path.read_text() for path in (run / "merged").glob("*config.json"))
