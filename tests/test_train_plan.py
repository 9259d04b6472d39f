"""The plan depends only on sizes: published model shapes on the meta device, and GPU properties."""

from __future__ import annotations

import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM

from burnish.config import ConfigError
from burnish.errors import UserError
from tests.support.commands import Cli
from tests.support.shapes import SHAPES, card
from tests.support.weights import leave_only_the_header
from train.models.adapters import check_targets
from train.plan.evaluations import evaluations
from train.plan.machine import Machine
from train.plan.memory import GIB, Plan, plan, rows_per_step
from train.plan.model_shape import Shape, shape_of
from train.settings import TrainSettings

LENGTHS = [300] * 64 + [2048] * 8 + [700] * 128


@cache
def shape(name: str) -> Shape:
    with torch.device("meta"):
        return shape_of(LlamaForCausalLM(LlamaConfig(**SHAPES[name])))


def settings(**sections: Any) -> TrainSettings:
    base = {"id": "x", "quantization": "nf4", **sections.pop("base", {})}
    return TrainSettings.model_validate({"base": base, "data": {"path": "x"}, **sections})


def planned(gib: float, name: str = "Llama-3.1-8B", **sections: Any) -> Plan:
    return plan(settings(**sections), shape(name), LENGTHS, card(gib))


@pytest.mark.parametrize(("name", "published"), [("Llama-3.1-8B", 8.03e9), ("Llama-3.2-1B", 1.236e9)])
def test_planned_weights_match_published_checkpoint_sizes(name: str, published: float) -> None:
    assert shape(name).weight_bytes("none", 2) == pytest.approx(2 * published, rel=0.005)


@pytest.mark.parametrize("r", [8, 256])
def test_planned_adapter_size_matches_peft(r: int) -> None:
    from peft import LoraConfig, get_peft_model

    with torch.device("meta"):
        made = get_peft_model(
            LlamaForCausalLM(LlamaConfig(**SHAPES["Llama-3.2-1B"])),
            LoraConfig(task_type="CAUSAL_LM", r=r, target_modules="all-linear"),
        )
    assert shape("Llama-3.2-1B").adapter_parameters(r) == made.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize("name", SHAPES)
def test_80_gb_gpu_needs_no_gradient_checkpointing(name: str) -> None:
    made = planned(79, name)
    assert not made.checkpointing
    assert made.peak_bytes <= made.free_bytes
    assert made.micro_batch_tokens >= 4096


def test_8b_model_fits_12_gib_with_gradient_checkpointing() -> None:
    made = planned(79, train={"memory_gib": 12.0})
    assert made.checkpointing
    assert made.peak_bytes <= 12 * GIB
    assert made.micro_batch_tokens >= max(LENGTHS)


# peaks measured on an H100 (bench/results/training-h100-2026-11-24.md): quantization,
# tokens of the largest micro-batch, checkpointing, GiB
MEASURED = [
    ("nf4", 4096, False, 18.82), ("nf4", 6736, False, 26.34), ("nf4", 16384, False, 54.06), ("none", 4096, False, 28.2),
    ("nf4", 4096, True, 7.30), ("nf4", 12288, True, 8.60),
]  # fmt: skip


@pytest.mark.parametrize(("quantization", "tokens", "checkpointing", "gib"), MEASURED)
def test_planned_peak_memory_matches_measurements(
    quantization: str, tokens: int, checkpointing: bool, gib: float
) -> None:
    train = {
        "gradient_checkpointing": checkpointing, "micro_batch_tokens": tokens, "per_device_train_batch_size": 1,
        "torch_compile": True,
    }  # fmt: skip
    requested = settings(base={"quantization": quantization}, train=train)
    made = plan(requested, shape("Llama-3.1-8B"), [tokens] * 8, card(79))
    assert made.peak_bytes / GIB == pytest.approx(gib, rel=0.05)


def test_uncompiled_layers_need_more_memory() -> None:
    def held(**more: Any) -> int:
        return planned(79, train={"micro_batch_tokens": 4096, "torch_compile": False}, **more).activation_bytes

    compiled = planned(79, train={"micro_batch_tokens": 4096, "torch_compile": True}).activation_bytes
    assert compiled < held() < held(lora={"lora_dropout": 0.1})


