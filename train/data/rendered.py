"""Recognise text rows that are already rendered chats: the template, and how the base tokenizes its markers."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass

from burnish.chat import ChatTemplate
from burnish.data.formats import Example, Message
from burnish.errors import UserError

from .mask import Codec, build

MAX_SHARE = 0.5  # above this fraction of rows, a dataset counts as rendered chats
OWN = "the run's own chat template"
USER, ASSISTANT = "a user turn", "an assistant turn"


@dataclass(frozen=True)
class Family:
    """A chat template's signature: its rows match all `signs`; `markers` are its tokens around turns."""

    name: str
    signs: tuple[re.Pattern[str], ...]
    markers: tuple[str, ...]


def _family(name: str, signs: Sequence[str], markers: str = "") -> Family:
    return Family(name, tuple(map(re.compile, signs)), tuple(markers.split()))


FAMILIES = (
    _family("ChatML", [r"<\|im_start\|>[a-z]+(?:\n|<\|im_sep\|>)"], "<|im_start|> <|im_end|> <|im_sep|>"),
    _family(
        "the Llama 3 template",
        [r"<\|start_header_id\|>[a-z]+<\|end_header_id\|>"],
        "<|begin_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|> <|eom_id|>",
    ),
    _family(
        "the Llama 4 template",
        [r"<\|header_start\|>[a-z]+<\|header_end\|>"],
        "<|begin_of_text|> <|header_start|> <|header_end|> <|eot|>",
    ),
    _family("the Gemma template", [r"<start_of_turn>(?:user|model)\n"], "<bos> <start_of_turn> <end_of_turn>"),
    _family("the Gemma 4 template", [r"<\|turn>(?:user|model|system)\n"], "<bos> <|turn> <turn|>"),
    _family(
        "the Mistral or Llama 2 template",
        [r"\[INST\]", r"\[/INST\]"],
        "<s> </s> [INST] [/INST] <<SYS>> <</SYS>> [SYSTEM_PROMPT] [/SYSTEM_PROMPT]",
    ),
    _family(
        "the DeepSeek template",
        [r"<｜(?:User|Assistant)｜>"],
        "<｜begin▁of▁sentence｜> <｜User｜> <｜Assistant｜> <｜end▁of▁sentence｜>",
    ),
    _family(
        "the Command R template",
        [r"<\|START_OF_TURN_TOKEN\|><\|(?:USER|CHATBOT|SYSTEM)_TOKEN\|>"],
        "<BOS_TOKEN> <|START_OF_TURN_TOKEN|> <|USER_TOKEN|> <|CHATBOT_TOKEN|> <|SYSTEM_TOKEN|> <|END_OF_TURN_TOKEN|>",
    ),
    _family(
        "the Granite template",
        [r"<\|start_of_role\|>[a-z]+<\|end_of_role\|>"],
        "<|start_of_role|> <|end_of_role|> <|end_of_text|>",
    ),
    _family(
        "the harmony template",
        [r"<\|start\|>(?:system|developer|user|assistant)\b"],
        "<|start|> <|message|> <|channel|> <|end|> <|return|> <|call|>",
    ),
    _family(
        "the Phi-3 or Zephyr template",
        [r"<\|(?:user|assistant)\|>\s"],
        "<s> </s> <|system|> <|user|> <|assistant|> <|end|> <|endoftext|>",
    ),
    _family("the Alpaca prompt", [r"(?m)^### Instruction:", r"(?m)^### Response:"]),
    _family("a ### Human: prompt", [r"(?m)^### (?:Human|User):", r"### (?:Assistant|Response):"]),
    _family("a <human>: and <bot>: prompt", [r"(?m)^\s*<human>:", r"(?m)^\s*<(?:bot|assistant)>:"]),
    _family("a User: and Assistant: prompt", [r"(?m)^(?:User|Human): ", r"(?m)^(?:Assistant|Bot|AI): "]),
    _family("the Vicuna prompt", [r"(?:^|\s)USER: ", r"\sASSISTANT:"]),
)


@dataclass(frozen=True)
class Rendering:
    """A recognised template: the warning text, and the markers covered by the warning."""

    text: str
    markers: tuple[str, ...]


