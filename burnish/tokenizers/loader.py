"""The one tokenizer loader of train, export and the tools: tokenizer.json as it is written, whatever class is named.

transformers rebuilds a tokenizer from the class that tokenizer_config.json names, and a byte-level vocabulary under the
label LlamaTokenizer(Fast) loses its spaces that way. Here tokenizer.json alone decides, and what is saved loads to the
same ids through transformers' AutoTokenizer (vLLM's way) and through llama.cpp's converter.

transformers and sentencepiece are imported where they are used: serve imports this package without them.
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
# the label that every version of transformers takes to mean "tokenizer.json as it is written"
LABEL = "PreTrainedTokenizerFast"


class TokenizerError(UserError):
    """A tokenizer that can't be used as its files say, or that does not load to the same ids once saved."""


def load(directory: Path, trust_remote_code: bool = False) -> Any:
    """Return the directory's tokenizer, a PreTrainedTokenizerFast around tokenizer.json as it is written.

    Special tokens, chat template and add_bos_token come from the files beside it. One that exists only as Python code,
    as a SentencePiece model or as vocab.json is converted, and compared with what it was. Raises TokenizerError where
    the ids are not those of the files, or where tokenizers or transformers stumbles over them; ValueError and OSError
    as transformers does.
    """
    try:
        whole = (directory / TOKENIZER).is_file()
        return _as_written(directory) if whole else _converted(directory, trust_remote_code)
    except (UserError, ValueError, OSError, MemoryError):
        raise
    except Exception as error:  # what a malformed file raises is anything, down to a plain Exception
        raise TokenizerError(
            f"{directory}: its tokenizer can't be made of {TOKENIZER}, {CONFIG} and the files beside them:"
            f" {type(error).__name__}: {first_line(error)}"
        ) from None


def _as_written(directory: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    try:
        written = Tokenizer.from_file(str(directory / TOKENIZER))
    except Exception as error:  # the library raises no other class
        raise TokenizerError(
            f"{directory / TOKENIZER}: the tokenizer can't be read: {first_line(error)}; fetch the file again"
        ) from None
    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory, trust_remote_code=False)
    # a token that only the configuration knows is added by transformers, behind those of tokenizer.json
    texts = sample_texts(tokenizer, lambda token: written.token_to_id(token) is not None)
    if difference := first_difference(encoder(tokenizer), plain_encoder(written), texts):
        raise TokenizerError(f"{directory / TOKENIZER}: transformers does not use it as it is written: {difference}")
    _add_what_is_configured(tokenizer, written, directory / CONFIG)
    return tokenizer


def save(tokenizer: Any, directory: Path) -> None:
    """Write the tokenizer's files, so that other programs load the same ids from them.

    The label is one that makes transformers use tokenizer.json as it is written. Where llama.cpp's converter wants a
    SentencePiece model, one with tokenizer.json's own pieces and merge order is written beside it.
    """
    tokenizer.save_pretrained(directory)
    path = directory / CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    config["tokenizer_class"] = LABEL
    config.pop("auto_map", None)  # code that would make the tokenizer again
    # llama.cpp has its own defaults for these two, by the kind of vocabulary; transformers 5 reads the post-processor
    plain, whole = encoder(tokenizer)("x"), encoder(tokenizer, special=True)("x")
    config["add_bos_token"] = whole != plain and whole[:1] == [tokenizer.bos_token_id]
    config["add_eos_token"] = whole != plain and whole[-1:] == [tokenizer.eos_token_id]
    # llama.cpp's converter reads here which tokens of a SentencePiece vocabulary are special
    added = {str(i): token.__getstate__() for i, token in sorted(tokenizer.added_tokens_decoder.items())}
    config["added_tokens_decoder"] = added
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    write_spm(json.loads((directory / TOKENIZER).read_text(encoding="utf-8")), directory / SPM)


def space_prefix(tokenizer: Any, opens_special: bool) -> bool | None:
    """Whether llama.cpp must put a blank before a text as this tokenizer does; None where its kind has no such switch.

    llama.cpp puts it before every text that follows a special token, or nowhere. A tokenizer that puts it only at the
    very start is the first of these for texts that hold no special token, the second where they open with one.
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
    """Have `save` write add_prefix_space, from which llama.cpp's converter takes what it writes into a GGUF."""
    set_saved_option(tokenizer, "add_prefix_space", value)


def _add_what_is_configured(tokenizer: Any, written: Tokenizer, path: Path) -> None:
    """Put BOS and EOS round a plain text where the configuration asks for it and tokenizer.json says nothing of it.

    DeepSeek's files are such; llama.cpp's converter and transformers 4 read them so too. A post-processor with a
    template decides by itself.
    """
    if not path.is_file() or "TemplateProcessing" in str(written.post_processor):
        return
    config = json.loads(path.read_text(encoding="utf-8"))
    for name in ("bos", "eos"):
        if config.get(f"add_{name}_token") is True and getattr(tokenizer, f"{name}_token"):
            add_token(tokenizer, name)


def _converted(directory: Path, trust_remote_code: bool) -> Any:
    """Convert a tokenizer that has no tokenizer.json, and compare the result with what it was made from."""
    from transformers import AutoTokenizer

    try:
        made = AutoTokenizer.from_pretrained(directory, trust_remote_code=trust_remote_code)
    except (ValueError, OSError, ImportError) as error:
        if "trust_remote_code" in str(error):
            raise
        raise TokenizerError(
            f"{directory}: it has no {TOKENIZER}, and transformers makes no tokenizer of its other files"
            f" ({first_line(error).rstrip(': ')}): put the model's own {TOKENIZER} beside it"
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
            f"{directory}: it has no {TOKENIZER}, and the one that transformers makes of its files gives other ids:"
            f" {difference}; put the model's own {TOKENIZER} beside it"
        )
    return tokenizer


def _saved_and_loaded(tokenizer: Any) -> Any:
    with tempfile.TemporaryDirectory() as name:
        save(tokenizer, Path(name))
        return load(Path(name))


def _prepend_always(tokenizer: Any) -> None:
    """Put a blank before a text as SentencePiece and llama.cpp do: also before one that begins with a blank.

    The Metaspace that transformers 5 makes leaves such a text as it is.
    """
    backend = tokenizer.backend_tokenizer
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)])
    backend.pre_tokenizer = None


def _wrapped(slow: Any, directory: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    try:
        made = convert_slow(slow)
    except Exception as error:  # whatever the conversion of a class that it does not know raises
        reason = first_line(error, type(error).__name__)
        raise TokenizerError(
            f"{directory}: its tokenizer exists only as Python code ({type(slow).__name__}), which other programs can't"
            f" load, and it can't be converted ({reason}): put a {TOKENIZER} of the same vocabulary beside it"
        ) from None
    named = {name: value for name, value in slow.special_tokens_map.items() if isinstance(value, str)}
    return PreTrainedTokenizerFast(tokenizer_object=made, chat_template=slow.chat_template, **named)


def _sentencepiece(directory: Path) -> Callable[[str], list[int]] | None:
    """Return the ids of the directory's SentencePiece model; None where it has none (or a tiktoken file)."""
    path = directory / SPM
    if not path.is_file():
        return None
    from sentencepiece import SentencePieceProcessor

    try:
        processor = SentencePieceProcessor(model_file=str(path))
    except RuntimeError:
        return None
    return lambda text: list(processor.encode(text))
