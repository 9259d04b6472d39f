"""TrainSettings: names match PEFT and TRL, so that their guides apply."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from burnish.chat import RESERVED_VARIABLES, TIMEOUT_S
from burnish.config import ConfigError, Flat, Given, Strict
from burnish.config.foreign import Names
from burnish.data.columns.mapping import parse_columns
from burnish.data.columns.transcript import parse_transcript
from burnish.data.tables import as_object
from burnish.dialects.formats import DIALECTS
from burnish.errors import did_you_mean
from burnish.publish import PushSection

from . import names
from .peft_config import new_adapter


class BaseSection(Strict):
    """The model to fine-tune."""

    id: str = Field(description="Hub id, directory, .gguf file, or package:NAME/FILE")
    revision: str | None = Field(None, description="branch, tag or commit on the Hub")
    trust_remote_code: bool = Field(False, description="run Python code from the model's repository")
    quantization: Literal["auto", "none", "nf4"] = Field(
        "none", description="quantization of the frozen base in training; auto: 16 bits if the plan says they fit"
    )
    double_quant: bool = Field(True, description="nf4: also quantize the quantization constants")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="load and compute dtype; auto: float32 on a CPU, bfloat16 or float16 on a GPU"
    )
    attn_implementation: Literal["auto", "sdpa", "eager", "flash_attention_2"] = Field("auto", description="attention")
    backend: Literal["auto", "transformers", "unsloth"] = Field(
        "auto", description="transformers with fused layers, or unsloth; auto: the faster one that fits"
    )

    _dtype = field_validator("dtype", mode="before")(names.dtype)


class DataSection(Strict):
    """The data."""

    path: str = Field(description="JSONL, JSON, CSV, Parquet or Arrow file, plain or compressed, or a directory")
    format: Literal["auto", "sharegpt", "messages", "alpaca", "prompt-completion", "text"] = Field(
        "auto", description="format of the rows; auto recognises it"
    )
    columns: dict[str, Any] | list[Any] | None = Field(
        None,
        description="templates over columns, {{ name }}: {user, assistant, system}, {prompt, completion}, {text},"
        " or a list of turns",
    )
    transcript: str | dict[str, str] = Field(
        "auto",
        description="dialogues in one text become turns: auto recognises them; none: texts stay whole; a style such as"
        " human-bot, or marks by role, such as {user: 'Customer:', assistant: 'Agent:'}",
    )
    max_length: int = Field(1024, ge=8, description="longest row in tokens")
    over_length: Literal["error", "drop", "truncate"] = Field("error", description="what to do with longer rows")
    newlines: Literal["keep", "lf"] = Field(
        "keep", description="CR LF and CR inside texts: keep, with a warning, or convert to LF"
    )
    tool_faults: Literal["error", "drop"] = Field(
        "error", description="rows whose calls do not fit their tools: an error, or left out"
    )
    special_tokens: Literal["auto", "text", "parse", "error"] = Field(
        "auto",
        description="special strings of the base inside messages: text, parse (control tokens), or an error;"
        " auto: text, with a warning",
    )
    eval_path: str | None = Field(None, description="a file of held-out rows; none: split some off")
    eval_overlap: Literal["error", "drop", "allow"] = Field(
        "error", description="rows of eval_path that are also in path; drop: don't train them"
    )
    eval_split: float = Field(0.1, ge=0.0, le=0.5, description="share of rows held out for the eval loss and the exam")
    eval_rows: int = Field(256, ge=1, description="most rows held out or evaluated; each evaluation uses all of them")
    assistant_only_loss: bool = Field(True, description="train only on responses; false: also on prompts")
    packing: bool = Field(
        True, description="pack the rows of a micro-batch without padding; attention never crosses rows"
    )

    @field_validator("columns")
    @classmethod
    def _templates(cls, value: dict[str, Any] | list[Any] | None) -> dict[str, Any] | list[Any] | None:
        if value is not None:
            parse_columns(value)
        return value

    @field_validator("transcript", mode="before")
    @classmethod
    def _marks(cls, value: Any) -> Any:
        value = as_object(value) or value if isinstance(value, str) else value  # marks as JSON on the command line
        if value not in ("auto", "none"):
            parse_transcript(value)
        return value

    @model_validator(mode="after")
    def _one_way(self) -> DataSection:
        if self.columns is not None and self.format != "auto":
            raise ValueError(
                f"columns and format {self.format}: the columns' templates make the rows, leave out format"
            )
        return self


class ChatSection(Strict):
    """How messages become text."""

    template: str | None = Field(None, description="a named template, a .jinja file, or none for the base's own")
    date: str | None = Field(
        None, pattern=r"^\d{4}-\d\d-\d\d$", description="YYYY-MM-DD, the current date for templates; none: today"
    )
    template_kwargs: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="variables of the template, such as {enable_thinking: false}; exam and serving use them too",
    )
    tool_dialect: str | None = Field(
        None, description="how the template writes tool calls (hermes, mistral ...); none: found from the template"
    )
    template_timeout_s: float = Field(
        TIMEOUT_S,
        gt=0,
        le=3600,
        description="most processor time to compile the template or to render one conversation, seconds",
    )

    @field_validator("tool_dialect")
    @classmethod
    def _known_dialect(cls, value: str | None) -> str | None:
        if value is not None and value not in DIALECTS:
            raise ValueError(f"unknown dialect '{value}'{did_you_mean(value, DIALECTS)}")
        return value

    @field_validator("template_kwargs")
    @classmethod
    def _not_ours(cls, values: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if taken := sorted(RESERVED_VARIABLES & values.keys()):
            raise ValueError(f"{', '.join(taken)} can't be set: the rows or the tokenizer provide it")
        return values


class LoraSection(Strict):
    """The adapter, as in peft.LoraConfig."""

    config_file: str | None = Field(None, description="a PEFT lora_config.json; other settings override it")
    r: int = Field(16, ge=1, description="rank")
    lora_alpha: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = Field(
        32, description="scale: alpha/r, or alpha/sqrt(r) with use_rslora"
    )
    lora_dropout: float = Field(0.0, ge=0.0, lt=1.0, description="dropout before the adapter")
    target_modules: Annotated[list[str], Field(min_length=1)] | Annotated[str, Field(min_length=1)] = Field(
        "all-linear", description="layers to adapt: all-linear, names, or a regular expression over names"
    )
    bias: Literal["none", "all", "lora_only"] = Field("none", description="which biases are trained")
    use_rslora: bool = Field(False, description="rank-stabilised scaling")
    resume_adapter: str | None = Field(
        None, description="a trained adapter (directory, or a run's id) to start from; its rank and targets are kept"
    )

    _targets = field_validator("target_modules", mode="before")(names.targets)

    @field_validator("target_modules")
    @classmethod
    def _compiles(cls, value: list[str] | str) -> list[str] | str:
        try:
            re.compile(value if isinstance(value, str) else "")
        except re.error as error:
            raise ValueError(f"is not a regular expression: {error}") from None
        return value

    @property
    def has_pattern(self) -> bool:
        """Whether the targets are a regular expression."""
        return isinstance(self.target_modules, str) and self.target_modules != "all-linear"

    @model_validator(mode="before")
    @classmethod
    def _from_peft(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("config_file"), str):
            return {**read_peft_config(Path(values["config_file"])), **values}
        return values


class TrainSection(Strict):
    """The optimisation, as in trl.SFTConfig."""

    learning_rate: float = Field(2e-4, gt=0.0, description="peak learning rate")
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup", "cosine_with_min_lr"] = Field(
        "cosine", description="schedule of the learning rate"
    )
    warmup_steps: Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0, description="steps of learning-rate warm-up; below 1: a share of all steps"
    )
    num_train_epochs: float = Field(3.0, gt=0.0, description="passes over the data")
    max_steps: int = Field(-1, ge=-1, description="stop after this many steps; -1: by num_train_epochs")
    per_device_train_batch_size: int = Field(4, ge=1, description="rows per step, times gradient_accumulation_steps")
    gradient_accumulation_steps: int = Field(
        1, ge=1, description="multiplies the rows per step (per_device_train_batch_size)"
    )
    micro_batch_tokens: Literal["auto"] | Annotated[int, Field(ge=8)] = Field(
        "auto", description="most tokens in one forward pass, into which a step is divided; auto: as many as fit"
    )
    gradient_checkpointing: Literal["auto"] | bool = Field(
        "auto", description="recompute activations: less memory, about a quarter slower; auto: only if needed"
    )
    torch_compile: Literal["auto"] | bool = Field(
        "auto", description="compile the decoder layers; auto: on a GPU if the run is long enough to benefit"
    )
    memory_gib: float | None = Field(None, gt=0.0, description="most GPU memory to use, in GiB; none: all free memory")
    weight_decay: float = Field(0.0, ge=0.0, description="AdamW's weight decay")
    max_grad_norm: float = Field(1.0, gt=0.0, description="gradient clipping")
    optim: Literal[
        "auto",
        "adamw_torch",
        "adamw_torch_fused",
        "adamw_8bit",
        "paged_adamw_8bit",
        "paged_adamw_32bit",
        "sgd",
        "adafactor",
    ] = Field("auto", description="optimizer by transformers' name; auto: AdamW, fused on a GPU")
    seed: int = Field(42, ge=0, description="random seed of adapter initialisation, data order and dropout")
    logging_steps: int = Field(1, ge=1, description="steps between points of the loss curve")
    save_steps: int = Field(50, ge=1, description="steps between checkpoints")
    save_total_limit: int = Field(2, ge=1, description="checkpoints kept")
    eval_steps: int | None = Field(None, ge=1, description="steps between evaluations; none: at the end only")
    early_stopping_patience: int | None = Field(
        None,
        ge=1,
        description="stop after this many evaluations without a lower eval loss, and keep the best checkpoint",
    )
    report_to: list[Literal["tensorboard", "wandb"]] = Field(
        default_factory=lambda: list[Literal["tensorboard", "wandb"]](["tensorboard"]),
        description="where to report curves besides logs/metrics.jsonl",
    )

    _reports = field_validator("report_to", mode="before")(names.reports)

    @model_validator(mode="after")
    def _stopping_evaluates(self) -> TrainSection:
        if self.early_stopping_patience is not None and self.eval_steps is None:
            raise ValueError("early_stopping_patience needs eval_steps, the steps between evaluations")
        return self


class ExamSection(Strict):
    """The exam of the trained model and of every exported artifact."""

    rows: int = Field(64, ge=1, description="most held-out rows in the exam")
    tokens: int = Field(4096, ge=16, description="most response tokens scored")
    general_rows: int = Field(30, ge=1, le=30, description="general texts in the exam, which show forgetting")
    answers: int = Field(
        4, ge=0, description="held-out prompts to answer with and without the adapter, for people to read"
    )
    answer_tokens: int = Field(64, ge=1, description="most tokens per answer")


class RunSection(Strict):
    """Where the run is stored."""

    root: str = Field("runs", description="directory of all runs")
    name: str | None = Field(
        None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of this run; none: <base>-<data>-<UTC time>"
    )


class TrainSettings(Strict):
    """Every setting of `python -m train`."""

    base: BaseSection
    data: DataSection
    chat: ChatSection = Field(default_factory=ChatSection)
    lora: LoraSection = Field(default_factory=LoraSection)
    train: TrainSection = Field(default_factory=TrainSection)
    exam: ExamSection = Field(default_factory=ExamSection)
    run: RunSection = Field(default_factory=RunSection)
    push: PushSection = Field(default_factory=PushSection)

    foreign: ClassVar[Names] = names.NAMES

    @classmethod
    def settle(cls, flat: Flat) -> list[str]:
        """Insert the values from lora.config_file, with the precedence of the source that set it."""
        given = flat.get(("lora", "config_file"))
        if given is None or not isinstance(given.value, str):
            return []
        try:
            read = read_peft_config(Path(given.value))
        except ConfigError:
            del flat["lora", "config_file"]  # otherwise validation would report the faults twice
            raise
        notes = []
        for key, value in read.items():
            before = flat.get(("lora", key))
            if before is None or before.strength < given.strength:
                flat["lora", key] = Given(value, f"{given.value} ({given.where})", given.strength)
            if before is not None and before.value != value:
                theirs, ours = f"{value} of {given.value}", f"{before.value} of {before.where}"
                kept, lost = (ours, theirs) if flat["lora", key] is before else (theirs, ours)
                notes.append(f"lora.{key}: {kept} overrides {lost}")
        return notes


def read_peft_config(path: Path) -> dict[str, Any]:
    """Return the lora settings from a PEFT lora_config.json or adapter_config.json.

    Raises ConfigError listing every key that would affect training but has no setting.
    """
    return new_adapter(path, LoraSection)
