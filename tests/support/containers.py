"""Containers of the Dockerfile's base image, which reach the host as docs/serve-in-production.md says."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import ROOT

HOST = ("--add-host=host.docker.internal:host-gateway",)  # the option that the docs give for Linux
START_TIMEOUT_S = 300
REPLY_TIMEOUT_S = 180


def docker(*words: str, timeout: float = 120) -> str:
    """Run a docker command; return its output. Raises AssertionError if it fails."""
    done = subprocess.run(["docker", *words], capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def base_image() -> str:
    """Return the name of the base image; skip the test if there is no engine or no image."""
    found = re.search(r"^ARG BASE_IMAGE=(\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert found is not None
    try:
        docker("info", timeout=20)
    except (AssertionError, OSError, subprocess.TimeoutExpired):
        pytest.skip("no Docker engine responds")
    try:
        docker("image", "inspect", found[1])
    except AssertionError:
        try:
            docker("pull", "--quiet", found[1], timeout=600)
        except AssertionError as error:
            pytest.skip(f"the base image {found[1]} does not exist here: {error}")
    return found[1]


def setup() -> str:
    """Return one line that says how containers are run here, and by which engine; skip the test if there is none."""
    image = base_image()
    engine = docker("version", "--format", "{{.Server.Version}}")
    return f"docker run {' '.join(HOST)} {image}, the set's packages mounted; Docker {engine}"


def python_packages(environment: Path) -> Path:
    """Return a virtual environment's packages; skip the test if the base image has another version of Python."""
    version = re.search(r"python:(\d+\.\d+)", base_image())
    assert version is not None
    packages = environment / "lib" / f"python{version[1]}" / "site-packages"
    if not packages.is_dir():
        pytest.skip(f"the set was installed for another Python than {version[1]}, which the base image has")
    return packages


def bridge_address() -> str:
    """Return the host's address on Docker's default network, usually 172.17.0.1."""
    return docker("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}")


@dataclass
class Container:
    """A running container whose web application listens on `port` of this machine; keeps its cookies."""

    id: str
    port: int
    client: urllib.request.OpenerDirector = field(
        default_factory=lambda: urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    )

    def read(self, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> str:
        """Send a GET or, with a body, a POST request; return the reply. Raises HTTPError for an error status."""
        data = None if body is None else json.dumps(body).encode()
        url = f"http://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(url, data, {"Content-Type": "application/json", **(headers or {})})
        with self.client.open(request, timeout=REPLY_TIMEOUT_S) as reply:
            return str(reply.read().decode())

    def call(self, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        """Send a request; return the decoded JSON reply. Raises HTTPError for an error status."""
        return json.loads(self.read(path, body, headers))

    def wait_for(self, path: str, body: Any = None) -> Any:
        """Repeat a call until the application listens and knows the path; fail with its log if it ends."""
        end = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                return self.call(path, body)
            except urllib.error.HTTPError as error:
                assert error.code in (404, 503), self.log()
            except (OSError, ValueError):  # not listening yet, or not with JSON
                pass
            running = docker("inspect", "--format", "{{.State.Running}}", self.id) == "true"
            assert running and time.monotonic() < end, self.log()
            time.sleep(0.5)

    def log(self) -> str:
        """Return the end of what the application wrote."""
        done = subprocess.run(["docker", "logs", "--tail", "60", self.id], capture_output=True, text=True)
        return done.stdout + done.stderr


@contextmanager
def container(
    command: Sequence[str], port: int, mounts: Mapping[Path, str], environment: Mapping[str, str]
) -> Iterator[Container]:
    """Run a command of the host's packages in a container during the block; `port`: where it listens inside.

    `mounts`: the path in the container of each directory of the host, read-only.
    """
    options = [*HOST, "--publish", f"127.0.0.1::{port}", "--memory", "3g"]
    options += [f"--volume={source}:{target}:ro" for source, target in mounts.items()]
    options += [f"--env={name}={value}" for name, value in environment.items()]
    name = docker("run", "--detach", *options, base_image(), *command)
    try:
        published = docker("port", name, str(port)).splitlines()[0]
        yield Container(name, int(published.rsplit(":", 1)[1]))
    finally:
        docker("rm", "--force", "--volumes", name)
