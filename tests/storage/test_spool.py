"""The spool: durable, sealed, in order, bounded; torn files are nobody's and damaged ones are kept."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.errors import KeyDestroyed, ObjectMissing, SpoolFull, StorageError, TamperedObject
from storage.keyrings.memory import MemoryKeyring
from storage.sealed import SEGMENT_SIZE, sealed_size
from storage.spool import Note, Spool, SpooledAudio, SpoolItem

NOW = datetime(2026, 3, 5, 8, 0, tzinfo=UTC)
CONTROLLER = "c1"
AUDIO = os.urandom(3 * SEGMENT_SIZE + 17)


@pytest.fixture
def keyring() -> MemoryKeyring:
    made = MemoryKeyring()
    made.ensure_controller(CONTROLLER, NOW)
    return made


@pytest.fixture
def spool(tmp_path: Path, keyring: MemoryKeyring) -> Spool:
    return Spool(tmp_path / "spool", keyring, max_bytes=10_000_000)


async def pieces(data: bytes, step: int = 40_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), step):
        yield data[start : start + step]


async def add(
    spool: Spool,
    data: bytes = AUDIO,
    *,
    identity: bytes = b"i" * 32,
    at: datetime = NOW,
    known: bool = True,
    **document: Any,
) -> SpoolItem:
    def describe(audio: SpooledAudio) -> Note:
        return Note(identity, audio.sha256, at, document)

    return await spool.add(
        pieces(data),
        describe,
        item_id=uuid.uuid4(),
        controller_id=CONTROLLER,
        size=len(data) if known else None,
    )


async def read(spool: Spool, item: SpoolItem) -> bytes:
    return b"".join([bytes(piece) async for piece in spool.read(item)])


async def whole(spool: Spool, item: SpoolItem) -> tuple[bytes, dict[str, Any]]:
    return await read(spool, item), await spool.document(item)


def again(spool: Spool, keyring: MemoryKeyring, **options: Any) -> Spool:
    """The same directory as the next process sees it."""
    return Spool(spool.root, keyring, **{"max_bytes": spool.max_bytes, **options})


def files(spool: Spool) -> list[Path]:
    return sorted((spool.root / "items").iterdir())


@pytest.mark.parametrize("size", [0, 1, SEGMENT_SIZE - 56, SEGMENT_SIZE, 9 * SEGMENT_SIZE + 5])
@pytest.mark.parametrize("known", [True, False])
async def test_what_is_added_is_read_back_by_the_next_process(
    spool: Spool, keyring: MemoryKeyring, size: int, known: bool
) -> None:
    data = os.urandom(size)
    item = await add(spool, data, known=known, note="for nobody's eyes")
    later = again(spool, keyring)
    await later.load()
    assert later.items() == [item]
    assert await read(later, item) == data
    assert (item.size, item.sha256) == (size, hashlib.sha256(data).digest())
    assert await later.document(item) == {"note": "for nobody's eyes"}
    assert item.stored == sum(path.stat().st_size for path in files(spool))
    assert spool.figures().size == later.figures().size == item.stored
    for path in files(spool):
        raw = path.read_bytes()
        assert b"nobody" not in raw
        assert size < 64 or data[:64] not in raw
        assert path.stat().st_mode & 0o777 == 0o600


async def test_items_come_in_the_order_of_arrival_whatever_the_clock_does(
    tmp_path: Path, keyring: MemoryKeyring
) -> None:
    times = iter([500, 400, 300, 200])
    spool = Spool(tmp_path, keyring, max_bytes=10**7, time_ns=lambda: next(times, 100))
    await spool.load()
    added = [await add(spool, b"x"), await add(spool, b"y")]
    later = again(spool, keyring, time_ns=lambda: 1)
    await later.load()
    added.append(await add(later, b"z"))
    await spool.load()
    assert spool.items() == later.items() == added


async def test_a_body_that_breaks_off_leaves_nothing(spool: Spool) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield AUDIO
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await spool.add(
            broken(), lambda audio: Note(b"", b"", NOW, {}), item_id=uuid.uuid4(), controller_id=CONTROLLER
        )
    assert files(spool) == []
    assert (spool.figures().items, spool.figures().size) == (0, 0)


async def test_a_description_that_refuses_leaves_nothing(spool: Spool) -> None:
    def refuse(audio: SpooledAudio) -> Note:
        raise ValueError(audio.size)

    with pytest.raises(ValueError, match=str(len(AUDIO))):
        await spool.add(pieces(AUDIO), refuse, item_id=uuid.uuid4(), controller_id=CONTROLLER)
    assert files(spool) == []


async def test_the_quota_refuses_and_a_removal_makes_room(tmp_path: Path, keyring: MemoryKeyring) -> None:
    spool = Spool(tmp_path, keyring, max_bytes=sealed_size(len(AUDIO)) * 2)
    first = await add(spool)
    for known in (True, False):
        with pytest.raises(SpoolFull):
            await add(spool, known=known)
        assert spool.figures().full
        assert len(files(spool)) == 2, "nothing half"
    await spool.remove(first)
    assert not spool.figures().full
    assert files(spool) == []
    await add(spool)


async def test_the_quota_counts_deliveries_too(tmp_path: Path, keyring: MemoryKeyring) -> None:
    spool = Spool(tmp_path, keyring, max_bytes=10**9, max_items=2)
    await add(spool, b"1")
    await add(spool, b"2")
    assert spool.figures().full
    with pytest.raises(SpoolFull):
        await add(spool, b"3")


async def test_figures_tell_the_age_of_the_oldest(spool: Spool) -> None:
    await add(spool, b"young", at=NOW)
    await add(spool, b"old", at=NOW - timedelta(hours=1))
    assert spool.figures().oldest == NOW - timedelta(hours=1)


async def test_the_same_delivery_is_found_again(spool: Spool) -> None:
    item = await add(spool, b"x", identity=b"one")
    assert spool.find(b"one", item.sha256) == item
    assert spool.find(b"two", item.sha256) is None
    assert spool.find(b"one", b"else") is None
    assert spool.get(item.id) == item


async def test_an_item_in_hand_is_handed_to_nobody_else(spool: Spool) -> None:
    item = await add(spool)
    with spool.in_hand(item) as mine:
        assert mine
        assert spool.items() == []
        with spool.in_hand(item) as second:
            assert not second
        assert spool.items() == [], "who came second gives nothing back"
    assert spool.items() == [item]


async def test_removing_blanks_the_key(spool: Spool) -> None:
    item = await add(spool)
    envelope = next(path for path in files(spool) if path.suffix == ".envelope")
    with envelope.open("rb") as still_open:
        await spool.remove(item)
        assert set(still_open.read()) == {0}
    await spool.remove(item)
    with pytest.raises(ObjectMissing):
        await read(spool, item)
    with pytest.raises(ObjectMissing):
        await spool.document(item)


async def test_only_one_process_drains(spool: Spool, keyring: MemoryKeyring) -> None:
    other = again(spool, keyring)
    async with spool.draining() as mine:
        assert mine
        async with other.draining() as second:
            assert not second
    async with other.draining() as free:
        assert free


async def test_what_a_writer_still_holds_is_not_swept(spool: Spool, keyring: MemoryKeyring) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield AUDIO
        begun.set()
        await go.wait()

    adding = asyncio.create_task(
        spool.add(
            slow(), lambda a: Note(b"i", a.sha256, NOW, {}), item_id=uuid.uuid4(), controller_id=CONTROLLER
        )
    )
    await begun.wait()
    assert await again(spool, keyring).sweep() == 0
    go.set()
    item = await adding
    assert await again(spool, keyring).sweep() == 0
    assert await read(spool, item) == AUDIO


async def test_an_item_hangs_on_the_epoch_it_was_sealed_under(spool: Spool, keyring: MemoryKeyring) -> None:
    old = await add(spool)
    keyring.rotate(CONTROLLER, NOW)
    new = await add(spool)
    assert spool.epochs(CONTROLLER) == {1: 1, 2: 1}
    assert spool.epochs("another") == {}
    keyring.destroy_epoch(CONTROLLER, 1, NOW)
    with pytest.raises(KeyDestroyed):
        await read(spool, old)
    assert await read(spool, new) == AUDIO


async def test_a_damaged_item_is_kept_and_told_of(spool: Spool, keyring: MemoryKeyring) -> None:
    good, bad = await add(spool), await add(spool)
    audio = spool.root / "items" / f"{bad.name}.audio"
    raw = bytearray(audio.read_bytes())
    raw[100_000] ^= 1
    audio.write_bytes(raw)
    with pytest.raises(TamperedObject):
        await read(spool, bad)
    spool.mark_damaged(bad)
    assert spool.items() == [good]
    assert (spool.figures().items, spool.figures().damaged) == (2, 1)
    later = again(spool, keyring)
    audio.write_bytes(raw[:-1])
    await later.load()
    assert later.items() == [good]
    assert later.figures().damaged == 1
    assert await later.sweep() == 0
    assert audio.exists()


@given(where=st.integers(0, 10**6), bit=st.integers(0, 7))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
async def test_no_altered_bit_of_an_envelope_goes_unnoticed(
    tmp_path_factory: pytest.TempPathFactory, where: int, bit: int
) -> None:
    keyring = MemoryKeyring()
    keyring.ensure_controller(CONTROLLER, NOW)
    spool = Spool(tmp_path_factory.mktemp("altered"), keyring, max_bytes=10**7)
    item = await add(spool, b"audio", note=1)
    envelope = spool.root / "items" / f"{item.name}.envelope"
    raw = bytearray(envelope.read_bytes())
    raw[where % len(raw)] ^= 1 << bit
    envelope.write_bytes(raw)
    later = again(spool, keyring)
    await later.load()
    if listed := later.items():
        with pytest.raises(StorageError):
            await whole(later, listed[0])
    else:
        assert later.figures().damaged == 1
    shutil.rmtree(spool.root)


@given(share=st.floats(0, 1, exclude_max=True), stage=st.sampled_from(["audio", "audio+partial", "envelope"]))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
async def test_a_writer_that_died_anywhere_leaves_what_was_committed_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, share: float, stage: str
) -> None:
    """Each state in which kill -9 can leave the directory, with the file at hand cut at any length."""
    keyring = MemoryKeyring()
    keyring.ensure_controller(CONTROLLER, NOW)
    spool = Spool(tmp_path_factory.mktemp("torn"), keyring, max_bytes=10**7)
    whole, torn = await add(spool, b"kept"), await add(spool, AUDIO)
    audio = spool.root / "items" / f"{torn.name}.audio"
    envelope, partial = audio.with_suffix(".envelope"), audio.with_suffix(".partial")

    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    if stage == "audio":
        envelope.unlink()
        cut(audio)
    elif stage == "audio+partial":
        envelope.rename(partial)
        cut(partial)
    later = again(spool, keyring)
    swept = await later.sweep()
    await later.load()
    if stage == "envelope":
        assert (swept, later.items()) == (0, [whole, torn])
    else:
        assert (swept, later.items()) == (1, [whole])
        assert {path.stem for path in files(later)} == {whole.name}
    assert await read(later, whole) == b"kept"
    assert later.figures().damaged == 0
    shutil.rmtree(spool.root)


async def test_a_remover_that_died_between_is_finished_by_the_sweep(
    spool: Spool, keyring: MemoryKeyring
) -> None:
    item = await add(spool)
    (spool.root / "items" / f"{item.name}.envelope").unlink()
    later = again(spool, keyring)
    await later.load()
    assert later.items() == []
    assert await later.sweep() == 1
    assert files(later) == []
