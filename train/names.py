"""unsloth, TRL, transformers and bitsandbytes settings that have different names here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from burnish.config.foreign import Meaning, Names, hint, same, unless

DTYPES = {
    "half": "float16", "fp16": "float16", "torch.half": "float16", "torch.float16": "float16", "bf16": "bfloat16",
    "torch.bfloat16": "bfloat16", "fp32": "float32", "float": "float32", "torch.float32": "float32", None: "auto",
    "None": "auto", "none": "auto", "null": "auto",
}  # fmt: skip
HELD_OUT = ("test", "validation", "eval")  # common names for held-out splits
REGEX = frozenset("\\.*+?()[]{}|^$")


def dtype(value: Any) -> Any:
    """Return our name for a dtype; an unknown dtype is returned unchanged, for validation to reject."""
    return DTYPES.get(value, value) if value is None or isinstance(value, str) else value


def reports(value: Any) -> Any:
    """Return report_to as a list: TRL also accepts a single name and "none"."""
    if value in (None, "none", ["none"]):
        return []
    return [value] if isinstance(value, str) else value


def targets(value: Any) -> Any:
    """Return target_modules as a list of names or, as in PEFT, a regular expression; a string may be either."""
    if isinstance(value, list) and len(value) == 1 and _is_pattern(value[0]):
        return value[0]
    if isinstance(value, str) and value.startswith("[") and value.endswith("]") and not _is_pattern(value[1:-1]):
        value = value[1:-1]  # a YAML list on one line
    if not isinstance(value, str) or value == "all-linear" or _is_pattern(value):
        return value
    return [part.strip(" '\"") for part in value.split(",") if part.strip()]


def _is_pattern(value: Any) -> bool:
    """Return whether a string is a regular expression; dots alone, as in "0.q_proj", are part of a name."""
    return isinstance(value, str) and bool(REGEX - {"."} & set(value))


def _four_bits(value: Any) -> Meaning:
    return {"base.quantization": "nf4" if value is True else "none" if value is False else value}


def _if_true(key: str, meant: str) -> Callable[[Any], Meaning]:
    return lambda value: {key: meant} if value is True else {} if value in (False, None) else {key: value}


def _checkpointing(value: Any) -> Meaning:
    return {"train.gradient_checkpointing": True if value == "unsloth" else value}


def _warmup(value: Any) -> Meaning:
    if value is None or (isinstance(value, int | float) and 0 <= value < 1):
        return {"train.warmup_steps": value or 0}
    return "expected a share of the steps, 0 or more and below 1: train.warmup_steps accepts the same"


def _files(value: Any) -> Meaning:
    """Return the paths from data_files (datasets): one file, or a training file and a held-out file."""
    splits = value if isinstance(value, dict) else {"train": value}
    paths: dict[str, Any] = {}
    for split, files in splits.items():
        ours = {"train": "data.path"}.get(split, "data.eval_path" if split in HELD_OUT else None)
        one = files[0] if isinstance(files, list) and len(files) == 1 else files
        if ours is None or ours in paths or not isinstance(one, str):
            return "set data.path to one file or a directory of files, and data.eval_path to a file of held-out rows"
        paths[ours] = one
    return paths


def _responses_only(value: Any) -> Meaning:
    """Translate train_on_responses_only; unsloth's turn markers are not needed."""
    if value is None or isinstance(value, dict):
        value = True
    return {"data.assistant_only_loss": value}


def _attention(value: Any) -> Meaning:
    return {"base.attn_implementation": "auto" if value in (None, "None", "none", "null") else value}


