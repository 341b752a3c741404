"""``make bench``: measure, print, and write docs/performance.md."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import tempfile
from pathlib import Path

from bench.client import Client
from bench.measure import FULL, PARTS, QUICK, Bench, Line, Plan, clean, label
from bench.rclone import Rclone
from bench.service import Service
from tests.servers import processes
from tests.servers.postgres import new_postgres_server
from tests.servers.rgw import RgwServer, find_ceph
from tests.servers.s3 import S3Server, new_s3_server

_ROOM = 40 << 30  # bytes; a sparse file
_DOCUMENT = Path(__file__).parent.parent / "docs" / "performance.md"


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work; nothing is written")
    parser.add_argument("--output", type=Path, default=_DOCUMENT)
    parser.add_argument("--only", help=f"some of {','.join(PARTS)}, with commas; nothing is written")
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else FULL
    parts = frozenset(PARTS if arguments.only is None else arguments.only.split(","))
    if not parts <= set(PARTS):
        parser.error(f"--only takes some of {','.join(PARTS)}")
    lines, memory, server = asyncio.run(measure(plan, parts))
    if parts != set(PARTS):
        return
    text = document(lines, memory, plan, server)
    print(text)
    if not arguments.quick:
        arguments.output.write_text(text)


async def measure(plan: Plan, parts: frozenset[str]) -> tuple[list[Line], dict[str, float], str]:
    """Start the servers, run every measurement, stop them."""
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    s3 = await asyncio.to_thread(roomy_s3_server)
    postgres = await asyncio.to_thread(new_postgres_server, durable=True)
    service = Service(folder, s3, postgres, processes.free_port())
    try:
        access = await service.prepare()
        await service.start()
        rclone = Rclone(s3, folder)
        async with Client() as client:
            bench = Bench(
                s3, service, access, rclone, client, folder, plan, lambda text: print(text, flush=True)
            )
            await bench.run(parts)
            memory = await bench.memory() if "memory" in parts else {}
        return bench.lines, memory, s3.kind
    finally:
        await asyncio.to_thread(service.stop)
        await asyncio.to_thread(s3.close)
        await asyncio.to_thread(postgres.close)
        clean(folder)


def roomy_s3_server() -> S3Server:
    """Ceph RGW with room for everything that is written; the next best server where there is no Ceph."""
    try:
        server = RgwServer(find_ceph(), size=_ROOM)
    except processes.ServerUnavailableError:
        return new_s3_server()
    server.start()
    return server


def document(lines: list[Line], memory: dict[str, float], plan: Plan, server: str) -> str:
    """The page of figures."""
    rows = "\n".join(
        f"| {line.what} | {line.raw:.1f} | {line.service:.1f} | "
        f"{'-' if line.rclone is None else f'{line.rclone:.1f}'} | {line.unit} | {line.ratio:.2f} |"
        for line in lines
    )
    return f"""# Performance

Written by `make bench`. One run on one machine ({os.cpu_count()} processors, Python
{platform.python_version()}), everything on loopback: {server}, PostgreSQL with fsync on, one
`recorder serve`, and the client on the same processors. *Raw* is the same client putting and
getting the same bytes at the same S3 server by presigned addresses. *rclone* is its crypt remote
on the same store: `rclone copy --transfers N` in, `rclone serve http` out. Each figure is the
median of {plan.rounds} rounds that take turns. Compare ratios, not absolute figures: processors
are shared by client, service, database and store.

`× N` is the number of connections. Service to raw: of rates higher is better, of times lower is better.

| | raw | service | rclone | unit | service / raw |
|---|---:|---:|---:|---|---:|
{rows}

Memory of the service process, resident, in MiB:

| | MiB |
|---|---:|
| idle, after the runs above | {memory["idle"]:.0f} |
| peak above idle during one push of {label(plan.big)} | {memory["push"]:.0f} |
| peak above idle with {plan.listeners} listeners at the pace of speech | {memory["listeners"]:.0f} |
"""


if __name__ == "__main__":
    main()
