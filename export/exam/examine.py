"""Examine an artifact: score it on the trained model's exam and compute its fidelity."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from burnish.chat import TIMEOUT_S
from burnish.console import bar
from burnish.exam.intervals import Estimate, estimate
from burnish.exam.rows import Exam
from burnish.exam.scores import Compared, Floats, TopLogprobs
from burnish.files import first_line
from burnish.llama import Model, score_chunks
from burnish.records import Fidelity, TrainRecord
from burnish.tokenizers.comparison import encoder
from burnish.tokenizers.vocabulary import single_start

from ..merge.shards import ShardError
from .parity import Check, checkpoint_chat, gguf_chat, prompt_parity
from .streamed import checkpoint_logits
from .terminator import checkpoint_ends, gguf_ends, terminator
from .tool_parity import decoded, tool_parity


@dataclass(frozen=True)
class Scored:
    """An artifact's answers at all n positions, compared with the trained model and, if given, the merged model."""

    answers: TopLogprobs
    trained: Compared
    merged: Compared | None


def score(exam: Exam, logits: Iterable[Floats], merged: TopLogprobs | None, title: str) -> Scored:
    """Reduce logits, in [positions, vocabulary] chunks in exam order, to the scores needed for the record."""
    targets = [target for question in exam.questions for target in question.targets]
    answers, trained, against = [], [], []
    start = 0
    with bar(f"examine {title}", len(targets)) as tick:
        for rows in logits:
            part = slice(start, start := start + len(rows))
            answers.append(TopLogprobs.of(rows, targets[part]))
            trained.append(Compared.of(rows, exam.trained.take(part)))
            if merged is not None:
                against.append(Compared.of(rows, merged.take(part)))
            tick(start)
    if start != len(targets):
        raise AssertionError(f"{title}: logits of {start} positions, the exam has {len(targets)}")
    return Scored(TopLogprobs.join(answers), Compared.join(trained), Compared.join(against) if against else None)


def gguf_logits(model: Model, exam: Exam) -> Iterator[Floats]:
    """Yield a GGUF file's logits from llama.cpp in chunks of positions."""
    yield from score_chunks(model, [(q.input_ids, q.positions) for q in exam.questions])


def fidelity(exam: Exam, scored: Scored, parity: Check, end: Check, calls: Check) -> Fidelity:
    """Return an artifact's fidelity: metrics over held-out response tokens and over general text."""
    figures = _figures(exam, scored)
    held, general = figures["loss"], figures["loss_general"]
    return Fidelity.model_validate(
        {
            **{name: made.value if made else None for name, made in figures.items()},
            **{f"{name}_ci": made.interval if made else None for name, made in figures.items()},
            "rows": held.rows if held else 0,
            "general_rows": general.rows if general else 0,
            "prompt_parity": parity.holds,
            "prompt_parity_why": parity.why,
            "terminator": end.holds,
            "terminator_why": end.why,
            "tool_parity": calls.holds,
            "tool_parity_why": calls.why,
            "noise_kl": exam.noise_kl,
        }
    )


def _figures(exam: Exam, scored: Scored) -> dict[str, Estimate | None]:
    """Return each metric with its row-clustered interval, or None if it has no positions."""
    held, rows = exam.heldout(), exam.rows()
    reference = scored.merged or scored.trained
    base, trained, here = (-t.astype(np.float64) for t in (exam.base_true, exam.trained.true, scored.answers.true))

    def over(mask: Any, values: Any, bottom: Any = None, least: float = 0.0, most: float = np.inf) -> Estimate | None:
        return estimate(values[mask], rows[mask], None if bottom is None else bottom[mask], least, most)

    gain = over(held, base - trained, least=-np.inf)
    return {
        "kl": over(held, reference.kl),
        "kl_trained": over(held, scored.trained.kl),
        "top1_agreement": over(held, reference.agree, most=1.0),
        "loss": over(held, here),
        "loss_trained": over(held, trained),
        "loss_base": over(held, base),
        "kl_general": over(~held, reference.kl),
        "loss_general": over(~held, here),
        "loss_general_trained": over(~held, trained),
        "loss_general_base": over(~held, base),
        "gain": gain,
        "gain_lost": over(held, here - trained, base - trained, -np.inf) if gain and gain.value > 0 else None,
    }


def examine_gguf(
    path: Path,
    exam: Exam,
    record: TrainRecord,
    reference: TopLogprobs | None,
    title: str,
    timeout_s: float = TIMEOUT_S,
) -> Fidelity:
    """Return a GGUF file's fidelity, scored with llama.cpp and prompted with the template in the file's metadata.

    `timeout_s` limits each template rendering.
    """
    with Model.open(path) as model:
        scored = score(exam, gguf_logits(model, exam), reference, title)
        ends = gguf_ends(model, record)
        chat = gguf_chat(model, record, timeout_s)
        parity = prompt_parity(exam, chat, record, model.tokenize_raw, ends.all)
        calls = tool_parity(
            exam, chat, record.tool_dialect, lambda ids: model.detokenize(ids, special=True).decode("utf-8", "replace")
        )
        return fidelity(exam, scored, parity, terminator(exam, ends), calls)


def examine_checkpoint(
    directory: Path, exam: Exam, record: TrainRecord, title: str, timeout_s: float = TIMEOUT_S
) -> tuple[Fidelity, TopLogprobs]:
    """Return a merged checkpoint's fidelity, scored with transformers, and its answers.

    The tokenizer is loaded through the class named in its files, so that the exam covers what vLLM and others load.
    """
    from transformers import AutoTokenizer

    scored = score(exam, checkpoint_logits(directory, exam.questions), None, title)
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except (ValueError, OSError) as error:
        raise ShardError(f"{directory}: transformers can't load its tokenizer: {first_line(error)}") from None
    raw = single_start(encoder(tokenizer, special=True), encoder(tokenizer))
    ends = checkpoint_ends(directory, tokenizer, record)
    chat = checkpoint_chat(tokenizer, record, timeout_s)
    parity = prompt_parity(exam, chat, record, raw, ends.all)
    calls = tool_parity(exam, chat, record.tool_dialect, lambda ids: decoded(tokenizer, ids))
    return fidelity(exam, scored, parity, terminator(exam, ends), calls), scored.answers