ONE_PROCESS = unless((False, None, -1, 0, ""), "training uses one process on one device: remove it")
TRAINED_MODULES = (
    "LoRA on embed_tokens and lm_head is supported, at train.learning_rate: add them to lora.target_modules, with the"
    " other layers"
)
WHOLE_MODULES = f"training whole modules is not supported. {TRAINED_MODULES}"
NAMES: Names = {
    "model_name": same("base.id"),
    "model_name_or_path": same("base.id"),
    "load_in_4bit": _four_bits,
    "load_in_8bit": unless((False, None), "8-bit training is not supported: set base.quantization to nf4 or none"),
    "bnb_4bit_quant_type": unless(("nf4",), "only nf4 is supported: set base.quantization to nf4"),
    "bnb_4bit_use_double_quant": same("base.double_quant"),
    "bnb_4bit_compute_dtype": lambda value: {"base.dtype": dtype(value)},
    "torch_dtype": lambda value: {"base.dtype": dtype(value)},
    "fp16": _if_true("base.dtype", "float16"),
    "bf16": _if_true("base.dtype", "bfloat16"),
    "full_finetuning": unless((False, None), "full fine-tuning is not supported, only LoRA adapters"),
    "max_seq_length": same("data.max_length"),
    "max_seq_len": same("data.max_length"),
    "random_state": same("train.seed"),
    "lr": same("train.learning_rate"),
    "data_seed": hint("train.seed also sets the order of rows"),
    "use_gradient_checkpointing": _checkpointing,
    "warmup_ratio": _warmup,
    "loftq_config": unless((None, {}), "LoftQ changes the base's weights and is not supported: remove it"),
    "task_type": unless(("CAUSAL_LM", "CAUSAL LM", None), "only CAUSAL_LM is supported: remove it"),
    "hub_model_id": same("push.repo"),
    "output_dir": hint("a run is stored in run.root/run.name: set RUN=name (run.name) or run.root"),
    "logging_dir": hint("TensorBoard events are in the run's logs/: remove it"),
    "dataset_num_proc": hint("rows are prepared in one process: remove it"),
    "dataloader_num_workers": hint("all rows are in memory: remove it"),
    "dataset_text_field": hint("rows with a column 'text' are read as plain texts (data.format: text)"),
    "group_by_length": hint("rows are packed without padding (data.packing): remove it"),
    "eval_strategy": unless(("no", False, None), "set only train.eval_steps"),
    "evaluation_strategy": unless(("no", False, None), "set only train.eval_steps"),
    "save_strategy": unless(("steps",), "set only train.save_steps"),
    "resume_from_checkpoint": hint("the same command resumes by itself (with --resume, nothing to resume is an error)"),
    "push_to_hub": unless((False, None), "set push.repo, and run `make push` after the export"),
    "save_method": hint(
        "`make export` merges in 16 bits and makes GGUF files; push.what (WHAT=merged, adapter, gguf) sets what is"
        " published"
    ),
    "quantization_method": hint("GGUF types are export settings: make export QUANTS=Q4_K_M,Q8_0"),
    "token": hint("set the Hub's token as HF_TOKEN in the environment, not in a file or a command"),
    "device_map": hint("a GPU is used if there is one; choose it with CUDA_VISIBLE_DEVICES"),
    "dtype": lambda value: {"base.dtype": dtype(value)},
    "attn_implementation": _attention,
    "chat_template": same("chat.template"),
    "max_length": same("data.max_length"),
    "packing": same("data.packing"),
    "data_files": _files,
    "assistant_only_loss": same("data.assistant_only_loss"),
    "train_on_responses_only": _responses_only,
    "inference_mode": unless((False, None), "an adapter can't be trained in inference mode: remove it"),
    "deepspeed": ONE_PROCESS,
    "local_rank": ONE_PROCESS,
    "ddp_backend": ONE_PROCESS,
    "ddp_find_unused_parameters": ONE_PROCESS,
    "save_on_each_node": ONE_PROCESS,
    "remove_unused_columns": lambda value: {},  # the rows' format determines the columns; others are reported
    "dataset_kwargs": unless((None, {}), "Burnish prepares the rows, see `make check`: remove it"),
    "neftune_noise_alpha": unless((None, 0), "NEFTune is not supported: remove it"),
    "embedding_learning_rate": unless((None,), f"there is one learning rate. {TRAINED_MODULES}"),
    "modules_to_save": unless((None, [], ""), WHOLE_MODULES),
}  # fmt: skip