def test_padding_is_counted_in_micro_batches() -> None:
    step = {"per_device_train_batch_size": 16, "micro_batch_tokens": 8192, "torch_compile": True}
    packed = planned(79, train=step)
    padded = plan(settings(train=step, data={"path": "x", "packing": False}), shape("Llama-3.1-8B"), LENGTHS, card(79))
    assert padded.checkpointing == packed.checkpointing
    assert padded.activation_bytes > packed.activation_bytes


def test_plan_includes_host_memory_for_checkpoints() -> None:
    made = planned(79, train={"memory_gib": 12.0, "torch_compile": True})
    assert "GiB of host memory for checkpoints" in made.lines()[1]
    assert "host's" not in planned(79).lines()[1]


def test_run_that_cannot_fit_is_one_error_with_suggestions() -> None:
    with pytest.raises(UserError) as caught:
        planned(4)
    (fault,) = caught.value.faults
    for word in ("GPU memory", "smaller base", "base.quantization: nf4", "data.max_length", "lora.r", "2048 tokens"):
        assert word in fault


def test_unsloth_is_used_if_installed_and_only_it_fits() -> None:
    assert plan(settings(), shape("Llama-3.1-8B"), LENGTHS, card(8, unsloth=True)).backend == "unsloth"
    with pytest.raises(UserError):
        plan(settings(base={"backend": "transformers"}), shape("Llama-3.1-8B"), LENGTHS, card(8, unsloth=True))
    with pytest.raises(UserError):  # the weights alone are too large, also for unsloth
        plan(settings(), shape("Llama-3.1-8B"), LENGTHS, card(6.5, unsloth=True))


@pytest.mark.parametrize(("gib", "expected"), [(79, "none"), (23, "nf4"), (12, "nf4")])
def test_quantization_auto_chooses_16_bits_if_they_fit(gib: float, expected: str) -> None:
    assert planned(gib, base={"quantization": "auto"}).quantization == expected


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_explicit_quantization_is_kept(quantization: str) -> None:
    assert planned(79, base={"quantization": quantization}).quantization == quantization


@pytest.mark.parametrize("requested", [True, False])
def test_explicit_gradient_checkpointing_is_kept(requested: bool) -> None:
    assert planned(79, train={"gradient_checkpointing": requested}).checkpointing is requested