def turn_ends(template: ChatTemplate | None, codec: Codec) -> frozenset[int]:
    """Return the token with which the template ends an answer, or an empty set if there is no trainable one."""
    try:
        rows = build([_probe()], template, codec) if template else []
    except UserError:  # text rows don't need a working template
        return frozenset()
    return frozenset(row.input_ids[end - 1] for row in rows for _, end in row.spans)


class Signs:
    """Counts the text rows that match each template's signs. The counts of a file's parts add up."""

    def __init__(self, template: ChatTemplate | None, codec: Codec) -> None:
        self.families = [*_own(template, codec), *FAMILIES]
        ends = (codec.decode(codec.bos), codec.decode([codec.eos]))
        self.markers = {marker for family in self.families for marker in (*family.markers, *ends) if marker}
        self.absent = self.markers
        self.counts = [0] * len(self.families)
        self.texts = 0

    def add(self, text: str) -> None:
        """Count one row's text."""
        self.texts += 1
        self.absent = {marker for marker in self.absent if marker not in text}
        for number, family in enumerate(self.families):
            self.counts[number] += all(sign.search(text) for sign in family.signs)

    def empty(self) -> Signs:
        """Return the same signs without counts."""
        found = copy.copy(self)
        found.absent = self.markers
        found.counts, found.texts = [0] * len(self.families), 0
        return found

    def merge(self, other: Signs) -> None:
        """Add the counts of the file's next rows."""
        self.texts += other.texts
        self.absent &= other.absent
        self.counts = [one + more for one, more in zip(self.counts, other.counts, strict=True)]


def rendering(signs: Signs, template: ChatTemplate | None, codec: Codec) -> Rendering | None:
    """Return the template used in most text rows, or None if most rows are not chats."""
    families, counts, texts = signs.families, signs.counts, signs.texts
    count = max(counts)
    if count <= MAX_SHARE * texts:
        return None
    family = families[counts.index(count)]
    known = next((f.name for f, n in zip(families, counts, strict=True) if n == count and f in FAMILIES), "")
    name = f"{known} ({OWN})" if known and family.name == OWN else family.name
    markers = dict.fromkeys((*family.markers, codec.decode(codec.bos), codec.decode([codec.eos])))
    there = tuple(marker for marker in markers if marker and marker not in signs.absent)
    text = (
        f"{count} of {texts} text rows look like chats rendered with {name}: they are trained completely, prompts"
        f" included; {_fit(there, template, codec)}; to train only responses, provide the turns as messages (a"
        " `messages` list in each row)"
    )
    return Rendering(text, there)


def _probe() -> Example:
    return Example(1, (Message("user", USER), Message("assistant", ASSISTANT)))


def _own(template: ChatTemplate | None, codec: Codec) -> list[Family]:
    """Return the run's own template as a family, identified by its text between a user turn and the answer."""
    try:
        text = template.render([message.to_dict() for message in _probe().messages or ()]) if template else ""
    except UserError:
        return []
    between = text.partition(USER)[2].partition(ASSISTANT)[0].strip()
    known = [marker for family in FAMILIES for marker in family.markers]
    known += codec.vocabulary.specials
    if template is None or not any(marker in between for marker in known):
        return []  # ordinary words, which may occur in any text
    markers = tuple(dict.fromkeys(marker for marker in known if marker in template.source))
    return [Family(OWN, (re.compile(re.escape(between)),), markers)]


def _fit(there: Sequence[str], template: ChatTemplate | None, codec: Codec) -> str:
    """Return a clause that says whether the markers in the rows are single tokens of this base."""
    split = [marker for marker in there if len(codec.encode(marker)) != 1]
    if not there:
        return "its markers are ordinary text for any base"
    if not split:
        return f"its markers ({', '.join(there)}) are single tokens of this base"
    if template and all(marker in template.source for marker in split):
        return f"its markers {', '.join(split)} are ordinary text here, as in {OWN}"
    return (
        f"its markers {', '.join(split)} are not single tokens of this base, but another's, so they are ordinary text"
        " here"
    )
