"""The short form of ``make chaos``: nothing that was accepted is lost, whatever breaks meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recorder.simulate.senders import SENDERS
from tests.servers.postgres import PostgresServer
from tests.servers.prompts import Prompts
from tests.servers.s3 import S3Server
from tests.system.chaos.checker import Config
from tests.system.chaos.run import Plan, Result, checked, embedded_run, production_world, speech_of, told
from tests.system.installation import Installation

# About a minute each on two idle cores.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
Make = Callable[..., Installation]


def proved(result: Result) -> dict[str, Any]:
    """The run's counts, once everything in them is as it should be."""
    told(str(result.seconds))
    assert result.report["findings"] == []
    assert result.code == 0
    assert result.unexpected == []
    assert 500 not in result.statuses
    counts: dict[str, Any] = result.report["counts"]
    # Every call is told of, and every kind got through.
    assert counts["calls told of"] >= result.plan.count
    assert all(max(finals) >= 101 for finals in result.finals.values()), result.finals
    assert counts["files byte for byte"] == counts["files accepted"] > result.plan.count // 2
    assert counts["receipts verified"] == counts["receipts"] > 0
    assert result.reconciled["missing"] == result.reconciled["resized"] == 0
    return counts


@pytest.mark.s3
@pytest.mark.postgres
async def test_nothing_accepted_is_lost_on_postgresql_and_s3(
    own_installation: Make,
    own_s3_server: Callable[[], S3Server],
    own_postgres: Callable[..., PostgresServer],
    prompts: Prompts,
    tmp_path: Path,
) -> None:
    store, database = await asyncio.to_thread(own_s3_server), await asyncio.to_thread(own_postgres)
    plan = Plan(seed=4, count=168, faults=7)
    speech = speech_of(prompts.files["wav"])
    async with production_world(plan, speech, tmp_path, own_installation, store, database) as run:
        result = await run.go()
        proved(result)
        assert len(result.struck) == plan.faults
        assert result.statuses[0] > 0, "clients broke off"
        # The checker sees it when one object is gone.
        bucket = run.config().store["bucket"]
        client = store.client()
        victim = next(client.list_objects(bucket, prefix="o/", recursive=True, include_version=True))
        client.remove_object(bucket, str(victim.object_name), version_id=victim.version_id)
        report, code = await checked(run.config(), tmp_path)
        assert code == 1
        assert "ghost row" in {kind for kind, _ in report["findings"]}
        await asyncio.to_thread(run.world.installation.stop)


async def test_nothing_accepted_is_lost_on_one_box(
    own_installation: Make, prompts: Prompts, tmp_path: Path
) -> None:
    plan = Plan(seed=11, count=70, faults=3, kinds=tuple(sorted(SENDERS)))
    run = await embedded_run(plan, speech_of(prompts.files["wav"]), tmp_path, own_installation)
    result = await run.go()
    counts = proved(result)
    assert counts["objects"] >= counts["recordings"]
    assert isinstance(run.config(), Config)
