"""A run's settings with every "auto" resolved, as one frozen value."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import yaml

from burnish.config import fields
from burnish.config.schema import words

from .settings import (
    BaseSection,
    ChatSection,
    DataSection,
    ExamSection,
    LoraSection,
    RunSection,
    TrainSection,
    TrainSettings,
)

AUTO = "auto"


@dataclass(frozen=True)
class Resolved:
    """A run's resolved settings; `steps` is the planned number of optimizer steps.

    `parent_sha256` is the `tree_sha256` of the adapter continued by training, or None.
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
        """Return a copy with the run's name."""
        return self._with("run", name=name)

    def packing(self, packed: bool) -> Resolved:
        """Return a copy with data.packing set, which is known only after loading the base."""
        return self._with("data", packing=packed)

    def yaml(self) -> str:
        """Return the content of config.yaml, which --config accepts."""
        return yaml.safe_dump(self.settings.model_dump(), sort_keys=False, allow_unicode=True)

    def _with(self, section: str, **values: Any) -> Resolved:
        return replace(self, settings=changed(self.settings, section, **values))


def undecided(settings: TrainSettings) -> list[str]:
    """Return the keys of settings that are still "auto"."""
    dump = settings.model_dump()
    return [f"{section}.{key}" for section, key in auto_keys() if dump[section][key] == AUTO]


def auto_keys() -> Iterator[tuple[str, str]]:
    """Yield the section and key of each setting that may be "auto"."""
    for path, info in fields(TrainSettings):
        if AUTO in words(info.annotation):
            yield path[0], path[1]


def changed(settings: TrainSettings, section: str, **values: Any) -> TrainSettings:
    """Return the settings with updated values in one section."""
    return settings.model_copy(update={section: getattr(settings, section).model_copy(update=values)})
