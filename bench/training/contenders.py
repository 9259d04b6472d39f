"""One contender on one load, in its own process: trains a few steps and prints their timing (see turns.py).

python -m bench.training.contenders CONTENDER LOAD --base DIR --steps N --checkpointing auto|true|false [--memory_gib G]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from typing import Any

from bench.training.turns import RESULT, Timer

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
STARTED = time.time()  # after interpreter start, before slow imports
LOADS = {"dense": (2048, 2, 4), "chat": (2048, 16, 1), "long": (8192, 1, 8)}  # max_length, rows, accumulation


def rows_of(load: str, steps: int, packing: bool = False) -> list[list[int]]:
    """Return random rows with the load's lengths: full for dense and long; lognormal, mean 300, sigma 0.8, for chat."""
    drawn = random.Random(7)
    limit, rows, accumulation = LOADS[load]
    count = rows * accumulation * steps * (2 if packing else 1)  # packed steps contain more rows
    mean = 5.70378 - 0.32  # ln(300) - sigma² / 2
    lengths = [min(limit, max(16, round(drawn.lognormvariate(mean, 0.8)))) for _ in range(count)]
    return [[drawn.randrange(1000, 100_000) for _ in range(n if load == "chat" else limit)] for n in lengths]


def burnish(options: argparse.Namespace) -> dict[str, Any]:
    """Burnish's training; as in a run, the plan resolves options that are not set."""
    from pathlib import Path

    from transformers import AutoTokenizer

    from burnish.bases.base import Base
    from burnish.data.formats import Example
    from train.data.mask import Row
    from train.kernels.compile import FastLayers
    from train.loop.arguments import make_trainer
    from train.loop.trainer import Batching
    from train.models.adapters import add_adapter
    from train.models.device import limited_memory
    from train.models.transformers import load_base
    from train.resolved import Resolved, changed
    from train.world import World

    ids = rows_of(options.load, options.steps)
    settings = settings_of(options)
    planned = planned_for(settings, [len(row) for row in ids], options.base)
    settings = changed(settings, "base", quantization=planned.quantization, backend=planned.backend)
    settings = changed(settings, "train", optim=planned.optim, gradient_checkpointing=planned.checkpointing)
    for line in planned.lines():
        print(line, file=sys.stderr)
    made = [Row(Example(i + 1, (), None), row, ((0, len(row)),), (0,)) for i, row in enumerate(ids)]
    device = World().device
    with limited_memory(options.memory_gib, device):
        base = load_base(Base(options.base, None, Path(options.base), ""), settings.base, device)
        model = add_adapter(base, settings.lora)
        batching = Batching(planned.micro_batch_tokens, checkpointing=planned.checkpointing)
        trainer = make_trainer(
            Resolved(settings, planned.steps), batching, FastLayers(model, planned.compiled), model,
            AutoTokenizer.from_pretrained(options.base), (made, made[:1]), Path("/tmp/bench-train"), World(),
        )  # fmt: skip
        decided = {
            "planned_gib": planned.peak_bytes / 2**30, "planned_checkpointing": planned.checkpointing,
            "planned_micro_batch_tokens": planned.micro_batch_tokens, "planned_quantization": planned.quantization,
        }  # fmt: skip
        return {**decided, **timed(trainer, 1, options)}


def settings_of(options: argparse.Namespace) -> Any:
    """Return the settings a user would choose for this load."""
    from train.settings import TrainSettings

    limit, rows, accumulation = LOADS[options.load]
    checkpointing = {"auto": "auto", "true": True, "false": False}[options.checkpointing]
    return TrainSettings.model_validate({
        "base": {"id": options.base, "quantization": options.quantization, "backend": "transformers"},
        "data": {"path": "random", "max_length": limit, "assistant_only_loss": False},
        "train": {"per_device_train_batch_size": rows, "gradient_accumulation_steps": accumulation,
                  "num_train_epochs": 1.0, "save_steps": 10_000, "report_to": [], "memory_gib": options.memory_gib,
                  "gradient_checkpointing": checkpointing, "micro_batch_tokens": options.micro_batch_tokens,
                  "torch_compile": True, "optim": options.optim},
    })  # fmt: skip


def planned_for(settings: Any, lengths: list[int], base: str) -> Any:
    """Return the plan for a free GPU, although waiting contenders occupy part of it."""
    from pathlib import Path

    import torch

    from train.plan.machine import Machine
    from train.plan.memory import plan
    from train.plan.model_shape import empty_model, shape_of

    free = torch.cuda.get_device_properties(0).total_memory - 2**29  # for CUDA's context
    return plan(settings, shape_of(empty_model(Path(base), False)), lengths, Machine("cuda", free))


