"""The program in docs/sealed-format.md reads what ours writes, and the vectors there are the tested ones."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from storage.keyrings.file import FileKeyring
from storage.keys import new_subject_key, wrap_data_key
from storage.local import LocalStore
from storage.vault import Vault

DOCUMENT = (Path(__file__).parents[2] / "docs" / "sealed-format.md").read_text(encoding="utf-8")


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    yield data


@pytest.fixture
def program() -> dict[str, Any]:
    found = re.search(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(found[1], names)
    return names


@pytest.mark.parametrize("size", [0, 10, 65_480, 200_000])
def test_the_written_program_reads_the_archive(tmp_path: Path, program: dict[str, Any], size: int) -> None:
    keyring = FileKeyring.create(tmp_path / "keyring.json", datetime(2026, 1, 1, tzinfo=UTC))
    keyring.ensure_controller("c1")
    subject = new_subject_key(keyring, "c1", "s1")
    plaintext = (bytes(range(256)) * (size // 256 + 1))[:size]
    vault = Vault(LocalStore(tmp_path), keyring)
    written = asyncio.run(vault.write(pieces(plaintext), role="original"))
    wrapped = wrap_data_key(
        keyring,
        subject,
        written.data_key,
        object_id=written.object_id,
        size=written.size,
        sha256=written.sha256,
    )

    document = json.loads((tmp_path / "keyring.json").read_bytes())
    kek = base64.b64decode(document["controllers"]["c1"]["1"]["key"])
    data_key = program["data_key"](
        kek,
        "c1",
        "s1",
        1,
        subject.wrapped,
        written.object_id.bytes,
        written.size,
        hashlib.sha256(plaintext).digest(),
        wrapped,
    )
    sealed = (tmp_path / "objects" / written.key).read_bytes()

    assert data_key == written.data_key
    assert program["open_object"](sealed, data_key, written.object_id.bytes, "original") == plaintext


def test_the_vectors_on_the_page_are_the_tested_ones() -> None:
    vectors = json.loads((Path(__file__).parent / "sealed_vectors.json").read_bytes())
    quoted = [json.loads(found) for found in re.findall(r"```json\n(.*?)```", DOCUMENT, re.DOTALL)]
    assert len(quoted) == 2
    assert all(vector in vectors for vector in quoted)
