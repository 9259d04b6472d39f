"""Compare lm-eval with the server and with transformers: python with_lm_eval.py URL MODEL_DIRECTORY PACKAGES.

Prints "ok". Runs in its own environment; torch and transformers come from PACKAGES.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.append(sys.argv[3])
import lm_eval
from lm_eval.tasks import TaskManager

CAPITALS = {
    "Italy": "Rome",
    "France": "Paris",
    "Japan": "Tokyo",
    "Germany": "Berlin",
    "Spain": "Madrid",
    "Egypt": "Cairo",
    "Greece": "Athens",
    "Portugal": "Lisbon",
    "Russia": "Moscow",
    "Austria": "Vienna",
    "China": "Beijing",
    "Peru": "Lima",
}
COMMON = "dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {file}\ntest_split: test\n"
TASKS = {
    "choices": """
output_type: multiple_choice
doc_to_text: "The capital of {{{{country}}}} is"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: label
metric_list:
  - metric: acc
  - metric: brier_score
""",
    "texts": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: text
metric_list:
  - metric: bits_per_byte
  - metric: word_perplexity
""",
    "answers": """
output_type: generate_until
doc_to_text: "Question: What is the capital of {{{{country}}}}?\\nAnswer: The capital of {{{{country}}}} is"
doc_to_target: city
generation_kwargs:
  until: [".", ",", "\\n", "Question:", " and", " which"]
  max_gen_toks: 8
filter_list:
  - name: stripped
    filter:
      - function: remove_whitespace
      - function: take_first
metric_list:
  - metric: exact_match
    ignore_case: true
    ignore_punctuation: true
""",
}


def write_tasks(directory: Path) -> None:
    """Write the rows and one task per kind of request."""
    cities = list(CAPITALS.values())
    with (directory / "rows.jsonl").open("w") as file:
        for number, (country, city) in enumerate(CAPITALS.items()):
            choices = [cities[(number + i) % len(cities)] for i in range(4)]
            label = number % 4
            choices[0], choices[label] = choices[label], choices[0]
            text = f"{city} is the capital of {country}. " * 2 + f"Many people visit {city} every year."
            row = {"country": country, "city": city, "choices": choices, "label": label, "text": text}
            file.write(json.dumps(row) + "\n")
    for name, text in TASKS.items():
        body = f"task: {name}\n" + COMMON + text
        (directory / f"{name}.yaml").write_text(body.format(file=directory / "rows.jsonl"))


def measured(model: str, arguments: dict[str, Any], directory: Path) -> tuple[dict[str, float], dict[str, list[Any]]]:
    """Run the three tasks; return every metric, and each task's responses in the order of its rows."""
    found = lm_eval.simple_evaluate(
        model, model_args=arguments, tasks=list(TASKS), task_manager=TaskManager(include_path=str(directory)),
        bootstrap_iters=0, batch_size=2, log_samples=True,
    )  # fmt: skip
    pairs = ((f"{t} {m.split(',')[0]}", v) for t, ms in found["results"].items() for m, v in ms.items())
    metrics = {name: value for name, value in pairs if isinstance(value, float) and "stderr" not in name}
    samples = {task: sorted(rows, key=lambda row: row["doc_id"]) for task, rows in found["samples"].items()}
    return metrics, {task: [answer for row in rows for answer in flat(row["resps"])] for task, rows in samples.items()}


def flat(value: Any) -> list[Any]:
    """Return the numbers and texts in nested lists; except whether a continuation was the most likely one."""
    if isinstance(value, list | tuple):
        return [inner for part in value for inner in flat(part)]
    return [] if isinstance(value, bool) else [value]


def compare(served: list[Any], local: list[Any]) -> str:
    """Return how far the responses of one task are apart."""
    assert len(served) == len(local) >= len(CAPITALS), (served, local)
    if isinstance(local[0], str):
        assert served == local, (served, local)
        return f"{len(local)} texts, all equal"
    far = max(abs(a - b) for a, b in zip(served, local, strict=True))
    assert far <= 0.01 * max(map(abs, local)), (served, local)
    return f"{len(local)} log-likelihoods of {min(local):.2f} to {max(local):.2f}, at most {far:.4f} apart"


def main(url: str, weights: str) -> None:
    """Compare every metric and every response of both."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_tasks(directory)
        server = {"model": "default", "base_url": f"{url}/completions", "tokenizer": weights, "max_retries": 1}
        served, answers = measured("local-completions", {**server, "tokenizer_backend": "huggingface"}, directory)
        local, expected = measured("hf", {"pretrained": weights, "dtype": "float32", "device": "cpu"}, directory)
    for metric, value in local.items():
        print(f"{metric}: served {served[metric]:.4f}, transformers {value:.4f}")
        assert abs(served[metric] - value) <= 0.01 * max(1.0, abs(value)), metric
    assert len(local) == len(served) >= 5, (local, served)
    for task in TASKS:
        print(f"{task}: {compare(answers[task], expected[task])}")
    print("ok")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
