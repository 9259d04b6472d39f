"""The model card, generated only from a run's records, without network access."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any

import yaml

from burnish.console import printable
from burnish.exam.intervals import Interval
from burnish.hub import PAGE, published_name
from burnish.records import Artifact
from burnish.run import adapter_facts

from .evaluated import evaluated
from .publication import PLACEHOLDER, Publication
from .usage import usage

LONGEST_VALUE = 400
BAR = "\\|"  # in a table cell
UNKNOWN = "unknown: check the base's page before you publish or use this model"
# training settings listed in the card, without local paths and names
SHOWN_SETTINGS = (
    ("base", ("quantization", "dtype")),
    ("data", ("max_length", "over_length", "assistant_only_loss", "packing", "eval_split")),
    ("lora", ("r", "lora_alpha", "lora_dropout", "target_modules", "bias", "use_rslora")),
    (
        "train",
        ("learning_rate", "lr_scheduler_type", "warmup_steps", "num_train_epochs", "max_steps", "weight_decay",
         "per_device_train_batch_size", "gradient_accumulation_steps", "max_grad_norm", "optim", "seed"),
    ),
)  # fmt: skip


def card(s: Publication) -> str:
    """Return README.md: Hub metadata followed by the page."""
    sections = (_head, _measured, evaluated, _base, _data, _training, usage, _limits)
    return "\n".join((_metadata(s), *(section(s) for section in sections)))


def _metadata(s: Publication) -> str:
    metadata: dict[str, Any] = {}
    if s.base_on_hub:
        metadata["base_model"] = s.base_on_hub
        metadata["base_model_relation"] = "finetune" if s.artifacts else "adapter"
    metadata.update(s.train.base.license)
    if s.merged or s.adapter:
        metadata["library_name"] = "transformers" if s.merged else "peft"
    metadata["pipeline_tag"] = "text-generation"
    tags = (
        ["burnish", "lora"] + ["gguf"] * bool(s.ggufs) + ["conversational"] * (s.train.chat_template_sha256 is not None)
    )
    return f"---\n{yaml.safe_dump({**metadata, 'tags': tags}, sort_keys=False, allow_unicode=True)}---\n"


def _head(s: Publication) -> str:
    failed = [a for a in s.artifacts if a.verdict != "pass"]
    lines = [f"# {s.train.run_id if s.repo == PLACEHOLDER else s.repo.rsplit('/', 1)[-1]}", ""]
    if failed:
        lines += ["> **Warning: not everything here passed its exam.**"]
        lines += [f"> `{_file(a)}` {a.outcome}: {_line(a.why)}." for a in failed]
        lines += [""]
    if s.loosened:
        lines += [f"> **Note: {s.loosened}.**", ""]
    exported = f", exported {s.export.created[:10]}" if s.export else ""
    lines += [
        f"A LoRA fine-tune of {_linked(s)}, trained, examined and published with Burnish: run `{s.train.run_id}`,"
        f" trained {s.train.created[:10]}{exported}.",
        f"This page is generated from the run's {_records(s)} also here.",
        "",
    ]
    return "\n".join(lines)


def _records(s: Publication) -> str:
    return "records, `train.json` and `export.json`, which are" if s.export else "record, `train.json`, which is"


def _measured(s: Publication) -> str:
    if s.export is None:
        return _not_examined(s)
    base, trained = next(((a.fidelity.loss_base, a.fidelity.loss_trained) for a in s.examined), (None, None))
    published = {a.path for a in s.artifacts}
    rows = [
        (
            f"`{_file(a)}`" + (" (default)" if a.path == s.default else ""),
            f"{a.bytes / 1e6:,.0f} MB",
            _number(a.fidelity.kl) + _interval(a.fidelity.kl_ci, ".4f"),
            _share(a.fidelity.top1_agreement) + _interval(a.fidelity.top1_agreement_ci, ".1%"),
            _number(a.fidelity.loss) + _interval(a.fidelity.loss_ci, ".4f"),
            a.verdict,
            "yes" if a.path in published else "no",
        )
        for a in s.examined
    ]
    failed = [a for a in s.examined if a.verdict != "pass"]
    gain = f"the base model's is {_number(base)}, the trained model's (base with adapter) {_number(trained)}. "
    return "\n".join([
        "## Measurements",
        "",
        f"At the end of training the model was examined: {s.train.exam.rows} questions, {s.train.exam.tokens} tokens,"
        " from held-out rows and some general text. Each artifact was scored on the same questions, the GGUF files"
        " with llama.cpp.",
        "",
        _table(("artifact", "size", "KL", "top-1", "loss", "verdict", "published"), rows),
        "",
        f"Loss is the mean negative log-likelihood of the held-out responses, in nats per token; {gain if base else ''}"
        "KL and top-1 agreement compare next-token distributions: the merge's with the trained model's, a GGUF's"
        " with the merge's. In parentheses: 95% intervals, clustered by row.",
        "",
        *_general(s),
        *[f"- {a.verdict}: `{_file(a)}`: {_line(a.why)}" for a in failed],
        *([""] if failed else []),
    ])  # fmt: skip


def _not_examined(s: Publication) -> str:
    return "\n".join([
        "## Measurements",
        "",
        f"The loss on held-out rows: {_number(s.train.metrics.eval_loss)} nats per token. The adapter was"
        " published as trained, without merging; no artifact made from it was examined.",
        "",
    ])  # fmt: skip


def _general(s: Publication) -> list[str]:
    """Return the general-text losses and the gate's thresholds."""
    f = next((a.fidelity for a in s.examined), None)
    lines = []
    if f and f.loss_general_base is not None and f.loss_general_trained is not None:
        lines += [
            f"On general text, which shows forgetting, the base model's loss is {f.loss_general_base:.4f}, the trained"
            f" model's {f.loss_general_trained:.4f}.",
            "",
        ]
    if s.export and s.export.gate:
        gate = ", ".join(f"`{name}` {value:g}" for name, value in s.export.gate.items())
        lines += [f"Judged with {gate}{f' ({s.loosened})' if s.loosened else ''}.", ""]
    return lines


