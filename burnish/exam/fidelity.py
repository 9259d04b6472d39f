"""An artifact's exam figures, as judged by the gate, and consistency checks."""

from __future__ import annotations

from collections.abc import Iterator

from ..fields import ROUNDING, Count, Interval, NotNegative, Record, Share, Text

LARGEST = 1e9  # nats per token; a real loss is at most a few dozen
LARGEST_SHARE = 1e100  # relative to a tiny gain, the lost share can be huge
MIN_ROWS = 2  # the minimum for an interval
MIN_GAIN = 1e-6  # nats; below this the lost share is just rounding error


class Fidelity(Record):
    """An artifact's exam figures, in nats; None if a figure does not apply (such as parity for plain text).

    Figures are computed over held-out response tokens, `general` ones over general text. The reference for `kl` and
    `top1_agreement` is the trained model for a merge, and the 16-bit merge for a GGUF. `gain` is loss_base -
    loss_trained, and `gain_lost` the share of it that the artifact lost. `<figure>_ci` is a figure's 95% interval over
    `rows` held-out rows (`general_rows` texts); None without an interval, as for a single row.
    """

    kl: NotNegative | None
    kl_trained: NotNegative | None
    top1_agreement: Share | None
    loss: NotNegative | None
    loss_trained: NotNegative | None
    loss_base: NotNegative | None
    prompt_parity: bool | None
    terminator: bool | None
    prompt_parity_why: Text = ""
    terminator_why: Text = ""
    tool_parity: bool | None = None
    tool_parity_why: Text = ""
    kl_general: NotNegative | None = None
    loss_general: NotNegative | None = None
    loss_general_trained: NotNegative | None = None
    loss_general_base: NotNegative | None = None
    noise_kl: NotNegative | None = None
    gain: float | None = None
    gain_lost: float | None = None
    rows: Count | None = None
    general_rows: Count | None = None
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

    def contradictions(self) -> Iterator[str]:
        """Yield inconsistencies, which show that the figures were not computed from one exam."""
        for name in FIGURES:
            value, ends = getattr(self, name), getattr(self, f"{name}_ci", None)
            largest = LARGEST_SHARE if name == "gain_lost" else LARGEST
            if any(abs(number) > largest for number in (value or 0.0, *(ends or ()))):
                yield f"{name} is larger than an exam's figure can be"
            if ends is not None and name in SAMPLED and (self.rows or MIN_ROWS) < MIN_ROWS:
                yield f"{name} has an interval over {self.rows} rows"
            if ends is not None and value is not None and _outside(value, *ends):
                yield f"{name} {value:.4g} is outside its own interval, {ends[0]:.4g} to {ends[1]:.4g}"
        gain, lost = self.computed_gain, self.computed_gain_lost
        if gain is not None and self.gain is not None and _outside(self.gain, gain, gain):
            yield f"gain {self.gain:.4g} is not loss_base - loss_trained, {gain:.4g}"
        if lost is not None and self.gain_lost is not None and _outside(self.gain_lost, lost, lost):
            yield f"gain_lost {self.gain_lost:.4g} is not (loss - loss_trained) / gain, {lost:.4g}"

    def lacking(self) -> list[str]:
        """Return which of the figures computed in every exam with held-out rows are missing."""
        return [name for name in JUDGED if getattr(self, name) is None]

    @property
    def computed_gain(self) -> float | None:
        """The gain from training on held-out responses: loss_base - loss_trained."""
        return None if self.loss_base is None or self.loss_trained is None else self.loss_base - self.loss_trained

    @property
    def computed_gain_lost(self) -> float | None:
        """The share of the gain that the artifact lost, computed from the losses; None if there was no gain."""
        gain = self.computed_gain
        if gain is None or gain <= MIN_GAIN or self.loss is None or self.loss_trained is None:
            return None
        return (self.loss - self.loss_trained) / gain


FIGURES = tuple(name for name, field in Fidelity.model_fields.items() if f"{name}_ci" in Fidelity.model_fields)
JUDGED = ("kl", "top1_agreement", "loss", "loss_trained", "loss_base")
SAMPLED = tuple(name for name in FIGURES if "general" not in name)


def _outside(value: float, low: float, high: float) -> bool:
    """Return whether a figure is outside [low, high] by more than rounding error; False for NaN."""
    slack = ROUNDING * (1 + abs(value))
    return value < low - slack or value > high + slack
