"""The key hierarchy on every keyring: wraps, epochs, destruction, and everything that must not open."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from cryptography.exceptions import InvalidSignature
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import KeyDestroyed, KeyringError, Misuse, TamperedObject
from storage.keyrings.file import FileKeyring
from storage.keyrings.memory import MemoryKeyring
from storage.keys import (
    SIGNING_KEYS,
    Keyring,
    SubjectKeyRef,
    blind_index,
    new_data_key,
    new_subject_key,
    open_field,
    open_fields,
    open_under_controller,
    rewrap_data_key,
    rewrap_subject,
    seal_field,
    seal_under_controller,
    unwrap_data_key,
    wrap_data_key,
)
from storage.wraps import bind

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
OBJECT = UUID("00112233-4455-4677-8899-aabbccddeeff")
DIGEST = hashlib.sha256(b"audio").digest()


@pytest.fixture(params=["memory", "file"])
def keyring(request: pytest.FixtureRequest, tmp_path: Path) -> Keyring:
    made: Keyring = (
        MemoryKeyring(NOW)
        if request.param == "memory"
        else FileKeyring.create(tmp_path / "keyring.json", NOW)
    )
    made.ensure_controller("c1", NOW)
    made.ensure_controller("c2", NOW)
    return made


@pytest.fixture
def subject(keyring: Keyring) -> SubjectKeyRef:
    return new_subject_key(keyring, "c1", "s1")


def wrap(keyring: Keyring, ref: SubjectKeyRef, data_key: bytes) -> bytes:
    return wrap_data_key(keyring, ref, data_key, object_id=OBJECT, size=5, sha256=DIGEST)


def unwrap(keyring: Keyring, ref: SubjectKeyRef, wrapped: bytes) -> bytes:
    return unwrap_data_key(keyring, ref, wrapped, object_id=OBJECT, size=5, sha256=DIGEST)


# Data keys


def test_a_data_key_comes_back(keyring: Keyring, subject: SubjectKeyRef) -> None:
    data_key = new_data_key()
    wrapped = wrap(keyring, subject, data_key)
    assert unwrap(keyring, subject, wrapped) == data_key
    assert data_key not in wrapped
    assert wrapped != wrap(keyring, subject, data_key)


def test_a_wrap_belongs_to_one_object_size_and_digest(keyring: Keyring, subject: SubjectKeyRef) -> None:
    wrapped = wrap(keyring, subject, new_data_key())
    for object_id, size, sha256 in (
        (uuid4(), 5, DIGEST),
        (OBJECT, 6, DIGEST),
        (OBJECT, 5, hashlib.sha256(b"other").digest()),
        (OBJECT, 5, b""),
    ):
        with pytest.raises(TamperedObject) as tampered:
            unwrap_data_key(keyring, subject, wrapped, object_id=object_id, size=size, sha256=sha256)
        assert tampered.value.object_id == object_id


def test_a_wrap_belongs_to_one_subject(keyring: Keyring, subject: SubjectKeyRef) -> None:
    wrapped = wrap(keyring, subject, new_data_key())
    for other in (
        new_subject_key(keyring, "c1", "s2"),
        new_subject_key(keyring, "c1", "s1"),  # the same subject's next key
        new_subject_key(keyring, "c2", "s1"),
        dataclasses.replace(subject, subject_id="s2"),
        dataclasses.replace(subject, controller_id="c2"),
    ):
        with pytest.raises(TamperedObject):
            unwrap(keyring, other, wrapped)


def test_every_flipped_byte_of_a_wrap_is_seen(keyring: Keyring, subject: SubjectKeyRef) -> None:
    wrapped = wrap(keyring, subject, new_data_key())
    for place in range(len(wrapped)):
        flipped = bytearray(wrapped)
        flipped[place] ^= 1
        with pytest.raises(TamperedObject):
            unwrap(keyring, subject, bytes(flipped))
    for place in range(len(subject.wrapped)):
        flipped = bytearray(subject.wrapped)
        flipped[place] ^= 1
        with pytest.raises(TamperedObject):
            unwrap(keyring, dataclasses.replace(subject, wrapped=bytes(flipped)), wrapped)
    for cut in range(len(wrapped)):
        with pytest.raises(TamperedObject):
            unwrap(keyring, subject, wrapped[:cut])


def test_re_linking_moves_the_key_and_leaves_the_old_subject_without_a_use(
    keyring: Keyring, subject: SubjectKeyRef
) -> None:
    data_key = new_data_key()
    other = new_subject_key(keyring, "c1", "s2")
    moved = rewrap_data_key(
        keyring, subject, other, wrap(keyring, subject, data_key), object_id=OBJECT, size=5, sha256=DIGEST
    )
    assert unwrap(keyring, other, moved) == data_key
    with pytest.raises(TamperedObject):
        unwrap(keyring, subject, moved)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_data_key_of_another_length_is_misuse(
    keyring: Keyring, subject: SubjectKeyRef, length: int
) -> None:
    with pytest.raises(Misuse):
        wrap(keyring, subject, bytes(length))


def test_nothing_shows_a_key_in_its_repr(keyring: Keyring, subject: SubjectKeyRef) -> None:
    assert subject.wrapped.hex() not in repr(subject)
    assert repr(subject.wrapped) not in repr(subject)


# Epochs


def test_rotation_re_wraps_and_old_wraps_open_until_the_epoch_is_destroyed(
    keyring: Keyring, subject: SubjectKeyRef
) -> None:
    data_key = new_data_key()
    wrapped = wrap(keyring, subject, data_key)
    later = NOW + timedelta(days=90)

    assert keyring.rotate("c1", later) == 2
    assert keyring.current_epoch("c1") == 2
    assert keyring.current_epoch("c2") == 1
    assert unwrap(keyring, subject, wrapped) == data_key
    moved = rewrap_subject(keyring, subject)
    assert (moved.subject_id, moved.epoch) == ("s1", 2)
    assert rewrap_subject(keyring, subject, 1).epoch == 1
    assert unwrap(keyring, moved, wrapped) == data_key

    keyring.destroy_epoch("c1", 1, later + timedelta(days=30))
    with pytest.raises(KeyDestroyed) as gone:
        unwrap(keyring, subject, wrapped)
    assert (gone.value.controller_id, gone.value.epoch) == ("c1", 1)
    with pytest.raises(KeyDestroyed):
        rewrap_subject(keyring, subject)
    with pytest.raises(KeyDestroyed):
        rewrap_subject(keyring, moved, 1)
    assert unwrap(keyring, moved, wrapped) == data_key
    assert [dataclasses.astuple(epoch) for epoch in keyring.epochs("c1")] == [
        (1, NOW, later + timedelta(days=30), False),
        (2, later, None, True),
    ]


def test_an_epoch_of_one_number_is_another_key_for_another_controller_or_epoch(
    keyring: Keyring, subject: SubjectKeyRef
) -> None:
    keyring.rotate("c1", NOW)
    for other in (
        dataclasses.replace(subject, epoch=2),
        dataclasses.replace(subject, controller_id="c2"),
    ):
        with pytest.raises(TamperedObject):
            rewrap_subject(keyring, other)


def test_destroying_is_idempotent_and_keeps_its_first_date(keyring: Keyring) -> None:
    keyring.rotate("c1", NOW)
    keyring.destroy_epoch("c1", 1, NOW)
    keyring.destroy_epoch("c1", 1, NOW + timedelta(days=1))
    assert keyring.epochs("c1")[0].destroyed == NOW


def test_the_current_epoch_and_unknown_ones_cannot_be_destroyed(keyring: Keyring) -> None:
    for epoch in (1, 2, 0):
        with pytest.raises(Misuse):
            keyring.destroy_epoch("c1", epoch, NOW)
    assert keyring.epochs("c1")[0].destroyed is None


def test_an_unknown_controller_or_epoch_says_so(keyring: Keyring, subject: SubjectKeyRef) -> None:
    calls: list[Callable[[], object]] = [
        lambda: keyring.current_epoch("c9"),
        lambda: keyring.epochs("c9"),
        lambda: keyring.rotate("c9", NOW),
        lambda: keyring.destroy_epoch("c9", 1, NOW),
        lambda: new_subject_key(keyring, "c9", "s"),
        lambda: rewrap_subject(keyring, subject, 7),
    ]
    for call in calls:
        with pytest.raises(KeyringError):
            call()


def test_time_needs_its_zone(keyring: Keyring) -> None:
    with pytest.raises(Misuse):
        keyring.rotate("c1", NOW.replace(tzinfo=None))
    with pytest.raises(Misuse):
        keyring.ensure_controller("c3", NOW.replace(tzinfo=None))


def test_a_controller_is_made_once(keyring: Keyring) -> None:
    keyring.ensure_controller("c1", NOW + timedelta(days=1))
    assert [(epoch.epoch, epoch.created) for epoch in keyring.epochs("c1")] == [(1, NOW)]
    with pytest.raises(Misuse):
        keyring.ensure_controller("", NOW)


# Fields


def test_a_field_comes_back(keyring: Keyring, subject: SubjectKeyRef) -> None:
    for text in (b"", "Åsa Öhman".encode(), b"x" * 5000):
        sealed = seal_field(keyring, subject, "customer.name", "row-1", text)
        assert open_field(keyring, subject, "customer.name", "row-1", sealed) == text
        assert sealed[0] == 1
        assert not text or text not in sealed


def test_a_field_belongs_to_its_name_row_and_subject(keyring: Keyring, subject: SubjectKeyRef) -> None:
    sealed = seal_field(keyring, subject, "customer.name", "row-1", b"Liisa")
    for ref, name, row in (
        (subject, "customer.name", "row-2"),
        (subject, "customer.phone", "row-1"),
        (subject, "customer.namer", "ow-1"),
        (new_subject_key(keyring, "c1", "s1"), "customer.name", "row-1"),
    ):
        with pytest.raises(TamperedObject) as tampered:
            open_field(keyring, ref, name, row, sealed)
        assert "Liisa" not in str(tampered.value)


def test_a_field_is_no_wrapped_key_and_the_other_way_round(keyring: Keyring, subject: SubjectKeyRef) -> None:
    with pytest.raises(TamperedObject):
        unwrap(keyring, subject, seal_field(keyring, subject, "f", "r", bytes(32)))
    with pytest.raises(TamperedObject):
        open_field(keyring, subject, "f", "r", wrap(keyring, subject, bytes(32)))


def test_several_fields_open_at_once(keyring: Keyring, subject: SubjectKeyRef) -> None:
    sealed = [("f", str(n), seal_field(keyring, subject, "f", str(n), b"%d" % n)) for n in range(5)]
    assert open_fields(keyring, subject, sealed) == [b"0", b"1", b"2", b"3", b"4"]
    with pytest.raises(TamperedObject):
        open_fields(keyring, subject, [*sealed, ("f", "9", sealed[0][2])])


def test_destroying_the_subjects_epoch_destroys_its_fields(keyring: Keyring, subject: SubjectKeyRef) -> None:
    sealed = seal_field(keyring, subject, "f", "r", b"x")
    keyring.rotate("c1", NOW)
    keyring.destroy_epoch("c1", 1, NOW)
    with pytest.raises(KeyDestroyed):
        open_field(keyring, subject, "f", "r", sealed)


def test_a_value_under_the_controller_outlives_rotation_and_dies_with_its_epoch(keyring: Keyring) -> None:
    sealed = seal_under_controller(keyring, "c1", "spool:7", b"data key")
    keyring.rotate("c1", NOW)
    assert open_under_controller(keyring, "c1", "spool:7", sealed) == b"data key"
    for controller, label, value in (
        ("c1", "spool:8", sealed),
        ("c2", "spool:7", sealed),
        ("c1", "spool:7", sealed[:-1]),
        ("c1", "spool:7", b"\x02" + sealed[1:]),
        ("c1", "spool:7", sealed[:1] + b"\x00\x00\x00\x02" + sealed[5:]),
        ("c1", "spool:7", b""),
    ):
        with pytest.raises(TamperedObject):
            open_under_controller(keyring, controller, label, value)
    keyring.destroy_epoch("c1", 1, NOW)
    with pytest.raises(KeyDestroyed):
        open_under_controller(keyring, "c1", "spool:7", sealed)


# Index and signing keys


def test_blind_indexes_tell_apart_controller_kind_and_value(keyring: Keyring) -> None:
    made = {
        blind_index(keyring, controller, kind, value)
        for controller in ("c1", "c2")
        for kind in ("phone", "email")
        for value in ("+358401234567", "+358401234568")
    }
    assert len(made) == 8
    assert all(len(index) == 32 for index in made)
    before = blind_index(keyring, "c1", "phone", "+358401234567")
    keyring.rotate("c1", NOW)
    assert blind_index(keyring, "c1", "phone", "+358401234567") == before


def test_signing_keys_are_four_different_ones(keyring: Keyring) -> None:
    public = keyring.public_keys()
    assert sorted(public) == sorted(SIGNING_KEYS)
    for name in SIGNING_KEYS:
        signature = keyring.signing_key(name).sign(b"message")
        public[name].verify(signature, b"message")
        for other in set(SIGNING_KEYS) - {name}:
            with pytest.raises(InvalidSignature):
                public[other].verify(signature, b"message")
    with pytest.raises(Misuse):
        keyring.signing_key("other")  # type: ignore[arg-type] # that is the test


@given(
    st.lists(st.one_of(st.text(max_size=5), st.binary(max_size=5), st.integers(0, 2**63)), max_size=4),
    st.lists(st.one_of(st.text(max_size=5), st.binary(max_size=5), st.integers(0, 2**63)), max_size=4),
)
def test_bound_parts_have_one_reading(one: list[str | bytes | int], other: list[str | bytes | int]) -> None:
    def plain(parts: list[str | bytes | int]) -> list[bytes]:
        return [
            part.encode()
            if isinstance(part, str)
            else part.to_bytes(8, "big")
            if isinstance(part, int)
            else part
            for part in parts
        ]

    assert (bind("label", *one) == bind("label", *other)) is (plain(one) == plain(other))


# The file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    FileKeyring.create(tmp_path / "keyring.json", NOW).ensure_controller("c1", NOW)
    return tmp_path / "keyring.json"


def test_the_file_is_the_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        FileKeyring.create(tmp_path / "k", NOW)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "k").stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o644, 0o666, 0o610])
def test_a_looser_mode_is_refused_and_the_message_says_what_to_do(path: Path, mode: int) -> None:
    path.chmod(mode)
    with pytest.raises(KeyringError, match="chmod 600"):
        FileKeyring.open(path)
    path.chmod(0o400)
    assert FileKeyring.open(path).current_epoch("c1") == 1


def test_somebody_elses_file_is_refused(path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
        with pytest.raises(KeyringError, match="chown"):
            FileKeyring.open(path)
    else:
        with pytest.raises(KeyringError):
            FileKeyring.open("/etc/passwd")


def test_a_link_or_a_folder_is_no_keyring(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    with pytest.raises(KeyringError):
        FileKeyring.open(link)
    with pytest.raises(KeyringError):
        FileKeyring.open(path.parent)


def test_a_missing_file_is_not_made_up_and_an_old_one_not_overwritten(path: Path) -> None:
    with pytest.raises(KeyringError, match="restore"):
        FileKeyring.open(path.with_name("none"))
    before = path.read_bytes()
    with pytest.raises(KeyringError, match="never overwritten"):
        FileKeyring.create(path, NOW)
    assert path.read_bytes() == before
    with pytest.raises(KeyringError):
        FileKeyring.create(path.parent / "no" / "folder", NOW)


def test_damage_is_refused_and_not_quoted(path: Path) -> None:
    whole = path.read_bytes()
    for damaged in (
        b"",
        b"[]",
        b"{}",
        whole[: len(whole) // 2],
        whole.replace(b'"version": 1', b'"version": 2'),
        whole.replace(b"tallenne-keyring", b"something-else"),
        whole.replace(b'"key": "', b'"key": "AA'),
        whole.replace(b'"index": "', b'"index": "!'),
    ):
        path.write_bytes(damaged)
        with pytest.raises(KeyringError) as refused:
            FileKeyring.open(path)
        assert refused.value.__cause__ is None
    path.write_bytes(whole)
    FileKeyring.open(path)


def test_what_another_process_changed_is_seen(path: Path) -> None:
    ours = FileKeyring.open(path)
    ref = new_subject_key(ours, "c1", "s1")
    script = (
        "import sys; from datetime import *; from storage.keyrings.file import FileKeyring\n"
        "k = FileKeyring.open(sys.argv[1]); now = datetime(2026, 4, 1, tzinfo=UTC)\n"
        "k.rotate('c1', now); k.destroy_epoch('c1', 1, now); k.ensure_controller('c7', now)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=True, cwd=Path(__file__).parents[2])

    assert ours.current_epoch("c1") == 2
    assert ours.current_epoch("c7") == 1
    with pytest.raises(KeyDestroyed):
        rewrap_subject(ours, ref)


def test_a_replacement_with_a_looser_mode_is_refused_by_who_has_it_open(path: Path) -> None:
    ours = FileKeyring.open(path)
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    copy.chmod(0o644)
    copy.replace(path)
    with pytest.raises(KeyringError, match="chmod 600"):
        ours.current_epoch("c1")


def test_many_openers_rotate_without_losing_an_epoch(path: Path) -> None:
    keyrings = [FileKeyring.open(path) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda n: keyrings[n % 4].rotate("c1", NOW), range(20)))
    assert sorted(made) == list(range(2, 22))
    assert all(keyring.current_epoch("c1") == 21 for keyring in keyrings)
    assert len(FileKeyring.open(path).epochs("c1")) == 21


def test_a_destroyed_key_is_gone_from_the_file_and_from_its_old_blocks(path: Path) -> None:
    keyring = FileKeyring.open(path)
    keyring.rotate("c1", NOW)
    old = os.open(path, os.O_RDONLY)
    before = os.pread(old, 100_000, 0)

    keyring.destroy_epoch("c1", 1, NOW)

    assert set(os.pread(old, 100_000, 0)) == {0}
    os.close(old)
    key = before.split(b'"key": "')[1].split(b'"')[0]
    assert len(key) == 44
    assert key not in path.read_bytes()


def test_a_write_that_fails_leaves_the_old_keyring(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keyring = FileKeyring.open(path)
    before = path.read_bytes()

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KeyringError, match="No space left"):
        keyring.rotate("c1", NOW)
    monkeypatch.undo()

    assert path.read_bytes() == before
    assert keyring.current_epoch("c1") == 1
    assert [found.name for found in path.parent.iterdir() if found.name.endswith(".tmp")] == []
    assert keyring.rotate("c1", NOW) == 2


def test_a_closed_keyring_can_be_read_again(path: Path) -> None:
    keyring = FileKeyring.open(path)
    keyring.close()
    assert keyring.current_epoch("c1") == 1
    keyring.close()
