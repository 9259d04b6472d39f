"""Imports for the process that commands are forked from: both stages completely, with libraries silenced."""

from importlib import import_module

from burnish.environment import prepared_process

MODULES = (
    "train.__main__",
    "train.data.preview", "train.loop.checkpoints", "train.plan.preflight", "train.stage", "export.__main__",
    "export.stage",
    "export.merge.dequantize", "torch.utils.tensorboard", "bitsandbytes", "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama", "peft",
)  # fmt: skip

with prepared_process():
    for name in MODULES:
        import_module(name)
