"""The records by which the stages know one another: train.json, export.json, push.json. Fields are a contract."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from .exam.intervals import Interval


class Record(BaseModel):
    """Base of what is written into a run. Unknown keys are kept: a newer version may have written them."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())


class BaseModelRef(Record):
    """The base model: hub id, directory or file; the hub revision; sha256 over its files (`tree_sha256`).

    `license` is what its own card or metadata says of it: license, license_name, license_link; empty: nothing.
    """

    id: str
    revision: str | None = None
    sha256: str
    license: dict[str, str] = {}


class FileRef(Record):
    """A file or directory, relative to the run, and its sha256."""

    path: str
    sha256: str


class AdapterRef(FileRef):
    """The adapter, and the sha256 of the one that training started from (`tree_sha256`); None: from none."""

    parent_sha256: str | None = None


class DataRef(Record):
    """What was trained on. `over_length` counts the rows that were dropped or truncated.

    `duplicates` counts the rows that repeat an earlier one, `near_duplicates` the held-out rows with a near duplicate
    among the training rows, `eval_overlap` the eval file's rows that the data had as well, and
    `eval_overlap_dropped` the training rows that were left out for it; None: not counted then.
    `eval_sha256` is that of the eval file; None where rows were split off.
    """

    path: str
    sha256: str
    format: str
    rows: int
    eval_rows: int
    over_length: int
    duplicates: int | None = None
    near_duplicates: int | None = None
    eval_overlap: int | None = None
    eval_overlap_dropped: int | None = None
    eval_sha256: str | None = None

    def leaks(self) -> list[str]:
        """Say what of the held-out rows was trained, for those who read the figures on them."""
        found = []
        if self.eval_overlap and not self.eval_overlap_dropped:
            found.append(f"{self.eval_overlap} held-out rows were trained as well (data.eval_overlap allow)")
        if self.near_duplicates:
            found.append(f"{self.near_duplicates} held-out rows are near duplicates of rows that were trained")
        return found


class ExamRef(FileRef):
    """The exam: `rows` questions, `general_rows` of them general texts, with `tokens` scored tokens."""

    rows: int
    tokens: int
    general_rows: int | None = None


class TrainMetrics(Record):
    """What training measured. Losses are means over response tokens, in nats per token."""

    train_loss: float
    eval_loss: float | None = None
    train_runtime_s: float
    tokens_per_s: float
    peak_memory_bytes: int


class TrainRecord(Record):
    """train.json: present means that the train stage finished."""

    schema_version: Literal[1] = 1
    run_id: str
    created: str
    base: BaseModelRef
    quantization: Literal["nf4", "none"]
    load_dtype: str
    compute_dtype: str
    double_quant: bool
    skipped_modules: list[str]
    adapter: AdapterRef
    config: FileRef | None = None
    data: DataRef
    chat_template_sha256: str | None
    template_date: str
    terminators: list[str]
    template_kwargs: dict[str, Any] = {}  # the chat template's variables, set wherever it renders
    special_tokens: Literal["text", "parse"] = "parse"  # of special strings in messages; older runs parsed them
    max_length: int
    metrics: TrainMetrics
    exam: ExamRef
    versions: dict[str, str]
    hardware: dict[str, Any]


class Fidelity(Record):
    """An artefact's answers to the exam, in nats; None where a figure does not apply (a plain-text run's parity).

    The figures are over held-out response tokens, those with `general` over general text. `kl` and `top1_agreement` are
    against the trained model for a merge, against the 16-bit merge for a GGUF. `gain` is loss_base - loss_trained,
    `gain_lost` the share of it that the artefact lost. `<figure>_ci` is a figure's 95% interval over `rows` held-out
    rows (`general_rows` texts); None: there is none, as with one row.
    """

    kl: float | None
    kl_trained: float | None
    top1_agreement: float | None
    loss: float | None
    loss_trained: float | None
    loss_base: float | None
    prompt_parity: bool | None
    terminator: bool | None
    prompt_parity_why: str = ""
    terminator_why: str = ""
    kl_general: float | None = None
    loss_general: float | None = None
    loss_general_trained: float | None = None
    loss_general_base: float | None = None
    noise_kl: float | None = None
    gain: float | None = None
    gain_lost: float | None = None
    rows: int | None = None
    general_rows: int | None = None
    kl_ci: Interval | None = None
    kl_trained_ci: Interval | None = None
    top1_agreement_ci: Interval | None = None
    loss_ci: Interval | None = None
    loss_trained_ci: Interval | None = None
    loss_base_ci: Interval | None = None
    kl_general_ci: Interval | None = None
    loss_general_ci: Interval | None = None
    loss_general_trained_ci: Interval | None = None
    loss_general_base_ci: Interval | None = None
    gain_ci: Interval | None = None
    gain_lost_ci: Interval | None = None


class Merge(Record):
    """Which base the adapter was merged onto, and why."""

    base: Literal["dequantized", "original"]
    reason: str
    candidates: dict[str, Any]


Kind = Literal["safetensors", "gguf", "gguf-lora"]
Verdict = Literal["pass", "fail", "inconclusive"]


class Examined(Record):
    """One exported model and its figures: `path` is relative to the run, sha256 of the file or over a directory.

    `fallbacks` counts the tensors that took another type because of their shape, by "wanted -> taken".
    """

    path: str
    kind: Kind
    quantization: str
    bytes: int
    sha256: str
    fidelity: Fidelity
    fallbacks: dict[str, int] = {}


class Artefact(Examined):
    """An examined model with the gate's verdict on it."""

    verdict: Verdict
    why: str

    @property
    def outcome(self) -> str:
        """What became of it in the exam, as the end of a sentence: "failed its exam"."""
        return {
            "pass": "passed its exam",
            "fail": "failed its exam",
            "inconclusive": "is neither proven nor refuted by its exam (inconclusive)",
        }[self.verdict]


class ExportRecord(Record):
    """export.json: present means that the export stage finished. `gate` has every threshold that was applied.

    `no_gguf` says why there is no GGUF, where llama.cpp's converter makes none of the merge.
    """

    schema_version: Literal[1] = 1
    run_id: str
    created: str
    train_sha256: str
    gate: dict[str, float] = {}
    merge: Merge
    artefacts: list[Artefact]
    default: str | None
    no_gguf: str | None = None
    chat_template_sha256: str | None
    stop: list[str]
    context_length: int
    versions: dict[str, str] = {}
    template_kwargs: dict[str, Any] = {}
    special_tokens: Literal["text", "parse"] = "parse"


class PushRecord(Record):
    """push.json: where a run was published, and the files that are there now, by their path in the repository."""

    schema_version: Literal[1] = 1
    run_id: str
    created: str
    train_sha256: str | None = None
    export_sha256: str | None  # None: the adapter alone was published, before an export
    repo: str
    commit: str
    files: list[str]
    public: bool = False
    versions: dict[str, str] = {}
