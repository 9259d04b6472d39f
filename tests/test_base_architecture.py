"""The kind of a base model, read from config.json, and the error messages of llama.cpp's converter."""

from __future__ import annotations

from typing import Any

import pytest

from burnish.bases.architecture import fault
from burnish.tokenizers.llama_cpp import CONVERTER, for_converter, refusal, refuses


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "t5", "is_encoder_decoder": True, "architectures": ["T5Model"]}, "an encoder-decoder model"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "BertForMaskedLM (config.json) is not a causal"),
        ({"model_type": "roberta", "architectures": ["RobertaForSequenceClassification"]}, "is not a causal"),
        ({"model_type": "llama9", "architectures": ["Llama9ForCausalLM"]}, "does not know the architecture 'llama9'"),
    ],
)
def test_unsupported_architecture_is_reported(config: dict[str, Any], expected: str) -> None:
    assert expected in fault(config)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
        {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]},
        {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"]},
        {"model_type": "theirs", "auto_map": {"AutoModelForCausalLM": "theirs.Theirs"}},
        {},
    ],
)
def test_unknown_architectures_are_left_to_transformers(config: dict[str, Any]) -> None:
    assert fault(config) == ""


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ("ERROR:hf-to-gguf:Model OPTForCausalLM is not supported", "does not know the architecture OPTForCausalLM"),
        (
            "NotImplementedError: BPE pre-tokenizer was not recognized - update get_vocab_base_pre()",
            "llama.cpp's converter does not know its pre-tokenizer",
        ),
        ("ValueError: Can not map tensor 'x'", "llama.cpp's converter does not know the tensor 'x'"),
    ],
)
def test_converter_errors_are_translated_to_plain_messages(line: str, meaning: str) -> None:
    assert refuses(line)
    assert refusal(line).endswith(meaning)


@pytest.mark.parametrize("line", ["OSError: [Errno 28] No space left on device", "MemoryError"])
def test_out_of_disk_or_memory_is_not_reported_as_unsupported(line: str) -> None:
    assert not refuses(line)


def test_pinned_converter_still_prints_the_known_errors() -> None:
    if not CONVERTER.is_file():
        pytest.skip("llama.cpp's converter is not installed here")
    source = CONVERTER.read_text() + (CONVERTER.parent / "conversion" / "base.py").read_text()
    assert "Model {model_architecture} is not supported" in source
    assert "BPE pre-tokenizer was not recognized" in source


def test_gpt2_context_length_is_passed_to_the_converter() -> None:
    assert for_converter({"model_type": "gpt2", "n_positions": 64}) == {
        "model_type": "gpt2",
        "n_positions": 64,
        "n_ctx": 64,
    }
    assert for_converter({"model_type": "gpt2", "n_positions": 64, "n_ctx": 32})["n_ctx"] == 32
    assert for_converter({"model_type": "llama"}) == {"model_type": "llama"}
