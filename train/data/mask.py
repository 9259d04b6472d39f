"""Messages → ids and labels: the ids are exactly what the server will see, and only the responses are learned."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from burnish.chat import ChatError, ChatTemplate
from burnish.data.formats import Example
from burnish.errors import UserError
from burnish.tokenizers.special_text import Chat, Reading, find_strings
from burnish.tokenizers.vocabulary import Vocabulary

from .text import text_faults, text_ids

IGNORED = -100
OPEN_THOUGHT = "<think>"


class MaskError(UserError):
    """Rows whose responses can't be told from their prompts with this template and tokenizer."""


@dataclass(frozen=True)
class Codec:
    """What masking needs of a tokenizer.

    `encode` adds no special tokens and parses those in the text; `terminators` are the ids that may end a turn.
    `vocabulary` and `reading` say what special strings in messages are; without a vocabulary they are parsed.
    """

    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    terminators: frozenset[int]
    bos: tuple[int, ...]  # what the tokenizer puts before a plain text
    eos: int
    vocabulary: Vocabulary | None = None
    reading: Reading = "text"
    # what the tokenizer does to a text's characters (NFC ...), and whether a decoded text is the given one but for that
    normalise: Callable[[str], str] = str
    same: Callable[[str, str], bool] = operator.eq
    # which of the terminators end a generation of this base, beside eos: where a text spells one last, it is ended
    ends: frozenset[int] = frozenset()

    @property
    def end_ids(self) -> frozenset[int]:
        """The ids that end a generation of this base."""
        return self.ends | {self.eos}

    def chat(self, template: ChatTemplate) -> Chat:
        """Return what turns messages into ids, as the server will."""
        if self.vocabulary is None:
            return Chat(template, Vocabulary({}, self.encode, lambda parts: []), "parse")
        return Chat(template, self.vocabulary, self.reading)


@dataclass(frozen=True)
class Row:
    """One training sequence. `spans` are the trained [start, end) ranges, each a response with its terminator.

    `turns` says which assistant turn (index into the messages) each span is. `cut`: the row was shortened inside its
    last span, which therefore has no end token.
    """

    example: Example
    input_ids: list[int]
    spans: tuple[tuple[int, int], ...]
    turns: tuple[int, ...] = ()
    cut: bool = False

    @property
    def whole(self) -> tuple[tuple[int, int], ...]:
        """The spans that have their end token."""
        return self.spans[:-1] if self.cut else self.spans

    def labels(self, everything: bool = False) -> list[int]:
        """Return the labels: the ids inside the spans (or all ids), IGNORED elsewhere."""
        if everything:
            return list(self.input_ids)
        labels = [IGNORED] * len(self.input_ids)
        for start, end in self.spans:
            labels[start:end] = self.input_ids[start:end]
        return labels


@dataclass(frozen=True)
class _Turn:
    index: int
    prompt_ids: list[int]
    response_ids: list[int]
    trained: bool


def build(examples: Sequence[Example], template: ChatTemplate | None, codec: Codec) -> list[Row]:
    """Return the rows of all examples. Raises MaskError with every row that can't be masked.

    A conversation is one row where each turn's prompt continues the row before it to the token; where a template
    rewrites history, or a token crosses a border, it becomes one row an assistant turn.
    """
    rows: list[Row] = []
    faults: list[str] = []
    chat = codec.chat(template) if template else None  # one for all: it indexes the special strings
    for example in examples:
        try:
            rows += _chat_rows(example, chat, codec) if example.messages else [_text_row(example, codec)]
        except (ChatError, MaskError) as error:
            faults += [f"{example.where}: {fault}" for fault in error.faults]
    if faults:
        raise MaskError(faults)
    return rows


def prove(rows: Sequence[Row], template: ChatTemplate | None, codec: Codec) -> None:
    """Check every row apart from how it was built: raises MaskError where a mask is wrong.

    Each trained span must decode to one assistant turn's content and end in a terminator, the ids before it must be
    the tokenized prompt, and no two spans may overlap.
    """
    faults: list[str] = []
    chat = codec.chat(template) if template else None
    for row in rows:
        if row.example.text is not None:
            wrong = text_faults(row.example.text, row.input_ids, row.spans[0][1], codec)
            faults += [f"{row.example.where}: {fault}" for fault in wrong]
        if not row.example.messages or chat is None:
            continue
        last = 0
        for (start, end), turn in zip(row.spans, row.turns, strict=True):
            content = row.example.messages[turn].content.strip()
            before = [m.to_dict() for m in row.example.messages[:turn]]
            found = codec.decode(row.input_ids[start : end - 1]).strip()
            where = f"{row.example.where}: assistant turn {turn + 1}"
            if row.input_ids[end - 1] not in codec.terminators:
                faults.append(f"{where}: its last trained token is no terminator")
            if not codec.same(found, content):
                faults.append(
                    f"{where}: the template or tokenizer changes the response: {content[:40]!r} became {found[:40]!r}"
                )
            if read := _read_as_tokens(row, chat, turn, row.input_ids[start : end - 1]):
                faults.append(f"{where}: {', '.join(read)} in its text became a control token")
            if row.input_ids[:start] != chat.ids(before, add_generation_prompt=True):
                faults.append(f"{where}: what comes before it is not the prompt that the server would send")
            if start < last:
                faults.append(f"{where}: its tokens overlap those of the turn before")
            last = end
    if faults:
        raise MaskError(faults)