@pytest.mark.parametrize("gib", [11, 16, 24, 79])
def test_rows_per_step_do_not_depend_on_the_gpu(gib: float) -> None:
    batch = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "num_train_epochs": 2}
    made = planned(gib, train=batch)
    assert rows_per_step(settings(train=batch)) == 16
    assert made.steps == round(-(-len(LENGTHS) // 16) * 2)
    assert made.tokens == planned(79, train=batch).tokens


def test_less_memory_never_increases_micro_batches() -> None:
    def roomy(gib: float) -> int:
        return planned(gib, train={"gradient_checkpointing": True}).micro_batch_tokens

    found = [roomy(gib) for gib in (11, 12, 14, 18)]
    assert found == sorted(found)
    assert found[0] < found[-1]


def test_explicit_micro_batch_size_is_kept_but_fits_the_longest_row() -> None:
    assert planned(79, train={"micro_batch_tokens": 3000}).micro_batch_tokens == 3000
    assert planned(79, train={"micro_batch_tokens": 100}).micro_batch_tokens == max(LENGTHS)


def test_8bit_optimizers_need_less_planned_memory() -> None:
    sizes = [planned(79, train={"optim": o}).adapter_bytes for o in ("paged_adamw_8bit", "adamw_8bit", "auto")]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_model_without_attention_can_be_planned() -> None:
    with torch.device("meta"):
        made = shape_of(MambaForCausalLM(MambaConfig(vocab_size=512, hidden_size=64, num_hidden_layers=2)))
    cpu = Machine("cpu", 8 * GIB)
    assert plan(settings(base={"quantization": "none"}), made, LENGTHS, cpu).peak_bytes > 0


def test_plan_prints_five_lines_and_loads_no_weights(tiny_base: Path, rows: Path, tmp_path: Path, cli: Cli) -> None:
    bare = tmp_path / "no-weights"
    shutil.copytree(tiny_base, bare)
    leave_only_the_header(bare / "model.safetensors")
    done = cli("train", "plan", "--base.id", str(bare), "--data.path", str(rows), "--run.root", str(tmp_path / "runs"))
    assert done.returncode == 0, done.stderr
    one, two, three, four, five = (line for line in done.stderr.splitlines() if line.startswith("plan: "))
    assert "transformers on cpu, quantization none" in one
    assert "memory" in two and "disk" in two
    assert "18 steps" in three and "micro-batches" in three
    assert "the held-out rows are evaluated once, at the end" in four
    assert "export examines the merge" in five and "a layer in float32" in five and "; disk " in five
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_plan_counts_the_adapter_that_training_continues(tiny_base: Path, rows: Path, tmp_path: Path, cli: Cli) -> None:
    def plan_output(*more: str) -> str:
        requested = ("--base.id", str(tiny_base), "--data.path", str(rows), "--run.root", str(tmp_path / "runs"), *more)
        done = cli("train", "plan", *requested)
        assert done.returncode == 0, done.stderr
        found = re.search(r"adapter and optimizer (\d+ [KM]iB)", done.stderr)
        assert found
        return found[1]

    (tmp_path / "adapter").mkdir(exist_ok=True)
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"r": 256}')
    assert (
        plan_output("--lora.resume_adapter", str(tmp_path / "adapter"))
        == plan_output("--lora.r", "256")
        != plan_output()
    )


def test_base_with_conv1d_layers_can_be_planned() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.device("meta"):
        gpt2 = shape_of(GPT2LMHeadModel(GPT2Config(n_layer=2)))
    assert gpt2.linear_parameters == 2 * 12 * 768**2
    assert plan(settings(), gpt2, LENGTHS, card(79)).micro_batch_tokens > 0


def test_plan_includes_evaluations() -> None:
    sizes, machine, planned_run = shape("Llama-3.1-8B"), card(79), planned(79)
    once = evaluations(settings(), sizes, [500] * 256, machine, planned_run)
    assert (once.times, once.tokens) == (1, 128_000)
    assert once.seconds is not None and planned_run.seconds is not None
    # a forward pass costs half of forward and backward with a frozen base
    assert once.seconds == pytest.approx(planned_run.seconds * 128_000 / planned_run.tokens / 2)
    assert "evaluated once, at the end: 128,000 tokens, about" in once.line()
    often = {"max_steps": 100, "eval_steps": 25}
    many = evaluations(settings(train=often), sizes, [500], machine, planned(79, train=often))
    assert (many.times, many.tokens) == (5, 2500)
    assert "evaluated 5 times: 2,500 tokens" in many.line()


def test_target_modules_expression_must_match_full_names() -> None:
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**SHAPES["Llama-3.2-1B"]))
    check_targets(model, r".*layers\.\d+\.self_attn\.(q|v)_proj")
    check_targets(model, "all-linear")
    with pytest.raises(ConfigError, match=r"the regular expression 'q_pro\.\*' matches no full layer name .*q_proj"):
        check_targets(model, "q_pro.*")


@pytest.mark.skipif(torch.cuda.is_available(), reason="float16 is fast on a GPU")
def test_float16_on_a_cpu_and_a_low_scale_cause_warnings(tiny_base: Path, rows: Path, tmp_path: Path, cli: Cli) -> None:
    given = ("--base.id", str(tiny_base), "--data.path", str(rows), "--run.root", str(tmp_path))
    for verb in ("check", "plan"):
        done = cli("train", verb, *given, "--data.max_length", "128", "--lora.lora_alpha", "1", "--base.dtype", "half")
        assert done.returncode == 0, done.stderr
        assert "warning: the adapter's scale is " in done.stderr
        assert ("warning: float16 is slow on a CPU: set base.dtype: float32" in done.stderr) is (verb == "plan")
