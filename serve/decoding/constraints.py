"""Which tokens a sequence may generate next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from burnish.errors import UserError

Mask = npt.NDArray[np.bool_]  # [n_vocab], True for an allowed token


class ConstraintError(UserError):
    """A constraint allows no token, or a token violates it; ends one sequence."""


class Constraint(Protocol):
    """The constraint state of a single sequence, never shared. Used only by the engine thread."""

    def allowed(self) -> Mask | None:
        """Return the mask for the next token, or None if every token is allowed. Raises ConstraintError."""

    def accept(self, token: int) -> None:
        """Advance by the generated token. Raises ConstraintError if it was not allowed."""

    @property
    def finished(self) -> bool:
        """Whether the output is complete, so that the sequence ends without an end token."""


class Unconstrained:
    """Allows every token. Stateless, so one instance is enough."""

    finished = False

    def allowed(self) -> Mask | None:
        return None

    def accept(self, token: int) -> None:
        pass


UNCONSTRAINED: Constraint = Unconstrained()


def ban(tokens: Iterable[int], bias: Mapping[int, float]) -> dict[int, float]:
    """Return a logit bias that bans `tokens`; an explicit bias for one of them takes precedence."""
    return {**dict.fromkeys(tokens, float("-inf")), **bias}
