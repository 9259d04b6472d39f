"""Damaged and hostile GGUF files: a tiny model with a few changes, deterministic by seed."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from typing import Any

from tools import tiny_gguf
from tools.tiny_gguf import ARRAY, BOOL, F32, I32, STRING, U32, Size

SMALL = Size(embedding=64, hidden=64, heads=2, kv_heads=1, layers=1, context=64)
U64, F64, I64 = 10, 12, 11
NUMBERS = (0, 1, 2, 3, 7, 31, 64, 255, 288, 512, 1 << 16, (1 << 31) - 1, (1 << 32) - 1)
FLOATS = (0.0, -1.0, 1e30, float("nan"), float("inf"), 1e-30)
ARCHITECTURES = (
    "llama", "llama4", "qwen2", "qwen3", "qwen3moe", "gemma", "gemma2", "gemma3", "gemma3n", "phi2", "phi3",
    "gpt2", "mamba", "mamba2", "jamba", "rwkv6", "rwkv7", "t5", "t5encoder", "bert", "nomic-bert", "deepseek",
    "deepseek2", "chatglm", "glm4", "falcon", "falcon-h1", "bloom", "mpt", "starcoder", "command-r", "olmo",
    "olmo2", "granite", "granitehybrid", "lfm2", "plamo2", "minicpm", "minicpm3", "stablelm", "gptneox", "exaone",
    "deci", "arctic", "dbrx", "grok", "openelm", "bitnet", "hunyuan-moe", "smollm3", "gpt-oss", "nemotron",
    "nemotron_h", "jais", "dream", "llada", "clip", "none", "", "nothing",
)  # fmt: skip
TOKENIZERS = ("gpt2", "llama", "bert", "t5", "rwkv", "plamo2", "none", "no_vocab", "nothing")
PRE = ("gpt-2", "llama-bpe", "qwen2", "deepseek-llm", "tekken", "chameleon", "default", "smollm", "nothing")
TEMPLATES = ("{{ messages }}", "{% for", "{{ 1/0 }}", "\x00", "{% raw %}", "x" * 70000)
TYPES = (*range(41), 99, (1 << 32) - 1)


@dataclass
class Parts:
    """The parts of a GGUF file: pairs (key, type, value), tensors (name, shape, type, offset), and the data."""

    pairs: list[tuple[str, int, Any]]
    tensors: list[tuple[str, tuple[int, ...], int, int]]
    data: bytearray
    version: int = 3
    counts: tuple[int, int] = (0, 0)  # added to the counts of tensors and pairs

    def file(self) -> bytes:
        """Return the file's bytes."""
        head = struct.pack("<IQQ", self.version, *(
            max(0, n + more) for n, more in zip((len(self.tensors), len(self.pairs)), self.counts, strict=True)
        ))  # fmt: skip
        header = bytearray(b"GGUF" + head)
        for key, kind, value in self.pairs:
            header += text(key) + struct.pack("<I", kind & 0xFFFFFFFF) + packed(kind, value)
        for name, shape, kind, offset in self.tensors:
            sizes = [size & (1 << 64) - 1 for size in shape]
            header += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *sizes, kind, offset & (1 << 64) - 1)
        return bytes(header + bytes(-len(header) % 32) + self.data)


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(data)) + data


def packed(kind: int, value: Any) -> bytes:
    if kind == ARRAY:
        inner, items = value
        return struct.pack("<IQ", inner, len(items)) + b"".join(packed(inner, item) for item in items)
    if kind == STRING:
        return text(str(value))
    if kind in (F32, F64):
        return struct.pack("<f" if kind == F32 else "<d", float(value))
    if kind == BOOL:
        return bytes([int(bool(value))])
    width = 8 if kind in (U64, I64) else 4
    return (int(value) & ((1 << 8 * width) - 1)).to_bytes(width, "little")


