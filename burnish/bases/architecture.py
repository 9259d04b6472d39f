"""Whether a checkpoint is a causal language model that transformers knows, by its config.json alone."""

from __future__ import annotations

import re
from importlib.metadata import version
from typing import Any

from ..private.transformers import knows_architecture

# of config.json's architectures: what a checkpoint was made for, where that is not to go on with a text
OTHER_TASKS = re.compile(
    r"For(MaskedLM|PreTraining|SequenceClassification|TokenClassification|QuestionAnswering|MultipleChoice"
    r"|NextSentencePrediction|ImageClassification|SpeechSeq2Seq|CTC)$|EncoderModel$"
)


def fault(config: dict[str, Any]) -> str:
    """Say why a checkpoint can't be trained as a causal language model; nothing where it can, as far as can be seen."""
    named = config.get("architectures")
    name = str(named[0]) if isinstance(named, list) and named else str(config.get("model_type") or "it")
    if config.get("is_encoder_decoder") is True:
        return f"{name} has an encoder and a decoder (config.json): only causal language models are trained here"
    if OTHER_TASKS.search(name):
        return f"{name} (config.json) is not a causal language model, and only these are trained here"
    kind = config.get("model_type")
    if config.get("auto_map") or kind is None:
        return ""  # its own code decides
    if knows_architecture(str(kind)):
        return ""
    return f"transformers {version('transformers')} does not know the architecture '{kind}' (model_type in config.json)"
