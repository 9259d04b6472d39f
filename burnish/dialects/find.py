"""Detect a chat template's dialect and reasoning format by rendering probes and parsing the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import Any

from ..chat import ChatError, ChatTemplate, TemplateLimit
from ..rendering.shape import Shape
from .dialect import Dialect
from .events import Parsed
from .form import CallForm, form_of
from .formats import DIALECTS
from .probes import ANSWER, CALLS, LONG_ID, LONGEST_TURN, NAMES, RESULT, THOUGHT, Probe, Turn
from .reader import parse
from .thoughts import CHANNELS, FORMATS, Thoughts

SHOWN = 160


@dataclass(frozen=True)
class Found:
    """A template's handling of tools and reasoning.

    If `dialect` is None, `why` states why calls can't be read. `defines`: the template shows the tools to the model;
    `parallel`: it supports several calls per turn; `results`: it supports call results. `end` is the template's text
    after a turn's calls. `form` is how it writes calls, None if the arguments are not JSON. `thoughts` is None if the
    template has no reasoning.
    """

    dialect: Dialect | None = None
    thoughts: Thoughts | None = None
    shape: Shape = field(default_factory=Shape)
    defines: bool = False
    parallel: bool = False
    results: bool = False
    end: str = ""
    why: str = ""
    form: CallForm | None = None

    @property
    def usable(self) -> bool:
        """Whether tools can be used: the template renders definitions, calls and results."""
        return self.dialect is not None and self.defines and self.results

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values, for another process."""
        names = {"dialect": self.dialect and self.dialect.name, "thoughts": self.thoughts and self.thoughts.name}
        return {**asdict(replace(self, dialect=None, thoughts=None)), **names}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Found:
        """Restore the output of to_json."""
        dialect = DIALECTS[data["dialect"]] if data["dialect"] else None
        thoughts = {**FORMATS, CHANNELS.name: CHANNELS}[data["thoughts"]] if data["thoughts"] else None
        form = CallForm(**data["form"]) if data["form"] else None
        parts = {"dialect": dialect, "thoughts": thoughts, "shape": Shape(**data["shape"]), "form": form}
        return Found(**{**data, **parts})


@dataclass(frozen=True)
class _Match:
    """The dialect of a turn with calls, the turn's ending, and the possible endings."""

    dialect: Dialect
    end: str
    ends: frozenset[str]


def find(template: ChatTemplate, dialect: str | None = None) -> Found:
    """Return a template's handling of tools; with `dialect`, try only the dialect with that name.

    Neither template errors nor an unknown name raise: even an exceeded limit is reported as the reason.
    """
    candidates = [d for name, d in DIALECTS.items() if dialect in (None, name)]
    try:
        found = _calls(template, candidates) if candidates else Found(why=f"unknown tool dialect '{dialect}'")
        return replace(found, thoughts=_thoughts(template, found))
    except TemplateLimit as limit:
        return Found(why=str(limit))


def fitted(template: ChatTemplate, dialect: str | None = None) -> tuple[ChatTemplate, Found]:
    """Return the template with the call shape it expects, and the other findings; see find."""
    found = find(template, dialect)
    return template.taking(found.shape), found


def _calls(template: ChatTemplate, candidates: list[Dialect]) -> Found:
    defines, refusal = _defines(template)
    unknown = ignored = ""
    for shape in _shapes():
        probe = Probe(template.taking(shape))
        try:
            turn = probe.calls(1)
        except TemplateLimit:
            raise
        except ChatError as error:
            refusal = refusal or str(error)
            continue
        if CALLS[0].name not in turn.text:
            ignored = "the chat template does not render tool calls"
        elif (match := _match(turn, candidates, _ends(probe))) is not None:
            return _examined(probe, match, defines)
        else:
            unknown = unknown or f"the chat template writes tool calls in an unknown format: {_excerpt(turn.text)}"
    return Found(defines=defines, why=unknown or ignored or refusal)


