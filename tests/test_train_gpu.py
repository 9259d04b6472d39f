"""On a GPU: fused, compiled, packed and checkpointed layers in NF4 train like PEFT's layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from bench.training.shape import write_tokenizer
from burnish.bases.base import Base
from tests.support.small_models import gradients, rows
from train.kernels.compile import FastLayers
from train.loop.arguments import make_trainer
from train.loop.trainer import Batching, Rows
from train.models.adapters import add_adapter
from train.models.transformers import load_base
from train.resolved import Resolved
from train.settings import TrainSettings
from train.world import World

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
SHAPE: dict[str, Any] = {
    "vocab_size": 512, "hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def settings_of(base: Path, quantization: str, dtype: str) -> TrainSettings:
    lora = {"r": 8, "lora_alpha": 16}
    settings = {"base": {"id": str(base), "quantization": quantization, "dtype": dtype}, "data": {"path": "x"}}
    return TrainSettings.model_validate({**settings, "lora": lora, "train": {"optim": "adamw_torch"}})


def adapted(settings: TrainSettings) -> Any:
    torch.manual_seed(0)
    base = Base(settings.base.id, None, Path(settings.base.id), "")
    model = add_adapter(load_base(base, settings.base, World().device), settings.lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def one_row_at_a_time(model: Any) -> tuple[float, torch.Tensor]:
    """Forward and backward with PEFT and transformers only; the loss is the mean over all response tokens."""
    model.train()
    count, total = sum(end - start for row in rows() for start, end in row.spans), 0.0
    for row in rows():
        logits = model(input_ids=torch.tensor([row.input_ids], device="cuda")).logits[0, :-1].float()
        labels = torch.tensor(row.labels()[1:], device="cuda")
        nll = torch.nn.functional.cross_entropy(logits, labels, reduction="sum") / count
        torch.autograd.backward(nll)
        total += nll.item()
    return total, gradients(model)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("base")
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(2)  # large enough that attention and activations matter
    model.to(torch.bfloat16).save_pretrained(path)
    write_tokenizer(path)
    return path


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointing"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(("quantization", "dtype"), [("nf4", "bfloat16"), ("none", "bfloat16"), ("none", "float16")])
def test_packed_step_matches_loss_and_gradients_of_single_rows_with_peft_layers(
    checkpoint: Path, tmp_path: Path, quantization: str, dtype: str, compiled: bool, checkpointing: bool
) -> None:  # fmt: skip
    settings = settings_of(checkpoint, quantization, dtype)
    loss, wanted = one_row_at_a_time(adapted(settings))
    model = adapted(settings)
    trainer = make_trainer(
        Resolved(settings), Batching(64, checkpointing=checkpointing), FastLayers(model, compiled), model,
        AutoTokenizer.from_pretrained(checkpoint), (rows(), rows(2)), tmp_path, World(),
    )  # fmt: skip
    assert trainer.fast_layers is not None and len(trainer.fast_layers.fused.layers) == 21
    assert all(layer.training for layer in model.get_base_model().model.layers)
    examples = [dict(row) for row in trainer.train_dataset]
    for name, parameter in model.named_parameters():  # TRL may have cast the adapter
        assert parameter.dtype == torch.float32 or "lora_" not in name
    moved: list[torch.Size] = []
    if offload := trainer.fast_layers._offload:
        store = offload._store
        offload._store = lambda saved: moved.append(saved.shape) or store(saved)
    for _ in range(2):  # the second step reuses compiled code and memory of the first
        model.zero_grad(set_to_none=True)
        made = trainer.training_step(model, {"rows": Rows(examples)})
    assert bool(moved) == (compiled and checkpointing)
    scaler = trainer.accelerator.scaler  # float16 gradients are scaled until the optimizer step
    found = gradients(model) / (scaler.get_scale() if scaler else 1.0)
    assert abs(made.item() - loss) < 2e-3 * loss
    assert (found - wanted).norm() < 0.03 * wanted.norm()


def test_out_of_memory_halves_micro_batches_then_enables_checkpointing(checkpoint: Path, tmp_path: Path) -> None:
    settings = settings_of(checkpoint, "nf4", "bfloat16")
    model = adapted(settings)
    trainer = make_trainer(
        Resolved(settings), Batching(128), FastLayers(model, True), model,
        AutoTokenizer.from_pretrained(checkpoint), (rows(), rows(2)), tmp_path, World(),
    )  # fmt: skip
    fails, enough = iter([True, True, False, True]), trainer.objective.loss

    def scarce(rows: Any) -> torch.Tensor:
        if next(fails, False):
            torch.empty(2**50, dtype=torch.uint8, device="cuda")  # the error of the allocator
        return enough(rows)

    trainer.objective.loss = scarce
    examples = [dict(row) for row in trainer.train_dataset]
    loss = trainer.training_step(model, {"rows": Rows(examples)})
    assert torch.isfinite(loss)
    assert trainer.batching.halved == [128, 64]
    assert trainer.batching.checkpointing
