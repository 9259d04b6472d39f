"""What an artefact showed on the exam, as records hold it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from .intervals import Interval


class Record(BaseModel):
    """Base of what is written into a run. Unknown keys are kept: a newer version may have written them."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())


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
