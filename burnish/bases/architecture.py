"""Check from config.json alone that transformers supports a checkpoint as a causal language model."""

from __future__ import annotations

import re
from importlib.metadata import version
from typing import Any

from ..private.transformers import knows_architecture

# architecture names in config.json whose models do not generate text
OTHER_TASKS = re.compile(
    r"For(MaskedLM|PreTraining|SequenceClassification|TokenClassification|QuestionAnswering|MultipleChoice"
    r"|NextSentencePrediction|ImageClassification|SpeechSeq2Seq|CTC)$|EncoderModel$"
)


def fault(config: dict[str, Any]) -> str:
    """Return why a checkpoint can't be trained as a causal language model; "" if no reason is known."""
    named = config.get("architectures")
    name = str(named[0]) if isinstance(named, list) and named else str(config.get("model_type") or "it")
    if config.get("is_encoder_decoder") is True:
        return f"{name} (config.json) is an encoder-decoder model: only causal language models can be trained"
    if OTHER_TASKS.search(name):
        return f"{name} (config.json) is not a causal language model: only those can be trained"
    kind = config.get("model_type")
    if config.get("auto_map") or kind is None:
        return ""  # the model's own code decides
    if knows_architecture(str(kind)):
        return ""
    return f"transformers {version('transformers')} does not know the architecture '{kind}' (model_type in config.json)"
