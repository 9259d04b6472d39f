"""A GGUF file: vocabulary, metadata, special tokens."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..files import open_regular
from .amx import Amx, Decision, decide
from .division import Divider
from .runtime import LlamaError, api, runtime
from .stack import LONG_BYTES, on_large_stack

# token types that llama.cpp searches texts for, and the flag for stripping following whitespace
USER_DEFINED = api.LLAMA_TOKEN_ATTR_USER_DEFINED
# plain text without parse_special, even if also user-defined (tokenizer_st_partition in llama-vocab.cpp)
PARSED_ONLY = api.LLAMA_TOKEN_ATTR_UNKNOWN | api.LLAMA_TOKEN_ATTR_CONTROL
FOUND_IN_TEXT = PARSED_ONLY | USER_DEFINED
RSTRIP = api.LLAMA_TOKEN_ATTR_RSTRIP
# tokenizers that encode the parts between special tokens independently
DIVIDED = frozenset({"llama", "gpt2", "gemma4", "bert", "t5", "rwkv"})


class Model:
    """A GGUF file, or only its vocabulary. Close the contexts before the model, or use `with`."""

    def __init__(self, handle: Any, path: Path, vocab_only: bool) -> None:
        self.handle, self.path, self.vocab_only = handle, path, vocab_only
        self.buffers: dict[str, float] = {}  # weights in MiB by llama.cpp buffer name
        self._pieces: dict[tuple[int, bool], bytes] = {}  # a cache
        self.amx_why = "the weights are not loaded"
        self.vocab = api.llama_model_get_vocab(handle)
        self.n_vocab = int(api.llama_vocab_n_tokens(self.vocab))
        self.n_ctx_train = int(api.llama_model_n_ctx_train(handle))
        self.n_embd = int(api.llama_model_n_embd(handle))
        self.n_params = int(api.llama_model_n_params(handle))
        self.size_bytes = int(api.llama_model_size(handle))
        # -1 if the vocabulary has no such token
        self.bos_id, self.eos_id = int(api.llama_vocab_bos(self.vocab)), int(api.llama_vocab_eos(self.vocab))
        self.eot_id = int(api.llama_vocab_eot(self.vocab))
        self.adds_bos = bool(api.llama_vocab_get_add_bos(self.vocab))

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        vocab_only: bool = False,
        n_gpu_layers: int = 0,
        use_mmap: bool = True,
        amx: Amx | Decision = "auto",
    ) -> Self:
        """Load a GGUF file; n_gpu_layers -1 means all. Raises LlamaError with a one-line reason.

        `amx`: see burnish.llama.amx; "auto" may first load the file in a child process; a Decision is used unchanged.
        """
        path, log = Path(path), runtime()
        try:
            with open_regular(path) as file:
                magic = file.read(4)
        except OSError as error:
            raise LlamaError(f"{path}: the model can't be read: {error.strerror}") from None
        if magic != b"GGUF":
            raise LlamaError(f"{path} is not a GGUF file (it starts with {magic!r}, not b'GGUF')")
        params = api.llama_model_default_params()
        params.n_gpu_layers, params.vocab_only = n_gpu_layers, vocab_only
        params.load_mode = api.LLAMA_LOAD_MODE_AUTO if use_mmap else api.LLAMA_LOAD_MODE_NONE
        if vocab_only:
            decision = Decision(True, False, "")
        else:
            decision = amx if isinstance(amx, Decision) else decide(path, amx, n_gpu_layers)
        params.use_extra_bufts = decision.extra
        log.errors.clear()
        buffers: dict[str, float] = {}
        before, log.listener = log.listener, _buffer_reader(buffers)
        try:
            handle = api.llama_model_load_from_file(str(path).encode(), params)
        finally:
            log.listener = before
        if not handle:
            reason = next(
                (line for line in log.errors if "failed to load model" not in line), "llama.cpp gives no reason"
            )
            raise LlamaError(f"{path}: llama.cpp can't load it: {reason}")
        model = cls(handle, path, vocab_only)
        if api.llama_vocab_type(model.vocab) == api.LLAMA_VOCAB_TYPE_NONE:
            model.close()
            raise LlamaError(f"{path} has no tokenizer that llama.cpp supports")
        model.buffers, model.amx_why = buffers, decision.why or model.amx_why
        if decision.amx and not model.amx:
            model.amx_why = "no weight has a shape that AMX supports"
        if missing := model._missing_bytes():
            model.close()
            raise LlamaError(
                f"{path}: its tokenizer has no token for {missing} of the 256 bytes, and llama.cpp would crash"
                " on a text that needs one: convert the model again from a checkpoint with its own tokenizer"
            )
        return model

    @property
    def amx(self) -> bool:
        """Whether weights are in AMX buffers, according to llama.cpp's log; `amx_why` gives the reason."""
        return "AMX" in self.buffers

    def close(self) -> None:
        """Free the model. Further calls do nothing."""
        handle, self.handle = self.handle, None
        if handle:
            api.llama_model_free(handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def metadata(self) -> dict[str, str]:
        """Return the GGUF's scalar metadata by key, with every value as text (llama.cpp omits arrays)."""
        return {
            self._text(api.llama_model_meta_key_by_index, i): self._text(api.llama_model_meta_val_str_by_index, i)
            for i in range(api.llama_model_meta_count(self.handle))
        }

    def _text(self, function: Any, index: int) -> str:
        size = function(self.handle, index, None, 0) + 1  # returns the required length, like snprintf
        buffer = ctypes.create_string_buffer(max(size, 1))
        function(self.handle, index, buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")

    @cached_property
    def chat_template(self) -> str | None:
        """The Jinja template in the metadata (tokenizer.chat_template), if any."""
        return self.metadata().get("tokenizer.chat_template")

    @cached_property
    def whole_prefix_only(self) -> bool:
        """Whether only whole prefixes can be reused: recurrent or hybrid layers store a single state per sequence."""
        return bool(api.llama_model_is_recurrent(self.handle) or api.llama_model_is_hybrid(self.handle))

    @property
    def sliding_window(self) -> int:
        """The sliding attention window in tokens, or 0 if every layer has full attention."""
        return int(api.llama_model_n_swa(self.handle))

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        """Return the ids for `text`. `add_special` adds BOS/EOS as configured in the model; `parse_special` parses
        "<|im_start|>" as a token, not as characters. Unpaired surrogates become "?". Time is linear in the number of
        special tokens, and character runs may have any length."""
        if len(text) <= LONG_BYTES:
            return self._tokenize(text.encode("utf-8", "replace"), add_special, parse_special)
        divider = self._divider(parse_special)
        if divider is None:
            return self._tokenize(text.encode("utf-8", "replace"), add_special, parse_special)
        pieces = divider.pieces(text.encode("utf-8", "replace").decode())
        ids = [i for piece in pieces for i in self._tokenize(piece.encode(), False, parse_special)]
        return self._bounded_by(ids) if add_special else ids

    def _tokenize(self, data: bytes, add_special: bool, parse_special: bool) -> list[int]:
        """Tokenize; long texts use a sufficiently large stack."""
        if len(data) > LONG_BYTES:
            return on_large_stack(lambda: self._call(data, add_special, parse_special), len(data))
        return self._call(data, add_special, parse_special)

    def _call(self, data: bytes, add_special: bool, parse_special: bool) -> list[int]:
        room = len(data) + 4
        ids = (api.llama_token * room)()
        count = api.llama_tokenize(self.vocab, data, len(data), ids, room, add_special, parse_special)
        if count < 0:  # the negative of the required size
            ids = (api.llama_token * -count)()
            count = api.llama_tokenize(self.vocab, data, len(data), ids, -count, add_special, parse_special)
        return list(ids[:count])

    def _bounded_by(self, ids: list[int]) -> list[int]:
        """Add the start and end tokens configured in the model."""
        around = self._call(b"", True, True)
        before = 1 if self.adds_bos or len(around) > 1 else 0
        return [*around[:before], *ids, *around[before:]]

    def _divider(self, parse_special: bool) -> Divider | None:
        """Return the divider for long texts; None if there are no special strings to split at."""
        divider = self._dividers[parse_special]
        return divider if divider.usable else None

    def prepare(self) -> None:
        """Precompute everything needed for long texts, which takes 0.1 s for a vocabulary of 150,000 tokens."""
        for divider in self._dividers:
            divider.prepare()

    @cached_property
    def _dividers(self) -> tuple[Divider, Divider]:
        """Dividers for texts with control tokens as plain characters and as parsed tokens."""
        if self.metadata().get("tokenizer.ggml.model") not in DIVIDED:
            return Divider({}), Divider({})
        kinds = {self.token_text(i): a for i, a in enumerate(self.attributes()) if a & FOUND_IN_TEXT}
        return (
            Divider({text: bool(a & RSTRIP) for text, a in kinds.items() if not a & PARSED_ONLY}),
            Divider({text: bool(a & RSTRIP) for text, a in kinds.items()}),
        )

    def tokenize_raw(self, text: str) -> list[int]:
        """Return the ids for a raw prompt: BOS/EOS as configured in the model, special strings as tokens.

        A BOS at the start of the text is not duplicated; llama.cpp would add another (with a log message).
        """
        ids = self.tokenize(text, add_special=True)
        return ids[1:] if self.adds_bos and ids[:2] == [self.bos_id] * 2 else ids

    def native_tokenizer(self) -> tuple[int, int]:
        """Return the addresses of the vocabulary and of llama_tokenize, for libraries that call it themselves.

        They are valid until `close`. Long texts need a large stack (see stack.py).
        """
        function = ctypes.cast(api.llama_tokenize, ctypes.c_void_p).value
        assert function is not None
        return int(self.vocab), function

    def piece(self, token: int, special: bool = False) -> bytes:
        """Return a token's bytes, possibly a partial character; special tokens are b"" unless `special`."""
        found = self._pieces.get((token, special))
        if found is None:
            found = self._pieces[token, special] = self._read_piece(token, special)
        return found

    def _read_piece(self, token: int, special: bool) -> bytes:
        self.check_ids([token])
        buffer = ctypes.create_string_buffer(64)
        size = api.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, special)
        if size < 0:
            buffer = ctypes.create_string_buffer(-size)
            size = api.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, special)
        return buffer.raw[:size]

    def detokenize(self, ids: Sequence[int], special: bool = False) -> bytes:
        """Return the tokens' concatenated bytes."""
        return b"".join(self.piece(token, special) for token in ids)

    def token_text(self, token: int) -> str:
        """Return the token's text in the vocabulary ("Ġthe", "<|im_end|>")."""
        self.check_ids([token])
        return str((api.llama_vocab_get_text(self.vocab, token) or b"").decode("utf-8", "replace"))

    def attributes(self) -> list[int]:
        """Return each token's type and whitespace stripping as llama_token_attr bits."""
        return [api.llama_vocab_get_attr(self.vocab, i) for i in range(self.n_vocab)]

    def is_eog(self, token: int) -> bool:
        """Return whether this token ends generation."""
        return token in self.eog_ids()

    def eog_ids(self) -> frozenset[int]:
        """Return every token that ends generation (EOS, EOT, and others recognised by llama.cpp)."""
        return self._eog

    @cached_property
    def _eog(self) -> frozenset[int]:
        return frozenset(i for i in range(self.n_vocab) if api.llama_vocab_is_eog(self.vocab, i))

    def _missing_bytes(self) -> int:
        """Count the bytes without a token in a SentencePiece vocabulary (see llama_vocab::byte_to_token).

        Looking them up throws, and no C++ exception may reach ctypes. Other vocabulary types skip such bytes.
        """
        if api.llama_vocab_type(self.vocab) != api.LLAMA_VOCAB_TYPE_SPM:
            return 0
        texts = {api.llama_vocab_get_text(self.vocab, i) for i in range(self.n_vocab)}
        return sum(f"<0x{b:02X}>".encode() not in texts and bytes([b]) not in texts for b in range(256))

    def check_ids(self, ids: Sequence[int]) -> None:
        """Raise LlamaError unless every id is in the vocabulary: otherwise llama.cpp would end the process."""
        wrong = next((i for i in ids if not 0 <= i < self.n_vocab), None)
        if wrong is not None:
            raise LlamaError(f"token id {wrong} is not in this model's vocabulary (0 to {self.n_vocab - 1})")


def _buffer_reader(buffers: dict[str, float]) -> Callable[[str], None]:
    """Return a log listener that sums the weight buffer sizes."""

    def take(line: str) -> None:
        if found := re.search(r"(\S+)\s+model buffer size\s*=\s*([\d.]+) MiB", line):
            buffers[found[1]] = buffers.get(found[1], 0.0) + float(found[2])

    return take
