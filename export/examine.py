"""Every artefact sits the exam that the trained model sat; its answers become the record's fidelity."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from burnish.console import bar
from burnish.exam import Answers, Compared, Exam, Floats
from burnish.llama import Model, score
from burnish.run import Fidelity, TrainRecord, read_json
from export.parity import Check, checkpoint_chat, gguf_chat, prompt_parity


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


def terminator(exam: Exam, ends: frozenset[int]) -> Check:
    """Check that every examined turn ends in a token that was in the loss and ends the artefact's generation."""
    last = {q.input_ids[end - 1] for q in exam.questions if q.messages for _, end in q.spans}
    if not last:
        return Check(None)
    lost = sorted(last - ends)
    why = f"trained turns end in token {', '.join(map(str, lost))}, at which it does not stop" if lost else ""
    return Check(not lost, why)


def examine_gguf(path: Path, exam: Exam, record: TrainRecord, reference: Answers | None, title: str) -> dict[str, Any]:
    """Return the fidelity of a GGUF file: asked through llama.cpp, prompted by the template in its own metadata."""
    with Model.open(path) as model:
        sat = sit(exam, gguf_logits(model, exam), reference, title)
        parity = prompt_parity(exam, gguf_chat(model, record), record)
        return fidelity(exam, sat, parity, terminator(exam, model.eog_ids()))


def examine_checkpoint(directory: Path, exam: Exam, record: TrainRecord, title: str) -> tuple[dict[str, Any], Answers]:
    """Return the fidelity of a merged checkpoint, asked through transformers, and its answers."""
    from transformers import AutoTokenizer

    sat = sit(exam, checkpoint_logits(directory, exam), None, title)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    parity = prompt_parity(exam, checkpoint_chat(tokenizer, record), record)
    eos = read_json(directory / "generation_config.json")["eos_token_id"]
    ends = terminator(exam, frozenset(eos if isinstance(eos, list) else [eos]))
    return fidelity(exam, sat, parity, ends), sat.answers


def _mean(values: Any, mask: Any) -> float | None:
    return float(values[mask].mean()) if mask.any() else None


def _loss(true_logp: Floats, mask: Any) -> float | None:
    return -float(true_logp[mask].mean()) if mask.any() else None