def _text_row(example: Example, codec: Codec) -> Row:
    """A plain text is learned whole, up to its end token."""
    ids, span = text_ids(example.text or "", codec)
    return Row(example, ids, (span,))


def _chat_rows(example: Example, chat: Chat | None, codec: Codec) -> list[Row]:
    if chat is None:
        raise MaskError("chat rows need a chat template")
    assert example.messages is not None
    turns = [
        _turn(example, index, chat, codec)
        for index, message in enumerate(example.messages)
        if message.role == "assistant"
    ]
    if whole := _one_row(example, turns):
        return [whole]
    return [_row(example, [turn]) for turn in turns if turn.trained]


def _one_row(example: Example, turns: list[_Turn]) -> Row | None:
    """Return the conversation as one row, or None where a later prompt does not continue the row so far."""
    so_far: list[int] = []
    for turn in turns:
        if turn.prompt_ids[: len(so_far)] != so_far:
            return None
        so_far = turn.prompt_ids + turn.response_ids
    return _row(example, turns)


def _row(example: Example, turns: list[_Turn]) -> Row:
    ids = turns[-1].prompt_ids + turns[-1].response_ids
    trained = [turn for turn in turns if turn.trained]
    spans = tuple((len(t.prompt_ids), len(t.prompt_ids) + len(t.response_ids)) for t in trained)
    return Row(example, ids, spans, tuple(t.index for t in trained))


def _turn(example: Example, index: int, chat: Chat, codec: Codec) -> _Turn:
    """Tokenize the prompt of one assistant turn as the server will, and its response up to the terminator."""
    assert example.messages is not None
    messages = [message.to_dict() for message in example.messages[: index + 1]]
    prompt = chat.render(messages[:-1], add_generation_prompt=True)
    full = chat.render(messages)
    if not full.text.startswith(prompt.text):
        raise MaskError(_why_not_prefix(prompt.text, full.text, index))
    prompt_ids, full_ids = chat.encode(prompt), chat.encode(full)
    if full_ids[: len(prompt_ids)] == prompt_ids:
        response = full_ids[len(prompt_ids) :]
    else:  # a token would cross from prompt to response, which can't happen when generating
        response = chat.encode(full.after(len(prompt.text)))
    ends = [i for i, token in enumerate(response) if token in codec.terminators]
    if not ends or codec.decode(response[ends[-1] + 1 :]).strip():
        raise MaskError(
            f"assistant turn {index + 1}: the template does not close it with an end token of this tokenizer,"
            " so the model would never learn to stop; choose another template with chat.template"
        )
    return _Turn(index, prompt_ids, response[: ends[-1] + 1], example.messages[index].train)


def _read_as_tokens(row: Row, chat: Chat, turn: int, ids: Sequence[int]) -> list[str]:
    """Return the special strings of a response that are control tokens among its ids, where text is to stay text."""
    assert row.example.messages is not None
    if chat.reading == "parse":
        return []
    spelled = {string for _, _, string in find_strings(chat, [row.example.messages[turn].to_dict()])}
    return sorted(string for string in spelled if chat.vocabulary.specials[string] in ids)


def _why_not_prefix(prompt: str, full: str, index: int) -> str:
    if prompt.rstrip().endswith(OPEN_THOUGHT):
        return (
            f"assistant turn {index + 1}: the template's generation prompt opens a thought ({OPEN_THOUGHT}) and the row"
            " has none: put thoughts into the data, set chat.template to a plain variant (deepseek-r1), or give a"
            " template file"
        )
    same = next((i for i, (a, b) in enumerate(zip(prompt, full, strict=False)) if a != b), min(len(prompt), len(full)))
    return (
        f"assistant turn {index + 1}: the template renders the prompt differently once it is answered"
        f" (at {prompt[max(0, same - 20) : same + 20]!r}): give a template file with chat.template"
    )
