"""TrainSettings: names match PEFT and TRL, so that their guides apply."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from burnish.chat import RESERVED_VARIABLES, TIMEOUT_S
from burnish.config import ConfigError, Flat, Given, Strict
from burnish.config.foreign import Names
from burnish.data.sources.dataset import Spec
from burnish.data.sources.section import Reading, SourceSection, joined, spec
from burnish.dialects.formats import DIALECTS
from burnish.errors import did_you_mean
from burnish.evaluations.thresholds import parse_threshold
from burnish.publish import PushSection

from . import names
from .peft_config import new_adapter


class BaseSection(Strict):
    """The model to fine-tune."""

    id: str = Field(description="Hub id, directory, .gguf file, or package:NAME/FILE")
    revision: str | None = Field(None, description="branch, tag or commit on the Hub")
    trust_remote_code: bool = Field(False, description="run Python code from the model's repository")
    quantization: Literal["auto", "none", "nf4"] = Field(
        "none", description="quantization of the frozen base during training; auto: 16 bits if they fit"
    )
    double_quant: bool = Field(True, description="quantize the quantization constants too; only with nf4")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="load and compute dtype; auto: float32 on a CPU, bfloat16 or float16 on a GPU"
    )
    attn_implementation: Literal["auto", "sdpa", "eager", "flash_attention_2"] = Field(
        "auto", description="attention implementation"
    )
    backend: Literal["auto", "transformers", "unsloth"] = Field(
        "auto", description="transformers with fused layers, or unsloth; auto: the faster one that fits in memory"
    )

    _dtype = field_validator("dtype", mode="before")(names.dtype)


class DataSection(Reading):
    """The training and held-out data."""

    path: str = Field(
        min_length=1,
        description="JSONL, JSON, CSV, Parquet or Arrow file, plain, compressed or zipped, a directory, a pattern"
        " (data/*.jsonl), an http(s) URL, or hf://datasets/owner/name[@revision][:config][/split]",
    )
    sources: list[SourceSection] | None = Field(
        None,
        description="several sources instead of path, each {path, share or rows, format, columns, transcript, where}",
    )
    max_rows: int | None = Field(None, ge=1, description="most rows used, chosen by train.seed; none: all")
    max_length: int = Field(1024, ge=8, description="maximum row length in tokens")
    over_length: Literal["error", "drop", "truncate"] = Field("error", description="what to do with longer rows")
    dedupe: Literal["exact", "near", "none"] = Field(
        "none",
        description="leave out rows that repeat an earlier one (exact), or nearly do (near); repeats are always"
        " counted, and never on both sides of the split",
    )
    newlines: Literal["keep", "lf"] = Field(
        "keep", description="keep CR LF and CR inside texts (with a warning) or convert them to LF"
    )
    tool_faults: Literal["error", "drop"] = Field(
        "error", description="what to do with rows whose tool calls do not match their tools"
    )
    special_tokens: Literal["auto", "text", "parse", "error"] = Field(
        "auto",
        description="how to tokenize special strings of the base inside messages: text, parse (control tokens), or"
        " error;"
        " auto: text, with a warning",
    )
    eval_path: str | None = Field(None, description="file of held-out rows; if unset, some rows of path are held out")
    eval_overlap: Literal["error", "drop", "allow"] = Field(
        "error", description="what to do with rows of eval_path that are also in path; drop: do not train on them"
    )
    eval_split: float = Field(
        0.1, ge=0.0, le=0.5, description="fraction of rows held out for the eval loss and the exam"
    )
    eval_rows: int = Field(
        256, ge=1, description="maximum number of rows held out or evaluated; each evaluation uses all of them"
    )
    assistant_only_loss: bool = Field(True, description="train only on responses; false: also train on prompts")
    cache_gib: float = Field(
        20.0,
        ge=0.0,
        description="maximum disk space for prepared rows, which all commands share, in GiB; the least recently used"
        " are removed",
    )
    packing: bool = Field(True, description="pack a micro-batch's rows without padding; attention never crosses rows")

    @model_validator(mode="after")
    def _path_or_sources(self) -> DataSection:
        if self.sources is not None and self.path != joined(self.sources):
            raise ValueError("path and sources: set one of them (DATA= sets data.path)")
        return self

    def specs(self) -> list[Spec]:
        """Return the sources of the training rows."""
        if self.sources is None:
            return [spec(self.path, self)]
        return [spec(one.path, one, f"data.sources[{n}]", self) for n, one in enumerate(self.sources)]


class ChatSection(Strict):
    """How messages are rendered to text."""

    template: str | None = Field(None, description="named template or .jinja file; if unset, the template of the base")
    date: str | None = Field(
        None, pattern=r"^\d{4}-\d\d-\d\d$", description="current date for templates, YYYY-MM-DD; if unset, today"
    )
    template_kwargs: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="variables of the template, such as {enable_thinking: false}; also used by the exam and by serve",
    )
    tool_dialect: str | None = Field(
        None,
        description="format of the template's tool calls (hermes, mistral ...); if unset, detected from the template",
    )
    template_timeout_s: float = Field(
        TIMEOUT_S,
        gt=0,
        le=3600,
        description="maximum CPU seconds to compile the template or to render one conversation",
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

    config_file: str | None = Field(None, description="PEFT lora_config.json; other settings override it")
    r: int = Field(16, ge=1, description="rank")
    lora_alpha: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = Field(
        32, description="the adapter is scaled by lora_alpha/r, or by lora_alpha/sqrt(r) with use_rslora"
    )
    lora_dropout: float = Field(0.0, ge=0.0, lt=1.0, description="dropout on the input of the adapter")
    target_modules: Annotated[list[str], Field(min_length=1)] | Annotated[str, Field(min_length=1)] = Field(
        "all-linear",
        description="layers to adapt: all-linear, a list of names, or a regular expression that matches names",
    )
    bias: Literal["none", "all", "lora_only"] = Field("none", description="which biases to train")
    use_rslora: bool = Field(False, description="rank-stabilised scaling")
    resume_adapter: str | None = Field(
        None, description="trained adapter to start from (directory or run id); its rank and target modules are kept"
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
        "cosine", description="learning rate schedule"
    )
    warmup_steps: Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0, description="warm-up steps of the learning rate; below 1: a fraction of all steps"
    )
    num_train_epochs: float = Field(3.0, gt=0.0, description="number of passes over the data")
    max_steps: int = Field(-1, ge=-1, description="stop after this many steps; -1: use num_train_epochs")
    per_device_train_batch_size: int = Field(
        4, ge=1, description="rows per step, multiplied by gradient_accumulation_steps"
    )
    gradient_accumulation_steps: int = Field(
        1, ge=1, description="rows per step are per_device_train_batch_size times this"
    )
    micro_batch_tokens: Literal["auto"] | Annotated[int, Field(ge=8)] = Field(
        "auto",
        description="maximum tokens per forward pass; a step is divided into several; auto: as many as fit in memory",
    )
    gradient_checkpointing: Literal["auto"] | bool = Field(
        "auto", description="recompute activations to save memory, about 25% slower; auto: only if needed"
    )
    torch_compile: Literal["auto"] | bool = Field(
        "auto", description="compile the decoder layers; auto: on a GPU, if the run is long enough to benefit"
    )
    memory_gib: float | None = Field(
        None, gt=0.0, description="maximum GPU memory to use, in GiB; if unset, all free memory"
    )
    weight_decay: float = Field(0.0, ge=0.0, description="weight decay of the optimizer")
    max_grad_norm: float = Field(1.0, gt=0.0, description="maximum gradient norm for clipping")
    optim: Literal[
        "auto",
        "adamw_torch",
        "adamw_torch_fused",
        "adamw_8bit",
        "paged_adamw_8bit",
        "paged_adamw_32bit",
        "sgd",
        "adafactor",
    ] = Field("auto", description="optimizer, by its name in transformers; auto: AdamW, fused on a GPU")
    seed: int = Field(42, ge=0, description="random seed for adapter initialisation, data order and dropout")
    logging_steps: int = Field(1, ge=1, description="steps between logged losses")
    save_steps: int = Field(50, ge=1, description="steps between checkpoints")
    save_total_limit: int = Field(2, ge=1, description="number of checkpoints to keep")
    eval_steps: int | None = Field(
        None, ge=1, description="steps between evaluations; if unset, evaluate only at the end"
    )
    early_stopping_patience: int | None = Field(
        None,
        ge=1,
        description="stop after this many evaluations without a lower eval loss, and keep the best checkpoint",
    )
    report_to: list[Literal["tensorboard", "wandb"]] = Field(
        default_factory=lambda: list[Literal["tensorboard", "wandb"]](["tensorboard"]),
        description="where to report curves, in addition to logs/metrics.jsonl",
    )

    _reports = field_validator("report_to", mode="before")(names.reports)

    @model_validator(mode="after")
    def _stopping_evaluates(self) -> TrainSection:
        if self.early_stopping_patience is not None and self.eval_steps is None:
            raise ValueError("early_stopping_patience requires eval_steps, the number of steps between evaluations")
        return self


class ExamSection(Strict):
    """The exam of the trained model and of every exported artifact."""

    rows: int = Field(64, ge=1, description="maximum number of held-out rows in the exam")
    tokens: int = Field(4096, ge=16, description="maximum number of response tokens to score")
    general_rows: int = Field(
        30, ge=1, le=30, description="number of general texts in the exam, which measure forgetting"
    )
    answers: int = Field(
        4, ge=0, description="number of held-out prompts answered with and without the adapter, shown in the report"
    )
    answer_tokens: int = Field(64, ge=1, description="maximum tokens per answer")


class RunSection(Strict):
    """The location of the run."""

    root: str = Field("runs", description="directory for all runs")
    name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="name of this run; if unset, <base>-<data>-<UTC time>",
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
    evaluation: dict[str, str] = Field(
        {},
        description="thresholds on evaluations by name, such as {quiz: '>= 0.8'}: serve and push reject the run until"
        " `make evaluate NAME=quiz` meets them",
    )

    @field_validator("evaluation")
    @classmethod
    def _thresholds(cls, value: dict[str, str]) -> dict[str, str]:
        return {name: str(parse_threshold(text)) for name, text in value.items()}

    foreign: ClassVar[Names] = names.NAMES

    @classmethod
    def settle(cls, flat: Flat) -> list[str]:
        """Insert the values from lora.config_file, with the precedence of the source that set it; name data.sources."""
        sources = flat.get(("data", "sources"))
        if sources is not None and isinstance(sources.value, list) and ("data", "path") not in flat:
            flat["data", "path"] = Given(joined(sources.value), sources.where, sources.strength)
        given = flat.get(("lora", "config_file"))
        if given is None or not isinstance(given.value, str):
            return []
        try:
            read = read_peft_config(Path(given.value))
        except ConfigError:
            del flat["lora", "config_file"]  # otherwise validation would report the errors twice
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