def whole(drawn: random.Random) -> Parts:
    """Return the tiny model, unchanged."""
    tensors, offset = [], 0
    for name, shape in tiny_gguf.shapes(SMALL).items():
        kind, width = (0, 4) if len(shape) == 1 else (1, 2)
        tensors.append((name, shape, kind, offset))
        offset += -(-width * shape[0] * (shape[1] if len(shape) > 1 else 1) // 32) * 32
    data = bytearray(drawn.randbytes(offset))
    for at in range(1, offset, 2):
        data[at] = data[at] & 0x83 | 0x20  # float16 values between 2**-8 and 2**-7, either sign
    return Parts(list(tiny_gguf.metadata(SMALL)), tensors, data)


def mutant(seed: int) -> bytes:
    """Return the file for a seed: the model with one to three changes to its parts or bytes."""
    drawn = random.Random(seed)
    parts = whole(drawn)
    raw = drawn.random() < 0.15
    if not raw or drawn.random() < 0.5:
        for _ in range(drawn.choice((1, 1, 1, 2, 3))):
            drawn.choice(CHANGES)(parts, drawn)
    made = bytearray(parts.file())
    if raw:
        _damage(made, drawn)
    return bytes(made)


def _damage(made: bytearray, drawn: random.Random) -> None:
    if drawn.random() < 0.4:
        del made[drawn.randrange(4, len(made)) :]
        return
    end = min(len(made), 4096 if drawn.random() < 0.8 else len(made))
    for _ in range(drawn.choice((1, 2, 8, 64))):
        made[drawn.randrange(4, end)] = drawn.choice((0, 1, 0x7F, 0x80, 0xFF, drawn.randrange(256)))


def _value(parts: Parts, drawn: random.Random) -> None:
    at = drawn.randrange(len(parts.pairs))
    key, kind, value = parts.pairs[at]
    if kind == ARRAY:
        inner, items = value
        items = list(items)
        for _ in range(drawn.choice((1, 1, 8))):
            if items:
                items[drawn.randrange(len(items))] = _other(inner, drawn)
        parts.pairs[at] = (key, kind, (inner, items))
    else:
        parts.pairs[at] = (key, kind, _other(kind, drawn))


def _other(kind: int, drawn: random.Random) -> Any:
    if kind == STRING:
        names = ("", "a" * 5000, "\udcff\udcfe", "<|im_end|>", "\x00", "Ġ", "▁", "<0x41>", "\u2028")
        return drawn.choice(names)
    return drawn.choice(FLOATS) if kind in (F32, F64) else drawn.choice(NUMBERS)


def _length(parts: Parts, drawn: random.Random) -> None:
    arrays = [i for i, pair in enumerate(parts.pairs) if pair[1] == ARRAY]
    if not arrays:
        return
    at = drawn.choice(arrays)
    key, kind, (inner, items) = parts.pairs[at]
    items = list(items)
    more = [_other(inner, drawn) for _ in range(drawn.choice((1, 40, 3000)))]
    made = drawn.choice((items[: drawn.randrange(len(items) + 1)], items + more, [], items + items))
    parts.pairs[at] = (key, kind, (inner, made))


def _kind(parts: Parts, drawn: random.Random) -> None:
    at = drawn.randrange(len(parts.pairs))
    key, kind, value = parts.pairs[at]
    other = drawn.choice((U32, F32, BOOL, STRING, I32, U64, I64, F64))
    if kind == ARRAY:
        inner = drawn.choice((U32, I32, F32, STRING))
        parts.pairs[at] = (key, ARRAY, (inner, [_other(inner, drawn) for _ in value[1]]))
    else:
        parts.pairs[at] = (key, other, _other(other, drawn))


def _drop(parts: Parts, drawn: random.Random) -> None:
    among: list[Any] = drawn.choice((parts.pairs, parts.tensors))
    if among:
        del among[drawn.randrange(len(among))]


def _again(parts: Parts, drawn: random.Random) -> None:
    among: list[Any] = drawn.choice((parts.pairs, parts.tensors))
    if among:
        among.append(drawn.choice(among))


def set_pair(parts: Parts, key: str, kind: int, value: Any) -> None:
    """Set a metadata key, replacing its value."""
    parts.pairs[:] = [pair for pair in parts.pairs if pair[0] != key] + [(key, kind, value)]


def _architecture(parts: Parts, drawn: random.Random) -> None:
    name = drawn.choice(ARCHITECTURES)
    parts.pairs[:] = [(k.replace("llama.", f"{name}."), kind, value) for k, kind, value in parts.pairs]
    set_pair(parts, "general.architecture", STRING, name)


def _tokenizer(parts: Parts, drawn: random.Random) -> None:
    set_pair(parts, "tokenizer.ggml.model", STRING, drawn.choice(TOKENIZERS))
    set_pair(parts, "tokenizer.ggml.pre", STRING, drawn.choice(PRE))
    if drawn.random() < 0.5:
        set_pair(parts, "tokenizer.ggml.scores", ARRAY, (F32, [drawn.choice(FLOATS) for _ in range(SMALL.vocabulary)]))
    if drawn.random() < 0.5:
        tokens = [f"<0x{i:02X}>" if i < 256 else f"▁{i}" for i in range(SMALL.vocabulary)]
        set_pair(parts, "tokenizer.ggml.tokens", ARRAY, (STRING, tokens))
    if drawn.random() < 0.3:
        charsmap = [drawn.randrange(256) for _ in range(drawn.choice((1, 4, 64)))]
        set_pair(parts, "tokenizer.ggml.precompiled_charsmap", ARRAY, (0, charsmap))


def _token_id(parts: Parts, drawn: random.Random) -> None:
    names = ("bos", "eos", "eot", "unknown", "seperator", "padding", "mask", "cls", "fim_pre", "eom")
    kind = drawn.choice((U32, U32, I32))
    number = drawn.choice((*NUMBERS, SMALL.vocabulary - 1, SMALL.vocabulary, -1))
    set_pair(parts, f"tokenizer.ggml.{drawn.choice(names)}_token_id", kind, number)


def _option(parts: Parts, drawn: random.Random) -> None:
    prefix = next((str(v) for k, _, v in parts.pairs if k == "general.architecture"), "llama")
    number, real = drawn.choice(NUMBERS), drawn.choice(FLOATS)
    options: tuple[tuple[str, int, Any], ...] = (
        ("rope.freq_base", F32, real), ("rope.scaling.type", STRING, drawn.choice(("yarn", "linear", "longrope", "x"))),
        ("rope.scaling.factor", F32, real), ("rope.scaling.original_context_length", U32, number),
        ("attention.sliding_window", U32, number), ("attention.key_length", U32, number),
        ("attention.value_length", U32, number), ("expert_count", U32, number), ("expert_used_count", U32, number),
        ("attention.causal", BOOL, False), ("pooling_type", U32, number), ("leading_dense_block_count", U32, number),
        ("attention.clamp_kqv", F32, real), ("ssm.conv_kernel", U32, number), ("ssm.inner_size", U32, number),
        ("ssm.state_size", U32, number), ("ssm.time_step_rank", U32, number), ("final_logit_softcapping", F32, real),
        ("rope.dimension_sections", ARRAY, (I32, [number] * drawn.choice((1, 3, 4, 9)))),
        ("attention.head_count", ARRAY, (U32, [number] * drawn.choice((0, 1, 2, 600)))),
        ("feed_forward_length", ARRAY, (U32, [number] * drawn.choice((0, 1, 600)))),
    )  # fmt: skip
    key, kind, value = drawn.choice(options)
    set_pair(parts, f"{prefix}.{key}", kind, value)


def _template(parts: Parts, drawn: random.Random) -> None:
    set_pair(parts, "tokenizer.chat_template", STRING, drawn.choice(TEMPLATES))


def _general(parts: Parts, drawn: random.Random) -> None:
    key, kind, value = drawn.choice((
        ("general.alignment", U32, drawn.choice(NUMBERS)), ("split.count", U32, drawn.choice(NUMBERS)),
        ("split.no", U32, drawn.choice(NUMBERS)), ("general.type", STRING, "adapter"),
        ("general.file_type", U32, drawn.choice(NUMBERS)), ("tokenizer.ggml.add_bos_token", BOOL, True),
        ("tokenizer.ggml.add_space_prefix", BOOL, True), ("general.quantization_version", U32, drawn.choice(NUMBERS)),
    ))  # fmt: skip
    set_pair(parts, key, kind, value)


def _tensor(parts: Parts, drawn: random.Random) -> None:
    if not parts.tensors:
        return
    at = drawn.randrange(len(parts.tensors))
    name, shape, kind, offset = parts.tensors[at]
    what = drawn.randrange(5)
    if what == 0:
        kind = drawn.choice(TYPES)
    elif what == 1:
        shape = tuple(drawn.choice((*NUMBERS, -1)) if drawn.random() < 0.5 else size for size in shape)
    elif what == 2:
        shape = drawn.choice((shape[::-1], (*shape, 1), (*shape, 2), shape[:1], ()))
    elif what == 3:
        offset = drawn.choice((offset + 32, offset + 1, 0, len(parts.data), 1 << 40, -32))
    else:
        name = drawn.choice(
            ("", "x" * 200, "token_embd.weight", "output.bias", "blk.0.attn_q.bias", "rope_freqs.weight")
        )
    parts.tensors[at] = (name, shape, kind, offset)


def _numbers(parts: Parts, drawn: random.Random) -> None:
    """Make weights NaN, infinite or very large."""
    bad = drawn.choice((b"\x00\x7e", b"\x00\x7c", b"\xff\x7b", b"\xff\xff"))
    if drawn.random() < 0.3:
        parts.data[:] = bad * (len(parts.data) // 2)
        return
    for _ in range(drawn.choice((1, 100))):
        at = drawn.randrange(len(parts.data) // 2) * 2
        parts.data[at : at + 2] = bad


def _head(parts: Parts, drawn: random.Random) -> None:
    if drawn.random() < 0.4:
        parts.version = drawn.choice((0, 1, 2, 4, 0x03000000))
    else:
        parts.counts = drawn.choice(((1, 0), (0, 1), (-1, 0), (0, -1), (1 << 40, 0), (0, 1 << 40)))


CHANGES = (
    _value, _value, _value, _length, _length, _kind, _drop, _drop, _again, _architecture, _architecture, _tokenizer,
    _tokenizer, _token_id, _token_id, _option, _option, _option, _template, _general, _tensor, _tensor, _tensor,
    _numbers, _head,
)  # fmt: skip
