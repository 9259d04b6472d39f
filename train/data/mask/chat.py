"""Convert messages to rows with exactly the ids that the server will use, training only the responses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from burnish.chat import ChatError, ChatTemplate, TemplateLimit
from burnish.data.formats import Example
from burnish.dialects.events import Call
from burnish.dialects.reader import parse
from burnish.tokenizers.special_text import Chat

from .proof import row_faults
from .row import Codec, Faults, Row, Unmaskable, assistant_number
from .text import PromptCut, text_ids

OPEN_THOUGHT = "<think>"
# conversations with more assistant turns are joined from short renderings: rendering every prefix is quadratic
FEWEST_JOINED = 9
AFTERWARDS = {"role": "user", "content": "And then?"}
SYSTEM = {"role": "system", "content": "Be brief."}
OPENING = ({"role": "user", "content": "Shall we begin?"}, {"role": "assistant", "content": "Let us begin."})

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Turn:
    """An assistant turn: the prompt ids as built by the server, and the response ids including the end token."""

    index: int
    prompt_ids: list[int]
    response_ids: list[int]
    trained: bool


def build(examples: Sequence[Example], template: ChatTemplate | None, codec: Codec) -> list[Row]:
    """Return the rows for all examples. Raises MaskError listing every kind of error that prevents masking.

    A conversation becomes a single row if each turn's prompt ids extend the previous ids. If the template rewrites
    history, or a token crosses a boundary, it becomes one row per assistant turn.
    """
    faults = Faults()
    rows, _ = build_some(examples, codec.chat(template) if template else None, codec, faults)
    faults.raise_any()
    return rows


def build_some(examples: Iterable[Example], chat: Chat | None, codec: Codec, faults: Faults) -> tuple[list[Row], bool]:
    """Return the rows of the examples without errors, which are added to `faults`; and whether all were tried.

    `chat` is shared, because creating it indexes the special strings.
    """
    rows: list[Row] = []
    for example in examples:
        try:
            rows += _chat_rows(example, chat, codec) if example.messages else [_text_row(example, codec)]
        except TemplateLimit as error:  # every other row would take just as long
            faults.add(example, Unmaskable(str(error)))
            return rows, False
        except ChatError as error:
            faults.add(example, Unmaskable(f"{error}{_system_advice(example, chat)}"))
        except Unmaskable as fault:
            faults.add(example, fault)
    return rows, True


def _text_row(example: Example, codec: Codec) -> Row:
    """Return a plain-text row, trained on everything after its prompt, up to the end token."""
    try:
        ids, span = text_ids(example.text or "", codec, example.prompt)
    except PromptCut:
        raise Unmaskable(
            "a token crosses from the prompt to the completion, so the trained prompt would not be the served one: end"
            " the prompt in a line break, and begin the completion with any space between them",
            f" (the prompt ends in {example.prompt[-20:]!r})",
        ) from None
    return Row(example, ids, (span,))


def _chat_rows(example: Example, chat: Chat | None, codec: Codec) -> list[Row]:
    if chat is None:
        raise Unmaskable("chat rows need a chat template: set chat.template")
    chat = chat.offering(example.tools)
    if joined := _joined(example, chat, codec):
        return [joined]
    turns = each_turn(example, chat, codec)
    if whole := one_row(example, turns):
        return [whole]
    return [row_of(example, [turn]) for turn in turns if turn.trained]


def each_turn(example: Example, chat: Chat, codec: Codec) -> list[Turn]:
    """Return every assistant turn with its prompt. Raises Unmaskable, and ChatError from the template."""
    messages = [message.to_dict() for message in example.messages or ()]
    turns = []
    for index in _assistants(example):
        try:
            prompt, response = turn_ids(messages[: index + 1], chat, codec)
        except Unmaskable as fault:
            raise Unmaskable(fault.what, fault.detail, assistant_number(example, index)) from None
        turns.append(Turn(index, prompt, response, (example.messages or ())[index].train))
    return turns


def one_row(example: Example, turns: list[Turn]) -> Row | None:
    """Return the conversation as one row, or None if a later prompt does not extend the previous ids."""
    so_far: list[int] = []
    for turn in turns:
        if turn.prompt_ids[: len(so_far)] != so_far:
            return None
        so_far = turn.prompt_ids + turn.response_ids
    return row_of(example, turns)


def row_of(example: Example, turns: list[Turn]) -> Row:
    """Return one row for turns whose ids extend one another; untrained turns are context."""
    ids = turns[-1].prompt_ids + turns[-1].response_ids
    trained = [turn for turn in turns if turn.trained]
    spans = tuple((len(t.prompt_ids), len(t.prompt_ids) + len(t.response_ids)) for t in trained)
    return Row(example, ids, spans, tuple(t.index for t in trained))


def _joined(example: Example, chat: Chat, codec: Codec) -> Row | None:
    """Return a long conversation as one row in linear time; None if the conversation is short or can't be joined.

    Every exchange is rendered after a short opening instead of the full history. This is correct if the template
    renders an exchange identically at every position, which the proof checks against the real prompts.
    """
    messages, indices = [message.to_dict() for message in example.messages or ()], _assistants(example)
    if len(indices) < FEWEST_JOINED or any(message.calls for message in example.messages or ()):
        return None
    opening = [*([SYSTEM] if messages[0]["role"] == "system" else []), *OPENING]
    ids: list[int] = []
    spans: dict[int, tuple[int, int]] = {}
    try:
        opened = [i for part in turn_ids(opening, chat, codec) for i in part]
        for before, index in pairwise((-1, *indices)):
            shown = messages[before + 1 : index + 1]
            prompt, response = turn_ids([*opening, *shown] if spans else shown, chat, codec)
            if spans and prompt[: len(opened)] != opened:
                return None
            ids += prompt[len(opened) :] if spans else prompt
            spans[index] = (len(ids), len(ids) + len(response))
            ids += response
    except (ChatError, Unmaskable):
        return None  # the slow path reports the error with its turn number
    trained = [i for i in indices if (example.messages or ())[i].train]
    row = Row(example, ids, tuple(spans[i] for i in trained), tuple(trained))
    return None if row_faults(row, chat, codec) else row


def _assistants(example: Example) -> list[int]:
    return [index for index, message in enumerate(example.messages or ()) if message.role == "assistant"]


def turn_ids(messages: Messages, chat: Chat, codec: Codec) -> tuple[list[int], list[int]]:
    """Return the last message's prompt ids, as the server builds them, and its response ids including the end token.

    Raises Unmaskable if the message does not continue the prompt, or the response has no end token.
    """
    prompt = chat.render(messages[:-1], add_generation_prompt=True)
    full = chat.render(messages)
    if not full.text.startswith(prompt.text):
        raise _not_a_prefix(prompt.text, full.text, chat.template)
    prompt_ids, full_ids = chat.encode(prompt), chat.encode(full)
    if full_ids[: len(prompt_ids)] == prompt_ids:
        response = full_ids[len(prompt_ids) :]
    else:  # a token crosses from prompt to response, which can't happen in generation
        response = chat.encode(full.after(len(prompt.text)))
    return prompt_ids, response[: _end(messages, prompt_ids, response, chat, codec)]


def _end(messages: Messages, prompt_ids: list[int], response: list[int], chat: Chat, codec: Codec) -> int:
    """Return the response length including the end token; template text after that is not generated.

    A terminator follows the content. In a series of terminators, the base's own end token ends the turn, else the last
    one that remains when another turn follows (Phi ends a finished chat twice).
    """
    if calls := messages[-1].get("tool_calls"):
        return _calls_end(response, len(calls), codec)
    places = [i for i, token in enumerate(response) if token in codec.terminators]
    content = str(messages[-1]["content"])
    ended = [i for i in places if codec.ends_with(codec.decode(response[:i]), content)]
    if not ended:
        if not places or codec.decode(response[places[-1] + 1 :]).strip():
            raise Unmaskable(
                "the template does not end it with an end token of this tokenizer, so the model would never learn to"
                " stop; choose another template with chat.template"
            )
        return places[-1] + 1  # the proof reports how the content was changed
    ends = [i for i in places if i >= ended[-1] and not codec.decode(_others(response[ended[-1] : i], codec)).strip()]
    if len(ends) > 1:
        kept = _in_common(prompt_ids + response, chat.ids([*messages, AFTERWARDS])) - len(prompt_ids)
        ends = [i for i in ends if i < kept] or ends
    return next((i for i in ends if response[i] in codec.end_ids), ends[-1]) + 1


def _calls_end(response: list[int], count: int, codec: Codec) -> int:
    """Return the length of a tool-call turn up to and including the first end token after all its calls."""
    for place, token in enumerate(response):
        if token in codec.end_ids and len(_calls(codec.decode(response[:place]), codec)) >= count:
            return place + 1
    raise Unmaskable(
        "the template does not close its calls with an end token of this base, or does not write all of them, so the"
        " model"
        " would never learn to stop; choose another template with chat.template"
    )


def _calls(text: str, codec: Codec) -> tuple[Call, ...]:
    thoughts = codec.dialects.thoughts
    opened = thoughts is not None and thoughts.begin not in text and thoughts.end in text
    return parse(text, codec.dialects.dialect, thoughts, opened).calls


def _others(ids: Sequence[int], codec: Codec) -> list[int]:
    return [i for i in ids if i not in codec.terminators]


def _in_common(one: Sequence[object], other: Sequence[object]) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _not_a_prefix(prompt: str, full: str, template: ChatTemplate) -> Unmaskable:
    if prompt.rstrip().endswith(OPEN_THOUGHT):
        without = ", set chat.template_kwargs to {enable_thinking: false}" if template.names("enable_thinking") else ""
        return Unmaskable(
            f"the template's generation prompt opens reasoning ({OPEN_THOUGHT}), but the row has none: add reasoning to"
            f" the data{without}, set chat.template to a plain variant (deepseek-r1), or use a template file"
        )
    same = _in_common(prompt, full)
    return Unmaskable(
        "the template renders the prompt differently when an answer follows",
        f" (at {prompt[max(0, same - 20) : same + 20]!r}): set chat.template to a different template",
    )


def _system_advice(example: Example, chat: Chat | None) -> str:
    """Return advice if the template rejects a conversation only because of its system turn, else ""."""
    messages = [message.to_dict() for message in example.messages or ()]
    if chat is None or len(messages) < 2 or messages[0]["role"] != "system":
        return ""
    moved = {**messages[1], "content": f"{messages[0]['content']}\n\n{messages[1]['content']}"}
    try:
        chat.render([moved, *messages[2:]])
    except ChatError:
        return ""
    return ": it accepts them without a system turn; move the system text to the start of the first user turn"
