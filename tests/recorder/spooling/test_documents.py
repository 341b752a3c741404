"""What the pages tell an operator to write is read by the very code that will read it."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from recorder.spooling.config import SpoolConfig, load_config

DOCS = Path(__file__).resolve().parents[3] / "docs"


def blocks(page: str) -> list[str]:
    """Indented code of a page; a block goes on over blank lines."""
    text = (DOCS / page).read_text()
    found = re.findall(r"(?:^ {4}.*\n|^\n(?= {4}))+", text, re.MULTILINE)
    return [re.sub(r"^ {4}", "", block, flags=re.MULTILINE) for block in found]


def read(document: str, tmp_path: Path) -> SpoolConfig:
    path = tmp_path / "spool.toml"
    path.write_text(document)
    return load_config(path, {})


def test_the_configuration_of_the_manual_is_read_and_names_every_setting(tmp_path: Path) -> None:
    whole = next(block for block in blocks("spool-agent.md") if "[cdr.sql]" in block)
    before, csv, sql = re.split(r"(?=\[cdr\.(?:csv|sql)\])", whole)
    with_csv, with_sql = read(before + csv, tmp_path), read(before + sql, tmp_path)
    assert with_csv.cdr is not None
    assert with_csv.cdr.csv is not None
    assert with_sql.cdr is not None
    assert with_sql.cdr.sql is not None
    named = set(re.findall(r"^([a-z_]+) =", whole, re.MULTILINE))
    assert set(SpoolConfig.model_fields) - named <= {"complete", "sidecar", "cdr", "backoff", "metadata"}


def test_the_configurations_for_asterisk_are_read(tmp_path: Path) -> None:
    found = blocks("telephony/asterisk.md")
    sql = next(block for block in found if "[cdr.sql]" in block)
    config = read(sql, tmp_path)
    assert config.cdr is not None
    assert config.cdr.sql is not None
    csv = next(block for block in found if "[cdr.csv]" in block)
    config = read(sql.split("[cdr.sql]")[0] + csv, tmp_path)
    assert config.cdr is not None
    assert config.cdr.csv is not None
    assert config.cdr.csv.columns == "asterisk"


@pytest.fixture
def unit() -> str:
    found = re.search(r"```ini\n(.*?)```", (DOCS / "spool-agent.md").read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def test_the_unit_is_hardened_and_told_the_agent_is_ready(unit: str) -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # systemd's keys have capitals
    parser.read_string(unit)
    service = parser["Service"]
    assert service["Type"] == "notify"
    assert service["ExecStart"].startswith("/opt/tallenne/bin/recorder spool --config ")
    assert service["LoadCredential"].startswith("token:")  # the name that the agent looks for
    for key, value in {
        "NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes",
        "CapabilityBoundingSet": "", "MemoryDenyWriteExecute": "yes", "UMask": "0077", "Restart": "always",
    }.items():  # fmt: skip
        assert service[key] == value, key
    assert float(service["WatchdogSec"]) >= 30


def test_systemd_reads_the_unit(unit: str, tmp_path: Path) -> None:
    path = tmp_path / "recorder-spool.service"
    path.write_text(unit.replace("/opt/tallenne/bin/recorder", "/bin/true"))
    verify = shutil.which("systemd-analyze")
    if verify is None:
        return  # the other test has read its keys
    done = subprocess.run([verify, "verify", str(path)], capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if "recorder-spool" in line]
    assert complaints == []
