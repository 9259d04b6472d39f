"""LangChain's standard tests of a chat model, against the server at the environment's CHAT_URL.

The tests about tools are chosen by name; a model that is forced to call a tool is not tested here.
"""

import os
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests


class TestModel(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"base_url": os.environ["CHAT_URL"], "api_key": "none", "model": "default", "max_retries": 0}

    @property
    def has_tool_choice(self) -> bool:
        return False
