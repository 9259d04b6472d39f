"""The tokenizer loader for train, export and the tools: uses tokenizer.json exactly, whatever class is configured.

transformers rebuilds a tokenizer from the class named in tokenizer_config.json, and a byte-level vocabulary with the
class LlamaTokenizer(Fast) then loses its spaces. Here only tokenizer.json counts, and a saved tokenizer produces the
same ids in transformers' AutoTokenizer (as in vLLM) and in llama.cpp's converter.

transformers and sentencepiece are imported inside functions: serve imports this package without them.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, normalizers

from ..errors import UserError
from ..files import first_line
from ..private.transformers import add_token, convert_slow, set_saved_option
from .comparison import BLANK, SAMPLE_TEXTS, encoder, first_difference, plain_encoder, sample_texts, steps_of
from .sentencepiece import is_spm, write_spm

TOKENIZER, CONFIG, SPM = "tokenizer.json", "tokenizer_config.json", "tokenizer.model"
# the class for which every version of transformers uses tokenizer.json exactly
LABEL = "PreTrainedTokenizerFast"


class TokenizerError(UserError):
    """Raised when a tokenizer's files are unusable, or its ids change after saving and loading."""


def load(directory: Path, trust_remote_code: bool = False) -> Any:
    """Return the directory's tokenizer: a PreTrainedTokenizerFast that uses tokenizer.json exactly.

    Special tokens, chat template and add_bos_token come from the other files. A tokenizer that exists only as Python
    code, SentencePiece model or vocab.json is converted and compared with the original. Raises TokenizerError if the
    ids differ, or if tokenizers or transformers fails on the files, and ValueError and OSError as in transformers.
    """
    try:
        whole = (directory / TOKENIZER).is_file()
        return _as_written(directory) if whole else _converted(directory, trust_remote_code)
    except (UserError, ValueError, OSError, MemoryError):
        raise
    except Exception as error:  # a malformed file can raise anything, even a plain Exception
        raise TokenizerError(
            f"{directory}: its tokenizer can't be loaded from {TOKENIZER}, {CONFIG} and the other files:"
            f" {type(error).__name__}: {first_line(error)}"
        ) from None


def _as_written(directory: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    try:
        written = Tokenizer.from_file(str(directory / TOKENIZER))
    except Exception as error:  # the library raises no more specific class
        raise TokenizerError(
            f"{directory / TOKENIZER}: the tokenizer can't be read: {first_line(error)}; download the file again"
        ) from None
    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory, trust_remote_code=False)
    # transformers appends tokens that are only in the configuration after the ones in tokenizer.json
    texts = sample_texts(tokenizer, lambda token: written.token_to_id(token) is not None)
    if difference := first_difference(encoder(tokenizer), plain_encoder(written), texts):
        raise TokenizerError(f"{directory / TOKENIZER}: transformers does not use it exactly: {difference}")
    _add_what_is_configured(tokenizer, written, directory / CONFIG)
    return tokenizer


def save(tokenizer: Any, directory: Path) -> None:
    """Write the tokenizer's files so that other programs produce the same ids.

    The class name makes transformers use tokenizer.json exactly. If llama.cpp's converter needs a SentencePiece model,
    one with the pieces and merge order from tokenizer.json is also written.
    """
    tokenizer.save_pretrained(directory)
    path = directory / CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    config["tokenizer_class"] = LABEL
    config.pop("auto_map", None)  # code that would rebuild the tokenizer
    # llama.cpp's defaults for these depend on the vocabulary type; transformers 5 reads the post-processor
    plain, whole = encoder(tokenizer)("x"), encoder(tokenizer, special=True)("x")
    config["add_bos_token"] = whole != plain and whole[:1] == [tokenizer.bos_token_id]
    config["add_eos_token"] = whole != plain and whole[-1:] == [tokenizer.eos_token_id]
    # llama.cpp's converter reads the special tokens of a SentencePiece vocabulary from here
    added = {str(i): token.__getstate__() for i, token in sorted(tokenizer.added_tokens_decoder.items())}
    config["added_tokens_decoder"] = added
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    write_spm(json.loads((directory / TOKENIZER).read_text(encoding="utf-8")), directory / SPM)


