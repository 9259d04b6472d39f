"""The only package that calls llama.cpp: models, contexts, exam logits and quantization.

All calls use llama.cpp's C functions (ctypes), where a C++ exception ends the process. So token ids, positions and
sizes are checked here before each call.
"""

from .context import MAX_SEQUENCES, Context
from .model import Model
from .probe import check
from .quantize import Quantized, quantization_types, quantize
from .runtime import LlamaError, cpu_variant
from .score import score, score_chunks

__all__ = [
    "MAX_SEQUENCES",
    "Context",
    "LlamaError",
    "Model",
    "Quantized",
    "check",
    "cpu_variant",
    "quantization_types",
    "quantize",
    "score",
    "score_chunks",
]
