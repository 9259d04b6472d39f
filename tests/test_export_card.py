"""python -m export card: the page matches the records; it needs neither a network nor the data."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from burnish.run import Run
from tests.support.commands import Cli
from tests.support.published import WHY, make_run

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}


def card(cli: Cli, run: Run, *more: str) -> tuple[dict[str, Any], str]:
    """Return a card's metadata and page."""
    done = cli("export", "card", "--run.root", str(run.path.parent), "--run.name", run.id, *more, **OFFLINE)
    assert done.returncode == 0, done.stderr
    _, metadata, page = done.stdout.split("---\n", 2)
    return yaml.safe_load(metadata), page


def test_card_metadata_is_valid_for_the_hub(tmp_path: Path, cli: Cli) -> None:
    metadata, _ = card(cli, make_run(tmp_path))
    assert metadata == {
        "base_model": "them/base", "base_model_relation": "finetune", "license": "apache-2.0",
        "library_name": "transformers", "pipeline_tag": "text-generation",
        "tags": ["burnish", "lora", "gguf", "conversational"],
    }  # fmt: skip


def test_card_tables_match_the_records(tmp_path: Path, cli: Cli) -> None:
    run = make_run(tmp_path, failed=("Q8_0",))
    _, page = card(cli, run)
    assert "| `tuned-Q4_K_M.gguf` (default) | 1 MB | 0.0100 | 97.0% | 0.8500 | pass | yes |" in page
    assert "| `tuned-Q8_0.gguf` | 2 MB | 0.0100 | 97.0% | 0.8500 | fail | no |" in page and WHY in page
    assert "the base model's is 3.2000" in page and "90 training rows, 10 held-out rows; format `messages`" in page
    assert "0–63: 70, 64–127: 30" in page and "| `lora.r` | `8` |" in page
    assert "rows.jsonl" not in page


def test_card_explains_template_variables(tmp_path: Path, cli: Cli) -> None:
    run = make_run(tmp_path)
    assert "chat-template-kwargs" not in card(cli, run)[1]
    record = json.loads((run.path / "export.json").read_text())
    (run.path / "export.json").write_text(json.dumps({**record, "template_kwargs": {"enable_thinking": False}}))
    assert "llama-server needs `--chat-template-kwargs '{\"enable_thinking\": false}'`" in card(cli, run)[1]


def test_card_shows_rank_and_scale_of_the_adapter(tmp_path: Path, cli: Cli) -> None:
    """Older versions wrote the requested rank into config.yaml even if a continued adapter had another rank."""
    parent = {"path": "adapter", "sha256": "0" * 64, "parent_sha256": "e" * 64}
    run = make_run(tmp_path, adapter=parent)
    (run.path / "config.yaml").write_text(yaml.safe_dump({"lora": {"r": 16, "lora_alpha": 32}}))
    fields = {"r": 4, "lora_alpha": 12, "target_modules": ["v_proj", "q_proj"], "use_dora": True, "lora_bias": False}
    (run.path / "adapter" / "adapter_config.json").write_text(json.dumps(fields))
    _, page = card(cli, run)
    for row in ("`lora.r` | `4`", "`lora.lora_alpha` | `12`", '`lora.target_modules` | `["q_proj", "v_proj"]`'):
        assert f"| {row} |" in page
    assert "| `lora.use_dora` | `true` |" in page and "lora_bias" not in page
    assert f"| started from the adapter with sha256 | `{'e' * 64}` |" in page


def test_missing_licence_is_stated_as_unknown(tmp_path: Path, cli: Cli) -> None:
    unknown = make_run(tmp_path, base={"id": "them/base", "revision": "a" * 40, "sha256": "0" * 64})
    metadata, page = card(cli, unknown)
    assert "license" not in metadata and "Licence of the base: unknown: check the base's page" in page
    fields = {"license": "other", "license_name": "barrel-1.0", "license_link": "https://example.org/barrel"}
    base = {"id": "them/base", "revision": "a" * 40, "sha256": "0" * 64, "license": fields}
    metadata, page = card(cli, make_run(tmp_path, "named", base=base))
    assert fields.items() <= metadata.items() and "other barrel-1.0 (https://example.org/barrel)" in page


def test_unrecorded_licence_is_read_from_a_local_base(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "barrel").mkdir()
    (tmp_path / "barrel" / "README.md").write_text("---\nlicense: mit\n---\n# Barrel\n")
    base = {"id": str(tmp_path / "barrel"), "revision": None, "sha256": "0" * 64}
    metadata, page = card(cli, make_run(tmp_path / "runs", base=base))
    assert metadata["license"] == "mit" and "Licence of the base: mit, by its own metadata" in page


