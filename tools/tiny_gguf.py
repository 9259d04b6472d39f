"""Write a random Llama model as an F16 GGUF with the standard library only: a tiny one, or one of a real model's shape.

The tiny model's shapes use llama.cpp's fast paths: rows of 256 are whole blocks of every quantized type, and columns
are multiples of 32, as AMX requires (ggml-cpu/amx/amx.cpp, supports_op). The vocabulary is byte-level.
"""

from __future__ import annotations

import random
import struct
from array import array
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Size:
    """The shape of a Llama model.

    tied: the output layer shares the embedding's weights.
    words: tokens after the control tokens have text, so that they appear in the output; otherwise they are unused.
    spread: the standard deviation of the logits; a large one makes the top token far likelier than the next.
    """

    embedding: int = 256
    hidden: int = 512
    heads: int = 4
    kv_heads: int = 2
    layers: int = 2
    context: int = 256
    vocabulary: int = 288  # 256 bytes, three control tokens, padding to a multiple of 32
    tied: bool = False
    spread: float = 1.0
    words: bool = False


TINY = Size()
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
ALIGNMENT = 32
MAX_DRAWN = 1 << 18  # random values drawn per matrix; larger matrices repeat them
U32, F32, BOOL, STRING, ARRAY, I32 = 4, 6, 7, 8, 9, 5  # enum gguf_type
TYPE_F32, TYPE_F16 = 0, 1  # enum ggml_type
FILE_TYPE_F16 = 1  # LLAMA_FTYPE_MOSTLY_F16
NORMAL, CONTROL_TOKEN, UNUSED = 1, 3, 5  # enum llama_token_type
CODES = {U32: "<I", F32: "<f", BOOL: "<?", I32: "<i"}

Shape = tuple[int, ...]


def byte_tokens() -> list[str]:
    """Return the 256 characters that represent the bytes 0 to 255 in GPT-2's vocabularies."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) if byte in shown else chr(256 + hidden.index(byte)) for byte in range(256)]


def shapes(size: Size) -> dict[str, Shape]:
    """Return the shape of every tensor in ggml's order: (columns, rows); columns are summed over."""
    wide, kv = size.embedding, size.embedding // size.heads * size.kv_heads
    found: dict[str, Shape] = {"token_embd.weight": (wide, size.vocabulary), "output_norm.weight": (wide,)}
    if not size.tied:
        found["output.weight"] = (wide, size.vocabulary)
    for layer in range(size.layers):
        parts: dict[str, Shape] = {
            "attn_norm": (wide,), "ffn_norm": (wide,), "attn_q": (wide, wide), "attn_k": (wide, kv),
            "attn_v": (wide, kv), "attn_output": (wide, wide), "ffn_gate": (wide, size.hidden),
            "ffn_up": (wide, size.hidden), "ffn_down": (size.hidden, wide),
        }  # fmt: skip
        found |= {f"blk.{layer}.{name}.weight": shape for name, shape in parts.items()}
    return found


def metadata(size: Size, pre: str = "gpt-2", template: str | None = None) -> list[tuple[str, int, object]]:
    """Return the metadata keys with GGUF types and values; `pre` names llama.cpp's pre-tokenizer."""
    tokens = byte_tokens() + list(CONTROL)
    more = size.vocabulary - len(tokens)
    kinds = [NORMAL] * 256 + [CONTROL_TOKEN] * len(CONTROL) + [NORMAL if size.words else UNUSED] * more
    tokens += [f"word{number}" if size.words else f"<unused{number}>" for number in range(more)]
    sizes = {
        "context_length": size.context, "embedding_length": size.embedding, "block_count": size.layers,
        "feed_forward_length": size.hidden, "attention.head_count": size.heads,
        "attention.head_count_kv": size.kv_heads, "vocab_size": size.vocabulary,
        "rope.dimension_count": size.embedding // size.heads,
    }  # fmt: skip
    return [
        ("general.architecture", STRING, "llama"),
        ("general.name", STRING, "tiny"),
        ("general.file_type", U32, FILE_TYPE_F16),
        *((f"llama.{name}", U32, number) for name, number in sizes.items()),
        ("llama.attention.layer_norm_rms_epsilon", F32, 1e-5),
        ("tokenizer.ggml.model", STRING, "gpt2"),
        ("tokenizer.ggml.pre", STRING, pre),
        ("tokenizer.ggml.tokens", ARRAY, (STRING, tokens)),
        ("tokenizer.ggml.token_type", ARRAY, (I32, kinds)),
        ("tokenizer.ggml.merges", ARRAY, (STRING, ["t h"])),  # never used: its result is not a token
        ("tokenizer.ggml.bos_token_id", U32, 256),
        ("tokenizer.ggml.eos_token_id", U32, 258),
        ("tokenizer.ggml.add_bos_token", BOOL, False),
        *([("tokenizer.chat_template", STRING, template)] if template is not None else []),
    ]


def write(path: Path, size: Size = TINY, seed: int = 0, pre: str = "gpt-2", template: str | None = None) -> None:
    """Write the model. The same seed yields the same file."""
    drawn, tensors, pairs = random.Random(seed), shapes(size), metadata(size, pre, template)
    header, offset = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs))), 0
    for pair in pairs:
        header += _pair(*pair)
    for name, shape in tensors.items():
        kind, width = (TYPE_F32, 4) if len(shape) == 1 else (TYPE_F16, 2)
        header += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
        offset += _padded(width * shape[0] * (shape[1] if len(shape) > 1 else 1))
    with path.open("wb") as file:
        file.write(header + bytes(_padded(len(header)) - len(header)))
        for name, shape in tensors.items():
            data = _values(shape, drawn, size.spread if name == "output.weight" else 1.0)
            file.write(data + bytes(_padded(len(data)) - len(data)))


def _padded(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT


def _values(shape: Shape, drawn: random.Random, spread: float = 1.0) -> bytes:
    """Return ones for norms; for matrices uniform values of variance 1 / columns, which keeps activations in range."""
    if len(shape) == 1:
        return array("f", [1.0] * shape[0]).tobytes()
    count, most = shape[0] * shape[1], spread * (3.0 / shape[0]) ** 0.5
    few = min(count, MAX_DRAWN)
    part = struct.pack(f"<{few}e", *((2 * drawn.random() - 1) * most for _ in range(few)))
    return (part * -(-count // few))[: 2 * count]


def _pair(key: str, kind: int, value: object) -> bytes:
    return _text(key) + struct.pack("<I", kind) + _value(kind, value)


def _value(kind: int, value: object) -> bytes:
    if kind == STRING:
        return _text(str(value))
    if kind == ARRAY:
        assert isinstance(value, tuple)
        inner, items = value
        return struct.pack("<IQ", inner, len(items)) + b"".join(_value(inner, item) for item in items)
    return struct.pack(CODES[kind], value)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data
