"""The names of unsloth's, TRL's, transformers' and bitsandbytes' settings that are others here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from burnish.config.foreign import Meaning, Names, hint, same, unless

DTYPES = {
    "half": "float16", "fp16": "float16", "torch.half": "float16", "torch.float16": "float16", "bf16": "bfloat16",
    "torch.bfloat16": "bfloat16", "fp32": "float32", "float": "float32", "torch.float32": "float32", None: "auto",
    "None": "auto", "none": "auto", "null": "auto",
}  # fmt: skip
HELD_OUT = ("test", "validation", "eval")  # splits by the names that datasets have
REGEX = frozenset("\\.*+?()[]{}|^$")


def dtype(value: Any) -> Any:
    """Return our name of a dtype; what isn't known stays as it is, to be refused by the setting."""
    return DTYPES.get(value, value) if value is None or isinstance(value, str) else value


def reports(value: Any) -> Any:
    """Return the list that report_to is: TRL takes one name as well, and "none"."""
    if value in (None, "none", ["none"]):
        return []
    return [value] if isinstance(value, str) else value


def targets(value: Any) -> Any:
    """Return target_modules as a list of names, or as the regular expression that PEFT takes; both may be one text."""
    if isinstance(value, list) and len(value) == 1 and _is_pattern(value[0]):
        return value[0]
    if isinstance(value, str) and value.startswith("[") and value.endswith("]") and not _is_pattern(value[1:-1]):
        value = value[1:-1]  # a list, as YAML has it on one line
    if not isinstance(value, str) or value == "all-linear" or _is_pattern(value):
        return value
    return [part.strip(" '\"") for part in value.split(",") if part.strip()]


def _is_pattern(value: Any) -> bool:
    """Whether a text is a regular expression; the dots of "0.q_proj" are a name's."""
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
    return "a share of the steps is expected, 0 or more and below 1: train.warmup_steps has the same"


def _files(value: Any) -> Meaning:
    """Return the paths of datasets' data_files: one file, or one for training and one for what is held out."""
    splits = value if isinstance(value, dict) else {"train": value}
    paths: dict[str, Any] = {}
    for split, files in splits.items():
        ours = {"train": "data.path"}.get(split, "data.eval_path" if split in HELD_OUT else None)
        one = files[0] if isinstance(files, list) and len(files) == 1 else files
        if ours is None or ours in paths or not isinstance(one, str):
            return "one file, or a directory of files, is data.path; the file of held-out rows is data.eval_path"
        paths[ours] = one
    return paths


def _responses_only(value: Any) -> Meaning:
    """Return the meaning of "learn the responses only"; the markers of turns that unsloth asks for are not needed."""
    if value is None or isinstance(value, dict):
        value = True
    return {"data.assistant_only_loss": value}


def _attention(value: Any) -> Meaning:
    return {"base.attn_implementation": "auto" if value in (None, "None", "none", "null") else value}


ONE_PROCESS = unless((False, None, -1, 0, ""), "training is one process on one device: leave it out")
TRAINED_MODULES = (
    "LoRA on embed_tokens and lm_head is trained, at train.learning_rate: name them in lora.target_modules, beside the"
    " other layers"
)
WHOLE_MODULES = f"whole modules are not trained. {TRAINED_MODULES}"
NAMES: Names = {
    "model_name": same("base.id"),
    "model_name_or_path": same("base.id"),
    "load_in_4bit": _four_bits,
    "load_in_8bit": unless((False, None), "8-bit training is not supported: set base.quantization to nf4 or none"),
    "bnb_4bit_quant_type": unless(("nf4",), "only nf4 is trained in: set base.quantization to nf4"),
    "bnb_4bit_use_double_quant": same("base.double_quant"),
    "bnb_4bit_compute_dtype": lambda value: {"base.dtype": dtype(value)},
    "torch_dtype": lambda value: {"base.dtype": dtype(value)},
    "fp16": _if_true("base.dtype", "float16"),
    "bf16": _if_true("base.dtype", "bfloat16"),
    "full_finetuning": unless((False, None), "only adapters are trained here"),
    "max_seq_length": same("data.max_length"),
    "max_seq_len": same("data.max_length"),
    "random_state": same("train.seed"),
    "lr": same("train.learning_rate"),
    "data_seed": hint("train.seed settles the order of rows as well"),
    "use_gradient_checkpointing": _checkpointing,
    "warmup_ratio": _warmup,
    "loftq_config": unless((None, {}), "LoftQ rewrites the base's weights and is not trained here: leave it out"),
    "task_type": unless(("CAUSAL_LM", "CAUSAL LM", None), "only CAUSAL_LM is trained here: leave it out"),
    "hub_model_id": same("push.repo"),
    "output_dir": hint("a run is kept in run.root/run.name: give RUN=name (run.name), or another run.root"),
    "logging_dir": hint("TensorBoard's events are in the run's logs/: leave it out"),
    "dataset_num_proc": hint("rows are prepared in one process: leave it out"),
    "dataloader_num_workers": hint("the rows are in memory already: leave it out"),
    "dataset_text_field": hint("rows with a column 'text' are read as plain texts (data.format: text)"),
    "group_by_length": hint("rows are packed without padding (data.packing): leave it out"),
    "eval_strategy": unless(("no", False, None), "train.eval_steps says how often: set that alone"),
    "evaluation_strategy": unless(("no", False, None), "train.eval_steps says how often: set that alone"),
    "save_strategy": unless(("steps",), "train.save_steps says how often checkpoints are written: set that alone"),
    "resume_from_checkpoint": hint("the same command resumes by itself (with --resume, nothing to resume is an error)"),
    "push_to_hub": unless((False, None), "push.repo says where to, and `make push` publishes after the export"),
    "save_method": hint(
        "`make export` merges in 16 bits and makes GGUF files; push.what (WHAT=merged, adapter, gguf) says what is"
        " published"
    ),
    "quantization_method": hint("GGUF types are the export's: make export QUANTS=Q4_K_M,Q8_0"),
    "token": hint("the hub's token is HF_TOKEN in the environment: never in a file or a command"),
    "device_map": hint("the GPU is taken where there is one; CUDA_VISIBLE_DEVICES chooses it"),
    "dtype": lambda value: {"base.dtype": dtype(value)},
    "attn_implementation": _attention,
    "chat_template": same("chat.template"),
    "max_length": same("data.max_length"),
    "packing": same("data.packing"),
    "data_files": _files,
    "assistant_only_loss": same("data.assistant_only_loss"),
    "train_on_responses_only": _responses_only,
    "inference_mode": unless((False, None), "an adapter that is trained is not in inference mode: leave it out"),
    "deepspeed": ONE_PROCESS,
    "local_rank": ONE_PROCESS,
    "ddp_backend": ONE_PROCESS,
    "ddp_find_unused_parameters": ONE_PROCESS,
    "save_on_each_node": ONE_PROCESS,
    "remove_unused_columns": lambda value: {},  # columns are taken by the rows' format, the others are named
    "dataset_kwargs": unless((None, {}), "rows are prepared here, and `make check` shows them: leave it out"),
    "neftune_noise_alpha": unless((None, 0), "NEFTune's noise is not trained with here: leave it out"),
    "embedding_learning_rate": unless((None,), f"there is one learning rate. {TRAINED_MODULES}"),
    "modules_to_save": unless((None, [], ""), WHOLE_MODULES),
}  # fmt: skip
