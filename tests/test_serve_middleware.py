"""Access control: keys, origins, limits; and which runs may be served."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from burnish.errors import UserError
from burnish.files import file_sha256, text_sha256
from burnish.llama import Model
from burnish.versions import version as running
from serve.connection.wrong_keys import WrongKeys
from serve.http.auth import read_keys
from serve.http.exposure import check_exposure
from serve.settings import ServeSettings
from tests.support.commands import ROOT
from tests.support.published import FIDELITY, link_or_copy
from tests.support.server import ServerProcess, serving, small_model

SHA = "0" * 64


def test_api_key_is_required_on_every_route_except_health(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# ours\nfrom-the-file\n\n")
    environment = {"BURNISH_SERVE_API_KEYS": "from-the-environment,another"}
    with serving(environment=environment, api_keys_file=tmp_path / "keys", max_requests_per_key=1) as server:
        for key in ("from-the-file", "from-the-environment", "another"):
            assert server.call("GET", "/v1/models", headers={"Authorization": f"Bearer {key}"})[0] == 200
        for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic another"}):
            for method, path in (
                ("GET", "/v1/models"),
                ("GET", "/metrics"),
                ("GET", "/version"),
                ("POST", "/tokenize"),
            ):
                status, _, reply = server.call(method, path, headers=header)
                assert (status, reply["error"]["code"]) == (401, "invalid_api_key")
        assert server.call("GET", "/health/live")[0] == server.call("GET", "/health/ready")[0] == 200
        key_header = {"Authorization": "Bearer another"}
        body = {
            "model": "default",
            "messages": [{"role": "user", "content": "x"}],
            "max_tokens": 60,
            "ignore_eos": True,
        }
        first = threading.Thread(target=server.call, args=("POST", "/v1/chat/completions", body, key_header))
        first.start()
        time.sleep(0.3)
        status, headers, _ = server.call("GET", "/v1/models", headers=key_header)
        assert status == 429 and "retry-after" in headers
        assert server.call("GET", "/v1/models", headers={"Authorization": "Bearer from-the-file"})[0] == 200
        first.join()
        assert "another" not in server.output and "from-the-file" not in server.output


def test_wrong_keys_are_rate_limited_per_address_and_valid_keys_are_not() -> None:
    environment = {"BURNISH_SERVE_API_KEYS": "one,two"}
    with serving(environment=environment, max_wrong_keys=5) as server:

        def ask(key: str, forwarded: str | None = None) -> tuple[int, dict[str, str]]:
            headers = {"Authorization": f"Bearer {key}"} | ({"X-Forwarded-For": forwarded} if forwarded else {})
            return server.call("GET", "/v1/models", headers=headers)[:2]

        # the client's own X-Forwarded-For is not trusted
        assert [ask(f"guess {i}", f"192.0.2.{i}")[0] for i in range(8)] == [401] * 5 + [429] * 3
        status, headers = ask("guess")
        assert status == 429 and 0 < int(headers["retry-after"]) <= 60
        assert ask("one")[0] == ask("two")[0] == 200, "another client at the same address sent the wrong keys"
        assert server.call("GET", "/health/ready")[0] == 200
        assert server.call("GET", "/v1/models")[0] == 401  # a missing key does not count as a wrong one


def test_wrong_keys_count_against_the_forwarded_address_of_a_trusted_proxy() -> None:
    environment = {"BURNISH_SERVE_API_KEYS": "one"}
    with serving(environment=environment, max_wrong_keys=2, forwarded_allow_ips="127.0.0.1") as server:

        def guess(forwarded: str) -> int:
            headers = {"Authorization": "Bearer guess", "X-Forwarded-For": forwarded}
            return server.call("GET", "/v1/models", headers=headers)[0]

        for forwarded in ("192.0.2.{}, 192.0.2.1", "2001:db8::{}", "unknown-{}"):
            assert [guess(forwarded.format(i)) for i in range(3, 6)] == [401, 401, 429]
        assert guess("192.0.2.2") == 401
    with pytest.raises(ValueError, match="expected an IP address"):
        ServeSettings(forwarded_allow_ips=["proxy"])


def test_rate_limit_for_wrong_keys_expires() -> None:
    now = 0.0
    wrong = WrongKeys(2, lambda: now)
    for _ in range(2):
        assert not wrong.wait_s("192.0.2.1")
        wrong.wrong("192.0.2.1")
    assert wrong.wait_s("192.0.2.1") == wrong.wait_s("::ffff:192.0.2.1") == 60 and not wrong.wait_s("192.0.2.2")
    now = 61.0
    assert not wrong.wait_s("192.0.2.1")
    for number in range(10_000):
        wrong.wrong(f"10.0.{number // 256}.{number % 256}")
        wrong.wrong(f"fe80::1%{number}" + "x" * 1000)
    assert wrong.wait_s("192.0.2.1") == 0 and len(wrong._wrong) == 4096 and "x" not in str(wrong._wrong)


def test_unknown_hosts_and_origins_are_rejected() -> None:
    with serving(cors_origins="https://Good.example/", allowed_hosts="Model.Example:8000") as server:
        for host in ("localhost", "127.0.0.1:8000", "[::1]:8000", "model.example", "serve:8000"):
            assert server.call("GET", "/v1/models", headers={"Host": host})[0] == 200
        assert server.call("GET", "/v1/models", headers={"Host": "evil.example"})[0] == 403
        assert server.call("GET", "/v1/models", headers={"Origin": "https://evil.example"})[0] == 403
        status, headers, _ = server.call("GET", "/v1/models", headers={"Origin": "https://good.example"})
        assert status == 200 and headers["access-control-allow-origin"] == "https://good.example"
        preflight = {"Origin": "https://good.example", "Access-Control-Request-Method": "POST"}
        assert server.call("OPTIONS", "/v1/chat/completions", headers=preflight)[0] == 200
        refused = preflight | {"Access-Control-Request-Method": "DELETE"}
        assert server.call("OPTIONS", "/v1/chat/completions", headers=refused)[0] == 400
        metrics = server.call("GET", "/metrics")[2].decode()
        assert 'code="preflight_not_allowed"' in metrics and 'code=""' not in metrics
        own = f"http://127.0.0.1:{server.port}"
        assert server.call("GET", "/v1/models", headers={"Origin": own})[0] == 200


def test_listening_beyond_loopback_requires_a_key_or_allow_remote(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "192.168.1.2"):
        open_to_all = ServeSettings(host=host)
        with pytest.raises(UserError, match="allow_remote"):
            check_exposure(open_to_all, read_keys(open_to_all))
        spoken = ServeSettings(host=host, allow_remote=True)
        check_exposure(spoken, read_keys(spoken))
        keyed = ServeSettings(host=host, api_keys=["k"])
        check_exposure(keyed, read_keys(keyed))
    check_exposure(ServeSettings(), read_keys(ServeSettings()))
    for origin in ("good.example", "https://good.example/page"):
        with pytest.raises(UserError, match="not a web origin"):
            check_exposure(ServeSettings(cors_origins=[origin]), read_keys(ServeSettings()))
    # in a container, the published address decides
    for address in ("0.0.0.0", "[::]", "10.0.0.3"):
        published = ServeSettings(host="0.0.0.0", published_on=address)
        with pytest.raises(UserError, match=r"API_KEYS_FILE=FILE"):
            check_exposure(published, read_keys(published))
    for address in ("127.0.0.1", "[::1]", "localhost"):
        check_exposure(ServeSettings(host="0.0.0.0", published_on=address), read_keys(ServeSettings()))
    (tmp_path / "empty").write_text("# nothing\n")
    for file in ("empty", "missing"):
        with pytest.raises(UserError, match=file):
            read_keys(ServeSettings(api_keys_file=str(tmp_path / file)))


def make_run(root: Path, **changes: Any) -> Path:
    """Write an exported run of the small real model."""
    run = root / "runs" / "my-run"
    (run / "gguf").mkdir(parents=True)
    model = run / "gguf" / "m-Q4_1.gguf"
    link_or_copy(Path(small_model()), model)
    with Model.open(model, vocab_only=True) as opened:
        template = text_sha256(opened.chat_template or "")
    train = {
        "schema_version": 1,
        "run_id": "my-run",
        "created": "2026-01-01T00:00:00Z",
        "base": {"id": "base", "revision": None, "sha256": SHA},
        "quantization": "none",
        "load_dtype": "float32",
        "compute_dtype": "float32",
        "double_quant": False,
        "skipped_modules": [],
        "adapter": {"path": "adapter", "sha256": SHA},
        "data": {"path": "d", "sha256": SHA, "format": "f", "rows": 1, "eval_rows": 0, "over_length": 0},
        "chat_template_sha256": changes.get("template", template),
        "template_date": "2026-01-01",
        "terminators": ["<|im_end|>"],
        "max_length": 512,
        "metrics": {"train_loss": 1.0, "train_runtime_s": 1.0, "tokens_per_s": 1.0, "peak_memory_bytes": 1},
        "exam": {"path": "exam", "sha256": SHA, "rows": 1, "tokens": 1},
        "versions": {},
        "hardware": {},
    }
    (run / "train.json").write_text(json.dumps(train))
    verdict = changes.get("verdict", "pass")
    artifact = {
        "path": "gguf/m-Q4_1.gguf",
        "kind": "gguf",
        "quantization": "Q4_1",
        "bytes": model.stat().st_size,
        "sha256": changes.get("sha256", file_sha256(model)),
        "fidelity": FIDELITY,
        "verdict": verdict,
        "why": "the KL is 9",
    }
    export = {
        "schema_version": 1,
        "run_id": "my-run",
        "created": "2026-01-02T00:00:00Z",
        "train_sha256": file_sha256(run / "train.json"),
        "merge": {"base": "original", "reason": "r", "candidates": {}},
        "artefacts": [artifact],
        "default": changes.get("default", "gguf/m-Q4_1.gguf"),
        "chat_template_sha256": template,
        "stop": ["<|im_end|>", "THE END"],
        "context_length": 384,
        "gate": changes.get("gate", {}),
        "versions": {"burnish": "0.0.9"},
    }
    (run / "export.json").write_text(json.dumps(export))
    return root / "runs"


def test_run_is_served_with_the_settings_of_its_record(tmp_path: Path) -> None:
    with serving(model=None, context_length=None, runs=make_run(tmp_path)) as server:
        version = server.call("GET", "/version")[2]
        assert version["run_id"] == "my-run" and version["artifact"]["quantization"] == "Q4_1"
        assert version["context_length"] == 384
        assert [m["id"] for m in server.call("GET", "/v1/models")[2]["data"]] == ["my-run", "default"]
        reply = server.chat("What is the capital of Italy?", max_tokens=8)[2]
        assert reply["model"] == "my-run" and reply["system_fingerprint"] == "fp_" + version["artifact"]["sha256"][:12]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"default": None, "verdict": "fail"}, "none of its GGUF files passed"),
        ({"default": None, "verdict": "inconclusive"}, "none of its GGUF files passed the exam (Q4_1 (inconclusive))"),
        ({"verdict": "inconclusive"}, "default: 'gguf/m-Q4_1.gguf' is not a passing GGUF of this record"),
        ({"sha256": "1" * 64}, "changed or damaged after export"),
        ({"template": "2" * 64}, "not the one the run was trained with"),
    ],
)
def test_unproven_run_is_a_one_line_error(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    server = ServerProcess(model=None, runs=make_run(tmp_path, **changes))
    assert server.process.wait(60) == 2
    server.stop()
    assert text in server.output and server.output.count("error: ") == 1 and "Traceback" not in server.output


def test_unproven_run_is_served_with_allow_unproven_and_a_warning(tmp_path: Path) -> None:
    runs = make_run(tmp_path, default=None, verdict="fail")
    with serving(model=None, runs=runs, allow_unproven="true", served_model_name="mine") as server:
        assert "warning: " in server.output and "the KL is 9" in server.output
        assert server.call("GET", "/v1/models/mine")[0] == 200


def test_looser_thresholds_are_logged_and_reported(tmp_path: Path) -> None:
    runs = make_run(tmp_path, gate={"max_kl": 1000.0, "min_top1": 0.88})
    with serving(model=None, runs=runs) as server:
        assert "judged with looser thresholds than the defaults: max_kl 1000 (default 0.1)" in server.output
        version = server.call("GET", "/version")[2]
    assert version["gate"]["max_kl"] == 1000 and version["looser_thresholds"] == ["max_kl 1000 (default 0.1)"]
    assert version["versions"] == {"burnish": "0.0.9"} and version["version"] == running()


def test_conflicting_settings_are_named() -> None:
    for settings, text in (
        ({"context_length": 4096, "cells": 1024, "max_sequences": 4, "layout": "separate"}, "lower max_sequences"),
        ({"run": "x"}, "run and model are both set"),
        ({"max_sequences": 0}, "max_sequences"),
    ):
        server = ServerProcess(**settings)  # type: ignore[arg-type]
        assert server.process.wait(60) == 2
        server.stop()
        assert text in server.output and "Traceback" not in server.output


@pytest.mark.slow
def test_serve_runs_without_torch_and_transformers() -> None:
    program = f"""
        import sys
        class Block:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in ("torch", "transformers", "trl", "peft", "datasets", "train", "export"):
                    raise ImportError(name + " must not be needed")
        sys.meta_path.insert(0, Block())
        import threading, os, signal, time
        from serve import server
        from serve.settings import ServeSettings
        threading.Timer(4, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
        raise SystemExit(server.run(ServeSettings(model={str(small_model())!r}, port=0, context_length=256)))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "ready: " in done.stderr, done.stderr
