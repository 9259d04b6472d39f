"""Write a small random Llama as an F16 GGUF, with the standard library alone.

Its shapes take llama.cpp's fast paths: rows of 256 are whole blocks of every quantized type, columns are multiples of
32, which AMX needs (ggml-cpu/amx/amx.cpp, supports_op). The vocabulary is byte-level.
"""

from __future__ import annotations

import random
import struct
from array import array
from pathlib import Path

EMBEDDING, HIDDEN, HEADS, KV_HEADS, LAYERS, CONTEXT = 256, 512, 4, 2, 2, 256
VOCABULARY = 288  # 256 bytes, three control tokens, padding up to a multiple of 32
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
ALIGNMENT = 32
U32, F32, BOOL, STRING, ARRAY, I32 = 4, 6, 7, 8, 9, 5  # enum gguf_type
TYPE_F32, TYPE_F16 = 0, 1  # enum ggml_type
FILE_TYPE_F16 = 1  # LLAMA_FTYPE_MOSTLY_F16
NORMAL, CONTROL_TOKEN, UNUSED = 1, 3, 5  # enum llama_token_type
CODES = {U32: "<I", F32: "<f", BOOL: "<?", I32: "<i"}

Shape = tuple[int, ...]


def byte_tokens() -> list[str]:
    """Return the 256 characters that stand for the bytes 0 to 255 in GPT-2's vocabularies."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) if byte in shown else chr(256 + hidden.index(byte)) for byte in range(256)]


def shapes() -> dict[str, Shape]:
    """Return every tensor's shape, rows first as in ggml: (columns of the product, rows)."""
    kv = EMBEDDING // HEADS * KV_HEADS
    found: dict[str, Shape] = {"token_embd.weight": (EMBEDDING, VOCABULARY), "output.weight": (EMBEDDING, VOCABULARY)}
    found["output_norm.weight"] = (EMBEDDING,)
    for layer in range(LAYERS):
        parts: dict[str, Shape] = {
            "attn_norm": (EMBEDDING,), "ffn_norm": (EMBEDDING,),
            "attn_q": (EMBEDDING, EMBEDDING), "attn_k": (EMBEDDING, kv), "attn_v": (EMBEDDING, kv),
            "attn_output": (EMBEDDING, EMBEDDING), "ffn_gate": (EMBEDDING, HIDDEN), "ffn_up": (EMBEDDING, HIDDEN),
            "ffn_down": (HIDDEN, EMBEDDING),
        }  # fmt: skip
        found |= {f"blk.{layer}.{name}.weight": shape for name, shape in parts.items()}
    return found


def metadata() -> list[tuple[str, int, object]]:
    """Return the keys with their GGUF types and values."""
    tokens = byte_tokens() + list(CONTROL)
    kinds = [NORMAL] * 256 + [CONTROL_TOKEN] * len(CONTROL) + [UNUSED] * (VOCABULARY - 256 - len(CONTROL))
    tokens += [f"<unused{number}>" for number in range(VOCABULARY - len(tokens))]
    sizes = {
        "context_length": CONTEXT, "embedding_length": EMBEDDING, "block_count": LAYERS, "feed_forward_length": HIDDEN,
        "attention.head_count": HEADS, "attention.head_count_kv": KV_HEADS, "vocab_size": VOCABULARY,
        "rope.dimension_count": EMBEDDING // HEADS,
    }  # fmt: skip
    return [
        ("general.architecture", STRING, "llama"),
        ("general.name", STRING, "tiny"),
        ("general.file_type", U32, FILE_TYPE_F16),
        *((f"llama.{name}", U32, size) for name, size in sizes.items()),
        ("llama.attention.layer_norm_rms_epsilon", F32, 1e-5),
        ("tokenizer.ggml.model", STRING, "gpt2"),
        ("tokenizer.ggml.pre", STRING, "gpt-2"),
        ("tokenizer.ggml.tokens", ARRAY, (STRING, tokens)),
        ("tokenizer.ggml.token_type", ARRAY, (I32, kinds)),
        ("tokenizer.ggml.merges", ARRAY, (STRING, ["t h"])),  # its result is not a token: never taken
        ("tokenizer.ggml.bos_token_id", U32, 256),
        ("tokenizer.ggml.eos_token_id", U32, 258),
        ("tokenizer.ggml.add_bos_token", BOOL, False),
    ]


def write(path: Path, seed: int = 0) -> None:
    """Write the model. The same seed gives the same file."""
    drawn = random.Random(seed)
    header, data = bytearray(), bytearray()
    tensors = shapes()
    for name, shape in tensors.items():
        header += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, _type(shape), len(data))
        data += _values(shape, drawn)
        data += bytes(-len(data) % ALIGNMENT)
    pairs = metadata()
    start = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join(_pair(*pair) for pair in pairs)
    start += bytes(header)
    path.write_bytes(start + bytes(-len(start) % ALIGNMENT) + bytes(data))


def _type(shape: Shape) -> int:
    return TYPE_F32 if len(shape) == 1 else TYPE_F16


def _values(shape: Shape, drawn: random.Random) -> bytes:
    """Norms are ones; matrices are uniform, of the variance 1 / columns that keeps activations in range."""
    if len(shape) == 1:
        return array("f", [1.0] * shape[0]).tobytes()
    count, most = shape[0] * shape[1], (3.0 / shape[0]) ** 0.5
    return struct.pack(f"<{count}e", *((2 * drawn.random() - 1) * most for _ in range(count)))


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
