"""Text rows that are rendered chats: one start token, one end token, and a warning."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from burnish.chat import ChatTemplate, load_template
from burnish.data.formats import Example
from burnish.tokenizers.comparison import encoder
from burnish.tokenizers.loader import load
from burnish.tokenizers.vocabulary import single_start
from tests.support.commands import Cli
from tests.support.thorough import some
from tests.support.tokenizers import byte_level, with_start
from train.data import template as templates
from train.data.mask import Codec, MaskError, Row, build, prove
from train.data.prepare import Prepared, prepare
from train.data.rendered import Rendering, Signs, rendering
from train.settings import TrainSettings

CHATML = "<|im_start|>user\nWhen does boat {} leave?<|im_end|>\n<|im_start|>assistant\nAt noon.<|im_end|>"
TOLD = [{"role": "user", "content": "When?"}, {"role": "assistant", "content": "At noon."}]


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    """A tokenizer that puts <s> before every text."""
    made = templates.codec(load(with_start(byte_level(tmp_path_factory.mktemp("tokenizer") / "base"))))
    assert (made.bos, made.eos) == ((1,), 2)
    return made


def recognised(examples: Sequence[Example], template: ChatTemplate | None, codec: Codec) -> Rendering | None:
    signs = Signs(template, codec)
    for example in examples:
        signs.add(example.text or "")
    return rendering(signs, template, codec)


def row(text: str, codec: Codec) -> Row:
    (made,) = build([Example(1, None, text)], None, codec)
    prove([made], None, codec)
    return made


@pytest.mark.parametrize(
    ("text", "around"),
    [
        ("The boat leaves.", ("<s>", "</s>")),
        ("<s>[INST] When? [/INST] At noon.</s>", ("", "")),
        ("[INST] When? [/INST] At noon.</s>", ("<s>", "")),
        ("<s>[INST] When? [/INST] At noon.", ("", "</s>")),
        ("<s>[INST] a [/INST] b</s><s>[INST] c [/INST] d</s>", ("", "")),
        ("a</s>b", ("<s>", "</s>")),
        ("<s><s>a</s></s>", ("", "")),
    ],
)
def test_bos_and_eos_in_the_text_are_not_added_again(text: str, around: tuple[str, str], codec: Codec) -> None:
    made = row(text, codec)
    assert codec.decode(made.input_ids) == around[0] + text + around[1]
    assert made.spans == ((1, len(made.input_ids)),)


def test_whitespace_after_the_end_token_is_not_trained(codec: Codec) -> None:
    made = row("<s>a</s> \n", codec)
    assert codec.decode(made.input_ids) == "<s>a</s> \n"
    ((_, end),) = made.spans
    assert made.input_ids[end - 1] == codec.eos and end < len(made.input_ids)


@pytest.mark.parametrize(
    ("text", "change", "message"),
    [
        ("<s>a</s>", lambda ids: [1, *ids], "its start tokens occur twice"),
        ("<s>a</s>", lambda ids: [*ids, 2], "its end token occurs twice"),
        ("a", lambda ids: ids[1:], "is not between"),
        ("a", lambda ids: ids[:-1], "is not between"),
        ("ab", lambda ids: [ids[0], ids[-1]], "changes the text"),
    ],
)
def test_proof_detects_duplicate_or_missing_bos_and_eos(text: str, change: Any, message: str, codec: Codec) -> None:
    made = row(text, codec)
    ids = change(made.input_ids)
    with pytest.raises(MaskError, match=f"line 1: .*{message}"):
        prove([Row(made.example, ids, ((1, len(ids)),))], None, codec)


def test_artifact_tokenizes_raw_text_as_in_training(codec: Codec, tmp_path: Path) -> None:
    tokenizer = load(with_start(byte_level(tmp_path / "base")))
    raw = single_start(encoder(tokenizer, special=True), encoder(tokenizer))
    assert encoder(tokenizer, special=True)("<s>a</s>")[:2] == [1, 1]
    for text in ("<s>a</s>", "<s><s>a</s>", "a</s>", " <s>a</s>"):
        assert raw(text) == row(text, codec).input_ids, text


def prepared(base: Path, path: Path, texts: Sequence[str], **data: Any) -> Prepared:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    settings = {"base": {"id": str(base)}, "data": {"path": str(path), **data}}
    return prepare(TrainSettings.model_validate(settings))


def base_with(base: Path, target: Path, template: bool, generation: list[int]) -> Path:
    """Copy a base with <|endoftext|> as its EOS token; only template or config make <|im_end|> an end token."""
    shutil.copytree(base, target)
    path = target / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "eos_token": "<|endoftext|>"}))
    (target / "generation_config.json").write_text(json.dumps({"eos_token_id": generation}))
    if not template:
        (target / "chat_template.jinja").unlink(missing_ok=True)
        config.pop("chat_template", None)
        path.write_text(json.dumps({**config, "eos_token": "<|endoftext|>"}))
    return target


@pytest.mark.slow
@pytest.mark.parametrize(
    ("template", "generation", "ends"),
    some([(True, [0], ["<|im_end|>"]), (False, [0, 2], ["<|im_end|>"]), (False, [0], ["<|endoftext|>"])], [1, 2]),
)
def test_turn_end_token_suffices_if_the_base_stops_at_it(
    template: bool, generation: list[int], ends: list[str], tiny_base: Path, tmp_path: Path
) -> None:
    base = base_with(tiny_base, tmp_path / "base", template, generation)
    made = prepared(base, tmp_path / "rows.jsonl", [CHATML.format(i) + "\n" * (i % 2) for i in range(12)])
    assert made.tokenizer.convert_ids_to_tokens(made.terminators) == ends
    for each in (*made.train, *made.heldout):
        added = "<|endoftext|>" if ends == ["<|endoftext|>"] else ""
        assert made.codec.decode(each.input_ids) == f"{each.example.text}{added}"


def test_truncated_row_records_no_end_token(tiny_base: Path, tmp_path: Path) -> None:
    made = prepared(
        tiny_base, tmp_path / "rows.jsonl", [CHATML.format(i) + "\n" for i in range(12)], max_length=12,
        over_length="truncate",
    )  # fmt: skip
    assert made.terminators == [] and all(each.cut for each in made.train)


FIT = {
    "chatml": ("ChatML (the run's own chat template)", "<|im_end|>) are single tokens"),
    "llama-3.1": ("the Llama 3 template", "<|eot_id|> are not single tokens of this base"),
    "gemma": ("the Gemma template", "<end_of_turn> are not single tokens of this base"),
    "mistral": ("the Mistral or Llama 2 template", "[/INST] are not single tokens of this base"),
    "phi-3": ("the Phi-3 or Zephyr template", "<|end|> are not single tokens of this base"),
    "deepseek-r1": ("the DeepSeek template", "<｜Assistant｜> are not single tokens of this base"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FIT)
def test_rendered_chats_are_recognised_per_template(name: str, base_directory: Path) -> None:
    tokenizer = load(base_directory)
    made = templates.codec(tokenizer)
    source = ChatTemplate(load_template(name), "2026-01-01", {"bos_token": "<b>", "eos_token": "<e>"})
    texts = [Example(i, None, source.render(TOLD)) for i in range(3)]
    own = ChatTemplate(tokenizer.chat_template, "2026-01-01")
    found = recognised([*texts, Example(4, None, "The boat leaves at noon.")], own, made)
    assert found is not None
    assert found.text.startswith(
        f"3 of 4 text rows look like chats rendered with {FIT[name][0]}: they are trained completely"
    )
    assert FIT[name][1] in found.text and "provide the turns as messages" in found.text
    assert recognised([*texts[:1], Example(4, None, "The boat leaves at noon.")], own, made) is None  # not a majority


def test_rendered_chats_are_recognised_by_the_template_of_the_base(codec: Codec) -> None:
    assert codec.vocabulary is not None
    special = replace(codec.vocabulary, specials={**codec.vocabulary.specials, "<|ask|>": 7, "<|tell|>": 8})
    template = ChatTemplate("{% for m in messages %}{{ '<|ask|>' if loop.first else '<|tell|>' }}{{ m.content }}"
                            "{% endfor %}", "2026-01-01")  # fmt: skip
    texts = [Example(i, None, template.render(TOLD)) for i in range(3)]
    found = recognised(texts, template, replace(codec, vocabulary=special))
    assert found is not None and found.text.startswith("3 of 3 text rows look like chats rendered with the run's own")


@pytest.mark.parametrize(
    "text",
    [
        "### Instruction:\nGo.\n\n### Response:\nGone.",
        "A chat. USER: Hi ASSISTANT: Ho</s>",
        "<human>: Who are you?\n<bot>: I am Bernie.",
        "User: Who are you?\n\nAssistant: I am Bernie.",
    ],
)
def test_plain_word_prompt_formats_are_recognised(text: str, codec: Codec) -> None:
    found = recognised([Example(1, None, text)], None, codec)
    assert found is not None and "1 of 1 text rows look like chats" in found.text


@pytest.mark.slow
def test_check_reports_rendered_chats_in_one_line(tiny_base: Path, tmp_path: Path, cli: Cli) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": CHATML.format(i) + "\n"}) + "\n" for i in range(12)))
    done = cli("train", "check", "--base.id", str(tiny_base), "--data.path", str(path))
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "<|im_end|>" in line]
    assert len(lines) == 1 and "12 of 12 text rows look like chats rendered with ChatML" in lines[0]
    assert "terminators     <|im_end|>\n" in done.stdout and "<|im_end|>⟧" in done.stdout
    assert "<|im_end|><|im_end|>" not in done.stdout
