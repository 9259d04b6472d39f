"""The client side of .ci/containers, run outside the containers.

containers_client.py ask PORT          request an answer with the official openai client
containers_client.py stream PORT FILE  stream a long answer; FILE appears with the first chunk; print how it ended
containers_client.py hub FILE          run a model hub whose repositories are all gated; its port is written to FILE
containers_client.py compose           read `docker compose config --format json`, check every service's hardening
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any


def ask(port: str) -> None:
    """Print the answer to a question; fail if there is none."""
    from openai import OpenAI

    client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=120)
    reply = client.chat.completions.create(
        model="default", messages=[{"role": "user", "content": "Who are you?"}], temperature=0, max_tokens=16
    )
    text = reply.choices[0].message.content or ""
    assert text.strip() and reply.usage and reply.usage.completion_tokens, reply
    print(f"{text.strip()!r} ({reply.usage.completion_tokens} tokens)")


def stream(port: str, first: str) -> None:
    """Stream until the server sends [DONE]; an error event or a lost connection raises."""
    import httpx

    body = {
        "model": "default",
        "stream": True,
        "max_tokens": 4000,
        "ignore_eos": True,
        "messages": [{"role": "user", "content": "Count to a thousand."}],
    }
    pieces, last = 0, ""
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, timeout=120) as response:
        assert response.status_code == 200, response.read()
        for line in response.iter_lines():
            if line.startswith("data:"):
                pieces, last = pieces + 1, line
                Path(first).touch()
    assert last == "data: [DONE]", last
    print(f"{pieces} events, then [DONE]")


class Gated(BaseHTTPRequestHandler):
    """Replies like the hub to a request for a gated repository without a token."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


def hub(file: str) -> None:
    """Serve until killed."""
    server = HTTPServer(("0.0.0.0", 0), Gated)
    Path(file).write_text(str(server.server_port))
    server.serve_forever()


def compose() -> None:
    """Check the hardening of every service; print their names."""
    services: dict[str, dict[str, Any]] = json.load(sys.stdin)["services"]
    for name, service in services.items():
        assert not service.get("privileged") and "cap_add" not in service, name
        assert service["cap_drop"] == ["ALL"] and service["read_only"] and service["init"], name
        assert service["security_opt"] == ["no-new-privileges"] and service["pids_limit"] > 0, name
        for volume in service["volumes"]:
            assert volume["type"] == "bind" and not volume.get("bind", {}).get("create_host_path"), (name, volume)
        for port in service.get("ports", []):
            assert port["host_ip"] == "127.0.0.1", name
        if name.startswith("serve"):
            assert all(volume["read_only"] for volume in service["volumes"]) and int(service["mem_limit"]) > 0, name
        devices = service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
        assert bool(devices) == (name in ("train", "serve-cuda")), name
    print(", ".join(sorted(services)))


if __name__ == "__main__":
    {"ask": ask, "stream": stream, "hub": hub, "compose": compose}[sys.argv[1]](*sys.argv[2:])
