"""The settings of serve, from the environment (BURNISH_SERVE_...), YAML or command line, with safe defaults.

`ModelSettings` are those of every command that loads a model.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from burnish.config import Strict

Port = Annotated[int, Field(ge=0, le=65535)]
Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text.strip()))
    except ValueError:
        raise ValueError("expected an IP address or a network, such as 10.0.0.2 or 10.0.0.0/24") from None


Proxy = Annotated[str, AfterValidator(_network)]


class ModelSettings(Strict):
    """Model settings of every command that generates answers."""

    runs: str = Field("runs", description="directory of the runs")
    run: str | None = Field(None, description="run (id or path); if unset, the newest exported run")
    artifact: str | None = Field(
        None, description="GGUF file in the run, by quantization (Q8_0); if unset, the default in export.json"
    )
    model: str | None = Field(None, description=".gguf file or hf://owner/name[@revision], instead of a run")
    allow_unproven: bool = Field(False, description="load an artifact that did not pass its exam")
    special_tokens: Literal["auto", "text", "parse", "error"] = Field(
        "auto",
        description="how to treat the model's special strings in messages: text, parse (control tokens) or error"
        " (400); auto: as in training, or text without a run",
    )
    verify: bool = Field(True, description="check the model file against the record's sha256 before loading")

    context_length: Positive | None = Field(
        None, description="maximum tokens of prompt and completion together; if unset, the model's context length"
    )
    max_sequences: Annotated[int, Field(ge=1, le=128)] | None = Field(
        None, description="maximum number of concurrent sequences; if unset, chosen from memory and CPUs"
    )
    cells: Positive | None = Field(
        None, description="total size of the KV cache in tokens; if unset, chosen from memory"
    )
    layout: Literal["auto", "separate", "unified"] = Field(
        "auto", description="KV cache layout: separate cells per sequence, or one unified pool"
    )
    prefix_cache: bool = Field(True, description="reuse cached prefixes of prompts")
    step_tokens: Annotated[int, Field(ge=16)] = Field(512, description="maximum tokens decoded in one step")
    prompt_chunk: Positive = Field(256, description="maximum prompt tokens per step while other sequences generate")
    threads: Positive | None = Field(
        None,
        description="threads for decoding; if unset, the available physical cores, fewer while other processes use"
        " them",
    )
    mmap: bool = Field(
        True, description="memory-map the model file; false reads it into memory, where later changes can't affect it"
    )
    n_gpu_layers: int = Field(-1, description="number of layers to offload to the GPU, -1 for all")
    amx: Literal["auto", "on", "off"] = Field(
        "auto",
        description="use AMX on CPUs that have it; auto tests a quantized file in a child process first, on skips"
        " the test, off disables AMX",
    )
    template_timeout_s: Annotated[float, Field(gt=0, le=60)] = Field(
        5.0, description="timeout in seconds for rendering and tokenizing a request"
    )


class ServeSettings(ModelSettings):
    """Settings of `python -m serve`."""

    served_model_name: str | None = Field(None, description="model name for clients; 'default' always works as well")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: Port = Field(8000, description="port to listen on; 0 picks a free one")
    allow_remote: bool = Field(False, description="allow listening beyond loopback without an API key")
    published_on: str | None = Field(
        None,
        description="in a container, the host address on which the port is published; beyond loopback, API keys are"
        " required, as for host",
    )
    api_keys: list[str] = Field(
        [], description="keys that clients must send as 'Authorization: Bearer KEY'; if empty, no key is required"
    )
    api_keys_file: str | None = Field(None, description="file with one API key per line, in addition to api_keys")
    allowed_hosts: list[str] = Field([], description="additional host names accepted in the Host header, '*' for any")
    cors_origins: list[str] = Field([], description="web origins that may call the API from a browser, '*' for any")
    forwarded_allow_ips: list[Proxy] = Field(
        [],
        description="addresses or networks of proxies whose X-Forwarded-For is trusted; wrong keys then count"
        " against the forwarded address",
    )
    max_body_bytes: Positive = Field(1 << 20, description="maximum size of a request body")
    max_header_bytes: Annotated[int, Field(ge=1024)] = Field(
        32_768, description="maximum size of the request line and headers together; larger ones get 431"
    )
    max_headers: Positive = Field(100, description="maximum number of headers in a request; more get 431")
    max_connections: Positive = Field(
        1000,
        description="maximum open connections; beyond it, the longest idle one is closed; if none is idle, a new one"
        " gets"
        " 503",
    )
    header_timeout_s: Seconds = Field(10.0, description="seconds to receive a request's headers")
    body_timeout_s: Seconds = Field(
        60.0, description="seconds to receive a request's body; slower ones, and those below 4 KiB/s, get 408"
    )
    idle_timeout_s: Seconds = Field(30.0, description="seconds that a connection stays open between requests")
    send_timeout_s: Seconds = Field(
        60.0, description="seconds that a client may stop reading its response before the connection is closed"
    )
    max_wrong_keys: Positive = Field(
        20, description="maximum wrong API keys per address and minute; more get 429 until the minute is over"
    )
    max_messages: Positive = Field(2048, description="maximum messages in a chat request")
    max_stops: Positive = Field(32, description="maximum stop strings in a request")
    max_choices: Positive = Field(16, description="maximum choices in a request (n, over all prompts)")
    max_requests_per_key: Positive | None = Field(
        None, description="maximum open requests per API key; if unset, no limit"
    )
    max_waiting: Annotated[int, Field(ge=0)] = Field(128, description="maximum waiting sequences; more get 429")
    request_timeout_s: Seconds = Field(
        600.0, description="time limit of a request in seconds, including its time in the queue"
    )
    drain_timeout_s: Seconds = Field(30.0, description="seconds that running requests may take to finish after SIGTERM")
    keep_alive_s: Seconds = Field(15.0, description="seconds without output after which a stream gets an SSE comment")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="minimum level of log lines")
