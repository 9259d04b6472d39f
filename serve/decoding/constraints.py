"""Which tokens a sequence may generate next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from burnish.errors import UserError

Mask = npt.NDArray[np.bool_]  # [n_vocab], True for an allowed token


class ConstraintError(UserError):
    """A constraint that allows no token, or that a token was generated against; it ends one sequence."""


class Constraint(Protocol):
    """The state of one sequence: objects are not shared between sequences. Only the engine's thread uses it."""

    def allowed(self) -> Mask | None:
        """Return the mask of the next token, or None where every token is allowed. Raises ConstraintError."""

    def accept(self, token: int) -> None:
        """Take the token that was generated. Raises ConstraintError where it was not allowed."""

    @property
    def finished(self) -> bool:
        """Whether the answer is complete: the sequence ends without an end token."""


class Unconstrained:
    """Allows every token. It has no state, so one object is enough."""

    finished = False

    def allowed(self) -> Mask | None:
        return None

    def accept(self, token: int) -> None:
        pass


UNCONSTRAINED: Constraint = Unconstrained()


def ban(tokens: Iterable[int], bias: Mapping[int, float]) -> dict[int, float]:
    """Return a logit bias under which `tokens` are never generated; a bias that was given for one of them wins."""
    return {**dict.fromkeys(tokens, float("-inf")), **bias}
