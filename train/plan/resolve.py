"""What a run really uses: every setting decided, once, in one frozen value that is written, recorded and passed on."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import yaml

from burnish.config import ConfigError, fields
from burnish.files import tree_sha256

from ..data.prepare import Prepared
from ..models import transformers as models
from ..models.peft_config import CONFIG, continued, targets
from ..settings import (
    BaseSection,
    ChatSection,
    DataSection,
    ExamSection,
    LoraSection,
    RunSection,
    TrainSection,
    TrainSettings,
)
from .memory import Plan

AUTO = "auto"


@dataclass(frozen=True)
class Resolved:
    """The settings of a run with nothing left open; `steps` are the optimizer's, as planned.

    `parent_sha256` is over the adapter that training started from (`tree_sha256`), None where it started from none.
    """

    settings: TrainSettings
    steps: int = 0
    parent_sha256: str | None = None

    @property
    def base(self) -> BaseSection:
        return self.settings.base

    @property
    def data(self) -> DataSection:
        return self.settings.data

    @property
    def chat(self) -> ChatSection:
        return self.settings.chat

    @property
    def lora(self) -> LoraSection:
        return self.settings.lora

    @property
    def train(self) -> TrainSection:
        return self.settings.train

    @property
    def exam(self) -> ExamSection:
        return self.settings.exam

    @property
    def run(self) -> RunSection:
        return self.settings.run

    @property
    def micro_batch_tokens(self) -> int:
        return typing.cast(int, self.train.micro_batch_tokens)

    @property
    def checkpointing(self) -> bool:
        return self.train.gradient_checkpointing is True

    @property
    def compiled(self) -> bool:
        return self.train.torch_compile is True

    def named(self, name: str) -> Resolved:
        """Return it with the run's name."""
        return self._with("run", name=name)

    def packing(self, packed: bool) -> Resolved:
        """Return it with whether rows are packed: what only the loaded base shows."""
        return self._with("data", packing=packed)

    def yaml(self) -> str:
        """Return config.yaml: it can be given as --config again."""
        return yaml.safe_dump(self.settings.model_dump(), sort_keys=False, allow_unicode=True)

    def _with(self, section: str, **values: Any) -> Resolved:
        return replace(self, settings=changed(self.settings, section, **values))


def resolve(settings: TrainSettings, prepared: Prepared, made: Plan, attention: str) -> Resolved:
    """Decide everything that the settings leave open: from the data, the plan and the base's `attention`.

    Where training starts from an adapter, `settings` have its values already (`with_adapter`).
    """
    stopping = settings.train.early_stopping_patience is not None
    settings = changed(
        settings,
        "base",
        revision=prepared.base.revision,
        quantization=made.quantization,
        dtype=models.dtype_name(settings.base),
        attn_implementation=attention,
        backend=made.backend,
    )
    settings = changed(settings, "data", **_found_in_data(settings, prepared))
    settings = changed(settings, "lora", config_file=None)  # its values are here
    settings = changed(
        settings,
        "train",
        micro_batch_tokens=made.micro_batch_tokens,
        gradient_checkpointing=made.checkpointing,
        torch_compile=made.compiled and made.backend == "transformers",
        optim=made.optim,
        # the best checkpoint must be among those that are kept
        save_steps=settings.train.eval_steps if stopping else settings.train.save_steps,
    )
    if left := undecided(settings):
        raise ConfigError(
            [f"{key}: is still {AUTO} after everything was decided: this is a fault of ours" for key in left]
        )
    resumed = settings.lora.resume_adapter
    return Resolved(settings, made.steps, tree_sha256(models.adapter_path(settings)) if resumed else None)


def with_adapter(settings: TrainSettings, model: Any) -> TrainSettings:
    """Return the settings with those of the adapter that training starts from: it keeps its rank, scale and targets.

    `model` is the base, of which no weight is needed.
    """
    if not settings.lora.resume_adapter:
        return settings
    directory = models.adapter_path(settings)
    kept = continued(directory / CONFIG, LoraSection)
    if "target_modules" not in kept and (found := targets(directory, model)):
        kept["target_modules"] = found
    return changed(settings, "lora", **kept)


def undecided(settings: TrainSettings) -> list[str]:
    """Return the keys of the settings that are still "auto"."""
    dump = settings.model_dump()
    return [f"{section}.{key}" for section, key in auto_keys() if dump[section][key] == AUTO]


def auto_keys() -> Iterator[tuple[str, str]]:
    """Yield section and key of each setting that may be "auto"."""
    for path, info in fields(TrainSettings):
        if AUTO in _words(info.annotation):
            yield path[0], path[1]


def changed(settings: TrainSettings, section: str, **values: Any) -> TrainSettings:
    """Return the settings with other values in a section."""
    return settings.model_copy(update={section: getattr(settings, section).model_copy(update=values)})


def _found_in_data(settings: TrainSettings, prepared: Prepared) -> dict[str, Any]:
    """Return what each "auto" of the data section became while the rows were prepared.

    Prepared has an attribute of the setting's name for each.
    """
    left = [key for section, key in auto_keys() if section == "data" and getattr(settings.data, key) == AUTO]
    return {key: getattr(prepared, key, AUTO) for key in left}


def _words(annotation: Any) -> set[Any]:
    """Return the literal values that a setting may have."""
    if typing.get_origin(annotation) is typing.Literal:
        return set(typing.get_args(annotation))
    return {word for part in typing.get_args(annotation) for word in _words(part)}