def _ends(probe: Probe) -> frozenset[str]:
    """Return the possible texts after a turn's calls, stripped: the text that follows an answer, or nothing."""
    turn = _rendered(lambda: probe.turn({"content": ANSWER}))
    return frozenset({"", turn.text.rpartition(ANSWER)[2].strip()} if turn else {""})


def _shapes() -> Iterator[Shape]:
    for arguments, empty in product(("object", "text"), ("text", "null", "absent")):
        yield Shape(arguments, empty)  # type: ignore[arg-type]


def _defines(template: ChatTemplate) -> tuple[bool, str]:
    try:
        prompt = Probe(template).prompt()
    except TemplateLimit:
        raise
    except ChatError as error:
        return False, str(error)
    return all(name in prompt for name in NAMES), ""


def _match(turn: Turn, candidates: list[Dialect], ends: frozenset[str], count: int = 1) -> _Match | None:
    """Return the first dialect that reads the turn's calls and leaves only an ending."""
    for dialect in candidates:
        if dialect.sign in turn.text:
            parsed = read(turn, dialect)
            if same_calls(parsed, count) and parsed.content.strip() in ends | {*dialect.ends}:
                return _Match(dialect, parsed.content, ends)
    return None


def read(turn: Turn, dialect: Dialect | None, thoughts: Thoughts | None = None) -> Parsed:
    """Parse a turn, which may start with reasoning in any format."""
    text = turn.text[:LONGEST_TURN]
    if thoughts is None and dialect and not dialect.whole:
        thoughts = next((t for t in FORMATS.values() if t.begin in text or t.open_in(turn.prompt)), None)
    opened = thoughts is not None and thoughts.open_in(turn.prompt)
    return parse(text, dialect, thoughts, opened, NAMES)


def same_calls(parsed: Parsed, count: int) -> bool:
    """Return whether exactly the first `count` probe calls were read."""
    given = [(call.name, call.value()) for call in CALLS[:count]]
    return [(call.name, call.value()) for call in parsed.calls] == given


def _examined(probe: Probe, match: _Match, defines: bool) -> Found:
    """Return the template's other features, given its format for a single call."""
    shape = replace(probe.template.shape, short_ids=not _renders(lambda: probe.calls(1, LONG_ID).text))
    two = _rendered(lambda: probe.calls(2))
    parallel = two is not None and _match(two, [match.dialect], match.ends, 2) is not None
    results = _renders(probe.with_result, RESULT)
    why = "" if results else "the chat template does not render tool results"
    why = why if defines else "the chat template does not show the tools to the model"
    one = _rendered(lambda: probe.calls(1))
    form = form_of(match.dialect, one.text, two.text if two and parallel else None, match.end) if one else None
    return Found(match.dialect, None, shape, defines, parallel, results, match.end, why, form)


def _rendered(render: Callable[[], Turn]) -> Turn | None:
    try:
        return render()
    except TemplateLimit:
        raise
    except ChatError:
        return None


def _renders(render: Callable[[], str], part: str = "") -> bool:
    """Return whether the template accepts the input and writes `part`."""
    try:
        return part in render()
    except TemplateLimit:
        raise
    except ChatError:
        return False


def _thoughts(template: ChatTemplate, found: Found) -> Thoughts | None:
    """Return how the template writes reasoning or, if it omits past reasoning, which markers it searches for."""
    if found.dialect and found.dialect.whole:
        return CHANNELS
    probe = Probe(template.taking(found.shape))
    answers = (
        _rendered(lambda: probe.turn({"content": ANSWER, "reasoning_content": THOUGHT})),
        _rendered(lambda: probe.calls(1, reasoning_content=THOUGHT)) if found.dialect else None,
    )
    for turn in filter(None, answers):
        for thoughts in FORMATS.values():
            if read(turn, found.dialect, thoughts).reasoning.strip() == THOUGHT:
                return thoughts
    try:
        prompt = probe.prompt()
        written = template.written
    except ChatError:
        return None
    return next((t for t in FORMATS.values() if t.open_in(prompt) or t.end.strip() in written), None)


def _excerpt(text: str) -> str:
    shown = ascii(text[:SHOWN])
    return f"{shown}…" if len(text) > SHOWN else shown
