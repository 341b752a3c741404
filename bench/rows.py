"""A large estate of recordings, made inside the database: a million rows in seconds, none with audio."""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import Mapping
from contextlib import closing
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa

from recorder.catalogue.database import Database

CALLS_PER_CUSTOMER: Final = 5
YEARS: Final = 9
_DAY: Final = 86400

_SUBJECTS = """
INSERT INTO subjects (id, controller_id, kind, wrapped_key, epoch, rekey_needed, created_at)
SELECT {id_s}, :controller, 'customer', NULL, 1, {false}, :now FROM {numbers_c}
"""
_CUSTOMERS = """
INSERT INTO customers (id, controller_id, subject_id, last_contact_at, created_at, updated_at)
SELECT {id_c}, :controller, {id_s}, {contact}, :now, :now FROM {numbers_c}
"""
_CALLS = """
INSERT INTO calls (id, controller_id, source_id, identity, started_at, created_at)
SELECT {id_r}, :controller, :source, {identity}, {started}, :now FROM {numbers_r}
"""
_RECORDINGS = """
INSERT INTO recordings (id, controller_id, source_id, call_id, identity, subject_id, customer_id, state,
    reasons, held, restricted, started_at, ended_at, received_at, duration_ms, direction, queue, agents, tags,
    service_events, lawful_basis, muted, channels, media, sha256, size, sealed, card_data_removed)
SELECT {id_r}, :controller, :source, {id_r}, {identity}, {id_sr}, {id_cr}, 'stored', '[]',
    {false}, {false}, {started}, NULL, :now, 5000 + (i * 7919) % 600000,
    CASE WHEN i % 10 < 7 THEN 'inbound' ELSE 'outbound' END,
    CASE WHEN i % 4 = 0 THEN 'sales' WHEN i % 4 = 1 THEN 'support' WHEN i % 4 = 2 THEN 'claims' END,
    '["a7"]', CASE WHEN i % 50 = 0 THEN {vip} ELSE {none} END,
    CASE WHEN i % 25 = 0 THEN {payment} ELSE {none} END,
    'customer_relationship', '[]', '[]', {media}, {identity}, 16 * (5000 + (i * 7919) % 600000),
    {sealed}, {false}
FROM {numbers_r}
"""
_LINKS = """
INSERT INTO recording_links (recording_id, customer_id, role, matched_by, created_at)
SELECT {id_r}, {id_cr}, 'principal', 'number', :now FROM {numbers_r}
"""
_AGENTS = """
INSERT INTO recording_agents (recording_id, agent, controller_id)
SELECT {id_r}, 'a7', :controller FROM {numbers_r}
"""
_TAGS = (
    "INSERT INTO recording_tags (recording_id, tag) SELECT {id_r}, 'vip' FROM {numbers_r} WHERE i % 50 = 0"
)
_CONTACTS = """
INSERT INTO contacts (id, customer_id, kind, at, recording_id, sealed, recorded_at)
SELECT {id_co}, {id_cr}, 'call', {started}, {id_r}, NULL, :now FROM {numbers_r}
"""
_OBJECTS = """
INSERT INTO objects (id, recording_id, role, key, version_id, subject_id, wrapped_key, size, sealed_size,
    sha256, content_type, held_in_store, header, created_at)
SELECT {id_o}, {id_r}, 'original', CAST({id_o} AS TEXT), NULL, {id_sr}, {key},
    16 * (5000 + (i * 7919) % 600000), 16 * (5000 + (i * 7919) % 600000) + 4096,
    {identity}, 'audio/wav', {false}, {header}, :now
FROM {numbers_r}
"""
# What happens around recordings: objections of every fiftieth customer, a hold on one call in a hundred.
_CHOICES = """
INSERT INTO choices (id, customer_id, kind, purposes, effective_at, source, recorded_at, actor)
SELECT {id_ch}, {id_c}, 'objection', '[]', :now, 'call', :now, 'os\\:bench' FROM {numbers_c} WHERE i % 50 = 0
"""
_MATTERS = """
INSERT INTO matters (id, controller_id, reference, ground, review_on, opened_at)
SELECT {id_m}, :controller, 'bench', 'legal_claims', :now, :now FROM {numbers_c} WHERE i = 1
"""
_HOLDS = """
INSERT INTO holds (id, matter_id, controller_id, query, placed_at, placed_by)
SELECT {id_m}, {id_m}, :controller, {query}, :now, 'os\\:bench' FROM {numbers_c} WHERE i = 1
"""
_ALL = (
    _SUBJECTS,
    _CUSTOMERS,
    _CALLS,
    _RECORDINGS,
    _LINKS,
    _AGENTS,
    _TAGS,
    _CONTACTS,
    _OBJECTS,
    _CHOICES,
    _MATTERS,
    _HOLDS,
)


