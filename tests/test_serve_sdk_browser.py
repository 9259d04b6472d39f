"""The official JavaScript client in Debian's Chromium, on a page with a different web origin than the server's."""

from __future__ import annotations

import functools
import http.server
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import chromium
from tests.support.external import installed
from tests.support.server import serving

pytestmark = pytest.mark.external(name="node")
CLIENT = Path(__file__).parent / "support" / "clients" / "with_browser.mjs"
PAGE = '<!doctype html><title>client</title><script type="module" src="client.js"></script>'
KEY = "a-key-for-this-test"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and logs nothing."""

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@contextmanager
def pages(directory: Path) -> Iterator[int]:
    """Serve a directory on a free port for the duration of the `with` block."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=directory)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A web server with a page that loads the client, bundled as a web application's build does; its port."""
    directory, packages = tmp_path_factory.mktemp("site"), installed("node") / "node_modules"
    bundle = [packages / ".bin" / "esbuild", CLIENT, "--bundle", "--format=esm", "--platform=browser"]
    command = [*bundle, f"--outfile={directory / 'client.js'}", "--log-level=warning"]
    done = subprocess.run(command, env={**os.environ, "NODE_PATH": str(packages)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (directory / "index.html").write_text(PAGE)
    with pages(directory) as port:
        yield port


@pytest.fixture
def browser() -> Iterator[Any]:
    """A new browser for each test, because browsers cache preflights."""
    with chromium(network=True) as running:
        yield running


class ClientPage:
    """The page with the client, and the requests that the browser sent for it."""

    def __init__(self, browser: Any, origin: str, url: str, key: str = KEY) -> None:
        self.browser, self.url, self.key = browser, url, key
        self.browser.get(f"{origin}/index.html")
        self.browser.set_script_timeout(120)

    def call(self, name: str) -> Any:
        """Call a function of the client; return its result, or its error as text."""
        code = (
            "const [name, url, key, end] = arguments;"
            "client[name](url, key).then(value => end({ value }), error => end({ error: String(error) }))"
        )
        found = self.browser.execute_async_script(code, name, self.url, self.key)
        return found.get("value", found.get("error"))

    def preflights(self) -> list[dict[str, str]]:
        """Return the headers of the preflights since the last call, with lower-case names and the key `url`."""
        events = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        sent = [e["params"]["request"] for e in events if e["method"] == "Network.requestWillBeSent"]
        found = [request for request in sent if request["method"] == "OPTIONS"]
        return [{k.lower(): v for k, v in r["headers"].items()} | {"url": r["url"]} for r in found]


def test_page_from_an_allowed_origin_can_chat(browser: Any, site: int) -> None:
    origin = f"http://localhost:{site}"
    with serving(cors_origins=origin, api_keys=KEY) as server:
        page = ClientPage(browser, origin, server.url)
        whole = page.call("whole")
        assert whole.strip()
        (asked,) = page.preflights()
        wanted = asked["access-control-request-headers"].split(",")
        assert asked["url"].endswith("/v1/chat/completions") and asked["origin"] == origin
        assert {"authorization", "content-type", "x-stainless-lang", "x-stainless-os"} <= set(wanted)
        streamed = page.call("streamed")
        assert streamed["text"] == whole and streamed["tokens"] > 0
        assert page.preflights() == []  # the first answer may be cached
        assert page.call("helper") == whole
        assert "x-stainless-helper-method" in page.preflights()[0]["access-control-request-headers"]
        assert "default" in page.call("models")
        assert page.call("requestId")  # a header that scripts may read


def test_scripts_from_an_allowed_origin_can_read_errors(browser: Any, site: int) -> None:
    origin = f"http://localhost:{site}"
    with serving(cors_origins=origin, api_keys=KEY) as server:
        page = ClientPage(browser, origin, server.url)
        assert page.call("refusal") == {"name": "NotFoundError", "status": 404, "code": "model_not_found"}
        page = ClientPage(browser, origin, server.url, key="wrong")
        refused = page.call("refusal")
        assert (refused["name"], refused["status"]) == ("AuthenticationError", 401)


def test_page_from_another_origin_reads_nothing(browser: Any, site: int) -> None:
    with serving(cors_origins="http://localhost:1") as server:
        page = ClientPage(browser, f"http://localhost:{site}", server.url)
        assert page.call("refusal")["name"] == "APIConnectionError"
        assert page.preflights()
        assert server.metric("burnish_generated_tokens_total") == 0