def space_prefix(tokenizer: Any, opens_special: bool) -> bool | None:
    """Return whether llama.cpp must prepend a space to texts, as this tokenizer does; None if not applicable.

    llama.cpp prepends a space to every text after a special token, or never. A tokenizer that prepends one only at the
    very start matches the former for texts without special tokens, the latter for texts that start with one.
    """
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    if not is_spm(backend):
        return None
    parts = steps_of(backend["normalizer"], "normalizers") + steps_of(backend["pre_tokenizer"], "pretokenizers")
    schemes = {part.get("prepend_scheme", "always") for part in parts if part["type"] == "Metaspace"}
    if any(part["type"] == "Prepend" for part in parts) or "always" in schemes:
        return True
    return "first" in schemes and not opens_special


def set_space_prefix(tokenizer: Any, value: bool) -> None:
    """Make `save` write add_prefix_space, which llama.cpp's converter copies into the GGUF."""
    set_saved_option(tokenizer, "add_prefix_space", value)


def _add_what_is_configured(tokenizer: Any, written: Tokenizer, path: Path) -> None:
    """Add BOS and EOS to plain texts if the configuration requests them and tokenizer.json does not specify this.

    This is the case in DeepSeek's files; llama.cpp's converter and transformers 4 do the same. A template
    post-processor already specifies the tokens.
    """
    if not path.is_file() or "TemplateProcessing" in str(written.post_processor):
        return
    config = json.loads(path.read_text(encoding="utf-8"))
    for name in ("bos", "eos"):
        if config.get(f"add_{name}_token") is True and getattr(tokenizer, f"{name}_token"):
            add_token(tokenizer, name)


def _converted(directory: Path, trust_remote_code: bool) -> Any:
    """Convert a tokenizer without tokenizer.json, and compare the result with the original."""
    from transformers import AutoTokenizer

    try:
        made = AutoTokenizer.from_pretrained(directory, trust_remote_code=trust_remote_code)
    except (ValueError, OSError, ImportError) as error:
        if "trust_remote_code" in str(error):
            raise
        raise TokenizerError(
            f"{directory} has no {TOKENIZER}, and transformers can't make a tokenizer from its other files"
            f" ({first_line(error).rstrip(': ')}): add the model's own {TOKENIZER}"
        ) from None
    original: Callable[[str], list[int]] | None = _sentencepiece(directory)
    if not made.is_fast:
        original = original or encoder(made)
        made = _wrapped(made, directory)
    tokenizer = _saved_and_loaded(made)
    difference = first_difference(encoder(tokenizer), original, SAMPLE_TEXTS) if original else ""
    if difference and space_prefix(tokenizer, opens_special=False):
        _prepend_always(made)
        tokenizer = _saved_and_loaded(made)
        difference = first_difference(encoder(tokenizer), original or encoder(made), SAMPLE_TEXTS)
    if difference:
        raise TokenizerError(
            f"{directory} has no {TOKENIZER}, and the one that transformers makes gives different ids:"
            f" {difference}; add the model's own {TOKENIZER}"
        )
    return tokenizer


def _saved_and_loaded(tokenizer: Any) -> Any:
    with tempfile.TemporaryDirectory() as name:
        save(tokenizer, Path(name))
        return load(Path(name))


def _prepend_always(tokenizer: Any) -> None:
    """Prepend a space to texts like SentencePiece and llama.cpp, even to texts that start with a space.

    The Metaspace pre-tokenizer created by transformers 5 leaves such texts unchanged.
    """
    backend = tokenizer.backend_tokenizer
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)])
    backend.pre_tokenizer = None


def _wrapped(slow: Any, directory: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    try:
        made = convert_slow(slow)
    except Exception as error:  # converting an unknown class can raise anything
        reason = first_line(error, type(error).__name__)
        raise TokenizerError(
            f"{directory}: its tokenizer exists only as Python code ({type(slow).__name__}), which other programs can't"
            f" load, and it can't be converted ({reason}): add a {TOKENIZER} with the same vocabulary"
        ) from None
    named = {name: value for name, value in slow.special_tokens_map.items() if isinstance(value, str)}
    return PreTrainedTokenizerFast(tokenizer_object=made, chat_template=slow.chat_template, **named)


def _sentencepiece(directory: Path) -> Callable[[str], list[int]] | None:
    """Return the text -> ids function for the directory's SentencePiece model, or None if there is no such model."""
    path = directory / SPM
    if not path.is_file():
        return None
    from sentencepiece import SentencePieceProcessor

    try:
        processor = SentencePieceProcessor(model_file=str(path))
    except RuntimeError:
        return None
    return lambda text: list(processor.encode(text))
