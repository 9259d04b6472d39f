"""Every artefact sits the exam that the trained model sat; its answers become the record's fidelity."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from burnish.console import bar
from burnish.exam.intervals import Estimate, estimate
from burnish.exam.rows import Exam
from burnish.exam.scores import Answers, Compared, Floats
from burnish.files import first_line, read_json
from burnish.llama import Model, score_chunks
from burnish.records import Fidelity, TrainRecord
from burnish.tokenizers.loader import encoder
from burnish.tokenizers.vocabulary import single_start

from ..merge.shards import ShardError
from .parity import Check, checkpoint_chat, gguf_chat, prompt_parity
from .streamed import checkpoint_logits

NAMED = 8  # how many wrong stops a message names


@dataclass(frozen=True)
class Sat:
    """One artefact's answers over all n positions, compared with the trained model and the 16-bit merge (if given)."""

    answers: Answers
    trained: Compared
    merged: Compared | None


def sit(exam: Exam, logits: Iterable[Floats], merged: Answers | None, title: str) -> Sat:
    """Read logits, [some positions, vocabulary] at a time in the exam's order, and keep only what the record needs."""
    targets = [target for question in exam.questions for target in question.targets]
    answers, trained, against = [], [], []
    start = 0
    with bar(f"examine {title}", len(targets)) as tick:
        for rows in logits:
            part = slice(start, start := start + len(rows))
            answers.append(Answers.of(rows, targets[part]))
            trained.append(Compared.of(rows, exam.trained.take(part)))
            if merged is not None:
                against.append(Compared.of(rows, merged.take(part)))
            tick(start)
    if start != len(targets):
        raise AssertionError(f"{title}: logits of {start} positions, the exam has {len(targets)}")
    return Sat(Answers.join(answers), Compared.join(trained), Compared.join(against) if against else None)


def gguf_logits(model: Model, exam: Exam) -> Iterator[Floats]:
    """Yield a GGUF's logits, some positions at a time, through llama.cpp itself."""
    yield from score_chunks(model, [(q.input_ids, q.positions) for q in exam.questions])


def fidelity(exam: Exam, sat: Sat, parity: Check, terminator: Check) -> dict[str, Any]:
    """Return a record's fidelity: figures over held-out response tokens; general text beside them."""
    figures = _figures(exam, sat)
    held, general = figures["loss"], figures["loss_general"]
    return Fidelity.model_validate(
        {
            **{name: made.value if made else None for name, made in figures.items()},
            **{f"{name}_ci": made.interval if made else None for name, made in figures.items()},
            "rows": held.rows if held else 0,
            "general_rows": general.rows if general else 0,
            "prompt_parity": parity.holds,
            "prompt_parity_why": parity.why,
            "terminator": terminator.holds,
            "terminator_why": terminator.why,
            "noise_kl": exam.noise_kl,
        }
    ).model_dump()


