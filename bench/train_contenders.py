"""One contender on one load, in a process of its own: trains some steps and prints what they took as one JSON line.

python -m bench.train_contenders CONTENDER LOAD --base DIR --steps N --checkpointing auto|true|false [--memory_gib G]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from typing import Any

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
STARTED = time.time()  # after the interpreter, before every import that takes time
LOADS = {"dense": (2048, 2, 4), "chat": (2048, 16, 1), "long": (8192, 1, 8)}  # max_length, rows, accumulation


def rows_of(load: str, steps: int) -> list[list[int]]:
    """Return random rows of the load's lengths: dense and long are full; chat is lognormal, mean 300, sigma 0.8."""
    drawn = random.Random(7)
    limit, rows, accumulation = LOADS[load]
    count = rows * accumulation * steps
    mean = 5.70378 - 0.32  # ln(300) - sigma² / 2
    lengths = [min(limit, max(16, round(drawn.lognormvariate(mean, 0.8)))) for _ in range(count)]
    return [[drawn.randrange(1000, 100_000) for _ in range(n if load == "chat" else limit)] for n in lengths]


class Timer:
    """Marks the end of each step, synchronised, and how many real tokens it had."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.collated: list[int] = []

    def mark(self) -> None:
        import torch

        torch.cuda.synchronize()
        self.ends.append(time.time())
        print(f"step {len(self.ends)} {self.ends[-1] - STARTED:.1f} s", file=sys.stderr, flush=True)

    def watch(self, trainer: Any, accumulation: int) -> None:
        """Mark the trainer's steps, and count what its collator is given; a step has `accumulation` of its batches."""
        from transformers import TrainerCallback

        collate, timer = trainer.data_collator, self

        def counting(examples: list[dict[str, Any]]) -> Any:
            timer.collated.append(sum(len(e["input_ids"]) for e in examples))
            return collate(examples)

        class Mark(TrainerCallback):  # type: ignore[misc]
            def on_step_end(self, *_: Any, **__: Any) -> None:
                timer.mark()

        trainer.data_collator = counting
        trainer.add_callback(Mark())
        self.accumulation = accumulation

    def result(self, trainer: Any) -> dict[str, Any]:
        """Return medians over the steps after the second (compilers and caches are warm then)."""
        import torch

        a = self.accumulation
        tokens = [sum(self.collated[i * a : (i + 1) * a]) for i in range(len(self.ends))][2:]
        seconds = [end - begun for begun, end in zip(self.ends, self.ends[1:], strict=False)][1:]
        rates = [t / s for t, s in zip(tokens, seconds, strict=True)]
        return {
            "tokens_per_s": statistics.median(rates), "low": min(rates), "high": max(rates),
            "mean_tokens_per_s": sum(tokens) / sum(seconds), "step_s": statistics.median(seconds),
            "tokens_a_step": statistics.mean(tokens), "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
            "reserved_gib": torch.cuda.max_memory_reserved() / 2**30, "first_step_s": self.ends[0] - STARTED,
            "losses": [round(e["loss"], 4) for e in trainer.state.log_history if "loss" in e],
        }  # fmt: skip


def burnish(options: argparse.Namespace) -> dict[str, Any]:
    from pathlib import Path

    from transformers import AutoTokenizer

    from burnish.base import Base
    from train import model as models
    from train.build import make_trainer
    from train.formats import Example
    from train.mask import Row
    from train.settings import TrainSettings
    from train.speed import Speed
    from train.trainer import Batching

    limit, rows, accumulation = LOADS[options.load]
    settings = TrainSettings.model_validate({
        "base": {"id": options.base, "quantization": options.quantization},
        "data": {"path": "random", "max_length": limit, "assistant_only_loss": False},
        "train": {"per_device_train_batch_size": rows, "gradient_accumulation_steps": accumulation,
                  "num_train_epochs": 1.0, "save_steps": 10_000, "report_to": []},
    })  # fmt: skip
    ids = rows_of(options.load, options.steps)
    made = [Row(Example(i + 1, (), None), row, ((0, len(row)),), (0,)) for i, row in enumerate(ids)]
    base = models.load_base(Base(options.base, None, Path(options.base), ""), settings.base)
    model = models.add_adapter(base, settings.lora)
    batching = Batching(options.micro_batch_tokens, checkpointing=options.checkpointing == "true")
    speed = None if options.plain else Speed(model, True)
    trainer = make_trainer(
        settings, batching, speed, options.optim, model, AutoTokenizer.from_pretrained(options.base), (made, made[:1]),
        Path("/tmp/bench-train"),
    )  # fmt: skip
    return timed(trainer, 1, options)


def timed(trainer: Any, accumulation: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train, and return what the steps took; with --profile write where the time of two steps went."""
    import torch

    if options.memory_gib:
        torch.cuda.set_per_process_memory_fraction(options.memory_gib * 2**30 / torch.cuda.mem_get_info()[1])
    timer = Timer()
    timer.watch(trainer, accumulation)
    if options.profile:
        trainer.add_callback(profiling(options.profile))
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
                table = profiler.key_averages().table(
                    sort_by="self_cuda_time_total", row_limit=70, max_name_column_width=80
                )
                Path(path).write_text(table)

    return Profile()


def unsloth(options: argparse.Namespace) -> dict[str, Any]:
    """unsloth's own loader, adapter and patched TRL, as its guides put them together."""
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
    rows = rows_of(options.load, options.steps)
    data = Dataset.from_dict({"input_ids": rows, "labels": rows})
    trainer = SFTTrainer(model=model, args=config, processing_class=tokenizer, train_dataset=data)
    return timed(trainer, config.gradient_accumulation_steps, options)


def trl(options: argparse.Namespace) -> dict[str, Any]:
    """TRL, PEFT and bitsandbytes with nothing else."""
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
    rows = rows_of(options.load, options.steps)
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
        "seed": 42, "disable_tqdm": True,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("contender")
    parser.add_argument("load", choices=LOADS)
    parser.add_argument("--base", required=True)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--checkpointing", default="false")
    parser.add_argument("--micro_batch_tokens", type=int, default=8192)
    parser.add_argument("--quantization", default="nf4")
    parser.add_argument("--optim", default="adamw_torch_fused")
    parser.add_argument("--memory_gib", type=float, help="the GPU's memory is cut to this")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--packing", action="store_true", help="peers: rows packed into blocks of the longest length")
    parser.add_argument("--profile", help="write here where the time of two steps went")
    options = parser.parse_args()
    if options.memory_gib:
        os.environ["PYTORCH_CUDA_ALLOC_CONF"] = ""
    result = globals()[options.contender](options)
    print(json.dumps({"contender": options.contender, "load": options.load, **vars(options), **result}))


if __name__ == "__main__":
    main()