def test_card_contains_no_local_paths(tmp_path: Path, cli: Cli) -> None:
    base = {"id": "/home/somebody/bases/barrel", "revision": None, "sha256": "0" * 64}
    metadata, page = card(cli, make_run(tmp_path, base=base))
    assert "base_model" not in metadata and "`barrel`" in page and "/home/somebody" not in page


def test_card_commands_name_published_files(tmp_path: Path, cli: Cli) -> None:
    run = make_run(tmp_path)
    _, page = card(cli, run, "--push.repo", "me/model")
    assert "    make serve MODEL=hf://me/model\n" in page
    assert "    llama-server -hf me/model --hf-file tuned-Q4_K_M.gguf --jinja\n" in page
    assert "    ollama run hf.co/me/model:Q4_K_M\n" in page and "    vllm serve me/model\n" in page
    assert 'pipeline("text-generation", model="me/model"' in page and 'subfolder="adapter"' in page
    _, only = card(cli, run, "--push.repo", "me/model", "--push.what", "Q8_0")
    assert 'make serve MODEL=hf://me/model SET="--artifact Q8_0"' in only and "--hf-file tuned-Q8_0.gguf" in only
    assert "vllm" not in only and "transformers:" not in only and "PeftModel" not in only
    _, adapter = card(cli, run, "--push.what", "adapter")
    assert "llama-server" not in adapter and "PeftModel" in adapter


def test_failed_artifact_is_mentioned_first(tmp_path: Path, cli: Cli) -> None:
    run = make_run(tmp_path, failed=("F16", "Q8_0", "Q4_K_M"))
    _, page = card(cli, run, "--push.allow_failed", "true")
    assert page.index("**Warning: not everything here passed its exam.**") < page.index("A LoRA fine-tune of")
    assert 'SET="--artifact Q4_K_M --allow_unproven true"' in page


def test_card_of_a_plain_text_run_has_no_chat_commands(tmp_path: Path, cli: Cli) -> None:
    metadata, page = card(cli, make_run(tmp_path, chat_template_sha256=None))
    assert "conversational" not in metadata["tags"] and "--jinja" not in page and "ollama" not in page.lower()
    assert 'model("Once upon a time"' in page


@pytest.mark.parametrize("part", ["transformers", "PEFT"])
def test_card_python_examples_compile(part: str, tmp_path: Path, cli: Cli) -> None:
    _, page = card(cli, make_run(tmp_path))
    block = page.split("transformers:\n" if part == "transformers" else "on the base model:\n")[1]
    code = "\n".join(re.findall(r"^    (.*)$", block.strip("\n").split("\n\n")[0], re.MULTILINE))
    compile(code, part, "exec")
    assert "import" in code


def test_stale_export_is_rejected(tmp_path: Path, cli: Cli) -> None:
    run = make_run(tmp_path)
    record = json.loads((run.path / "train.json").read_text()) | {"created": "2027-01-01T00:00:00Z"}
    (run.path / "train.json").write_text(json.dumps(record))
    done = cli("export", "card", "--run.root", str(tmp_path))
    assert done.returncode == 2 and "export.json is from an earlier training: run `make export` again" in done.stderr


def test_card_reports_held_out_rows_that_were_trained(tmp_path: Path, cli: Cli) -> None:
    data = {"path": "rows.jsonl", "sha256": "d" * 64, "format": "messages", "rows": 90, "eval_rows": 10,
            "over_length": 0, "near_duplicates": 3, "eval_overlap": 4, "eval_overlap_dropped": 0}  # fmt: skip
    _, page = card(cli, make_run(tmp_path, data=data))
    assert "held-out rows that are near duplicates of trained rows: 3" in page
    assert "held-out rows that were also trained: 4 (data.eval_overlap allow)" in page
    _, page = card(cli, make_run(tmp_path, "dropped", data=data | {"near_duplicates": 0, "eval_overlap_dropped": 4}))
    assert "near duplicates" not in page and "also trained" not in page


def test_looser_thresholds_are_mentioned_first(tmp_path: Path, cli: Cli) -> None:
    run = make_run(tmp_path)
    record = json.loads((run.path / "export.json").read_text())
    fidelity = {"kl_ci": [0.005, 0.02], "loss_general_base": 3.1, "loss_general_trained": 3.25}
    for artifact in record["artefacts"]:
        artifact["fidelity"] |= fidelity
    record["gate"] = {"max_kl": 1000.0, "min_top1": 0.88}
    (run.path / "export.json").write_text(json.dumps(record))
    _, page = card(cli, run)
    note = "> **Note: judged with looser thresholds than the defaults: max_kl 1000 (default 0.1).**"
    assert page.index(note) < page.index("A LoRA fine-tune of")
    assert "0.0100 (0.0050–0.0200)" in page and "`max_kl` 1000, `min_top1` 0.88" in page
    assert "the base model's loss is 3.1000, the trained model's 3.2500" in page