async def fill(
    database: Database, controller_id: uuid.UUID, source_id: uuid.UUID, count: int, now: datetime
) -> None:
    """Make so many recordings of a fifth as many customers, over nine years, as the service writes them."""
    forms = _sqlite(count) if database.sqlite else _postgres(count)
    first = now - timedelta(days=365 * YEARS)
    values = {
        "controller": controller_id.hex if database.sqlite else controller_id,
        "source": source_id.hex if database.sqlite else source_id,
        "now": now.replace(tzinfo=None).isoformat(" ", "microseconds") if database.sqlite else now,
        "first": int(first.timestamp()),
        "span": 365 * YEARS * _DAY,
    }
    statements = [text.format(**forms) for text in _ALL]
    if database.sqlite:
        await asyncio.to_thread(_fill_file, str(database.url.database), statements, values)
        return
    async with database.engine.begin() as connection:
        # No look-up of each foreign key: they are right by construction.
        await connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        for statement in statements:
            await connection.execute(sa.text(statement), values)
        await connection.exec_driver_sql("ANALYZE")


def _fill_file(path: str, statements: list[str], values: Mapping[str, object]) -> None:
    """Without the service's care for durability: making the rows is not what is measured."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for pragma in ("foreign_keys=OFF", "synchronous=OFF", "cache_size=-1000000", "secure_delete=OFF"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN")
        for statement in statements:
            connection.execute(statement.replace("\\:", ":"), values)
        connection.execute("COMMIT")
        connection.execute("ANALYZE")


# A step that is coprime to the span scatters the moments; ids are scattered as random ones are.
_MOMENT = "CAST(:first AS BIGINT) + ({number} * CAST(100003 AS BIGINT)) % CAST(:span AS BIGINT)"


def _sqlite(count: int) -> dict[str, str]:
    def ident(number: str, kind: int) -> str:
        return f"printf('%08x%016x%08x', (({number}) * 2654435761 + {kind}) % 4294967296, ({number}), {kind})"

    def moment(number: str) -> str:
        return f"strftime('%Y-%m-%d %H:%M:%f000', {_MOMENT.format(number=number)}, 'unixepoch')"

    customers = count // CALLS_PER_CUSTOMER + 1

    def numbers(upto: int) -> str:
        counted = f"SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {upto}"
        return f"(WITH RECURSIVE n(i) AS ({counted}) SELECT i FROM n)"

    owner = f"1 + (i * 7) % {customers}"
    return {
        "id_s": ident("i", 1),
        "id_c": ident("i", 2),
        "id_r": ident("i", 3),
        "id_sr": ident(owner, 1),
        "id_cr": ident(owner, 2),
        "id_o": ident("i", 5),
        "id_ch": ident("i", 6),
        "id_m": ident("i", 7),
        "id_co": ident("i", 8),
        "key": "zeroblob(60)",
        "header": "zeroblob(40)",
        "sealed": "zeroblob(250)",
        "query": """'{"tag": ["vip"], "queue": ["claims"]}'""".replace(":", r"\:"),
        "identity": f"CAST({ident('i', 4)} AS BLOB)",
        "contact": moment("(i * 31)"),
        "started": moment("i"),
        "numbers_c": numbers(customers),
        "numbers_r": numbers(count),
        "false": "0",
        "none": "'[]'",
        "vip": """'["vip"]'""",
        "payment": """'["payment"]'""",
        "media": """'{"codec": "pcm_s16le"}'""".replace(":", r"\:"),
    }


def _postgres(count: int) -> dict[str, str]:
    def ident(number: str, kind: int) -> str:
        scattered = f"to_hex((({number})\\:\\:bigint * 2654435761 + {kind}) % 4294967296)"
        return (
            f"(lpad({scattered}, 8, '0') || lpad(to_hex(({number})\\:\\:bigint), 16, '0') "
            f"|| lpad(to_hex({kind}), 8, '0'))"
        )

    def moment(number: str) -> str:
        return f"to_timestamp({_MOMENT.format(number=number)})"

    customers = count // CALLS_PER_CUSTOMER + 1
    owner = f"1 + (i\\:\\:bigint * 7) % {customers}"

    def key(number: str, kind: int) -> str:
        return f"CAST({ident(number, kind)} AS uuid)"

    return {
        "id_s": key("i", 1),
        "id_c": key("i", 2),
        "id_r": key("i", 3),
        "id_sr": key(owner, 1),
        "id_cr": key(owner, 2),
        "id_o": key("i", 5),
        "id_ch": key("i", 6),
        "id_m": key("i", 7),
        "id_co": key("i", 8),
        "key": "decode(repeat('00', 60), 'hex')",
        "header": "decode(repeat('00', 40), 'hex')",
        "sealed": "decode(repeat('00', 250), 'hex')",
        "query": r"""CAST('{"tag"\: ["vip"], "queue"\: ["claims"]}' AS json)""",
        "identity": f"convert_to({ident('i', 4)}, 'UTF8')",
        "contact": moment("(i * 31)"),
        "started": moment("i"),
        "numbers_c": f"generate_series(CAST(1 AS bigint), {customers}) AS n(i)",
        "numbers_r": f"generate_series(CAST(1 AS bigint), {count}) AS n(i)",
        "false": "false",
        "none": "CAST('[]' AS jsonb)",
        "vip": """CAST('["vip"]' AS jsonb)""",
        "payment": """CAST('["payment"]' AS jsonb)""",
        "media": r"""CAST('{"codec"\: "pcm_s16le"}' AS jsonb)""",
    }
