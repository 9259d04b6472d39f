"""Loss curves of our training and plain TRL with the same rows, order, initial adapter and seed, on this machine.

    python -m bench.training.curves --base DIR --data FILE [--steps 60] [--quantization nf4] [--svg F] [--json F]

TRL's trainer pads, and uses neither fused LoRA layers nor compilation. TRL casts the adapter of a quantized base to
bfloat16; "TRL, float32 adapter" reverts that, as ours does. The difference between two of our runs is also measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed
from trl import SFTConfig, SFTTrainer

from burnish.environment import prepared_process
from burnish.report.axis import Axis
from burnish.report.chart import Series, curves
from train.data.prepare import Prepared, prepare
from train.kernels.compile import FastLayers
from train.loop.arguments import dataset, make_trainer
from train.loop.trainer import Batching
from train.models.adapters import add_adapter
from train.models.transformers import load_base
from train.resolved import Resolved
from train.settings import TrainSettings
from train.world import World

STYLE = (
    "<style>svg{background:#fff}text{font:11px sans-serif;fill:#555}.grid{stroke:#ddd}.axis{stroke:#888}"
    ".line{fill:none;stroke-width:1.5}.a{stroke:#c0392b}.b{stroke:#2471a3;stroke-dasharray:5 3}</style>"
)


def settings_of(options: argparse.Namespace) -> TrainSettings:
    return TrainSettings.model_validate({
        "base": {"id": options.base, "quantization": options.quantization},
        "data": {"path": options.data, "max_length": 1024},
        "train": {"learning_rate": 5e-4, "warmup_steps": 5, "max_steps": options.steps, "save_steps": 10_000,
                  "per_device_train_batch_size": 8, "report_to": [],
                  "optim": "adamw_torch_fused" if World().device.type == "cuda" else "adamw_torch"},
    })  # fmt: skip


def adapted(settings: TrainSettings, prepared: Prepared) -> Any:
    """Return the base with the same initial adapter on every call."""
    set_seed(settings.train.seed)
    return add_adapter(load_base(prepared.base, settings.base, World().device), settings.lora)


def ours(settings: TrainSettings, prepared: Prepared, out: Path) -> Any:
    model = adapted(settings, prepared)
    cuda = World().device.type == "cuda"
    fast_layers = FastLayers(model, True) if cuda else None
    rows = (prepared.train, prepared.heldout)
    return make_trainer(Resolved(settings), Batching(4096), fast_layers, model, prepared.tokenizer, rows, out, World())


def trl(settings: TrainSettings, prepared: Prepared, out: Path, wide: bool) -> Any:
    """TRL's trainer with the same ids and labels."""
    model, t = adapted(settings, prepared), settings.train
    start = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    config = SFTConfig(
        output_dir=str(out), learning_rate=t.learning_rate, lr_scheduler_type=t.lr_scheduler_type,
        warmup_steps=t.warmup_steps, max_steps=t.max_steps, per_device_train_batch_size=t.per_device_train_batch_size,
        seed=t.seed, data_seed=t.seed, logging_steps=1, max_length=None, report_to=[], save_strategy="no",
        bf16=World().device.type == "cuda", use_cpu=World().device.type == "cpu", disable_tqdm=True,
        gradient_checkpointing=False, optim="adamw_torch", loss_type="nll",
    )  # fmt: skip
    rows = dataset(prepared.train, True).remove_columns("line")
    trainer = SFTTrainer(model=model, args=config, processing_class=prepared.tokenizer, train_dataset=rows)
    for name, parameter in trainer.model.named_parameters():
        if wide and name in start:
            parameter.data = start[name].float()
    return trainer


def losses(trainer: Any) -> list[float]:
    """Train and return each step's loss."""
    trainer.train()
    return [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]


def apart(a: list[float], b: list[float]) -> dict[str, float]:
    """Return the median, largest and final difference between two curves, relative to the first."""
    parts = [abs(x - y) / x for x, y in zip(a, b, strict=True)]
    return {"median": statistics.median(parts), "largest": max(parts), "last_tenth": statistics.mean(parts[-6:])}


def drawn(found: dict[str, list[float]]) -> str:
    """Return an SVG of our curve and TRL's."""
    shown = [("ours", "a"), ("TRL, float32 adapter", "b")]
    series = [Series(name, list(enumerate(found[name], start=1)), colour, noisy=False) for name, colour in shown]
    values = [value for name, _ in shown for value in found[name]]
    x, y = Axis.over("optimizer step", [0.0, len(found["ours"])], zero=True), Axis.over("loss, nats a token", values)
    svg = str(curves("Loss of ours (solid) and of TRL (dashed)", x, y, series))
    return svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace("<title>", f"{STYLE}<title>", 1)


def main() -> None:
    """Train each contender, print how much the curves differ, and draw them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--base", required=True)
    parser.add_argument("--data", default="examples/quickstart.json")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--quantization", default="nf4", choices=["nf4", "none"])
    parser.add_argument("--out", type=Path, default=Path("/tmp/bench-curves"), help="output directory of the trainers")
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with prepared_process():
        compare(options)


def compare(options: argparse.Namespace) -> None:
    """Train each contender and write the results."""
    settings = settings_of(options)
    prepared = prepare(settings)
    found = {
        "TRL": losses(trl(settings, prepared, options.out, wide=False)),
        "TRL, float32 adapter": losses(trl(settings, prepared, options.out, wide=True)),
        "ours": losses(ours(settings, prepared, options.out)),
        "ours, again": losses(ours(settings, prepared, options.out)),
    }
    torch.cuda.empty_cache()
    differences = {name: apart(found["ours"], curve) for name, curve in found.items() if name != "ours"}
    for name, difference in differences.items():
        print(f"ours and {name}: " + ", ".join(f"{key} {value:.2%}" for key, value in difference.items()))
    print(f"last losses: {', '.join(f'{name} {curve[-1]:.4f}' for name, curve in found.items())}")
    if options.json:
        options.json.write_text(json.dumps({**vars(options), "losses": found, "apart": differences}, default=str))
    if options.svg:
        options.svg.write_text(drawn(found))


if __name__ == "__main__":
    main()
