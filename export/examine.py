"""Every artefact sits the exam that the trained model sat; its answers become the record's fidelity."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from burnish.chat import ChatError, ChatTemplate
from burnish.console import bar
from burnish.exam import Answers, Compared, Exam, Floats
from burnish.llama import Model, score
from burnish.run import Fidelity, TrainRecord

TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")


@dataclass(frozen=True)
class Sat:
    """One artefact's answers over all n positions, compared with the trained model and the 16-bit merge (if given)."""

    answers: Answers
    trained: Compared
    merged: Compared | None


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


def fidelity(exam: Exam, sat: Sat, parity: bool | None, terminator: bool | None) -> dict[str, Any]:
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
            "prompt_parity": parity,
            "terminator": terminator,
            "kl_general": _mean(reference.kl, ~held),
            "loss_general": _loss(sat.answers.true, ~held),
            "loss_general_trained": _loss(exam.trained.true, ~held),
            "noise_kl": exam.noise_kl,
        }
    ).model_dump()


def prompt_parity(exam: Exam, template: ChatTemplate | None, encode: Callable[[str], list[int]]) -> bool | None:
    """Whether the artefact's own template and tokenizer give, for every turn, the ids that were trained after.

    None where nothing was rendered (plain-text rows).
    """
    turns = [
        (q, start, turn)
        for q in exam.questions
        if q.messages
        for (start, _), turn in zip(q.spans, q.turns, strict=True)
    ]
    if not turns:
        return None
    if template is None:
        return False
    try:
        return all(
            encode(template.render((q.messages or [])[:turn], add_generation_prompt=True)) == q.input_ids[:start]
            for q, start, turn in turns
        )
    except ChatError:
        return False


def terminator(exam: Exam, ends: frozenset[int]) -> bool | None:
    """Whether every examined turn ends in a token that was in the loss and ends the artefact's generation."""
    last = {q.input_ids[end - 1] for q in exam.questions if q.messages for _, end in q.spans}
    return last <= ends if last else None


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
