"""Every artefact sits the exam that the trained model sat; its answers become the record's fidelity."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from burnish.chat import ChatError, ChatTemplate
from burnish.console import bar
from burnish.exam import Answers, Compared, Exam, Floats
from burnish.llama import Model, score
from burnish.run import Fidelity, TrainRecord, read_json, text_sha256
from burnish.tokenizer import encoder

TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")


@dataclass(frozen=True)
class Sat:
    """One artefact's answers over all n positions, compared with the trained model and the 16-bit merge (if given)."""

    answers: Answers
    trained: Compared
    merged: Compared | None


@dataclass(frozen=True)
class Check:
    """Whether a rule holds (None: it does not apply), and if not, why."""

    holds: bool | None
    why: str = ""


def sit(exam: Exam, logits: Iterable[Floats], merged: Answers | None, title: str) -> Sat:
    """Read each question's logits [positions, vocabulary] in order, and keep only what the record needs."""
    answers, trained, against = [], [], []
    start = 0
    with bar(f"examine {title}", len(exam.questions)) as tick:
        for number, (question, rows) in enumerate(zip(exam.questions, logits, strict=True)):
            mask = np.zeros(len(exam.base_true), dtype=bool)
            mask[start : (start := start + len(question.positions))] = True
            answers.append(Answers.of(rows, question.targets))
            trained.append(Compared.of(rows, exam.trained.take(mask)))
            if merged is not None:
                against.append(Compared.of(rows, merged.take(mask)))
            tick(number + 1)
    return Sat(Answers.join(answers), Compared.join(trained), Compared.join(against) if against else None)


def checkpoint_logits(directory: Path, exam: Exam) -> Iterator[Floats]:
    """Yield a merged checkpoint's logits a question, through transformers."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # the exam has its own
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.inference_mode():
        for question in exam.questions:
            logits = model(input_ids=torch.tensor([question.input_ids]), use_cache=False).logits[0, question.positions]
            yield logits.float().numpy()


def gguf_logits(model: Model, exam: Exam) -> Iterator[Floats]:
    """Yield a GGUF's logits a question, through llama.cpp itself."""
    yield from score(model, [(q.input_ids, q.positions) for q in exam.questions])


def fidelity(exam: Exam, sat: Sat, parity: Check, terminator: Check) -> dict[str, Any]:
    """Return a record's fidelity: figures over held-out response tokens; general text beside them."""
    held = exam.heldout()
    reference = sat.merged or sat.trained
    return Fidelity.model_validate(
        {
            "kl": _mean(reference.kl, held),
            "kl_trained": _mean(sat.trained.kl, held),
            "top1_agreement": _mean(reference.agree, held),
            "loss": _loss(sat.answers.true, held),
            "loss_trained": _loss(exam.trained.true, held),
            "loss_base": _loss(exam.base_true, held),
            "prompt_parity": parity.holds,
            "prompt_parity_why": parity.why,
            "terminator": terminator.holds,
            "terminator_why": terminator.why,
            "kl_general": _mean(reference.kl, ~held),
            "loss_general": _loss(sat.answers.true, ~held),
            "loss_general_trained": _loss(exam.trained.true, ~held),
            "noise_kl": exam.noise_kl,
        }
    ).model_dump()


def prompt_parity(
    exam: Exam,
    template: ChatTemplate | None,
    encode: Callable[[str], list[int]],
    trained_sha256: str | None,
    encode_text: Callable[[str], list[int]] | None = None,
) -> Check:
    """Check that the artefact's own template and tokenizer give, for every turn, the ids that were trained after.

    Of a plain text row all ids are compared; `encode_text` puts the artefact's own start token before it.
    The template must also be the trained one to the letter: the exam's rows need not reach what was edited in it.
    """
    turns = [
        (question, start, turn)
        for question in exam.questions
        if question.messages
        for (start, _), turn in zip(question.spans, question.turns, strict=True)
    ]
    if not turns:
        return text_parity(exam, encode_text) if encode_text else Check(None)
    if template is None:
        return Check(False, "it has no chat template")
    for question, start, turn in turns:
        try:
            text = template.render((question.messages or [])[:turn], add_generation_prompt=True)
        except ChatError as error:
            return Check(False, str(error))
        if difference := _difference(encode(text), question.input_ids[:start]):
            return Check(False, difference)
    if text_sha256(template.source) != trained_sha256:
        return Check(False, "its chat template is not the one that was trained (sha256 differs)")
    return Check(True)


