"""The interface of a constraint to the engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Many
from typing import Protocol

import numpy as np
import numpy.typing as npt

from burnish.errors import UserError

# address space for the stack of each thread that may tokenize forced text; untouched pages use no memory
STACK_BYTES = 128 << 20
Mask = npt.NDArray[np.bool_]  # [n_vocab], True for an allowed token


class ConstraintError(UserError):
    """Raised when a constraint allows no token, or a token violates it; ends one sequence."""


class TooComplex(ConstraintError):
    """The grammar of a request can't be followed any further: the request is at fault, not the server."""


class Constraint(Protocol):
    """The constraint state of a single sequence, never shared. Used only by the engine thread."""

    def allowed(self) -> Mask | None:
        """Return the mask for the next token, or None if every token is allowed. Raises ConstraintError."""

    def accept(self, token: int) -> None:
        """Advance by the generated token. Raises ConstraintError if it was not allowed."""

    def forced(self, limit: int) -> list[int]:
        """Return up to `limit` forced tokens, and advance past them. Raises ConstraintError."""

    @property
    def finished(self) -> bool:
        """Whether the output is complete, so that the sequence ends without an end token."""


class Masks(Protocol):
    """Computes the masks of a step in other threads while the model decodes."""

    def begin(self, constraints: Many[Constraint]) -> None:
        """Start computing the next masks; each constraint's `allowed` waits for its mask. Engine thread only."""

    def close(self) -> None:
        """Stop the threads."""


class Unconstrained:
    """Allows every token. Stateless, so one instance is enough."""

    finished = False

    def allowed(self) -> Mask | None:
        return None

    def accept(self, token: int) -> None:
        pass

    def forced(self, limit: int) -> list[int]:
        return []


class MaskedWhenAsked:
    """Does nothing: every mask is computed on demand."""

    def begin(self, constraints: Many[Constraint]) -> None:
        pass

    def close(self) -> None:
        pass


UNCONSTRAINED: Constraint = Unconstrained()


def ban(tokens: Iterable[int], bias: Mapping[int, float]) -> dict[int, float]:
    """Return a logit bias that bans `tokens`; an explicit bias for one of them takes precedence."""
    return {**dict.fromkeys(tokens, float("-inf")), **bias}
