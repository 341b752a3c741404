"""The sign-ins' file: last, private, exactly of the documented form; a broken start goes on."""

from __future__ import annotations

import json
import stat
from datetime import date
from pathlib import Path

import pytest

from recorder.demo.accounts import FILE_NAME, DemoAccounts
from recorder.errors import ConfigurationError

DAY = date(2026, 3, 5)


def test_what_an_interrupted_start_knew_is_there_at_the_next(tmp_path: Path) -> None:
    first = DemoAccounts.open(tmp_path, DAY)
    first.accounts["quality"] = "a password"
    first.tokens["crm"] = "rec_x"
    first.sources.append({"name": "demo", "kind": "generic", "token": "rec_y"})
    first.done.add("call:demo-0001")
    first.save()
    assert not (tmp_path / FILE_NAME).exists()
    again = DemoAccounts.open(tmp_path, date(2026, 3, 9))
    assert (again.first_day, again.accounts, again.tokens, again.sources, again.done, again.complete) == (
        DAY,
        first.accounts,
        first.tokens,
        first.sources,
        first.done,
        False,
    )
    assert [stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()] == [0o600]


def test_the_finished_file_has_the_documented_form_and_stands_alone(tmp_path: Path) -> None:
    demo = DemoAccounts.open(tmp_path, DAY)
    demo.accounts["quality"] = "a password"
    demo.tokens["crm"] = "rec_x"
    demo.sources.append({"name": "demo", "kind": "generic", "token": "rec_y"})
    demo.save()
    path = demo.finish("http://127.0.0.1:8080")
    assert [entry.name for entry in tmp_path.iterdir()] == [FILE_NAME]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text()) == {
        "address": "http://127.0.0.1:8080",
        "accounts": [{"role": "quality", "username": "quality", "password": "a password"}],
        "tokens": [{"role": "crm", "token": "rec_x"}],
        "sources": [{"name": "demo", "kind": "generic", "token": "rec_y"}],
    }


def test_a_later_start_keeps_the_credentials_and_corrects_the_address(tmp_path: Path) -> None:
    demo = DemoAccounts.open(tmp_path, DAY)
    demo.accounts["quality"] = "a password"
    path = demo.finish("http://127.0.0.1:8080")
    before = path.stat().st_ino
    same = DemoAccounts.open(tmp_path, DAY)
    assert same.complete
    same.save()
    same.finish("http://127.0.0.1:8080")
    assert path.stat().st_ino == before  # not even rewritten
    same.finish("http://127.0.0.1:9090")
    document = json.loads(path.read_text())
    assert document["address"] == "http://127.0.0.1:9090"
    assert document["accounts"] == [{"role": "quality", "username": "quality", "password": "a password"}]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"accounts": 1}', '{"accounts": [{}]}', "\xff"])
def test_a_damaged_file_is_named_rather_than_overwritten(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE_NAME).write_text(content, encoding="latin-1")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        DemoAccounts.open(tmp_path, DAY)
    assert (tmp_path / FILE_NAME).read_text(encoding="latin-1") == content