def text_parity(exam: Exam, encode: Callable[[str], list[int]]) -> Check:
    """Check that the artefact's tokenizer gives the trained ids of every plain text row, its start token included.

    A row that the exam cut is compared as far as it goes; the end token after the text is the terminator's matter.
    """
    asked = [(q.text, q.input_ids) for q in exam.questions if q.text is not None]
    for text, trained in asked:
        found = encode(text)
        if found[: len(trained)] == trained or (found == trained[:-1] and trained):
            continue
        return Check(False, _difference(found, trained) or f"its text rows end before the trained ones: {text[:40]!r}")
    return Check(True if asked else None)


def terminator(exam: Exam, ends: frozenset[int]) -> Check:
    """Check that every examined turn ends in a token that was in the loss and ends the artefact's generation."""
    last = {q.input_ids[end - 1] for q in exam.questions if q.messages for _, end in q.spans}
    if not last:
        return Check(None)
    lost = sorted(last - ends)
    why = f"trained turns end in token {', '.join(map(str, lost))}, at which it does not stop" if lost else ""
    return Check(not lost, why)


def _difference(found: list[int], trained: list[int]) -> str:
    """Say how two prompts' ids differ; nothing where they are the same."""
    if found == trained:
        return ""
    if len(found) == len(trained) + 1 and found[1:] == trained and found[0] == trained[0]:
        return f"its prompts begin with a doubled BOS (token {found[0]} twice)"
    pairs = enumerate(zip(found, trained, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), min(len(found), len(trained)))
    return (
        f"its prompts differ from the trained ones at token {at}: {found[at : at + 3]}, trained {trained[at : at + 3]}"
    )


def examine_gguf(path: Path, exam: Exam, record: TrainRecord, reference: Answers | None, title: str) -> dict[str, Any]:
    """Return the fidelity of a GGUF file: asked through llama.cpp, prompted by the template in its own metadata."""
    with Model.open(path) as model:
        sat = sit(exam, gguf_logits(model, exam), reference, title)
        encode = partial(model.tokenize, add_special=False, parse_special=True)
        whole = partial(model.tokenize, add_special=True, parse_special=True)
        parity = prompt_parity(exam, gguf_template(model, record), encode, record.chat_template_sha256, whole)
        return fidelity(exam, sat, parity, terminator(exam, model.eog_ids()))


def examine_checkpoint(directory: Path, exam: Exam, record: TrainRecord, title: str) -> tuple[dict[str, Any], Answers]:
    """Return the fidelity of a merged checkpoint, asked through transformers, and its answers.

    Its tokenizer is loaded as vLLM and others do, by the class that its files name: what they make of it is examined.
    """
    from transformers import AutoTokenizer

    sat = sit(exam, checkpoint_logits(directory, exam), None, title)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    parity = prompt_parity(
        exam,
        checkpoint_template(tokenizer, record),
        encoder(tokenizer),
        record.chat_template_sha256,
        encoder(tokenizer, special=True),
    )
    eos = read_json(directory / "generation_config.json")["eos_token_id"]
    ends = terminator(exam, frozenset(eos if isinstance(eos, list) else [eos]))
    return fidelity(exam, sat, parity, ends), sat.answers


def gguf_template(model: Model, record: TrainRecord) -> ChatTemplate | None:
    """Return the template that a server would find in the GGUF, at the run's frozen date."""
    if not model.chat_template or not record.template_date:
        return None
    ids = {"bos_token": model.bos_id, "eos_token": model.eos_id}
    special = {name: model.token_text(i) for name, i in ids.items() if i is not None and i >= 0}
    return ChatTemplate(model.chat_template, record.template_date, special)


def checkpoint_template(tokenizer: Any, record: TrainRecord) -> ChatTemplate | None:
    """Return the template that transformers and vLLM would use."""
    if not tokenizer.chat_template or not record.template_date:
        return None
    special = {name: value for name in TOKEN_NAMES if (value := getattr(tokenizer, name, None))}
    return ChatTemplate(tokenizer.chat_template, record.template_date, special)


def _mean(values: Any, mask: Any) -> float | None:
    return float(values[mask].mean()) if mask.any() else None


def _loss(true_logp: Floats, mask: Any) -> float | None:
    return -float(true_logp[mask].mean()) if mask.any() else None
