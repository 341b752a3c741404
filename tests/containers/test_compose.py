"""docker-compose.yml as a real Compose parser resolves it, and the Dockerfile; no engine is needed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.servers import report

ROOT = Path(__file__).parents[2]
SECRETS = ("POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY")


def _parser() -> list[str]:
    if (
        shutil.which("docker")
        and subprocess.run(["docker", "compose", "version"], check=False, capture_output=True).returncode == 0
    ):
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    report.missing("docker-compose", "a real parser would have resolved docker-compose.yml")
    pytest.skip("no Compose parser (Debian: apt install docker-compose)")


def _resolve(environment: dict[str, str], tmp_path: Path) -> subprocess.CompletedProcess[str]:
    values = tmp_path / "env"
    values.write_text("".join(f"{name}={value}\n" for name, value in environment.items()))
    command = [*_parser(), "-f", str(ROOT / "docker-compose.yml"), "--env-file", str(values), "config"]
    clean = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(tmp_path)}
    return subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=60, env=clean, cwd=tmp_path
    )


def _example() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text().splitlines()
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}


@pytest.fixture
def services(tmp_path: Path) -> dict[str, Any]:
    resolved = _resolve(_example() | {name: f"secret-of-{name.lower()}" for name in SECRETS}, tmp_path)
    assert resolved.returncode == 0, resolved.stderr
    return _parse_yaml(resolved.stdout)


def _parse_yaml(text: str) -> dict[str, Any]:
    """Read the parser's output with the parser's own YAML library, or as JSON where it writes that."""
    if text.lstrip().startswith("{"):
        return dict(json.loads(text)["services"])
    import yaml  # type: ignore[import-untyped]  # it comes with schemathesis, its stubs do not

    return dict(yaml.safe_load(text)["services"])


def test_the_example_names_every_secret_and_holds_none() -> None:
    example = _example()
    assert {name: example[name] for name in SECRETS} == dict.fromkeys(SECRETS, "")


@pytest.mark.parametrize("missing", SECRETS)
def test_compose_refuses_an_empty_secret(missing: str, tmp_path: Path) -> None:
    refused = _resolve(_example() | {name: "x" for name in SECRETS if name != missing}, tmp_path)
    assert refused.returncode != 0
    assert missing in refused.stderr


def test_the_services_and_their_order(services: dict[str, Any]) -> None:
    assert set(services) == {"recorder", "worker", "migrate", "postgres", "store", "store-setup"}
    for name in ("recorder", "worker"):
        assert services[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
    assert services["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    assert [services[name]["command"] for name in ("recorder", "worker", "migrate")] == [
        ["serve"],
        ["worker"],
        ["migrate"],
    ]


def test_only_the_service_is_published_and_only_on_loopback(services: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in services.items() if service.get("ports")}
    assert list(published) == ["recorder"]
    [port] = published["recorder"]
    address = port if isinstance(port, str) else f"{port.get('host_ip')}:{port['published']}:{port['target']}"
    assert address.removesuffix("/tcp") == "127.0.0.1:8080:8080"


def test_no_image_floats(services: dict[str, Any]) -> None:
    for name, service in services.items():
        tag = service["image"].rpartition(":")[2]
        assert tag != "latest", name
        assert "/" not in tag, name


def test_every_setting_named_exists(services: dict[str, Any]) -> None:
    from recorder.settings import Settings

    known = {f"RECORDER_{name.upper()}" for name in Settings.model_fields}
    dockerfile = set(re.findall(r"\b(RECORDER_[A-Z0-9_]+)=", (ROOT / "Dockerfile").read_text()))
    for name in ("recorder", "worker", "migrate"):
        named = {key for key in services[name]["environment"] if key.startswith("RECORDER_")}
        assert named | dockerfile <= known


def test_the_settings_of_the_composition_load(
    services: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from recorder.settings import load_settings

    for key, value in services["recorder"]["environment"].items():
        monkeypatch.setenv(key, value)
    settings = load_settings()
    assert settings.resolved_object_store == "s3://recordings"
    assert settings.resolved_database_url.endswith("@postgres:5432/recorder")
    assert not settings.embedded
    assert str(settings.resolved_keyring) not in {"", str(settings.data_dir)}


def test_the_image_runs_as_nobody_special_and_installs_by_hash_alone() -> None:
    text = (ROOT / "Dockerfile").read_text()
    last_stage = text[text.rindex("\nFROM ") :]
    assert re.search(r"^USER recorder$", last_stage, re.MULTILINE)
    assert "/healthz" in last_stage
    installs = [line for line in re.split(r"\n|&&", text) if "pip install" in line]
    assert installs
    assert all("--require-hashes" in line or "--no-deps" in line for line in installs)
