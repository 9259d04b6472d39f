"""The dialects, one file each."""

from __future__ import annotations

from collections.abc import Mapping

from ..dialect import Dialect
from .channels import CHANNELS
from .deepseek import DEEPSEEK
from .gemma import GEMMA
from .hermes import HERMES
from .llama_json import LLAMA_JSON
from .mistral import MISTRAL
from .phi import PHI
from .plain_json import PLAIN_JSON
from .pythonic import PYTHONIC
from .tagged import GLM, QWEN_XML

# dialects with markers come first: the others accept any remaining text
DIALECTS: Mapping[str, Dialect] = {
    dialect.name: dialect
    for dialect in (CHANNELS, DEEPSEEK, MISTRAL, PHI, GEMMA, HERMES, QWEN_XML, GLM, PYTHONIC, LLAMA_JSON, PLAIN_JSON)
}
