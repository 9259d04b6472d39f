"""What the process imports that commands are forks of: both stages whole, with the libraries kept quiet."""

from importlib import import_module

from train.__main__ import quiet

MODULES = (
    "train.data.preview", "train.loop.errors", "train.plan.preflight", "train.stage", "export.__main__", "export.stage",
    "export.merge.dequantize", "torch.utils.tensorboard", "bitsandbytes", "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama", "peft",
)  # fmt: skip

quiet()
for name in MODULES:
    import_module(name)