def _base(s: Publication) -> str:
    terms = {key: _line(value) for key, value in s.train.base.license.items()}
    named = " ".join(terms[key] for key in ("license", "license_name") if key in terms)
    licence = f"{named}{' (' + terms['license_link'] + ')' if 'license_link' in terms else ''}, by its own metadata"
    revision = f", revision `{s.train.base.revision}`" if s.train.base.revision else ""
    merge = s.export.merge if s.export else None
    onto = (
        f"the adapter is merged onto the {merge.base} 16-bit base ({_line(merge.reason)})"
        if merge
        else "the adapter is not merged"
    )
    double = ", with double quantization" if s.train.double_quant else ""
    held = f"NF4 (4 bits{double})" if s.train.quantization == "nf4" else s.train.load_dtype
    return "\n".join([
        "## Base and licence",
        "",
        f"- Base: {_linked(s)}{revision}, sha256 over its files `{s.train.base.sha256}`",
        f"- Licence of the base: {licence if terms else UNKNOWN}. The base's licence also applies to a fine-tune.",
        f"- In training the base was stored in {held}; {onto}.",
        "",
    ])  # fmt: skip


def _data(s: Publication) -> str:
    data = s.train.data
    lines = [
        "## Data",
        "",
        "The rows are not published. Their properties:",
        "",
        f"- {data.rows} training rows, {data.eval_rows} held-out rows; format `{data.format}`",
        f"- sha256 of the data file: `{data.sha256}`",
        f"- length limit: {s.train.max_length} tokens; {data.over_length} longer rows were dropped or truncated",
        *(f"- {leak}" for leak in data.leaks()),
    ]
    if data.lengths:
        width = data.lengths.bin_tokens
        counted = [f"{i * width}–{(i + 1) * width - 1}: {n}" for i, n in enumerate(data.lengths.counts) if n]
        lines.append(f"- rows by length in tokens: {', '.join(counted)}")
    return "\n".join([*lines, ""])


