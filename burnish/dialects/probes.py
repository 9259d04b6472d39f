"""Render short conversations with tools, and extract the assistant turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..chat import ChatError, ChatTemplate
from ..rendering.shape import tool_call
from .definitions import parameters
from .events import Call

QUESTION, ANSWER, THOUGHT, RESULT = "What is it like?", "It is quince-like.", "Ponder the quince.", "quince-result"
CALLS = (
    Call("alpha_tool", '{"city": "Zürich \\"Nord\\"", "days": 3}'),
    Call("beta_tool", '{"flag": true, "items": ["x", "y z"]}'),
)
IDS = ("abcdefgh1", "abcdefgh2")
LONG_ID = "call_0123456789abcdef01234567"
TOOLS = tuple(
    {
        "type": "function",
        "function": {
            "name": call.name,
            "description": f"What {call.name} does.",
            "parameters": {
                "type": "object",
                "properties": {name: {"type": kind, "description": f"The {name}."} for name, kind in kinds.items()},
                "required": list(kinds),
            },
        },
    }
    for call, kinds in zip(
        CALLS, ({"city": "string", "days": "integer"}, {"flag": "boolean", "items": "array"}), strict=True
    )
)
NAMES = parameters(TOOLS)
# maximum characters of a turn to parse: rendered probes are far shorter in any template
LONGEST_TURN = 1 << 14
_BRACKETS = (("<", ">"), ("[", "]"))


@dataclass(frozen=True)
class Turn:
    """An assistant turn rendered by the template, and the preceding prompt."""

    text: str
    prompt: str


@dataclass(frozen=True)
class Probe:
    """A template with the call shape that it expects."""

    template: ChatTemplate

    def prompt(self) -> str:
        """Return the prompt for a question with tools. Raises ChatError if the template rejects it."""
        return self._render([{"role": "user", "content": QUESTION}], True)

    def turn(self, answer: Mapping[str, Any]) -> Turn:
        """Return an assistant turn. Raises ChatError if the template rejects it or changes the prompt."""
        question = {"role": "user", "content": QUESTION}
        prompt, whole = self.prompt(), self._render([question, {"role": "assistant", **answer}], False)
        if whole.startswith(prompt):
            return Turn(whole[len(prompt) :], prompt)
        start = _common(prompt, whole)
        if QUESTION not in whole[:start]:
            raise ChatError("the chat template renders the question differently once it is answered")
        return Turn(whole[start:], whole[:start])

    def calls(self, count: int, identity: str = "", **answer: Any) -> Turn:
        """Return a turn with the first `count` calls, all with the id `identity` if given. Raises ChatError."""
        return self.turn({"content": "", **answer, "tool_calls": self._calls(count, identity)})

    def with_result(self) -> str:
        """Return the prompt after a call and its result. Raises ChatError if the template rejects it."""
        turns: list[dict[str, Any]] = [
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "content": "", "tool_calls": self._calls(1)},
            {"role": "tool", "content": RESULT, "tool_call_id": IDS[0], "name": CALLS[0].name},
        ]
        return self._render(turns, True)

    @staticmethod
    def _calls(count: int, identity: str = "") -> list[dict[str, Any]]:
        pairs = zip(IDS[:count], CALLS, strict=False)
        return [tool_call(identity or short, call.name, call.arguments) for short, call in pairs]

    def _render(self, messages: Sequence[Mapping[str, Any]], opened: bool) -> str:
        return self.template.render(messages, add_generation_prompt=opened, tools=list(TOOLS))


def _common(prompt: str, whole: str) -> int:
    """Return where two texts diverge, moved out of any bracketed marker."""
    end = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), min(len(prompt), len(whole)))
    for opening, closing in _BRACKETS:
        start = whole.rfind(opening, 0, end)
        if start > whole.rfind(closing, 0, end):
            end = start
    return end
