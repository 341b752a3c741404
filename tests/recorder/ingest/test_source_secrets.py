"""Secrets of sources: sealed, replaced, listed by name, never readable from the catalogue."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from recorder.access.principals import Principal
from recorder.catalogue.tables import AuditEntry, Source, SourceSecret
from recorder.errors import Forbidden, InvalidInput, NotFound
from recorder.ingest.secrets import list_secrets, remove_secret, secrets_of, set_secret
from recorder.services import Services
from tests.recorder.ingest.conftest import principal_of

OPERATOR = Principal("os", "installer", None)


async def test_secrets_are_replaced_listed_and_forgotten(services: Services, source: Source) -> None:
    await set_secret(services, OPERATOR, source.id, "auth_token", "first-value")
    await set_secret(services, OPERATOR, source.id, "auth_token", "second-value")
    await set_secret(services, OPERATOR, source.id, "basic", "SK1:s3cret")

    assert await secrets_of(services, source.id) == {"auth_token": "second-value", "basic": "SK1:s3cret"}
    assert [one.name for one in await list_secrets(services, OPERATOR, source.id)] == ["auth_token", "basic"]

    await remove_secret(services, OPERATOR, source.id, "basic")
    assert await secrets_of(services, source.id) == {"auth_token": "second-value"}
    with pytest.raises(NotFound):
        await remove_secret(services, OPERATOR, source.id, "basic")


async def test_the_catalogue_and_the_log_hold_no_value(services: Services, source: Source) -> None:
    await set_secret(services, OPERATOR, source.id, "bearer", "very-secret-bearer")
    async with services.database.snapshot() as session:
        rows = (await session.scalars(sa.select(SourceSecret))).all()
        entries = (await session.scalars(sa.select(AuditEntry.payload))).all()
    assert len(rows) == 1
    assert b"very-secret" not in rows[0].sealed
    assert any(b"source.secret_set" in entry for entry in entries)
    assert not any(b"very-secret" in entry for entry in entries)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("password", "x"),
        ("key:", "x"),
        ("key:CR1", "not a key"),
        ("trust_anchors", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        ("basic", "no-colon"),
        ("auth_token", "two\nlines"),
        ("auth_token", ""),
        ("bearer", "ä"),
        ("bearer", "x" * 70_000),
    ],
)
async def test_what_cannot_work_is_refused_at_once(
    services: Services, source: Source, name: str, value: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        await set_secret(services, OPERATOR, source.id, name, value)
    assert value == "" or len(value) < 3 or value not in caught.value.message
    assert await secrets_of(services, source.id) == {}


async def test_a_private_key_is_taken(services: Services, source: Source) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    await set_secret(services, OPERATOR, source.id, "key:CR0123", pem)
    assert (await secrets_of(services, source.id))["key:CR0123"] == pem


async def test_the_source_itself_sets_no_secrets(services: Services, source: Source) -> None:
    with pytest.raises(Forbidden):
        await set_secret(services, principal_of(source), source.id, "auth_token", "x")
    with pytest.raises(Forbidden):
        await list_secrets(services, principal_of(source), source.id)
