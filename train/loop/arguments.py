"""TRL's trainer over ready ids and labels: it is never given messages, and nothing is left for it to cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import EarlyStoppingCallback, PrinterCallback
from trl import SFTConfig

from burnish.config import ConfigError

from ..data.mask import Row
from ..kernels.compile import Speed
from ..models.device import device, dtype
from ..plan.memory import rows_per_step
from ..resolved import Resolved
from .trainer import Batching, PackedTrainer


def arguments(resolved: Resolved, output: Path) -> SFTConfig:
    """Return TRL's arguments; its batch is a whole step, which PackedTrainer cuts."""
    t = resolved.train
    cuda = device().type == "cuda"
    stopping = t.early_stopping_patience is not None
    made = SFTConfig(
        output_dir=str(output),
        learning_rate=t.learning_rate,
        lr_scheduler_type=t.lr_scheduler_type,
        lr_scheduler_kwargs={"min_lr_rate": 0.1} if t.lr_scheduler_type == "cosine_with_min_lr" else None,
        warmup_steps=t.warmup_steps,
        num_train_epochs=t.num_train_epochs,
        max_steps=t.max_steps,
        weight_decay=t.weight_decay,
        per_device_train_batch_size=rows_per_step(resolved.settings),
        # said, though they are TRL's own: unsloth gives these arguments other defaults, two batches a step among them
        gradient_accumulation_steps=1,
        eval_accumulation_steps=None,
        torch_empty_cache_steps=None,
        per_device_eval_batch_size=rows_per_step(resolved.settings),
        # ours to switch, also while training; unsloth looks here
        gradient_checkpointing=resolved.checkpointing and resolved.base.backend == "unsloth",
        max_grad_norm=t.max_grad_norm,
        optim=t.optim,
        seed=t.seed,
        data_seed=t.seed,
        logging_steps=t.logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # a loss that isn't finite ends the run; it is not averaged away
        save_steps=t.save_steps,
        save_total_limit=t.save_total_limit,
        eval_strategy="steps" if t.eval_steps else "no",
        eval_steps=t.eval_steps,
        load_best_model_at_end=stopping,
        restore_callback_states_from_checkpoint=stopping,  # a resumed run has waited as long as it had before
        metric_for_best_model="eval_loss" if stopping else None,
        greater_is_better=False if stopping else None,
        bf16=False,  # the model is loaded in its compute dtype, and the fused layers cast what they must
        fp16=cuda and dtype(resolved.base) == torch.float16,
        use_cpu=not cuda,
        packing=False,
        max_length=None,
        loss_type="nll",
        report_to=[name for name in t.report_to if name != "tensorboard"],  # TensorBoard's events are ours
        disable_tqdm=True,
        dataloader_num_workers=0,
        remove_unused_columns=False,
    )
    _ = made.device  # settles the devices
    made._n_gpu = min(1, made.n_gpu)  # several would be split by DataParallel, which knows nothing of packed rows
    return made


def make_trainer(
    resolved: Resolved,
    batching: Batching,
    speed: Speed | None,
    model: Any,
    tokenizer: Any,
    rows: tuple[list[Row], list[Row]],
    output: Path,
) -> PackedTrainer:
    """Return the trainer of a model with its adapter over the rows to train on and those held out."""
    train, heldout = (dataset(part, resolved.data.assistant_only_loss) for part in rows)
    # TRL casts the adapter of a quantized base to bfloat16, in which small updates, and what one starts from, are lost
    adapter = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    trainer = PackedTrainer(
        batching=batching,
        speed=speed,
        model=model,
        args=arguments(resolved, output),
        processing_class=tokenizer,
        train_dataset=train,
        eval_dataset=heldout,
    )
    trainer.remove_callback(PrinterCallback)
    if resolved.train.early_stopping_patience:
        trainer.add_callback(EarlyStoppingCallback(resolved.train.early_stopping_patience))
    if len(trainer.train_dataset) != len(rows[0]):
        raise ConfigError(f"TRL kept {len(trainer.train_dataset)} of {len(rows[0])} rows: this is a fault of ours")
    made = trainer.args.per_device_train_batch_size * trainer.args.gradient_accumulation_steps
    if made != rows_per_step(resolved.settings):
        raise ConfigError(
            f"a step was to have {rows_per_step(resolved.settings)} rows and has {made}: this is a fault of ours"
        )
    for name, parameter in trainer.model.named_parameters():
        if name in adapter:
            # a module that is trained whole stays in the dtype in which it was loaded
            parameter.data = adapter[name].float() if "lora_" in name else adapter[name]
    if batching.checkpointing and resolved.base.backend != "unsloth":  # which has its own
        trainer.checkpoint()
    return trainer


def dataset(rows: list[Row], assistant_only: bool) -> Dataset:
    """Return rows as TRL takes them, with the line that each came from."""
    return Dataset.from_dict(
        {
            "input_ids": [row.input_ids for row in rows],
            "labels": [row.labels(everything=not assistant_only) for row in rows],
            "line": [row.example.number for row in rows],
        }
    )