def _training(s: Publication) -> str:
    config = s.run.settings()
    # from the records and the adapter: an older version's config contains settings as given, not as resolved
    became = {"base": {"quantization": s.train.quantization, "dtype": s.train.load_dtype}, "lora": adapter_facts(s.run)}
    rows = [
        (f"`{section}.{key}`", f"`{_value(became.get(section, {}).get(key, config.get(section, {}).get(key)))}`")
        for section, keys in SHOWN_SETTINGS
        for key in dict.fromkeys((*keys, *became.get(section, {})))
        if key in config.get(section, {}) or (section == "lora" and key in became["lora"])
    ]
    if s.train.adapter.parent_sha256:
        rows.append(("started from the adapter with sha256", f"`{s.train.adapter.parent_sha256}`"))
    m, device = s.train.metrics, _line(s.train.hardware.get("device", "unknown"))[:LONGEST_VALUE]
    versions = _line(", ".join(f"{name} {version}" for name, version in s.train.versions.items()))
    return "\n".join([
        "## Training",
        "",
        *([_table(("setting", "value"), rows), ""] if rows else []),
        f"Training loss {_number(m.train_loss)}, held-out loss {_number(m.eval_loss)}; {m.train_runtime_s:,.0f} s on"
        f" {device}, {m.tokens_per_s:,.0f} tokens/s. With {versions}.",
        "",
    ])  # fmt: skip


def _limits(s: Publication) -> str:
    known = f"; the base's context is {s.export.context_length}" if s.export else ""
    lines = [
        "## Limits",
        "",
        "- The exam measures distance to the trained model and loss on held-out rows of the same data. It does not"
        " measure truth, safety or other skills; the base model's limits and biases remain.",
        f"- It was trained on up to {s.train.max_length} tokens{known}.",
    ]
    if s.train.chat_template_sha256:
        lines += [
            f"- In training its chat template used the date {s.train.template_date}; Burnish's server keeps it, other"
            " runtimes use the current date if a template asks for one.",
            *_variables(s),
            f"- A turn ends with {', '.join(f'`{_line(t)}`' for t in s.stop)}. Ollama uses a chat template in its own"
            " language instead of the one in the GGUF; that form was not examined.",
        ]
    return "\n".join([*lines, ""])


def _variables(s: Publication) -> list[str]:
    """Return instructions for setting the chat template's variables, if any, in other servers."""
    if not s.template_kwargs:
        return []
    variables = _line(json.dumps(s.template_kwargs, ensure_ascii=False))
    return [
        f"- Its chat template was rendered with `{variables}`; Burnish's server sets this itself, llama-server needs"
        f" `--chat-template-kwargs {shlex.quote(variables)}`, others `chat_template_kwargs` in the request."
    ]


def _file(artifact: Artifact) -> str:
    return published_name(artifact.path) if artifact.kind == "gguf" else f"{artifact.path} (16-bit safetensors)"


def _linked(s: Publication) -> str:
    return f"[{s.base_on_hub}]({PAGE}/{s.base_on_hub})" if s.base_on_hub else f"`{_line(s.base_name)}`"


def _value(value: Any) -> str:
    """Return a setting as JSON, truncated if very long."""
    try:
        text = _line(json.dumps(value, default=str))
    except TypeError:  # YAML allows keys that JSON does not
        text = _line(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def _line(text: object) -> str:
    """Return record text reduced to a single line, so that it can't start a section."""
    return printable(str(text), one_line=True)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _interval(ends: Interval | None, style: str) -> str:
    return f" ({ends[0]:{style}}–{ends[1]:{style}})" if ends else ""


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(_line(cell).replace('|', BAR) for cell in line)} |" for line in lines)
