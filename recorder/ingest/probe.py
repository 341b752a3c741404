"""The deep look at stored media: does it decode, how long is it, is it what the sender said?

Runs after the 201, as the job ``media_check``. The decoding is done by a process of its own
(`recorder.ingest.probe_child`) that is fed decrypted audio through a pipe and killed when it stalls; the
plaintext is never on a disk. What it finds may move a recording from stored to quarantined, never further.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from recorder.audit.events import AuditEvent, record
from recorder.catalogue.enums import ObjectRole, RecordingState
from recorder.catalogue.tables import Recording
from recorder.disposition.evaluation import reevaluate
from recorder.errors import Erased, NotFound
from recorder.ingest.request import quarantines
from recorder.ingest.storing import stored_document
from recorder.jobs.queue import enqueue
from recorder.playback.media import Input, input_of
from recorder.playback.objects import living_objects, stored_object
from recorder.services import Services

ACTOR: Final = "system:media"
_CHILD: Final = Path(__file__).with_name("probe_child.py")
_FOUND_HERE: Final = ("media-undecodable", "media-differs", "media-damaged", "duration-differs")
_ALIVE: Final = (RecordingState.STORED, RecordingState.QUARANTINED)
_CANONICAL: Final = {"adpcm_g722": "g722"}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one look may use.

    Attributes:
        memory_bytes: address space of the child.
        cpu_seconds: processor time of the child.
        stall_seconds: longest time in which the child takes no byte and gives no answer.
    """

    memory_bytes: int = 2 * 1024**3
    cpu_seconds: int = 1800
    stall_seconds: float = 120.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look found.

    Attributes:
        decodes: at least one sample came out.
        errors: packets that did not decode.
    """

    decodes: bool
    codec: str | None = None
    sample_rate: int | None = None
    channels: int | None = None
    samples: int = 0
    errors: int = 0

    @property
    def duration_ms(self) -> int | None:
        """Length of what decoded, in milliseconds."""
        return self.samples * 1000 // self.sample_rate if self.sample_rate else None


UNDECODABLE: Final = Finding(decodes=False)


async def look(source: AsyncIterable[bytes], opened: Input, *, limits: Limits | None = None) -> Finding:
    """Decode a whole recording in a process of its own.

    Args:
        source: its bytes; an error that it raises propagates.
        opened: the demuxer and what it must be told; nothing is guessed from the bytes.
        limits: what it may use.
    """
    limits = limits or Limits()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        str(_CHILD),
        json.dumps(_order(opened, limits)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={"PATH": os.defpath, "LC_ALL": "C"},
        start_new_session=True,
    )
    if process.stdin is None or process.stdout is None:
        raise AssertionError("pipes were asked for")
    answering = asyncio.create_task(process.stdout.read(64 * 1024))
    try:
        await _feed(process.stdin, source, limits.stall_seconds)
        async with asyncio.timeout(limits.stall_seconds):
            answer = await answering
            await process.wait()
    except TimeoutError:
        return UNDECODABLE
    finally:
        await _end(process, answering)
    return _finding(answer)


def _order(opened: Input, limits: Limits) -> dict[str, Any]:
    options = dict(zip(opened.options[::2], opened.options[1::2], strict=True))
    return {
        "format": options.pop("-f"),
        "options": {name.removeprefix("-"): value for name, value in options.items()},
        "seekable": opened.seekable,
        "memory": limits.memory_bytes,
        "cpu": limits.cpu_seconds,
    }


async def _feed(stdin: asyncio.StreamWriter, source: AsyncIterable[bytes], stall: float) -> None:
    try:
        async for piece in source:
            stdin.write(piece)
            async with asyncio.timeout(stall):
                await stdin.drain()
    except (BrokenPipeError, ConnectionResetError):
        return  # it has seen enough, or it died: its answer tells
    finally:
        stdin.close()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            await stdin.wait_closed()


async def _end(process: asyncio.subprocess.Process, answering: asyncio.Task[bytes]) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    answering.cancel()
    await asyncio.gather(answering, return_exceptions=True)
    if process.stdout is not None:
        while await process.stdout.read(64 * 1024):
            pass
    await process.wait()


def _finding(answer: bytes) -> Finding:
    try:
        told = json.loads(answer)
        if not told["audio"]:
            return UNDECODABLE
        return Finding(
            decodes=True,
            codec=_CANONICAL.get(told["codec"], str(told["codec"])),
            sample_rate=int(told["sample_rate"]),
            channels=int(told["channels"]),
            samples=int(told["samples"]),
            errors=int(told["errors"]),
        )
    except (ValueError, KeyError, TypeError):
        return UNDECODABLE  # killed by a limit before it could answer


async def check_media(
    services: Services, recording_id: uuid.UUID, *, limits: Limits | None = None
) -> Finding | None:
    """Look at a recording and write down what it is; any number of times.

    Returns:
        What was found; None where there is nothing to look at.

    Raises:
        NotFound: there is no such recording.
        storage.errors.StorageError, Unavailable: a dependency failed; trying again may help.
    """
    async with services.database.snapshot() as session:
        recording = await session.get(Recording, recording_id)
        if recording is None:
            raise NotFound("no such recording")
        found = (await living_objects(session, recording_id)).get(ObjectRole.ORIGINAL)
        if recording.state not in _ALIVE or found is None or recording.size == 0:
            return None
        try:
            original = stored_object(*found)
            document = await stored_document(session, services, recording)
        except Erased:
            return None
    opened = input_of(recording.media)
    finding = UNDECODABLE
    if opened is not None:
        async with services.vault.read(original) as pieces:
            finding = await look(pieces, opened, limits=limits)
    await _settle(services, recording_id, finding, document)
    return finding


async def _settle(
    services: Services, recording_id: uuid.UUID, finding: Finding, document: dict[str, Any]
) -> None:
    now = services.clock.now()
    async with services.database.transaction() as session:
        row = await session.get_one(Recording, recording_id, with_for_update={"key_share": True})
        if row.state not in _ALIVE:
            return
        before = row.state
        kept = [reason for reason in row.reasons if reason.split(":", 1)[0] not in _FOUND_HERE]
        row.reasons = list(dict.fromkeys([*kept, *judge(row, finding, document)]))
        _describe(row, finding)
        if "accepted" not in row.reasons:
            bad = quarantines(row.reasons)
            row.state = RecordingState.QUARANTINED if bad else RecordingState.STORED
        if row.state is not before:
            if row.state is RecordingState.STORED:
                for kind in ("rendition", "peaks"):
                    enqueue(session, kind, row.id, now=now)
            event = AuditEvent(
                action=f"recording.{row.state.value}",
                actor=ACTOR,
                object_type="recording",
                object_id=str(row.id),
                controller_id=row.controller_id,
                details={"reasons": list(row.reasons)},
            )
            record(session, event, now=now)
        await session.flush()
        await reevaluate(session, services, [row.id], now)


def judge(row: Recording, finding: Finding, document: dict[str, Any]) -> list[str]:
    """Codes of what is wrong with the media, or odd about it.

    Args:
        row: the recording.
        finding: what the look found.
        document: the sender's metadata.
    """
    if not finding.decodes:
        return [] if "media-unknown" in row.reasons else ["media-undecodable"]
    codes = []
    said = document.get("media", {}).get("channels")
    # A recording whose card data was destroyed may have been decoded on the way in: two channels at most.
    if not row.card_data_removed:
        parties = len(row.channels) or None
        if any(count is not None and count != finding.channels for count in (said, parties)):
            codes.append("media-differs:channels")
    if finding.errors:
        codes.append("media-damaged")
    spoken = _said_ms(row, document)
    heard = finding.duration_ms
    if spoken is not None and heard is not None and abs(spoken - heard) > max(2000, spoken // 20):
        codes.append("duration-differs")
    return codes


def _said_ms(row: Recording, document: dict[str, Any]) -> int | None:
    duration = document.get("duration")
    if duration is not None:
        return round(float(duration) * 1000)
    if "ended_at" in document and row.ended_at is not None:
        return round((row.ended_at - row.started_at).total_seconds() * 1000)
    return None


def _describe(row: Recording, finding: Finding) -> None:
    if not finding.decodes:
        return
    row.duration_ms = finding.duration_ms
    if row.ended_at is None and finding.duration_ms is not None:
        row.ended_at = row.started_at + timedelta(milliseconds=finding.duration_ms)
    row.media = {
        **row.media,
        "codec": finding.codec or row.media.get("codec"),
        "sample_rate": finding.sample_rate,
        "channels": finding.channels,
    }
