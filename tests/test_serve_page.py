"""Serving the chat page: self-contained, with a strict content policy, without a key. Needs no browser."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from serve.http.routes.web import TYPES, WEB
from tests.support.echo_server import echoing

FILES = sorted(path.relative_to(WEB).as_posix() for path in WEB.rglob("*") if path.is_file())
OWN = [name for name in FILES if not name.startswith("vendor/")]
# the file in the package markdown-it 15.0.3; see vendor/LICENSE.txt
VENDORED = "d5432491790141da046b1197353705db03264f40b5727f3b4b591f5aba193e30"


OUTSIDE = [
    "web",
    "web/",
    "web/vendor",
    "web/none.js",
    "web/../http/app.py",
    "web/%2e%2e/http/app.py",
    "web/..%2fapp.py",
]
GUARDED = ["web/../v1/models", "web/%2e%2e/v1/models", "webs", "v1/models", "version"]


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    """A client without a key, for a server that requires one."""
    with echoing(keys=["secret"]) as server, httpx.Client(base_url=server.url) as client:
        yield client


def get(client: httpx.Client, path: str) -> httpx.Response:
    """Request a path unchanged; httpx would resolve the dots."""
    request = client.build_request("GET", "/")
    request.url = request.url.copy_with(raw_path=f"/{path}".encode())
    return client.send(request)


@pytest.mark.parametrize("path", ["", "favicon.ico", *(f"web/{name}" for name in FILES)])
def test_page_files_are_served_without_a_key_with_type_and_csp(client: httpx.Client, path: str) -> None:
    reply = get(client, path)
    suffix = {"": ".html", "favicon.ico": ".svg"}.get(path, Path(path).suffix)
    assert reply.status_code == 200 and reply.content
    assert reply.headers["content-type"] == TYPES[suffix]
    assert reply.headers["x-content-type-options"] == "nosniff"
    policy = dict(rule.split(" ", 1) for rule in reply.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'" and policy["require-trusted-types-for"] == "'script'"
    assert {policy[f"{kind}-src"] for kind in ("script", "style", "img", "connect")} == {"'self'"}


def test_cached_file_gets_304(client: httpx.Client) -> None:
    first = get(client, "")
    again = client.get("/", headers={"If-None-Match": first.headers["etag"]})
    assert first.headers["cache-control"] == "no-cache"
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", OUTSIDE)
def test_only_page_files_are_served(client: httpx.Client, path: str) -> None:
    assert get(client, path).status_code in (401, 404)


@pytest.mark.parametrize("path", GUARDED)
def test_page_paths_do_not_expose_other_routes(client: httpx.Client, path: str) -> None:
    assert get(client, path).status_code in (401, 404)


@pytest.mark.parametrize("name", OWN)
def test_page_files_reference_no_other_server(name: str) -> None:
    text = (WEB / name).read_text(encoding="utf-8")
    found = set(re.findall(r"\bhttps?://\w[^\s\"'`)]*|[\"'(]//\w[^\s\"'`)]*", text))
    assert found <= {"http://www.w3.org/2000/svg"}  # a name, not an address


def test_every_resource_of_the_page_exists() -> None:
    html = (WEB / "index.html").read_text(encoding="utf-8")
    loaded = set(re.findall(r'(?:src|href)="web/([^"]+)"', html))
    assert loaded == set(re.findall(r'(?:src|href)="([^"]+)"', html.replace("web/", "")))
    for script in WEB.glob("*.js"):
        loaded |= set(re.findall(r'from "\./([^"]+)"', script.read_text(encoding="utf-8")))
    assert loaded | {"index.html", "vendor/LICENSE.txt"} == set(FILES)


@pytest.mark.parametrize("name", [name for name in OWN if name.endswith((".js", ".html"))])
def test_page_never_parses_text_as_html_or_code(name: str) -> None:
    text = (WEB / name).read_text(encoding="utf-8")
    sinks = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|new Function|srcdoc|\bon\w+=|style="
    )
    assert not re.search(sinks, text)


def test_vendored_markdown_parser_equals_the_npm_package() -> None:
    found = hashlib.sha256((WEB / "vendor" / "markdown-it.js").read_bytes()).hexdigest()
    assert found == VENDORED and VENDORED in (WEB / "vendor" / "LICENSE.txt").read_text(encoding="utf-8")


def test_echo_server_returns_the_last_message() -> None:
    """If no browser is installed, no other test covers this."""
    body = {"model": "default", "messages": [{"role": "user", "content": text} for text in ("first", "last")]}
    with echoing() as server:
        reply = httpx.post(f"{server.url}v1/chat/completions", json=body)
    assert (reply.status_code, reply.json()["choices"][0]["message"]["content"]) == (200, "last")
