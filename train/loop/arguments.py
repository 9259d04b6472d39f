"""Configure TRL's trainer for prepared ids and labels: it receives no messages and truncates nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import EarlyStoppingCallback, PrinterCallback
from trl import SFTConfig

from burnish.config import ConfigError

from ..data.mask import Row
from ..kernels.compile import FastLayers
from ..models.device import dtype
from ..objectives.sft import SupervisedFineTuning
from ..plan.memory import rows_per_step
from ..private.transformers import use_one_gpu
from ..resolved import Resolved
from ..settings import TrainSection
from ..world import World
from .trainer import Batching, PackedTrainer


def arguments(resolved: Resolved, output: Path, world: World) -> SFTConfig:
    """Return TRL's arguments. A TRL batch is a full optimizer step, which PackedTrainer divides."""
    options = SFTConfig(
        output_dir=str(output),
        **_batches(resolved),
        **_optimization(resolved.train),
        **_evaluation(resolved.train),
        **_device(resolved, world.device),
        logging_steps=resolved.train.logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # a non-finite loss ends the run, so it must not be filtered out
        save_steps=resolved.train.save_steps,
        save_total_limit=resolved.train.save_total_limit,
        report_to=[name for name in resolved.train.report_to if name != "tensorboard"],  # Burnish writes its own
        disable_tqdm=True,
    )
    use_one_gpu(options)
    return options


def _batches(resolved: Resolved) -> dict[str, Any]:
    """Return options that pass a full step's rows to TRL's trainer unchanged.

    Some values equal TRL's defaults but are set because unsloth changes those defaults, e.g. to two batches per step.
    """
    return {
        "per_device_train_batch_size": rows_per_step(resolved.settings),
        "gradient_accumulation_steps": 1,
        "eval_accumulation_steps": None,
        "torch_empty_cache_steps": None,
        "per_device_eval_batch_size": rows_per_step(resolved.settings),
        "packing": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},  # the rows are complete, and made only when they are needed
        "max_length": None,
        "loss_type": "nll",
        "dataloader_num_workers": 0,
        "remove_unused_columns": False,
    }


def _optimization(train: TrainSection) -> dict[str, Any]:
    return {
        "learning_rate": train.learning_rate,
        "lr_scheduler_type": train.lr_scheduler_type,
        "lr_scheduler_kwargs": {"min_lr_rate": 0.1} if train.lr_scheduler_type == "cosine_with_min_lr" else None,
        "warmup_steps": train.warmup_steps,
        "num_train_epochs": train.num_train_epochs,
        "max_steps": train.max_steps,
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "optim": train.optim,
        "seed": train.seed,
        "data_seed": train.seed,
    }


def _evaluation(train: TrainSection) -> dict[str, Any]:
    stopping = train.early_stopping_patience is not None
    return {
        "eval_strategy": "steps" if train.eval_steps else "no",
        "eval_steps": train.eval_steps,
        "load_best_model_at_end": stopping,
        "restore_callback_states_from_checkpoint": stopping,  # a resumed run keeps its patience counter
        "metric_for_best_model": "eval_loss" if stopping else None,
        "greater_is_better": False if stopping else None,
    }


def _device(resolved: Resolved, device: torch.device) -> dict[str, Any]:
    cuda = device.type == "cuda"
    return {
        "bf16": False,  # the model is loaded in its compute dtype, and the fused layers cast where necessary
        "fp16": cuda and dtype(resolved.base, device) == torch.float16,
        "use_cpu": not cuda,
        # Burnish enables checkpointing itself, even during training; unsloth reads the setting here
        "gradient_checkpointing": resolved.checkpointing and resolved.base.backend == "unsloth",
    }


def make_trainer(
    resolved: Resolved,
    batching: Batching,
    fast_layers: FastLayers | None,
    model: Any,
    tokenizer: Any,
    rows: tuple[Sequence[Row], Sequence[Row]],
    output: Path,
    world: World,
) -> PackedTrainer:
    """Return the trainer for a model with an adapter and (training, held-out) rows."""
    train, heldout = (dataset(part, resolved.data.assistant_only_loss) for part in rows)
    options = arguments(resolved, output, world)
    with _own_dtypes(model):
        trainer = PackedTrainer(
            objective=SupervisedFineTuning(model, batching.packed, options.device),
            batching=batching,
            fast_layers=fast_layers,
            model=model,
            args=options,
            processing_class=tokenizer,
            train_dataset=train,
            eval_dataset=heldout,
        )
    trainer.remove_callback(PrinterCallback)
    if resolved.train.early_stopping_patience:
        trainer.add_callback(EarlyStoppingCallback(resolved.train.early_stopping_patience))
    _check_rows(trainer, len(rows[0]), rows_per_step(resolved.settings))
    if batching.checkpointing and resolved.base.backend != "unsloth":  # unsloth has its own checkpointing
        trainer.checkpoint()
    return trainer


@contextmanager
def _own_dtypes(model: Any) -> Iterator[None]:
    """Restore the adapter's values and dtypes: float32 for LoRA, the loaded dtype for other trained modules.

    TRL casts a quantized base's adapter to bfloat16, which loses small updates and a resumed adapter's precision.
    """
    adapter = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    yield
    for name, parameter in model.named_parameters():
        if name in adapter:
            parameter.data = adapter[name].float() if "lora_" in name else adapter[name]


def _check_rows(trainer: PackedTrainer, rows: int, per_step: int) -> None:
    """Raise ConfigError if TRL dropped rows, or a TRL step has a different number of rows."""
    if len(trainer.train_dataset) != rows:
        raise ConfigError(f"TRL kept {len(trainer.train_dataset)} of {rows} rows: this is a bug in Burnish")
    actual = trainer.args.per_device_train_batch_size * trainer.args.gradient_accumulation_steps
    if actual != per_step:
        raise ConfigError(f"a step has {actual} rows instead of {per_step}: this is a bug in Burnish")


def dataset(rows: Sequence[Row], assistant_only: bool) -> Dataset:
    """Return rows in TRL's format, with each row's line number; a row is made when it is asked for."""
    found = Dataset.from_dict({"row": np.arange(len(rows))})
    found.set_transform(_Made(rows, assistant_only))
    return found


class _Made:
    """Makes the rows of a batch of row numbers."""

    def __init__(self, rows: Sequence[Row], assistant_only: bool) -> None:
        self._rows, self._assistant_only = rows, assistant_only

    def __call__(self, batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        found = [self._rows[at] for at in batch["row"]]
        return {
            "input_ids": [row.input_ids for row in found],
            "labels": [row.labels(everything=not self._assistant_only) for row in found],
            "line": [row.example.number for row in found],
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return int, (id(self),)  # datasets pickles a transform only to name it

    def __deepcopy__(self, memo: Any) -> _Made:
        return self