def timed(trainer: Any, accumulation: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train and return the timing; with --profile, write a profile of two steps."""
    import torch

    if options.memory_gib:
        torch.cuda.set_per_process_memory_fraction(options.memory_gib * 2**30 / torch.cuda.mem_get_info()[1])
    timer = Timer(STARTED, options.warm, options.turn)
    timer.watch(trainer, accumulation)
    if options.profile:
        trainer.add_callback(profiling(options.profile))
    timer.begin()
    trainer.train()
    return timer.result(trainer)


def profiling(path: str) -> Any:
    """Return a callback that profiles steps 5 and 6."""
    from pathlib import Path

    import torch
    from transformers import TrainerCallback

    both = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    profiler = torch.profiler.profile(activities=both)

    class Profile(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 4:
                profiler.start()
            if state.global_step == 6:
                profiler.stop()
                averages = profiler.key_averages()
                tables = [averages.table(sort_by=f"self_{by}_time_total", row_limit=50) for by in ("cuda", "cpu")]
                Path(path).write_text("\n".join(tables))

    return Profile()


def unsloth(options: argparse.Namespace) -> dict[str, Any]:
    """unsloth's loader, adapter and patched TRL, as in its guides."""
    from unsloth import FastLanguageModel  # isort: skip  # before trl, transformers and peft

    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    limit, _, _ = LOADS[options.load]
    model, tokenizer = FastLanguageModel.from_pretrained(
        options.base,
        max_seq_length=limit,
        dtype=None,
        load_in_4bit=options.quantization == "nf4",
        use_exact_model_name=True,
    )
    checkpointing = "unsloth" if options.checkpointing == "true" else False
    model = FastLanguageModel.get_peft_model(
        model, r=16, lora_alpha=32, lora_dropout=0, bias="none", target_modules=TARGETS,
        use_gradient_checkpointing=checkpointing, random_state=42,
    )  # fmt: skip
    config = SFTConfig(**trl_arguments(options), gradient_checkpointing=bool(checkpointing))
    rows = rows_of(options.load, options.steps, options.packing)
    data = Dataset.from_dict({"input_ids": rows, "labels": rows})
    trainer = SFTTrainer(model=model, args=config, processing_class=tokenizer, train_dataset=data)
    return timed(trainer, config.gradient_accumulation_steps, options)


def trl(options: argparse.Namespace) -> dict[str, Any]:
    """TRL, PEFT and bitsandbytes without additions."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    from trl import SFTConfig, SFTTrainer

    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(
        options.base, dtype=torch.bfloat16, device_map={"": "cuda"}, quantization_config=nf4
    )
    config = SFTConfig(**trl_arguments(options), gradient_checkpointing=options.checkpointing == "true")
    rows = rows_of(options.load, options.steps, options.packing)
    data = Dataset.from_dict({"input_ids": rows, "labels": rows})
    lora = LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear")
    tokenizer = AutoTokenizer.from_pretrained(options.base)
    trainer = SFTTrainer(model=model, args=config, processing_class=tokenizer, train_dataset=data, peft_config=lora)
    return timed(trainer, config.gradient_accumulation_steps, options)


TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def trl_arguments(options: argparse.Namespace) -> dict[str, Any]:
    limit, rows, accumulation = LOADS[options.load]
    if options.load == "chat":
        rows, accumulation = (2, 2) if options.packing else (8, 2)
    return {
        "output_dir": "/tmp/bench-train-peer", "per_device_train_batch_size": rows, "optim": "adamw_8bit",
        "gradient_accumulation_steps": accumulation, "num_train_epochs": 1, "learning_rate": 2e-4, "logging_steps": 1,
        "max_length": limit, "packing": options.packing, "bf16": True, "report_to": "none", "save_strategy": "no",
        "seed": 42, "disable_tqdm": True, "max_steps": options.steps,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("contender")
    parser.add_argument("load", choices=LOADS)
    parser.add_argument("--base", required=True)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warm", type=int, default=2, help="warm-up steps, excluded from the figures")
    parser.add_argument("--turn", type=int, default=0, help="steps per turn, after which it waits for a line; 0: never")
    parser.add_argument(
        "--checkpointing", default="auto", choices=["auto", "true", "false"], help="for peers, auto means false"
    )
    parser.add_argument("--micro_batch_tokens", default="auto", type=lambda x: x if x == "auto" else int(x))
    parser.add_argument("--quantization", default="nf4")
    parser.add_argument(
        "--optim", default="auto", help="optimizer of Burnish; peers use adamw_8bit, as in their guides"
    )
    parser.add_argument("--memory_gib", type=float, help="GPU memory limit")
    parser.add_argument("--packing", action="store_true", help="for peers: pack rows into blocks of max_length")
    parser.add_argument("--profile", help="file for a profile of two steps")
    options = parser.parse_args()
    result = globals()[options.contender](options)
    print(RESULT, json.dumps({**vars(options), **result}), flush=True)


if __name__ == "__main__":
    main()
