"""A small fake of the Hugging Face Hub over real HTTP, with the API that huggingface_hub uses.

It implements users, repositories with commits, LFS blobs (single and multipart), gated and private repositories, and
injected errors. It supports LFS but not Xet, so `environment` sets HF_HUB_DISABLE_XET=1.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LFS_SUFFIXES = (".gguf", ".safetensors", ".bin")
MULTIPART_FROM_BYTES = 1 << 20
PART_BYTES = 1 << 19
NAME = r"(?P<repo>[^/]+/[^/]+)"
DATASET = r"(?P<repo>datasets/[^/]+/[^/]+)"  # datasets have their own names


@dataclass(frozen=True)
class File:
    """One file in a commit: its bytes, and whether it is stored as LFS."""

    content: bytes
    lfs: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def git_oid(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


@dataclass
class Repo:
    """Commits in order; each maps paths to files."""

    private: bool = False
    gated: bool = False
    hidden: bool = False  # the name is taken by a repository that nobody can see
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, File]) -> str:
        oid = hashlib.sha1(f"{len(self.commits)} {sorted(files)}".encode()).hexdigest()
        self.commits[oid] = files
        return oid

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    def find(self, revision: str) -> str | None:
        if revision in self.branches:
            return self.branches[revision]
        return self.head if revision == "main" else revision if revision in self.commits else None


@dataclass
class Fault:
    """Reply to the next `times` matching requests with `status`; -1: close the connection after `after` bytes."""

    method: str
    path: str
    status: int
    times: int
    headers: dict[str, str]
    after: int = 0


@dataclass(frozen=True)
class Request:
    """A request; `received` is the size of its body in bytes."""

    method: str
    path: str
    token: str | None
    received: int


class Hub:
    """The fake's state; `url` is the value for HF_ENDPOINT."""

    def __init__(self) -> None:
        self.tokens: dict[str, tuple[str, bool]] = {"hf_good": ("me", True), "hf_read": ("me", False)}
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.quota_bytes: int | None = None
        self.seconds_a_part = 0.0
        self.lost_answers = 0  # commits that succeed but get a 502 reply
        self._busy, self._changed = 0, threading.Condition()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": self}))
        self.server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def environment(self, home: Path, token: str | None = "hf_good") -> dict[str, str]:
        """Return the variables that point huggingface_hub here, with a separate home for cache and login."""
        names = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
        return {**names, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_TOKEN": token or ""}

    def add(self, repo: str, files: dict[str, bytes], **flags: bool) -> str:
        """Commit files to a repository, created if missing; return the commit."""
        kept = self.repos.setdefault(repo, Repo(**flags))
        before = kept.commits[kept.head] if kept.commits else {}
        return kept.commit({**before, **{k: File(v, k.endswith(LFS_SUFFIXES)) for k, v in files.items()}})

    def files(self, repo: str) -> dict[str, bytes]:
        kept = self.repos[repo]
        return {path: file.content for path, file in kept.commits[kept.head].items()}

    def fail(self, method: str, path: str, status: int, times: int = 1, after: int = 0, **headers: str) -> None:
        """Inject an error for requests whose path contains `path`."""
        self.faults.append(
            Fault(method, path, status, times, {k.replace("_", "-"): v for k, v in headers.items()}, after)
        )

    @contextmanager
    def handling(self) -> Iterator[None]:
        """Count a request as in progress for the duration of the `with` block."""
        with self._changed:
            self._busy += 1
        try:
            yield
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()

    def wait_idle(self, timeout: float = 30) -> None:
        """Wait until no request is in progress."""
        with self._changed:
            assert self._changed.wait_for(lambda: not self._busy, timeout)

    def requests_to(self, method: str, path: str) -> list[Request]:
        return [r for r in self.requests if r.method == method and path in r.path]


@contextmanager
def running() -> Iterator[Hub]:
    """Run a fake Hub for the duration of the `with` block."""
    hub = Hub()
    thread = threading.Thread(target=hub.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.server.shutdown()
        hub.server.server_close()
        thread.join()


class _Refused(Exception):
    def __init__(self, status: int, message: str, code: str = "", url: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.url = status, code, url


class _Handler(BaseHTTPRequestHandler):
    """Finds the route, checks the token and replies."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _handle(self) -> None:
        with self.hub.handling():
            self._answer()

    def _answer(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        fault = next((f for f in self.hub.faults if f.method == self.command and f.path in path and f.times > 0), None)
        if fault:
            fault.times -= 1
            if fault.status == -1:
                self.rfile.read(min(fault.after, int(self.headers.get("Content-Length") or 0)))
                self.hub.requests.append(Request(self.command, path, token, fault.after))
                self.close_connection = True
                return None
        body = self._body()
        self.hub.requests.append(Request(self.command, path, token, len(body)))
        if fault:
            return self._send(fault.status, {"error": "injected fault"}, fault.headers)
        try:
            for method, pattern, answer in ROUTES:
                found = re.fullmatch(pattern, path)
                if found and self.command in method.split():
                    return answer(self, token, body, **found.groupdict())
            raise _Refused(404, f"no route {self.command} {path}")
        except _Refused as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": str(refused)}
            content = {"error": str(refused), "url": refused.url}
            self._send(refused.status, content, {k: v for k, v in headers.items() if v})

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _send(self, status: int, content: Any = None, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    # ---- users and permissions ----------------------------------------------------------------------------------

    def _user(self, token: str | None) -> tuple[str, bool] | None:
        if token is not None and token not in self.hub.tokens:
            raise _Refused(401, "Invalid credentials in Authorization header")
        return self.hub.tokens.get(token or "")

    def _repo(self, token: str | None, name: str, write: bool = False, content: bool = False) -> Repo:
        user, repo = self._user(token), self.hub.repos.get(name)
        mine = user is not None and name.startswith(f"{user[0]}/")
        if repo is None or repo.hidden or (repo.private and not mine):
            raise _Refused(404 if user else 401, "Repository not found", "RepoNotFound")
        if write and not (mine and user and user[1]):
            raise _Refused(403, "You don't have the required permissions")
        if content and repo.gated and not mine:
            raise _Refused(403 if user else 401, f"Access to model {name} is restricted", "GatedRepo")
        return repo

    def _commit_of(self, repo: Repo, revision: str) -> str:
        if (oid := repo.find(revision)) is None:
            raise _Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return oid

    # ---- the API --------------------------------------------------------------------------------------------------

    def whoami(self, token: str | None, body: bytes) -> None:
        user = self._user(token)
        if user is None:
            raise _Refused(401, "Invalid username or password.")
        self._send(200, {"type": "user", "name": user[0], "orgs": [], "auth": {"type": "access_token"}})

    def create(self, token: str | None, body: bytes) -> None:
        payload, user = json.loads(body), self._user(token)
        name = f"{payload['organization'] or (user and user[0])}/{payload['name']}"
        if not user or not user[1] or payload["organization"] not in (None, user[0]):
            raise _Refused(
                403, f'You don\'t have the rights to create a model under the namespace "{payload["organization"]}"'
            )
        url = f"{self.hub.url}/{name}"
        if name in self.hub.repos:
            raise _Refused(409, "You already created this model repo", url=url)
        self.hub.repos[name] = Repo(private=payload.get("visibility") == "private")
        self.hub.repos[name].commit({".gitattributes": File(b"*.gguf filter=lfs\n", False)})
        self._send(200, {"url": url, "name": name})

    def info(self, token: str | None, body: bytes, repo: str, revision: str | None = None) -> None:
        kept = self._repo(token, repo)
        oid = self._commit_of(kept, revision or "main")
        files = kept.commits[oid].items()
        names = [{"rfilename": path, "size": len(file.content), "blobId": file.git_oid} for path, file in files]
        repo = repo.removeprefix("datasets/")
        self._send(200, {"id": repo, "sha": oid, "private": kept.private, "gated": kept.gated, "siblings": names})

    def check(self, token: str | None, body: bytes, repo: str, write: str | None) -> None:
        self._repo(token, repo, write=bool(write), content=True)
        self._send(200, {})

    def tree(self, token: str | None, body: bytes, repo: str, revision: str) -> None:
        kept = self._repo(token, repo)
        entries = []
        for path, file in kept.commits[self._commit_of(kept, revision)].items():
            entry = {"type": "file", "path": path, "size": len(file.content), "oid": file.git_oid}
            lfs = {"oid": file.sha256, "size": len(file.content), "pointerSize": 134}
            entries.append(entry | ({"lfs": lfs} if file.lfs else {}))
        self._send(200, entries)

    def validate(self, token: str | None, body: bytes) -> None:
        self._send(200, {"errors": [], "warnings": []})

    def preupload(self, token: str | None, body: bytes, repo: str, revision: str) -> None:
        kept = self._repo(token, repo, write=True)
        there, files = kept.commits[kept.head], []
        for file in json.loads(body)["files"]:
            lfs, old = file["path"].endswith(LFS_SUFFIXES), there.get(file["path"])
            entry = {"path": file["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
            files.append(entry | ({"oid": old.sha256 if old.lfs else old.git_oid} if old else {}))
        self._send(200, {"files": files})

    def batch(self, token: str | None, body: bytes, repo: str) -> None:
        self._repo(token, repo, write=True)
        objects = json.loads(body)["objects"]
        if self.hub.quota_bytes is not None and sum(o["size"] for o in objects) > self.hub.quota_bytes:
            raise _Refused(403, "Private repository storage limit reached")
        self._send(200, {"transfer": "basic", "objects": [o | self._actions(o["oid"], o["size"]) for o in objects]})

    def _actions(self, oid: str, size: int) -> dict[str, Any]:
        if oid in self.hub.blobs:
            return {}
        upload: dict[str, Any] = {"href": f"{self.hub.url}/lfs/{oid}"}
        if size > MULTIPART_FROM_BYTES:
            parts = {str(n + 1): f"{self.hub.url}/lfs/{oid}/{n + 1}" for n in range(-(-size // PART_BYTES))}
            upload["header"] = {"chunk_size": str(PART_BYTES), **parts}
        return {"actions": {"upload": upload, "verify": {"href": f"{self.hub.url}/lfs/{oid}/verify"}}}

    def put(self, token: str | None, body: bytes, oid: str, part: str | None = None) -> None:
        time.sleep(self.hub.seconds_a_part)
        if part is None:
            self._store(oid, body)
        else:
            self.hub.parts.setdefault(oid, {})[int(part)] = body
        self._send(200, {}, {"ETag": hashlib.md5(body).hexdigest()})

    def complete(self, token: str | None, body: bytes, oid: str) -> None:
        parts = self.hub.parts.pop(oid)
        self._store(oid, b"".join(parts[n] for n in sorted(parts)))
        self._send(200, {})

    def _store(self, oid: str, content: bytes) -> None:
        if hashlib.sha256(content).hexdigest() != oid:
            raise _Refused(400, "the content does not match the announced hash")
        self.hub.blobs[oid] = content

    def verify(self, token: str | None, body: bytes, oid: str) -> None:
        self._send(200 if oid in self.hub.blobs else 404, {})

    def commit(self, token: str | None, body: bytes, repo: str, revision: str) -> None:
        kept = self._repo(token, repo, write=True)
        lines = [json.loads(line) for line in body.splitlines()]
        files = dict(kept.commits[kept.head])
        for line in lines:
            value = line["value"]
            if line["key"] == "header" and value.get("parentCommit", kept.head) != kept.head:
                raise _Refused(412, "A commit has happened since. Please refresh and try again.")
            if line["key"] == "file":
                files[value["path"]] = File(base64.b64decode(value["content"]), False)
            elif line["key"] == "lfsFile":
                files[value["path"]] = File(self.hub.blobs[value["oid"]], True)
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        oid = kept.commit(files)
        if self.hub.lost_answers:
            self.hub.lost_answers -= 1
            raise _Refused(502, "Bad gateway")
        self._send(200, {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{repo}/commit/{oid}"})

    def resolve(self, token: str | None, body: bytes, repo: str, revision: str, path: str) -> None:
        kept = self._repo(token, repo, content=True)
        oid = self._commit_of(kept, revision)
        if (file := kept.commits[oid].get(path)) is None:
            raise _Refused(404, "Entry not found", "EntryNotFound")
        headers = {"X-Repo-Commit": oid, "ETag": f'"{file.git_oid}"'}
        if not file.lfs:
            self._send(200, file.content, headers)
            return
        self.hub.blobs[file.sha256] = file.content
        linked = {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.content))}
        # large files are on another host, which must not receive the token
        away = f"http://localhost:{self.server.server_port}/cdn/{file.sha256}"  # type: ignore[attr-defined]
        self._send(302, b"", {**headers, **linked, "Location": away})

    def cdn(self, token: str | None, body: bytes, oid: str) -> None:
        content = self.hub.blobs[oid]
        begin = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        self._send(206 if begin else 200, content[begin:], {"ETag": f'"{oid}"'})


ROUTES: tuple[tuple[str, str, Any], ...] = (
    ("GET", "/api/whoami-v2", _Handler.whoami),
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate),
    ("GET", f"/api/models/{NAME}", _Handler.info),
    ("GET", f"/api/models/{NAME}/revision/(?P<revision>.+)", _Handler.info),
    ("GET", f"/api/models/{NAME}/auth-check(?P<write>/write)?", _Handler.check),
    ("GET", f"/api/models/{NAME}/tree/(?P<revision>[^/]+)", _Handler.tree),
    ("POST", f"/api/models/{NAME}/preupload/(?P<revision>.+)", _Handler.preupload),
    ("POST", f"/api/models/{NAME}/commit/(?P<revision>.+)", _Handler.commit),
    ("POST", rf"/{NAME}\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", "/lfs/(?P<oid>[0-9a-f]{64})(?:/(?P<part>[0-9]+))?", _Handler.put),
    ("POST", "/lfs/(?P<oid>[0-9a-f]{64})/verify", _Handler.verify),
    ("POST", "/lfs/(?P<oid>[0-9a-f]{64})", _Handler.complete),
    ("GET HEAD", "/cdn/(?P<oid>[0-9a-f]{64})", _Handler.cdn),
    ("GET", f"/api/{DATASET}", _Handler.info),
    ("GET", f"/api/{DATASET}/revision/(?P<revision>.+)", _Handler.info),
    ("GET HEAD", f"/{DATASET}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
    ("GET HEAD", f"/{NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
)
