"""Check every row independently of how it was built: prompts match the server's, and responses are trained."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from burnish.chat import ChatError, ChatTemplate
from burnish.tokenizers.special_text import Chat

from ..tools import reading_fault
from .row import Codec, Faults, Row, Unmaskable, assistant_number
from .text import prompt_ids, text_faults

# in a long row, only the last turn and the turns at 1/4, 1/16 ... are checked against the full prompt
FEWEST_SPARED, STRIDE = 9, 4
# number of trailing prompt ids that show whether the prompt opens a thought
IDS_BEFORE = 16
# a short replacement for the history when checking the other turns
SYSTEM = {"role": "system", "content": "Answer shortly."}
BEFORE = ({"role": "user", "content": "Is anyone there?"}, {"role": "assistant", "content": "Yes, ask away."})


def prove(rows: Sequence[Row], template: ChatTemplate | None, codec: Codec) -> None:
    """Check every row independently of how it was built. Raises MaskError if a mask is wrong.

    Each trained span must be an assistant turn's content followed by its end token. The ids before the span must be
    the tokenized prompt, and spans must not overlap.
    """
    faults = Faults()
    prove_some(rows, codec.chat(template) if template else None, codec, faults)
    faults.raise_any()


def prove_some(rows: Iterable[Row], chat: Chat | None, codec: Codec, faults: Faults) -> None:
    """Add every row's errors to `faults`."""
    for row in rows:
        for fault in row_faults(row, chat, codec):
            faults.add(row.example, fault)


def row_faults(row: Row, chat: Chat | None, codec: Codec) -> list[Unmaskable]:
    """Return a row's errors."""
    if row.example.text is not None:
        told = text_faults(row.example.text, row.input_ids, row.spans[0][1], codec)
        if row.input_ids[: row.spans[0][0]] != prompt_ids(row.example.prompt, codec):
            told.append("the ids before the trained part are not the prompt's")
        return [Unmaskable(what, colon + detail) for what, colon, detail in (f.partition(": ") for f in told)]
    if not row.example.messages or chat is None:
        return []
    chat = chat.offering(row.example.tools)
    found: list[Unmaskable] = []
    for number, turn in enumerate(row.turns):
        faults = [*_response_faults(row, number, chat, codec), *_prompt_faults(row, number, chat)]
        if faults:
            which = assistant_number(row.example, turn)
            found += [Unmaskable(fault.what, fault.detail, which) for fault in faults]
    return found


def response_text(ids: Sequence[int], content: str, codec: Codec) -> str | None:
    """Return a trained span's text up to the end of the message content; None if the span does not contain the content.

    Only end tokens may follow the content.
    """
    for length in range(len(ids) - 1, -1, -1):
        if ids[length] not in codec.terminators and codec.decode(ids[length : length + 1]).strip():
            return None
        if ids[length] in codec.terminators and codec.ends_with(text := codec.decode(ids[:length]), content):
            return text
    return None


def _response_faults(row: Row, number: int, chat: Chat, codec: Codec) -> list[Unmaskable]:
    (start, end), message = row.spans[number], (row.example.messages or ())[row.turns[number]]
    ids = row.input_ids[start:end]
    found: list[Unmaskable] = []
    if ids[-1] not in codec.terminators:
        found.append(Unmaskable("its last trained token is not an end token"))
    elif row.example.tools and (fault := _reading_fault(row, number, codec)):
        found.append(Unmaskable("the server would parse it differently from the row", f": {fault}"))
    elif not message.calls and response_text(ids, message.content, codec) is None:
        text = codec.decode(ids[:-1]).strip()
        detail = f": {message.content.strip()[:40]!r} became {text[:40]!r}"
        found.append(Unmaskable("the template or tokenizer changes the response", detail))
    if read := _read_as_tokens(message.content, ids[:-1], chat, codec):
        found.append(Unmaskable(f"{', '.join(read)} in its text became a control token"))
    if number and start < row.spans[number - 1][1]:
        found.append(Unmaskable("its tokens overlap those of the previous turn"))
    return found


def _reading_fault(row: Row, number: int, codec: Codec) -> str:
    (start, end), message = row.spans[number], (row.example.messages or ())[row.turns[number]]
    before = codec.decode(row.input_ids[max(0, start - IDS_BEFORE) : start])
    return reading_fault(message, row.example, codec.decode(row.input_ids[start : end - 1]), before, codec.dialects)


def _prompt_faults(row: Row, number: int, chat: Chat) -> list[Unmaskable]:
    """Check the ids before a span: against the full prompt or, for some turns, only the part since the last answer."""
    if not _whole(number, len(row.spans)) and _continues(row, number, chat):
        return []
    before = [message.to_dict() for message in (row.example.messages or ())[: row.turns[number]]]
    if row.input_ids[: row.spans[number][0]] == chat.ids(before, add_generation_prompt=True):
        return []
    return [Unmaskable("the ids before it are not the prompt that the server would build")]


def _whole(number: int, count: int) -> bool:
    """Return whether to check a turn against its full prompt: in long rows only a few, to keep the total O(row)."""
    left = count - 1
    while left > number and count >= FEWEST_SPARED:
        left //= STRIDE
    return left == number or count < FEWEST_SPARED


def _continues(row: Row, number: int, chat: Chat) -> bool:
    """Return whether the ids since the previous span match the template's text between the answers in a short chat."""
    messages = row.example.messages or ()
    last, turn = row.turns[number - 1], row.turns[number]
    between = row.input_ids[row.spans[number - 1][1] : row.spans[number][0]]
    shown = [*([SYSTEM] if messages[0].role == "system" else []), *BEFORE]
    try:
        found = chat.ids([*shown, *(m.to_dict() for m in messages[last + 1 : turn])], add_generation_prompt=True)
    except ChatError:
        return False
    end = len(found) - len(between) - 1
    return bool(between) and end >= 0 and found[end:] == [row.input_ids[row.spans[number - 1][1] - 1], *between]


def _read_as_tokens(content: str, ids: Sequence[int], chat: Chat, codec: Codec) -> list[str]:
    """Return the special strings in a response that became control tokens instead of staying text."""
    spelled = {} if chat.reading == "parse" else dict.fromkeys(chat.strings(content, assistant=True))
    if not spelled:
        return []
    # the template may write the same tokens before the content, so search only from the start of the content
    last = len(ids)
    while last and ids[last - 1] in codec.terminators and codec.ends_with(codec.decode(ids[: last - 1]), content):
        last -= 1
    first = bisect_left(range(last), True, key=lambda i: not codec.ends_with(codec.decode(ids[i:last]), content))
    return sorted(s for s in spelled if chat.vocabulary.specials[s] in ids[max(first - 1, 0) : last])
