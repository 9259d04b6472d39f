"""The export stage's settings."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from burnish.chat import TIMEOUT_S
from burnish.config import Strict
from burnish.config.foreign import Meaning, Names, unless
from burnish.exam.thresholds import DEFAULTS
from burnish.publish import PushSection

UNSLOTH_TYPES: dict[object, str] = {"not_quantized": "F16", "fast_quantized": "Q8_0", "quantized": "Q4_K_M"}
FOUR_BIT = frozenset({"nf4", "fp4", "int4", "4bit", "4-bit", "merged_4bit", "bnb-4bit"})


class RunSection(Strict):
    """The run to export."""

    root: str = Field("runs", description="directory for all runs")
    name: str | None = Field(None, description="name of the run; if unset, the newest trained run")
    base: str | None = Field(
        None, description="new location of the base model, if it has moved; verified by its sha256"
    )


class MergeSection(Strict):
    """How the adapter is merged."""

    base: Literal["auto", "dequantized", "original"] = Field(
        "auto", description="merge onto the base as quantized in training, the original 16-bit base, or the better one"
    )
    dtype: Literal["auto", "float16", "bfloat16"] = Field(
        "auto", description="dtype of the merged weights; auto: float16 unless a value overflows"
    )

    @field_validator("dtype", mode="before")
    @classmethod
    def _never_into_4_bits(cls, value: object) -> object:
        if isinstance(value, str) and value.lower() in FOUR_BIT:
            raise ValueError(
                "merging into 4 bits is not supported: rounding can erase a light fine-tune; merge in 16 bits,"
                " and use a small GGUF type (gguf.quants), which is examined"
            )
        return value

    max_shard_bytes: int = Field(4_000_000_000, ge=1_000_000, description="maximum size of a safetensors file in bytes")


class GgufSection(Strict):
    """The GGUF files to create; F16 (or BF16) is always created."""

    quants: list[str] = Field(default=["Q8_0", "Q4_K_M"], description="quantization types, by their names in llama.cpp")

    @field_validator("quants", mode="before")
    @classmethod
    def _by_other_names(cls, value: object) -> object:
        return [UNSLOTH_TYPES.get(name, name) for name in value] if isinstance(value, list) else value


class GateSection(Strict):
    """Thresholds that the exam's figures must meet."""

    max_kl: float = Field(
        DEFAULTS["max_kl"],
        gt=0.0,
        allow_inf_nan=False,
        description="maximum mean KL to the reference in nats per token, on held-out responses and on general text",
    )
    min_top1: float = Field(
        DEFAULTS["min_top1"],
        ge=0.0,
        le=1.0,
        description="minimum fraction of positions with the same most likely token",
    )
    max_gain_lost: float = Field(
        DEFAULTS["max_gain_lost"],
        ge=0.0,
        allow_inf_nan=False,
        description="maximum fraction of the loss improvement from training that may be lost",
    )
    min_gain: float = Field(
        DEFAULTS["min_gain"],
        ge=0.0,
        allow_inf_nan=False,
        description="minimum loss improvement, in nats per token, for which the lost fraction is judged",
    )


def _types(value: object) -> Meaning:
    """Return gguf.quants for unsloth's quantization_method: one type or several, in lower case."""
    names = value if isinstance(value, list) else [value]
    return {"gguf.quants": [name if name in UNSLOTH_TYPES else str(name).upper() for name in names]}


NAMES: Names = {
    "quantization_method": _types,
    "save_method": unless(
        ("merged_16bit", "lora", None),
        "a run is merged in 16 bits (merged/) and keeps its adapter; merging into 4 bits is not supported",
    ),
}


class ExportSettings(Strict):
    """Every setting of `python -m export run`."""

    foreign: ClassVar[Names] = NAMES

    run: RunSection = Field(default_factory=RunSection)
    merge: MergeSection = Field(default_factory=MergeSection)
    gguf: GgufSection = Field(default_factory=GgufSection)
    gate: GateSection = Field(default_factory=GateSection)
    push: PushSection = Field(default_factory=PushSection)
    template_timeout_s: float = Field(
        TIMEOUT_S, gt=0, le=3600, description="maximum CPU seconds to compile a template or to render one conversation"
    )
