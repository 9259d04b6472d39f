"""Write a random Llama of a real model's shape for bench/serve: speed depends on shapes and types, not on weights.

    python -m bench.serve.model OUT.gguf [--type Q4_K_M]

The shape is Llama 3.2 1B's, with a separate output layer. The logits have a standard deviation of 4, so that a few
hundred tokens are likely, as in a trained model; every token has text, so that it appears in a stream.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from burnish.llama import quantization_types, quantize
from tools.tiny_gguf import CHATML, Size, write

SHAPE = Size(
    embedding=2048,
    hidden=8192,
    heads=32,
    kv_heads=8,
    layers=16,
    context=8192,
    vocabulary=128256,
    spread=4.0,
    words=True,
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.serve.model", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path, help="the GGUF to write")
    parser.add_argument("--type", default="Q4_K_M", choices=sorted(quantization_types()), help="its quantization")
    options = parser.parse_args()
    plain = options.out.with_suffix(".F16.gguf")
    try:
        write(plain, SHAPE, template=CHATML)
        quantize(plain, options.out, options.type)
    finally:
        plain.unlink(missing_ok=True)
    print(f"{options.out}: {options.out.stat().st_size / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