def _figures(exam: Exam, sat: Sat) -> dict[str, Estimate | None]:
    """Return each figure with its interval, clustered by row; None where there is nothing to take it over."""
    held, rows = exam.heldout(), exam.rows()
    reference = sat.merged or sat.trained
    base, trained, here = (-t.astype(np.float64) for t in (exam.base_true, exam.trained.true, sat.answers.true))

    def over(mask: Any, values: Any, bottom: Any = None, least: float = 0.0, most: float = np.inf) -> Estimate | None:
        return estimate(values[mask], rows[mask], None if bottom is None else bottom[mask], least, most)

    gain = over(held, base - trained, least=-np.inf)
    return {
        "kl": over(held, reference.kl),
        "kl_trained": over(held, sat.trained.kl),
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


@dataclass(frozen=True)
class Ends:
    """Where a server of an artefact ends an answer: `own` by the artefact itself, `recorded` as train.json tells.

    `text` gives a token's own text, empty for a control token.
    """

    own: frozenset[int]
    recorded: frozenset[int]
    text: Callable[[int], str]


def terminator(exam: Exam, ends: Ends) -> Check:
    """Check that every examined turn ends in a token that ends the artefact's generation, and that nothing else does.

    A recorded end that is ordinary text, and any stop inside a trained turn, would cut answers short.
    """
    turns = [q.input_ids[max(start, 1) : end] for q in exam.questions if q.messages for start, end in q.spans]
    last = {ids[-1] for ids in turns}
    faults = []
    if lost := sorted(last - ends.own):
        faults.append(f"trained turns end in token {', '.join(map(str, lost))}, at which it does not stop")
    if wrong := sorted(i for i in ends.recorded - last if ends.text(i).strip()):
        faults.append(
            f"train.json records ordinary text as ends, at which answers would be cut: {_named(wrong, ends)}; train"
            " again"
        )
    if inside := sorted({i for ids in turns for i in _inside(ids, ends)} - set(wrong)):
        faults.append(f"it stops inside trained turns, at {_named(inside, ends)}, so answers would be cut there")
    return Check(not faults if turns or faults else None, "; ".join(faults))


def _inside(ids: list[int], ends: Ends) -> Iterator[int]:
    """Yield the stops of one turn that come before its end: with ordinary text still to follow."""
    stops = ends.own | ends.recorded
    following = False
    for token in reversed(ids):
        if token in stops and following:
            yield token
        following = following or (token not in stops and bool(ends.text(token).strip()))


def _named(tokens: list[int], ends: Ends) -> str:
    """Name tokens by id and text, the first few of many."""
    shown = ", ".join(f"{i} {text!r}" if (text := ends.text(i)) else str(i) for i in tokens[:NAMED])
    return f"{len(tokens)} tokens ({shown}{', …' if len(tokens) > NAMED else ''})"


def examine_gguf(path: Path, exam: Exam, record: TrainRecord, reference: Answers | None, title: str) -> dict[str, Any]:
    """Return the fidelity of a GGUF file: asked through llama.cpp, prompted by the template in its own metadata."""
    with Model.open(path) as model:
        sat = sit(exam, gguf_logits(model, exam), reference, title)
        parity = prompt_parity(exam, gguf_chat(model, record), record, model.tokenize_raw)
        return fidelity(exam, sat, parity, terminator(exam, _gguf_ends(model, record)))


def examine_checkpoint(directory: Path, exam: Exam, record: TrainRecord, title: str) -> tuple[dict[str, Any], Answers]:
    """Return the fidelity of a merged checkpoint, asked through transformers, and its answers.

    Its tokenizer is loaded as vLLM and others do, by the class that its files name: what they make of it is examined.
    """
    from transformers import AutoTokenizer

    sat = sit(exam, checkpoint_logits(directory, exam.questions), None, title)
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory)
    except (ValueError, OSError) as error:
        raise ShardError(f"{directory}: transformers can't load its tokenizer: {first_line(error)}") from None
    raw = single_start(encoder(tokenizer, special=True), encoder(tokenizer))
    parity = prompt_parity(exam, checkpoint_chat(tokenizer, record), record, raw)
    recorded = tokenizer.convert_tokens_to_ids(record.terminators)
    ends = Ends(
        _eos(directory),
        frozenset(token for token in recorded if token is not None),
        lambda token: str(tokenizer.decode([token], skip_special_tokens=True)),
    )
    return fidelity(exam, sat, parity, terminator(exam, ends)), sat.answers


def _eos(directory: Path) -> frozenset[int]:
    """Return the ids at which transformers ends a generation: generation_config.json's, else config.json's."""
    files = (directory / "generation_config.json", directory / "config.json")
    content: dict[str, Any] = next((read_json(path) for path in files if path.is_file()), {})
    eos = content.get("eos_token_id")
    return frozenset(eos if isinstance(eos, list) else [] if eos is None else [eos])


def _gguf_ends(model: Model, record: TrainRecord) -> Ends:
    """Return where a server would stop: llama.cpp's own set, and each recorded end that is one token here."""
    recorded = [model.tokenize(text) for text in record.terminators]
    return Ends(
        model.eog_ids(),
        frozenset(ids[0] for ids in recorded if len(ids) == 1),
        lambda token: model.piece(token).decode("utf-8", "replace"),
    )
