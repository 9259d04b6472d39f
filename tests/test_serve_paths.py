"""Paths, methods, keys and origins in the forms that clients and browsers send."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.server import ServerProcess, serving

KEY = {"X-Api-Key": "secret"}
ORIGIN = "http://localhost:3000"
ASK: dict[str, Any] = {"model": "default", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with serving(cors_origins=ORIGIN, environment={"BURNISH_SERVE_API_KEYS": "secret"}) as running:
        yield running


@pytest.mark.parametrize(
    "path", ["/", "/health", "/health/live", "/health/ready", "/version", "/metrics", "/v1/models"]
)
def test_head_is_supported_wherever_get_is(server: ServerProcess, path: str) -> None:
    status, headers, body = server.call("HEAD", path, headers=KEY)
    got, plain, _ = server.call("GET", path, headers=KEY)
    assert status == got == 200 and body == b""
    assert headers["content-type"] == plain["content-type"] and int(headers["content-length"]) > 0


def test_extra_slashes_and_a_missing_v1_are_accepted(server: ServerProcess) -> None:
    for path in ("/v1/models/", "/models", "//v1/models", "/models/default", "/v1/models/default/", "/version/"):
        assert server.call("GET", path, headers=KEY)[0] == 200, path
    for path in ("/chat/completions", "/v1/chat/completions/", "//v1/chat/completions"):
        assert server.call("POST", path, ASK, KEY)[0] == 200, path
    assert server.call("POST", "/completions", {"model": "default", "prompt": "x", "max_tokens": 1}, KEY)[0] == 200


@pytest.mark.parametrize("path", ["/v1/models/", "/models", "//v1/models", "/version/", "/metrics//", "/health/x"])
def test_path_spelling_cannot_bypass_the_api_key(server: ServerProcess, path: str) -> None:
    assert server.call("GET", path)[0] == server.call("HEAD", path)[0] == 401


def test_unknown_path_error_lists_the_routes(server: ServerProcess) -> None:
    status, _, reply = server.call("POST", "/v1/chat/completion", ASK, KEY)
    assert (status, reply["error"]["code"]) == (404, "unknown_url")
    assert "POST /v1/chat/completions" in reply["error"]["message"]
    status, headers, reply = server.call("GET", "/v1/chat/completions", headers=KEY)
    assert (status, headers["allow"], reply["error"]["code"]) == (405, "POST", "method_not_supported")
    assert server.call("HEAD", "/v1/chat/completions", headers=KEY)[0] == 405


def test_health_needs_no_key_and_returns_ok(server: ServerProcess) -> None:
    assert server.call("GET", "/health")[::2] == (200, {"status": "ok"})


def test_api_key_is_accepted_in_either_header(server: ServerProcess) -> None:
    for headers in (
        KEY,
        {"Authorization": "Bearer secret"},
        {"Authorization": "bearer secret", "X-Api-Key": "other"},
        {"Authorization": "Basic dXNlcjpwYXNz", "X-Api-Key": "secret"},
    ):
        assert server.call("GET", "/v1/models", headers=headers)[0] == 200, headers
    for headers in ({}, {"X-Api-Key": "other"}, {"X-Api-Key": ""}, {"Authorization": "secret"}):
        status, _, reply = server.call("GET", "/v1/models", headers=headers)
        assert (status, reply["error"]["code"]) == (401, "invalid_api_key")
    assert "secret" not in server.output


ASKED = "authorization,content-type,x-stainless-arch,x-stainless-lang,x-stainless-os,x-stainless-retry-count,x-api-key"


def preflight(server: ServerProcess, **headers: str) -> tuple[int, dict[str, str]]:
    preflight = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": ASKED}
    given = {**preflight, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return server.call("OPTIONS", "/v1/chat/completions", headers=given)[:2]


def test_cors_preflight_allows_the_requested_headers(server: ServerProcess) -> None:
    """As a browser sends it for the official Node client: without a key, with a list of the client's headers."""
    status, headers = preflight(server)
    assert status == 200 and headers["access-control-allow-origin"] == ORIGIN
    assert set(ASKED.split(",")) <= set(headers["access-control-allow-headers"].split(","))
    assert "POST" in headers["access-control-allow-methods"] and int(headers["access-control-max-age"]) > 0
    private = preflight(server, Access_Control_Request_Private_Network="true")[1]
    assert private["access-control-allow-private-network"] == "true"


def test_cors_preflight_from_an_origin_not_allowed_is_rejected(server: ServerProcess) -> None:
    for origin in ("http://localhost:3001", "https://localhost:3000", "http://localhost:3000.evil.example", "null"):
        status, headers = preflight(server, Origin=origin)
        assert status == 403 and "access-control-allow-origin" not in headers


def test_responses_and_errors_are_readable_by_an_allowed_origin(server: ServerProcess) -> None:
    for headers, status in ((KEY, 200), ({}, 401)):
        got, found, _ = server.call("GET", "/v1/models", headers={"Origin": ORIGIN, **headers})
        assert got == status and found["access-control-allow-origin"] == ORIGIN
        assert "x-request-id" in found["access-control-expose-headers"].lower() and "Origin" in found["vary"]
    stream = server.call("POST", "/v1/chat/completions", {**ASK, "stream": True}, {"Origin": ORIGIN, **KEY})
    assert stream[0] == 200 and stream[1]["access-control-allow-origin"] == ORIGIN


def test_cors_origins_accepts_a_wildcard() -> None:
    with serving(cors_origins="*") as server:
        status, headers = preflight(server, Origin="https://anywhere.example")
        assert status == 200 and headers["access-control-allow-origin"] == "*"
        found = server.call("GET", "/v1/models", headers={"Origin": "https://anywhere.example"})[1]
        assert found["access-control-allow-origin"] == "*"


def test_host_names_used_inside_containers_are_accepted() -> None:
    with serving() as server:
        for host in ("host.docker.internal:8000", "host.containers.internal", "HOST.DOCKER.INTERNAL"):
            assert server.call("GET", "/v1/models", headers={"Host": host})[0] == 200
        for host in ("host.docker.internal.evil.example", "docker.internal", "model.example"):
            status, _, reply = server.call("GET", "/v1/models", headers={"Host": host})
            assert (status, reply["error"]["code"]) == (403, "host_not_allowed")
            assert "--allowed_hosts" in reply["error"]["message"]
