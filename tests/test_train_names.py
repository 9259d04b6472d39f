"""Setting names of other tools: their equivalent, or a specific hint."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from burnish.config import ConfigError, load, parse_arguments
from burnish.publish import PushSection
from export.settings import ExportSettings
from tests.support.commands import ROOT
from train.__main__ import make_parser
from train.names import NAMES
from train.settings import TrainSettings

ALWAYS = "base: {id: x}\ndata: {path: x}\n"
UNDERSTOOD: list[tuple[str, Any, str, Any]] = [
    ("load_in_4bit", "true", "base.quantization", "nf4"),
    ("load_in_4bit", "false", "base.quantization", "none"),
    ("load_in_8bit", "false", "base.quantization", "none"),
    ("bnb_4bit_quant_type", "nf4", "base.quantization", "none"),
    ("bnb_4bit_use_double_quant", "false", "base.double_quant", False),
    ("bnb_4bit_compute_dtype", "bfloat16", "base.dtype", "bfloat16"),
    ("torch_dtype", "torch.float16", "base.dtype", "float16"),
    ("fp16", "true", "base.dtype", "float16"),
    ("fp16", "false", "base.dtype", "auto"),
    ("bf16", "true", "base.dtype", "bfloat16"),
    ("full_finetuning", "false", "lora.r", 16),
    ("max_seq_length", "384", "data.max_length", 384),
    ("max_seq_len", "384", "data.max_length", 384),
    ("random_state", "3407", "train.seed", 3407),
    ("use_gradient_checkpointing", "unsloth", "train.gradient_checkpointing", True),
    ("use_gradient_checkpointing", "false", "train.gradient_checkpointing", False),
    ("warmup_ratio", "0.03", "train.warmup_steps", 0.03),
    ("warmup_ratio", "0", "train.warmup_steps", 0),
    ("loftq_config", "null", "lora.r", 16),
    ("loftq_config", "{}", "lora.r", 16),
    ("task_type", "CAUSAL_LM", "lora.r", 16),
    ("hub_model_id", "me/model", "push.repo", "me/model"),
    ("eval_strategy", '"no"', "train.eval_steps", None),
    ("evaluation_strategy", '"no"', "train.eval_steps", None),
    ("save_strategy", "steps", "train.save_steps", 50),
    ("push_to_hub", "false", "push.repo", None),
    ("lr", "1e-3", "train.learning_rate", 1e-3),
    ("dtype", "null", "base.dtype", "auto"),
    ("dtype", "None", "base.dtype", "auto"),
    ("dtype", "half", "base.dtype", "float16"),
    ("attn_implementation", "flash_attention_2", "base.attn_implementation", "flash_attention_2"),
    ("attn_implementation", "null", "base.attn_implementation", "auto"),
    ("chat_template", "llama-3.1", "chat.template", "llama-3.1"),
    ("max_length", "384", "data.max_length", 384),
    ("packing", "false", "data.packing", False),
    ("assistant_only_loss", "false", "data.assistant_only_loss", False),
    ("train_on_responses_only", "true", "data.assistant_only_loss", True),
    ("inference_mode", "false", "lora.r", 16),
    ("deepspeed", "null", "lora.r", 16),
    ("local_rank", "-1", "lora.r", 16),
    ("ddp_backend", "null", "lora.r", 16),
    ("ddp_find_unused_parameters", "false", "lora.r", 16),
    ("save_on_each_node", "false", "lora.r", 16),
    ("remove_unused_columns", "false", "lora.r", 16),
    ("remove_unused_columns", "true", "lora.r", 16),
    ("dataset_kwargs", "null", "lora.r", 16),
    ("neftune_noise_alpha", "null", "lora.r", 16),
    ("neftune_noise_alpha", "None", "lora.r", 16),
    ("embedding_learning_rate", "null", "lora.r", 16),
    ("modules_to_save", "null", "lora.r", 16),
]
HINTED = [
    ("load_in_8bit", "true", "base.quantization"),
    ("bnb_4bit_quant_type", "fp4", "base.quantization"),
    ("full_finetuning", "true", "only LoRA adapters"),
    ("loftq_config", "{loftq_bits: 4}", "LoftQ"),
    ("task_type", "SEQ_CLS", "CAUSAL_LM"),
    ("output_dir", "outputs", "run.root/run.name"),
    ("logging_dir", "logs", "logs/"),
    ("dataset_num_proc", "2", "remove it"),
    ("dataloader_num_workers", "2", "remove it"),
    ("dataset_text_field", "text", "data.format"),
    ("group_by_length", "true", "data.packing"),
    ("data_seed", "1", "train.seed"),
    ("eval_strategy", "steps", "train.eval_steps"),
    ("evaluation_strategy", "epoch", "train.eval_steps"),
    ("save_strategy", "epoch", "train.save_steps"),
    ("resume_from_checkpoint", "true", "--resume"),
    ("push_to_hub", "true", "push.repo"),
    ("save_method", "merged_16bit", "push.what"),
    ("quantization_method", "q4_k_m", "QUANTS="),
    ("token", "hf_x", "HF_TOKEN"),
    ("device_map", "auto", "CUDA_VISIBLE_DEVICES"),
    ("data_files", "[a.jsonl, b.jsonl]", "a directory of files"),
    ("inference_mode", "true", "remove it"),
    ("deepspeed", "ds_config.json", "one process"),
    ("local_rank", "1", "one process"),
    ("ddp_backend", "nccl", "one process"),
    ("ddp_find_unused_parameters", "true", "one process"),
    ("save_on_each_node", "true", "one process"),
    ("dataset_kwargs", "{skip_prepare_dataset: true}", "remove it"),
    ("neftune_noise_alpha", "5", "NEFTune"),
    ("embedding_learning_rate", "2e-5", "lora.target_modules"),
    ("modules_to_save", "[embed_tokens, lm_head]", "lora.target_modules"),
]


def loaded(config: Path, text: str) -> TrainSettings:
    config.write_text(text)
    return load(TrainSettings, "train", config, {}, {})


def value(settings: TrainSettings, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(settings, section), name)


def typed(*words: str) -> TrainSettings:
    return parse_arguments(make_parser(), TrainSettings, "train", ["plan", "--data.path", "x", *words])[0]


@pytest.mark.parametrize(("name", "given", "key", "meant"), UNDERSTOOD)
def test_setting_synonyms_are_accepted(name: str, given: str, key: str, meant: Any, tmp_path: Path) -> None:
    assert value(loaded(tmp_path / "c.yaml", f"{ALWAYS}train: {{{name}: {given}}}\n"), key) == meant
    assert value(loaded(tmp_path / "c.yaml", f"{ALWAYS}{name}: {given}\n"), key) == meant
    assert value(typed("--base.id", "x", f"--{name}", given.strip('"')), key) == meant


@pytest.mark.parametrize(("name", "given", "hint"), HINTED)
def test_unsupported_name_gets_a_specific_hint(name: str, given: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path / "c.yaml", f"{ALWAYS}train: {{{name}: {given}}}\n")
    (fault,) = caught.value.faults
    assert fault.startswith(f"{tmp_path / 'c.yaml'}:3: 'train.{name}' is not a Burnish setting: ")
    assert hint in fault
    with pytest.raises(ConfigError) as caught:
        typed("--base.id", "x", f"--train.{name}={given}")
    assert hint in caught.value.faults[0] and "--train." in caught.value.faults[0]


def test_every_synonym_is_tested_and_documented() -> None:
    tested = {name for name, *_ in UNDERSTOOD} | {name for name, *_ in HINTED}
    assert NAMES.keys() - tested == {"model_name", "model_name_or_path"}
    documented = (ROOT / "docs" / "train-on-a-gpu.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if not re.search(rf"`{name}[`:]", documented)] == []


def test_synonyms_for_the_base_are_accepted(tmp_path: Path) -> None:
    for name in ("model_name", "model_name_or_path"):
        assert loaded(tmp_path / "c.yaml", f"{name}: me/base\ndata: {{path: x}}\n").base.id == "me/base"


@pytest.mark.parametrize(
    ("given", "path", "eval_path"),
    [
        ("rows.jsonl", "rows.jsonl", None),
        ("[rows.jsonl]", "rows.jsonl", None),
        ("{train: rows.jsonl}", "rows.jsonl", None),
        ("{train: rows.jsonl, test: [held.jsonl]}", "rows.jsonl", "held.jsonl"),
    ],
)
def test_data_files_is_accepted_as_data_path(given: str, path: str, eval_path: str | None, tmp_path: Path) -> None:
    data = loaded(tmp_path / "c.yaml", f"base: {{id: x}}\ndata:\n  data_files: {given}\n").data
    assert (data.path, data.eval_path) == (path, eval_path)


def test_markers_of_train_on_responses_only_are_not_needed(tmp_path: Path) -> None:
    markers = "{instruction_part: '<|user|>', response_part: '<|assistant|>'}"
    assert loaded(tmp_path / "c.yaml", f"{ALWAYS}train_on_responses_only: {markers}\n").data.assistant_only_loss


def test_unknown_key_gets_no_unrelated_suggestion(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path / "c.yaml", f"{ALWAYS}ddp_timeout: 1\ntrain: {{deepsleep: 1, epochs: 3}}\n")
    top, far, near = caught.value.faults
    assert top.endswith(
        "unknown key 'ddp_timeout'; known: evaluation, the sections base, chat, data, exam, lora, push, run, train"
        " (--help lists their settings)"
    )
    assert "did you mean" not in far and "train.seed" in far
    assert near.endswith("unknown key 'train.epochs'; did you mean 'train.num_train_epochs'?")


@pytest.mark.parametrize("given", ["half", "fp16", "torch.float16"])
def test_dtype_synonyms_are_accepted(given: str, tmp_path: Path) -> None:
    assert loaded(tmp_path / "c.yaml", f"base: {{id: x, dtype: {given}}}\ndata: {{path: x}}\n").base.dtype == "float16"
    assert typed("--base.id", "x", "--base.dtype", given).base.dtype == "float16"
    assert loaded(tmp_path / "c.yaml", "base: {id: x, dtype: null}\ndata: {path: x}\n").base.dtype == "auto"


@pytest.mark.parametrize(
    ("given", "meant"), [("none", []), ("tensorboard", ["tensorboard"]), ("[]", []), ("[wandb]", ["wandb"])]
)
def test_report_to_accepts_a_name_a_list_or_none(given: str, meant: list[str], tmp_path: Path) -> None:
    assert loaded(tmp_path / "c.yaml", f"{ALWAYS}train: {{report_to: {given}}}\n").train.report_to == meant
    assert typed("--base.id", "x", "--train.report_to", given).train.report_to == meant


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("all-linear", "all-linear"),
        ("q_proj", ["q_proj"]),
        ("q_proj, v_proj", ["q_proj", "v_proj"]),
        ("[q_proj, v_proj]", ["q_proj", "v_proj"]),
        (r".*self_attn.*(q|v)_proj", r".*self_attn.*(q|v)_proj"),
        (r".*layers\.\d{1,2}\..*_proj", r".*layers\.\d{1,2}\..*_proj"),
    ],
)
def test_target_modules_accepts_names_or_a_regular_expression(given: str, meant: Any, tmp_path: Path) -> None:
    quoted = given if given.startswith("[") else f"'{given}'"
    assert loaded(tmp_path / "c.yaml", f"{ALWAYS}lora:\n  target_modules: {quoted}\n").lora.target_modules == meant
    assert typed("--base.id", "x", "--lora.target_modules", given).lora.target_modules == meant


def test_invalid_regular_expression_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lora\.target_modules is '\(q_proj': .*not a regular expression"):
        loaded(tmp_path / "c.yaml", f"{ALWAYS}lora: {{target_modules: (q_proj}}\n")


def test_conflicting_synonyms_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"c\.yaml:3: base\.dtype is bfloat16 here, float16 by .*c\.yaml:3|4: base"):
        loaded(tmp_path / "c.yaml", f"{ALWAYS}fp16: true\nbf16: true\n")
    assert loaded(tmp_path / "c.yaml", f"{ALWAYS}fp16: false\nbf16: true\n").base.dtype == "bfloat16"


def test_translation_of_a_synonym_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded(tmp_path / "c.yaml", f"{ALWAYS}load_in_4bit: true\n")
    assert f"config: {tmp_path / 'c.yaml'}:3: load_in_4bit true means base.quantization: nf4" in capsys.readouterr().err


def test_peft_config_file_on_the_command_line_overrides_the_yaml(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter, config = tmp_path / "lora_config.json", tmp_path / "c.yaml"
    adapter.write_text(json.dumps({"r": 64, "lora_alpha": 128, "target_modules": ["q_proj"]}))
    config.write_text(f"{ALWAYS}lora: {{r: 8, lora_dropout: 0.1, target_modules: all-linear}}\n")
    settings = load(TrainSettings, "train", config, {"lora.config_file": str(adapter), "lora.lora_alpha": "16"}, {})
    lora = settings.lora
    assert (lora.r, lora.lora_alpha, lora.target_modules, lora.lora_dropout) == (64, 16, ["q_proj"], 0.1)
    output = capsys.readouterr().err
    assert f"lora.r: 64 of {adapter} overrides 8 of {config}:3" in output
    assert f"lora.lora_alpha: 16 of --lora.lora_alpha overrides 128 of {adapter}" in output
    config.write_text(f"{ALWAYS}lora: {{r: 8, config_file: {adapter}}}\n")
    settings = load(TrainSettings, "train", config, {}, {})
    assert (settings.lora.r, settings.lora.lora_alpha) == (8, 128)
    assert f"lora.r: 8 of {config}:3 overrides 64 of {adapter}" in capsys.readouterr().err
    assert load(TrainSettings, "train", config, {}, {"BURNISH_TRAIN_LORA__CONFIG_FILE": str(adapter)}).lora.r == 64


def test_list_of_known_names_is_printed_once() -> None:
    with pytest.raises(ConfigError) as caught:
        typed("--zzzzzz", "1", "--yyyyyy", "2", "--base.id", "x")
    assert len(caught.value.faults) == 2
    assert caught.value.report().count("; known: ") == 1


@pytest.mark.parametrize(
    ("given", "meant"), [("q4_k_m", ["Q4_K_M"]), ("fast_quantized", ["Q8_0"]), ("[q8_0, f16]", ["Q8_0", "F16"])]
)
def test_export_accepts_unsloth_quantization_names(given: str, meant: list[str], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"quantization_method: {given}\nsave_method: merged_16bit\n")
    assert load(ExportSettings, "export", tmp_path / "c.yaml", {}, {}).gguf.quants == meant
    (tmp_path / "c.yaml").write_text("save_method: merged_4bit\n")
    with pytest.raises(ConfigError, match="merging into 4 bits is not supported"):
        load(ExportSettings, "export", tmp_path / "c.yaml", {}, {})


def test_gguf_quants_accepts_unsloth_quantization_names() -> None:
    settings = load(ExportSettings, "export", None, {"gguf.quants": "fast_quantized,quantized,not_quantized,Q6_K"}, {})
    assert settings.gguf.quants == ["Q8_0", "Q4_K_M", "F16", "Q6_K"]


def test_4_bit_merges_are_never_published() -> None:
    with pytest.raises(ConfigError, match=r"push\.what is \['merged_4bit'\]: 4-bit merges are not supported"):
        load(ExportSettings, "export", None, {"push.what": "merged_4bit"}, {})


def test_push_what_accepts_unsloth_names() -> None:
    assert PushSection(what=["lora", "merged_16bit", "Q8_0"]).what == ["adapter", "merged", "Q8_0"]


@pytest.mark.parametrize("value", ["1", "5", "-0.1"])
def test_warmup_ratio_above_1_is_not_treated_as_steps(value: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"{ALWAYS}warmup_ratio: {value}\n")
    with pytest.raises(ConfigError, match="expected a share of the steps"):
        load(TrainSettings, "train", tmp_path / "c.yaml", {}, {})


def test_invalid_config_file_does_not_hide_other_errors(tmp_path: Path) -> None:
    (tmp_path / "lora.json").write_text("[")
    config = tmp_path / "c.yaml"
    config.write_text(
        f"base: {{id: x, bogus: 1}}\ndata: {{path: x}}\nlora: {{config_file: {tmp_path / 'lora.json'}}}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load(TrainSettings, "train", config, {"lora.rr": "3"}, {})
    assert [word in str(caught.value) for word in ("lora.json", "bogus", "lora.rr")] == [True] * 3
