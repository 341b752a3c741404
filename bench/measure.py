"""The measurements: each round runs raw, service and rclone in turn, so that drift hits all of them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import statistics
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import aiohttp

from bench.client import Client, Request
from bench.rclone import Rclone
from bench.samples import wav, wav_stream
from bench.service import Access, Service, peak, reset_peak, resident
from tests.servers.s3 import S3Server

KIB, MIB = 1024, 1024 * 1024
PARTS = ("ingest", "playback", "seek", "memory")
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        counts: objects per round, by size in bytes.
        rounds: rounds per line; the median counts.
    """

    counts: dict[int, int]
    rounds: int
    seeks: int
    big: int
    listeners: int
    listen_seconds: int


FULL = Plan({64 * KIB: 300, MIB: 120, 16 * MIB: 16}, 3, 150, 2048 * MIB, 200, 20)
QUICK = Plan({64 * KIB: 50, MIB: 20, 16 * MIB: 4}, 1, 40, 256 * MIB, 50, 5)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table; rates in MiB/s, times in milliseconds.

    Attributes:
        ratio: service to raw: of rates, higher is better; of times, lower is better.
    """

    what: str
    raw: float
    service: float
    rclone: float | None
    ratio: float
    unit: str


@dataclass(slots=True)
class Bench:
    """One run: the servers, the client, the lines so far."""

    s3: S3Server
    service: Service
    access: Access
    rclone: Rclone
    client: Client
    folder: Path
    plan: Plan
    say: Progress
    lines: list[Line] = field(default_factory=list)
    stored: dict[int, list[str]] = field(default_factory=dict)
    raw_keys: dict[int, list[str]] = field(default_factory=dict)
    raw_bucket: str = ""

    async def run(self, parts: frozenset[str]) -> None:
        """The parts that were asked for, in order."""
        self.raw_bucket = self.s3.new_bucket()
        for size, count in self.plan.counts.items():
            if "ingest" not in parts:
                await self.fill(size, count)
                continue
            for connections in (1, 8):
                await self.ingest(size, count, connections)
        if not parts & {"playback", "seek"}:
            return
        address = await asyncio.to_thread(self.rclone.serve)
        for size in self.plan.counts if "playback" in parts else ():
            for connections in (1, 8):
                await self.playback(size, connections, address)
        if "seek" in parts:
            await self.seek(max(self.plan.counts), address)
        await asyncio.to_thread(self.rclone.stop)

    async def fill(self, size: int, count: int) -> None:
        """Put there what playback reads, unmeasured."""
        await self._push_raw(size, count, 1)
        await self._push_service(size, count, 1)
        await self._push_rclone(size, count, 1)

    async def ingest(self, size: int, count: int, connections: int) -> None:
        """Bytes in: PUT raw, push through the service, rclone copy."""
        rates: dict[str, list[float]] = {"raw": [], "service": [], "rclone": []}
        await self._push_raw(size, 8, connections)  # warm connections on both sides
        await self._push_service(size, 8, connections)
        for turn in range(self.plan.rounds):
            self.say(f"ingest {label(size)}, {connections} connections, round {turn + 1}")
            volume = size * count / MIB
            rates["raw"].append(volume / await self._push_raw(size, count, connections))
            rates["service"].append(volume / await self._push_service(size, count, connections))
            rates["rclone"].append(volume / await self._push_rclone(size, count, connections))
        self._add(f"ingest {label(size)} × {connections}", rates, "MiB/s")

    async def playback(self, size: int, connections: int, address: str) -> None:
        """Bytes out: GET raw, the whole recording through the service, rclone serve http."""
        keys, ids = self.raw_keys[size], self.stored[size]
        count = min(self.plan.counts[size], len(keys), len(ids))
        raw = [Request(self._presigned(key, "GET")) for key in keys[:count]]
        played = [self._play(recording) for recording in ids[:count]]
        served = [Request(f"{address}/{size}-1-0/{n}.wav") for n in range(count)]
        await self.client.run(raw[:8], connections, self.client.get)
        await self.client.run(played, connections, self.client.get)  # opens each listen once
        rates: dict[str, list[float]] = {"raw": [], "service": [], "rclone": []}
        for turn in range(self.plan.rounds):
            self.say(f"playback {label(size)}, {connections} connections, round {turn + 1}")
            volume = size * count / MIB
            for name, requests in (("raw", raw), ("service", played), ("rclone", served)):
                rates[name].append(volume / await self.client.run(requests, connections, self.client.get))
        self._add(f"playback {label(size)} × {connections}", rates, "MiB/s")

    async def seek(self, size: int, address: str) -> None:
        """Time to the first byte of 64 KiB at random places."""
        dice = random.Random(1)
        keys, ids = self.raw_keys[size], self.stored[size]
        times: dict[str, list[float]] = {"raw": [], "service": [], "rclone": []}
        for turn in range(self.plan.rounds):
            self.say(f"seeks in {label(size)}, round {turn + 1}")
            places = [
                (
                    dice.randrange(min(len(keys), len(ids), self.plan.counts[size])),
                    dice.randrange(size - 64 * KIB),
                )
                for _ in range(self.plan.seeks)
            ]
            ranges = [{"Range": f"bytes={at}-{at + 64 * KIB - 1}"} for _, at in places]
            raw = [
                Request(self._presigned(keys[n], "GET"), h) for (n, _), h in zip(places, ranges, strict=True)
            ]
            own = [self._play(ids[n], h) for (n, _), h in zip(places, ranges, strict=True)]
            few = max(10, self.plan.seeks // 10)
            peer = [
                Request(f"{address}/{size}-1-0/{n}.wav", h)
                for (n, _), h in zip(places[:few], ranges[:few], strict=True)
            ]
            times["raw"].append(1000 * await self.client.seeks(raw))
            times["service"].append(1000 * await self.client.seeks(own))
            times["rclone"].append(1000 * await self.client.seeks(peer))
        self._add(f"first byte of a random 64 KiB in {label(size)}", times, "ms")

    async def memory(self) -> dict[str, float]:
        """Peak resident memory of the service above idle, in MiB: a huge push, and many paced listeners."""
        pid = self.service.pid
        await asyncio.sleep(2)
        reset_peak(pid)
        idle = resident(pid)
        self.say(f"one push of {label(self.plan.big)}")
        url = self._push_url(uuid.uuid4().hex)
        headers = {**self._push_headers(), "Content-Length": str(self.plan.big)}
        async with self.client.session.put(url, data=wav_stream(self.plan.big), headers=headers) as answer:
            text = await answer.read()
            if answer.status >= 300:
                raise RuntimeError(f"the big push answered {answer.status}: {text[:300]!r}")
        pushed = peak(pid) - idle
        reset_peak(pid)
        self.say(f"{self.plan.listeners} listeners at the pace of speech")
        before = resident(pid)
        await self._listen_paced()
        return {
            "idle": idle / MIB,
            "push": pushed / MIB,
            "listeners": (peak(pid) - before) / MIB,
            "listeners_above_idle": (peak(pid) - idle) / MIB,
        }

    async def _listen_paced(self) -> None:
        recordings = self.stored[max(self.plan.counts)]

        async def listen(number: int) -> None:
            request = self._play(recordings[number % len(recordings)])
            async with aiohttp.ClientSession(read_bufsize=32 * KIB) as session:
                async with session.get(request.url, headers=request.headers) as answer:
                    for _ in range(self.plan.listen_seconds):
                        await answer.content.read(32000)  # a second of 8 kHz stereo
                        await asyncio.sleep(1)
                    answer.close()

        await asyncio.gather(*(listen(n) for n in range(self.plan.listeners)))

    async def _push_raw(self, size: int, count: int, connections: int) -> float:
        names = [uuid.uuid4().hex for _ in range(count)]
        bodies = _bodies(size, count)
        requests = [
            Request(self._presigned(name, "PUT"), body=body) for name, body in zip(names, bodies, strict=True)
        ]
        seconds = await self.client.run(requests, connections, self.client.put)
        self.raw_keys.setdefault(size, []).extend(names)
        return seconds

    async def _push_service(self, size: int, count: int, connections: int) -> float:
        bodies = _bodies(size, count)
        requests = [Request(self._push_url(uuid.uuid4().hex), self._push_headers(), body) for body in bodies]
        ids: list[str] = []

        async def push(request: Request) -> None:
            async with self.client.session.put(
                request.url, data=request.body, headers=request.headers
            ) as answer:
                document = await answer.json(content_type=None)
                if answer.status != 201 or document["state"] != "stored":
                    raise RuntimeError(f"a push answered {answer.status}: {str(document)[:300]}")
                ids.append(document["id"])

        seconds = await self.client.run(requests, connections, push)
        self.stored.setdefault(size, []).extend(ids)
        return seconds

    async def _push_rclone(self, size: int, count: int, connections: int) -> float:
        turn = 0
        while (source := self.folder / f"{size}-{connections}-{turn}").exists():
            turn += 1
        source.mkdir()
        for number, body in enumerate(_bodies(size, count)):
            (source / f"{number}.wav").write_bytes(body)
        try:
            return await asyncio.to_thread(self.rclone.copy, source, source.name, connections)
        finally:
            for file in source.iterdir():
                file.unlink()  # the empty folder stays: its name is taken

    def _presigned(self, key: str, method: str) -> str:
        client = self.s3.client()
        expires = timedelta(hours=1)
        if method == "PUT":
            return client.presigned_put_object(self.raw_bucket, key, expires)
        return client.presigned_get_object(self.raw_bucket, key, expires)

    def _push_url(self, name: str) -> str:
        return f"{self.service.url}/ingest/{self.access.source}/{name}.wav"

    def _push_headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.access.push}", "Content-Type": "audio/wav"}

    def _play(self, recording: str, headers: dict[str, str] | None = None) -> Request:
        return Request(
            f"{self.service.url}/api/v1/recordings/{recording}/audio?purpose=quality",
            {"Authorization": f"Bearer {self.access.play}", **(headers or {})},
        )

    def _add(self, what: str, values: dict[str, list[float]], unit: str) -> None:
        ratio = statistics.median(s / r for r, s in zip(values["raw"], values["service"], strict=True))
        line = Line(
            what,
            statistics.median(values["raw"]),
            statistics.median(values["service"]),
            statistics.median(values["rclone"]),
            ratio,
            unit,
        )
        self.lines.append(line)
        self.say(
            f"{what}: raw {line.raw:.1f}, service {line.service:.1f}, rclone {line.rclone:.1f} {unit}, "
            f"service/raw {line.ratio:.2f}"
        )


def _bodies(size: int, count: int) -> list[bytes]:
    # Large ones share one body: making them is not what is measured. Names keep the objects apart.
    if size >= MIB:
        return [wav(size)] * count
    return [wav(size) for _ in range(count)]


def label(size: int) -> str:
    """A size in words."""
    return f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"


def clean(folder: Path) -> None:
    """Remove what a run left."""
    with contextlib.suppress(OSError):
        shutil.rmtree(folder)
