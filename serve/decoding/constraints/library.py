"""llguidance: compiles grammars, and computes the masks of all sequences of a step in its own threads.

Only this module imports llguidance. Its own threads and the threads that call it need a large stack: it tokenizes
forced text with llama.cpp's tokenizer (see burnish.llama.stack).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence as Many
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from random import Random

import llguidance
import numpy as np
import numpy.typing as npt

from burnish.machine import cpu_count
from burnish.private.needs import Need
from burnish.process import thread_stack

from .constraint import STACK_BYTES, Constraint, ConstraintError, Mask, TooComplex

NEEDS = (
    Need(
        "llguidance:LLTokenizer.from_llamacpp",
        "constrained decoding calls llama.cpp's tokenizer from other threads without the interpreter's lock",
    ),
)
MAX_THREADS = 4
# a grammar that is more complex is refused. Fuel: about 50,000 units a millisecond
LIMITS = llguidance.LLParserLimits(
    initial_lexer_fuel=2_000_000, max_lexer_states=100_000, max_grammar_size=200_000, verbose_errors=False
)
# answers that a check begins to write, and tokens of each; the last one repeats its tokens where it may
TRIALS, TRIAL_TOKENS, REPEATED_TOKENS = 2, 24, 32
TOO_COMPLEX = "the constraint is too complex"
# how the library says that no text matches
NO_TEXT = "NoExtensionBias"
# how it says that a regular expression is invalid
REGEX, INVALID = "regex parse error", "invalid regex "
# how it says that a token was not allowed
VIOLATED = "doesn't satisfy the grammar"
Words = npt.NDArray[np.int32]  # [sequences, n_vocab / 32]: one bit for each token


class GrammarError(Exception):
    """Raised when a grammar is invalid, too complex, or matches no text."""


@dataclass(frozen=True)
class TokenTable:
    """A vocabulary: the bytes of each token, its special and end tokens, and the native tokenizer's addresses.

    Special tokens and tokens without bytes are generated only where a grammar names their id.
    """

    tokens: Many[bytes]
    special: frozenset[int]
    ends: frozenset[int]
    vocabulary: int
    tokenize: int

    def marked(self) -> list[bytes]:
        """Return the bytes of each token as llguidance expects them: special tokens begin with 0xFF."""
        return [b"\xff" + data if i in self.special else data for i, data in enumerate(self.tokens)]


class Matchers:
    """Compiles grammars for one vocabulary. The model must outlive it."""

    def __init__(self, table: TokenTable) -> None:
        os.environ.setdefault("RUST_MIN_STACK", str(STACK_BYTES))  # read when llguidance starts its first thread
        self.n_vocab, self._ends = len(table.tokens), table.ends
        self.tokenizer = llguidance.LLTokenizer.from_llamacpp(  # type: ignore[attr-defined]
            tokens=table.marked(),
            vocab_ptr=table.vocabulary,
            tokenize_fptr=table.tokenize,
            eos_token=sorted(table.ends),
        )

    def compile(self, grammar: str) -> Compiled:
        """Compile a grammar, without the interpreter's lock. Raises GrammarError."""
        matcher = llguidance.LLMatcher(self.tokenizer, grammar, log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise GrammarError(_first_line(matcher.get_error()))
        return Compiled(matcher, self.n_vocab, self._ends)


class Compiled:
    """A compiled grammar, from which each sequence's constraint starts."""

    def __init__(self, matcher: llguidance.LLMatcher, n_vocab: int, ends: frozenset[int]) -> None:
        self._matcher, self._n_vocab, self._ends = matcher, n_vocab, ends

    def start(self) -> Matching:
        """Return the constraint of one new sequence."""
        return Matching(self._matcher.deep_copy(), self._n_vocab)

    def check(self) -> None:
        """Write some tokens at random. Raises GrammarError if the grammar matches no text at all, or if its masks are
        too complex to compute: some patterns compile, but no answer could be written with them."""
        try:
            for seed in range(TRIALS):
                self._write(Random(seed), TRIAL_TOKENS)
            self._write(Random(0), REPEATED_TOKENS, repeat=True)
        except ConstraintError as error:
            raise GrammarError(str(error)) from None

    def _write(self, random: Random, limit: int, repeat: bool = False) -> None:
        writing, token = self.start(), -1
        for _ in range(limit):
            if writing.finished:
                return
            mask = writing.allowed()
            allowed = np.flatnonzero(mask)
            if not len(allowed):
                raise ConstraintError("the grammar cannot match any text")
            if not (repeat and token >= 0 and mask[token]):
                token = self._drawn(allowed, random, avoid_end=repeat)
            if token in self._ends:
                return
            writing.accept(token)

    def _drawn(self, allowed: npt.NDArray[np.int64], random: Random, avoid_end: bool) -> int:
        if avoid_end:
            going_on = allowed[~np.isin(allowed, list(self._ends))]
            allowed = going_on if len(going_on) else allowed
        return int(allowed[random.randrange(len(allowed))])


class Matching:
    """The constraint of one sequence."""

    def __init__(self, matcher: llguidance.LLMatcher, n_vocab: int) -> None:
        self.matcher, self._n_vocab = matcher, n_vocab
        self.words = (n_vocab + 31) // 32  # of a mask, 32 bits each
        self.pending: tuple[Future[Words], int] | None = None  # the mask that is being computed, and its row
        # forced tokens that have not been asked for: the library tokenizes all the forced text each time
        self.ahead: list[int] = []

    def allowed(self) -> Mask:
        if self.ahead:
            only = np.zeros(self._n_vocab, np.bool_)
            only[self.ahead[0]] = True
            return only
        if self.pending is None:
            words = np.frombuffer(self.matcher.compute_bitmask(), np.int32)
        else:
            future, row = self.pending
            words, self.pending = future.result()[row], None
        self._check()
        bits = np.unpackbits(words.view(np.uint8), count=self._n_vocab, bitorder="little")
        return bits.view(np.bool_)

    def accept(self, token: int) -> None:
        self._settle()
        self.ahead = self.ahead[1:] if self.ahead and self.ahead[0] == token else []
        if not self.matcher.consume_token(token):
            self._check()
            raise ConstraintError(f"token {token} violates the constraint")

    def forced(self, limit: int) -> list[int]:
        self._settle()
        if limit <= 0:
            return []
        ahead = self.ahead or self.matcher.compute_ff_tokens()
        tokens, self.ahead = ahead[:limit], ahead[limit:]
        if tokens and not self.matcher.consume_tokens(tokens):
            self._check()
        return tokens

    @property
    def finished(self) -> bool:
        self._settle()
        return self.matcher.is_stopped() and not self.matcher.is_error()

    def _settle(self) -> None:
        """Wait until no other thread uses the matcher; its mask is for an earlier state."""
        if self.pending is not None:
            self.pending[0].result()
            self.pending = None

    def _check(self) -> None:
        if self.matcher.is_error():
            why = _first_line(self.matcher.get_error())
            if VIOLATED in why:
                raise ConstraintError(why)
            raise TooComplex("the grammar cannot match any text" if NO_TEXT in why else f"{TOO_COMPLEX}: {why}")


class ThreadedMasks:
    """Computes the masks of a step while the engine's thread waits for the model."""

    def __init__(self, threads: int | None = None) -> None:
        self._threads = max(1, min(threads or cpu_count(), MAX_THREADS))
        self._caller = ThreadPoolExecutor(1, "masks")
        self._executor: llguidance.LLExecutor | None = None
        with thread_stack(STACK_BYTES):
            self._caller.submit(int).result()  # start the thread now, with this stack

    def begin(self, constraints: Many[Constraint]) -> None:
        found = (getattr(each, "inner", each) for each in constraints)  # inside a limit on thoughts
        matching = [each for each in found if isinstance(each, Matching) and not (each.pending or each.ahead)]
        if matching:
            future = self._caller.submit(self._compute, [each.matcher for each in matching], matching[0].words)
            for row, each in enumerate(matching):
                each.pending = future, row

    def _compute(self, matchers: list[llguidance.LLMatcher], width: int) -> Words:
        if self._executor is None:
            self._executor = llguidance.LLExecutor(self._threads)
        masks: Words = np.empty((len(matchers), width), np.int32)
        rows = [(matcher, row) for row, matcher in enumerate(matchers)]
        self._executor.unsafe_compute_mask_ptr(rows, masks.ctypes.data, 4 * width, len(matchers))
        return masks

    def close(self) -> None:
        self._caller.shutdown()


def regex_source(pattern: str) -> str:
    """Return a regular expression as it is written between slashes in a grammar. \\d and \\w are ASCII."""
    return str(llguidance.regex_to_lark(pattern, "dw")).replace("\n", "\\n")


def from_ebnf(text: str) -> str:
    """Convert a grammar in Lark syntax or llama.cpp's GBNF to Lark. Raises ValueError if it is not a grammar."""
    return llguidance.grammar_from("grammar", text)


def _first_line(text: str) -> str:
    """Return the first line of the library's message; of a regular expression's, the cause, not the expression."""
    first = text.partition("\n")[0]
    cause = re.search(r"^error: (.+)$", text, re.MULTILINE) if REGEX in text else None
    if cause is not None or INVALID in first:
        place, _, rest = first.partition(INVALID)
        first = (place if rest else "") + (f"{REGEX}: {cause[1]}" if cause else rest.rpartition('" (in regex): ')[2])
    return first.strip()[:300]
