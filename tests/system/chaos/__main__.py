"""``make chaos``: thousands of pushes while everything breaks, on PostgreSQL with S3 and on one box."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from pathlib import Path

from tests.servers import processes
from tests.servers.postgres import new_postgres_server
from tests.servers.prompts import find_prompts
from tests.servers.s3 import new_s3_server
from tests.system.chaos.run import Plan, Result, embedded_run, production_world, speech_of
from tests.system.installation import Installation


def main() -> int:
    """Parse the command line and run; 1 when anything was lost."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--count", type=int, default=3000, help="calls")
    parser.add_argument("--faults", type=int, help="default: one for each 50 calls")
    parser.add_argument("--minutes", type=float, default=30.0, help="after which no new call begins")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--embedded", action="store_true", help="SQLite and a local directory")
    parser.add_argument("--natural", action="store_true", help="leases and pauses run out by themselves")
    parser.add_argument("--keep", type=Path, help="keep ledger and logs in this directory")
    arguments = parser.parse_args()
    faults = arguments.faults or max(1, arguments.count // 50)
    plan = Plan(arguments.seed, arguments.count, faults, arguments.minutes, natural=arguments.natural)
    folder = arguments.keep or processes.work_folder("chaos")
    folder.mkdir(exist_ok=True)
    made: list[Installation] = []

    def make(kind: object, *parts: object, **settings: str) -> Installation:
        place = folder / "installation"
        place.mkdir()
        assert callable(kind)
        made.append(kind(place, *parts, **settings))
        made[-1].install()
        return made[-1]

    try:
        result = asyncio.run(
            _embedded(plan, folder, make) if arguments.embedded else _production(plan, folder, make)
        )
    finally:
        for installation in made:
            installation.stop()
        if arguments.keep is None:
            processes.remove_folder(folder)
    print(json.dumps(result.to_json(), indent=1))
    return result.code or int(500 in result.statuses)


async def _production(plan: Plan, folder: Path, make: object) -> Result:
    store = await asyncio.to_thread(new_s3_server)
    database = await asyncio.to_thread(lambda: new_postgres_server(durable=True))
    try:
        assert callable(make)
        speech = speech_of(find_prompts().files["wav"])
        async with production_world(plan, speech, folder, make, store, database) as run:
            try:
                return await run.go()
            finally:
                await asyncio.to_thread(run.world.installation.stop)
    finally:
        await asyncio.to_thread(database.close)
        await asyncio.to_thread(store.close)


async def _embedded(plan: Plan, folder: Path, make: object) -> Result:
    assert callable(make)
    speech = speech_of(find_prompts().files["wav"])
    return await (await embedded_run(plan, speech, folder, make)).go()


if __name__ == "__main__":
    sys.exit(main())
