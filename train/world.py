"""This process's role in a run: its rank, its device, and whether it writes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING

from burnish.config import ConfigError

if TYPE_CHECKING:  # importing torch takes seconds, and data is checked without it
    import torch


@dataclass(frozen=True)
class World:
    """This process's position in a run: `rank` of `size`, and `local_rank` on this machine.

    The default is a single process. Only the main process, rank 0, prints and writes.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> World:
        """Read torchrun's variables.

        Raises ConfigError if a variable is not a number, or the variables are inconsistent.
        """
        names = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
        values = {name: environment.get(name, default) for name, default in names.items()}
        if faults := [f"{name}: expected a number, not '{v}'" for name, v in values.items() if not v.isdecimal()]:
            raise ConfigError(faults)
        world = cls(*map(int, values.values()))
        if world.rank >= world.size:
            raise ConfigError(
                f"RANK={world.rank} with WORLD_SIZE={world.size}: the rank must be less than the size: unset"
                " both for one process, or start them with torchrun, which sets both"
            )
        return world

    @property
    def is_main(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """This process's device: its GPU if torch finds one, else the CPU."""
        import torch

        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", self.local_rank) if self.size > 1 else torch.device("cuda")

    @contextmanager
    def only_main_prints(self) -> Iterator[None]:
        """Discard output in all processes except the main one; exceptions propagate and are printed outside."""
        if self.is_main:
            yield
            return
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere), redirect_stdout(nowhere):
            yield
