"""The settings of serve, by environment (BURNISH_SERVE_...), YAML or command line; every default is a safe one."""

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


class ServeSettings(Strict):
    """Settings of `python -m serve`."""

    runs: str = Field("runs", description="directory of the runs")
    run: str | None = Field(None, description="run to serve, an id or a path; the newest exported one if none")
    artefact: str | None = Field(
        None, description="GGUF of the run, by quantization (Q8_0); the record's default if none"
    )
    model: str | None = Field(None, description="instead of a run: a bare .gguf file, or hf://owner/name[@revision]")
    served_model_name: str | None = Field(
        None, description="name that clients ask for; 'default' always works beside it"
    )
    allow_unproven: bool = Field(False, description="serve a run none of whose artefacts passed its exam")
    special_tokens: Literal["auto", "text", "parse", "error"] = Field(
        "auto",
        description="special strings of the model inside messages: text, parse (control tokens), or error (400);"
        " auto: as the run was trained, text without a run",
    )
    verify: bool = Field(True, description="check the model file against the record's sha256 before loading")

    host: str = Field("127.0.0.1", description="address to listen on")
    port: Port = Field(8000, description="port to listen on; 0 picks a free one")
    allow_remote: bool = Field(False, description="listen beyond this machine although no API key is set")
    published_on: str | None = Field(
        None,
        description="in a container: the host's address on which the port is published; keys are needed beyond"
        " loopback, as for host",
    )
    api_keys: list[str] = Field(
        [], description="keys that clients must send as 'Authorization: Bearer KEY'; none: open"
    )
    api_keys_file: str | None = Field(None, description="file with one key a line; beside or instead of api_keys")
    allowed_hosts: list[str] = Field([], description="more host names that requests may name, '*' for any")
    cors_origins: list[str] = Field([], description="web origins that browsers may call from, '*' for any")
    forwarded_allow_ips: list[Proxy] = Field(
        [],
        description="addresses or networks of proxies whose X-Forwarded-For is believed: wrong keys then count"
        " against the address in it",
    )
    max_body_bytes: Positive = Field(1 << 20, description="largest request body")
    max_header_bytes: Annotated[int, Field(ge=1024)] = Field(
        32_768, description="longest request line and headers together; more gets 431"
    )
    max_headers: Positive = Field(100, description="most headers of one request; more gets 431")
    max_connections: Positive = Field(
        1000,
        description="connections open at once; beyond them the one that has waited longest for its client is closed,"
        " or a new one gets 503",
    )
    header_timeout_s: Seconds = Field(10.0, description="longest time for a request's headers")
    body_timeout_s: Seconds = Field(60.0, description="longest time for a request's body; then 408, also below 4 KiB/s")
    idle_timeout_s: Seconds = Field(30.0, description="longest time that a connection is kept open between requests")
    send_timeout_s: Seconds = Field(
        60.0, description="longest time that a client may leave its answer unread before it is cut off"
    )
    max_wrong_keys: Positive = Field(
        20, description="wrong API keys of one address in a minute; more get 429 until the minute is over"
    )
    max_messages: Positive = Field(2048, description="most messages of one chat request")
    max_stops: Positive = Field(32, description="most stop strings of one request")
    max_choices: Positive = Field(16, description="most answers (n) of one request")
    max_requests_per_key: Positive | None = Field(None, description="requests that one key may have open at once")
    max_waiting: Annotated[int, Field(ge=0)] = Field(128, description="requests that may wait; more get 429")
    request_timeout_s: Seconds = Field(600.0, description="longest time for one request, waiting included")
    template_timeout_s: Annotated[float, Field(gt=0, le=60)] = Field(
        5.0, description="longest time to render and tokenize one request"
    )
    drain_timeout_s: Seconds = Field(30.0, description="longest time for running answers after SIGTERM")
    keep_alive_s: Seconds = Field(15.0, description="pause after which a silent stream gets an SSE comment")

    context_length: Positive | None = Field(
        None, description="most tokens of prompt and answer; from the model if none"
    )
    max_sequences: Annotated[int, Field(ge=1, le=128)] | None = Field(
        None, description="answers made at once; sized from memory and processors if none"
    )
    cells: Positive | None = Field(None, description="tokens that the key/value cache holds in all; sized if none")
    layout: Literal["auto", "separate", "unified"] = Field(
        "auto", description="cache: cells of its own for each sequence, or one pool for all"
    )
    prefix_cache: bool = Field(True, description="reuse what is cached of a prompt's beginning")
    step_tokens: Annotated[int, Field(ge=16)] = Field(512, description="most tokens that one step decodes")
    prompt_chunk: Positive = Field(256, description="prompt tokens of a step while other answers are being made")
    threads: Positive | None = Field(None, description="threads; the physical cores that it may use if none")
    mmap: bool = Field(
        True, description="map the model file; false reads it into memory, so that later changes of the file do no harm"
    )
    n_gpu_layers: int = Field(-1, description="layers on the GPU where there is one, -1 for all")
    amx: Literal["auto", "on", "off"] = Field(
        "auto",
        description="CPUs with AMX: auto tests a quantized file in a child process first, on trusts it, off is never",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least serious log lines shown")
