"""A PEFT config is compared with peft.LoraConfig's defaults: every key is used or rejected by name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from transformers import LlamaConfig, LlamaForCausalLM

from burnish.config import ConfigError
from tests.support.commands import Cli
from train.peft_config import INFORMATIONAL, continued, continued_faults, defaults, targets
from train.settings import LoraSection, read_peft_config

KEYS = {field.name for field in dataclasses.fields(LoraConfig)}
WITHOUT_SETTING = sorted(KEYS - set(LoraSection.model_fields) - INFORMATIONAL - {"peft_type", "task_type"})
GUIDES = {"r": 64, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": ["q_proj", "v_proj"]}


def written(directory: Path, **content: Any) -> Path:
    path = directory / "lora_config.json"
    path.write_text(json.dumps(content))
    return path


def faults_of(directory: Path, **content: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        read_peft_config(written(directory, **GUIDES, **content))
    return caught.value.faults


@pytest.mark.parametrize(
    ("key", "value", "supported"),
    [
        ("use_dora", True, "only false"),
        ("use_dora", 1, "only false"),
        ("lora_bias", True, "only false"),
        ("ensure_weight_tying", True, "only false"),
        ("layers_to_transform", 1, "only null"),
        ("layers_to_transform", 0, "only null"),
        ("layers_to_transform", [0], "only null"),
        ("exclude_modules", "lm_head", "only null"),
        ("rank_pattern", {"q_proj": 4}, "only {}"),
        ("alpha_pattern", {"q_proj": 4}, "only {}"),
        ("init_lora_weights", "pissa", "only true"),
        ("init_lora_weights", 1, "only true"),
        ("init_lora_weights", False, "only true"),
        ("qalora_group_size", 32, "only 16"),
    ],
)
def test_unsupported_peft_key_is_an_error_with_the_supported_value(
    key: str, value: Any, supported: str, tmp_path: Path
) -> None:
    (fault,) = faults_of(tmp_path, **{key: value})
    assert f"lora_config.json: {key} is {json.dumps(value)}: there is no setting for it; {supported}" in fault


def test_modules_to_save_is_an_error_with_the_alternative(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path, modules_to_save=["embed_tokens"])
    assert 'modules_to_save is ["embed_tokens"]: training whole modules is not supported. LoRA on embed_tokens' in fault


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    key=st.sampled_from(WITHOUT_SETTING),
    value=st.recursive(
        st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda inner: st.lists(inner, min_size=1, max_size=2) | st.dictionaries(st.text(max_size=3), inner, min_size=1),
        max_leaves=3,
    ),
)
def test_unsupported_keys_are_accepted_only_with_peft_defaults(key: str, value: Any, tmp_path: Path) -> None:
    default = defaults()[key]
    if type(value) is type(default) and value == default:
        assert read_peft_config(written(tmp_path, **GUIDES, **{key: value})) == GUIDES
    else:
        (fault,) = faults_of(tmp_path, **{key: value})
        assert f": {key} is " in fault


def test_all_config_errors_are_reported_together(tmp_path: Path) -> None:
    found = faults_of(tmp_path, use_dora=True, lora_bias=True, lora_alfa=8, task_type="SEQ_CLS", peft_type="IA3")
    for words in ("use_dora", "lora_bias", "'lora_alfa' is 8: peft.LoraConfig has no such key; did you mean"):
        assert any(words in fault for fault in found)
    assert len(found) == 5


def test_config_written_by_peft_is_accepted_and_used(tmp_path: Path) -> None:
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=12, use_rslora=True, target_modules=["q_proj"])
    config.save_pretrained(str(tmp_path))
    made = read_peft_config(tmp_path / "adapter_config.json")
    expected = {"r": 4, "lora_alpha": 12, "lora_dropout": 0.0, "target_modules": ["q_proj"], "bias": "none"}
    assert made == {**expected, "use_rslora": True}


@pytest.mark.parametrize("task", ["CAUSAL LM", "CAUSAL_LM", "causal_lm", None])
def test_task_type_causal_lm_is_accepted(task: str | None, tmp_path: Path) -> None:
    output = {"task_type": task, "peft_type": "LORA", "inference_mode": True, "revision": None, "modules_to_save": []}
    assert read_peft_config(written(tmp_path, **GUIDES, **output)) == GUIDES


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"r": True}, "r is true: it should be a valid integer"),
        ({"r": 0}, "r is 0: it should be greater than or equal to 1"),
        ({"lora_alpha": "x"}, 'lora_alpha is "x": it should be a valid integer or should be a valid number'),
        ({"target_modules": "(q_proj"}, 'target_modules is "(q_proj": it is not a regular expression: missing )'),
        ({"bias": "some"}, "bias is \"some\": it should be 'none', 'all' or 'lora_only'"),
    ],
)
def test_wrong_type_error_names_the_config_file(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_peft_config(written(tmp_path, **{**GUIDES, **given}))
    (fault,) = caught.value.faults
    assert fault.startswith(str(tmp_path / "lora_config.json"))
    assert message in fault


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"r": 4, "r": 8}', "the key 'r' is given twice"),
        ("[" * 100_000, "can't be read"),
        ("[4]", "expected a JSON object"),
        ('{"r": 4, "x": "' + "x" * (1 << 20) + '"}', "is larger than"),
    ],
    ids=["twice", "nested", "list", "large"],
)
def test_invalid_config_file_is_a_one_line_error(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "lora_config.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_peft_config(path)
    (fault,) = caught.value.faults
    assert message in fault


# ---- continuing an adapter -------------------------------------------------------------------------------------------


def saved(directory: Path, **config: Any) -> Path:
    LoraConfig(task_type="CAUSAL_LM", **config).save_pretrained(str(directory))
    return directory / "adapter_config.json"


def test_supported_adapter_can_be_continued(tmp_path: Path) -> None:
    path = saved(
        tmp_path, r=4, target_modules=["v_proj", "q_proj"], use_dora=True, layers_to_transform=[1],
        rank_pattern={"q_proj": 8}, modules_to_save=["embed_tokens"], lora_alpha=16,
    )  # fmt: skip
    assert continued_faults(path, LoraSection) == []
    kept = continued(path, LoraSection)
    assert (kept["r"], kept["lora_alpha"], kept["target_modules"]) == (4, 16, ["q_proj", "v_proj"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"init_lora_weights": "pissa"}, 'init_lora_weights is "pissa", which changed the base\'s weights'),
        ({"layer_replication": [[0, 2]]}, "layer_replication is [[0, 2]]: training can't continue with it"),
        ({"use_qalora": True}, "use_qalora is true"),
        ({"use_doora": True}, "no such key; did you mean 'use_dora'?"),
        ({"task_type": "SEQ_CLS"}, "only CAUSAL_LM is supported"),
        ({"peft_type": "IA3"}, "only LORA is supported"),
        ({"r": "x"}, "it should be a valid integer"),
    ],
    ids=str,
)
def test_adapter_with_unsupported_settings_is_rejected(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = saved(tmp_path, r=4, target_modules=["q_proj"])
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    (fault,) = continued_faults(path, LoraSection)
    assert message in fault


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"target_modules": r".*\.(q|v)_proj"}, ["q_proj", "v_proj"]),
        ({"target_modules": r".*1\.self_attn\.q_proj"}, ["model.layers.1.self_attn.q_proj"]),
        ({"target_modules": r".*\.(q|k)_proj", "exclude_modules": ["k_proj"]}, ["q_proj"]),
        ({"target_modules": None}, ["q_proj", "v_proj"]),
    ],
    ids=str,
)
def test_target_modules_pattern_is_expanded_to_module_names(
    config: dict[str, Any], expected: list[str], tmp_path: Path
) -> None:
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**shape, vocab_size=64))
    path = saved(tmp_path, **config)
    assert "target_modules" not in continued(path, LoraSection)
    assert targets(tmp_path, model) == expected


# ---- on the command line, before weights are loaded ------------------------------------------------------------------


def plan(cli: Cli, base: Path, rows: Path, root: Path, *more: str) -> tuple[int, str]:
    where = ("--base.id", str(base), "--data.path", str(rows), "--run.root", str(root / "runs"))
    done = cli("train", "plan", *where, *more)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


@pytest.mark.slow
def test_different_base_and_missing_keys_cause_warnings(tiny_base: Path, rows: Path, tmp_path: Path, cli: Cli) -> None:
    path = written(tmp_path, base_model_name_or_path="them/base", r=4, lora_alpha=8, target_modules=None)
    code, output = plan(cli, tiny_base, rows, tmp_path, "--lora.config_file", str(path))
    assert code == 0, output
    assert f"was written for them/base, here it is used for {tiny_base}" in output
    assert "does not set target_modules: using all-linear" in output
    assert "does not say r:" not in output


def test_adapter_that_modified_its_base_is_rejected_before_loading(
    tiny_base: Path, rows: Path, tmp_path: Path, cli: Cli
) -> None:
    saved(tmp_path / "adapter", r=4, target_modules=["q_proj"], init_lora_weights="olora", layer_replication=[[0, 1]])
    code, output = plan(cli, tiny_base, rows, tmp_path, "--lora.resume_adapter", str(tmp_path / "adapter"))
    assert code == 2
    assert 'init_lora_weights is "olora", which changed the base\'s weights' in output
    assert "layer_replication is [[0, 1]]: training can't continue with it" in output


def test_missing_target_modules_are_rejected_and_a_bom_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "lora_config.json"
    path.write_text('{"target_modules": []}')
    with pytest.raises(ConfigError, match=r"target_modules is \[\]: "):
        read_peft_config(path)
    path.write_bytes(b'\xef\xbb\xbf{"r": 4}')
    assert read_peft_config(path) == {"r": 4}
