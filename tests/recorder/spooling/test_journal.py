"""The journal: what may follow what, what survives, and what happens when the disk is full."""

from __future__ import annotations

import shutil
import sqlite3
import stat
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from recorder.errors import ConfigurationError, Corrupt, Unavailable
from recorder.spooling.folder import Identity
from recorder.spooling.journal import LISTED, MOVES, PENDING, Journal, JournalMisuse, State

NOW = 1_772_700_000.0
ONE = Identity(1, 10, 100)


def accept(journal: Journal, number: int, now: float = NOW) -> None:
    journal.hashed(number, bytes(32), "key", now)
    journal.accepted(number, recording_id="r", receipt="jws", outcome="stored", companions=None, now=now)


class JournalMachine(RuleBasedStateMachine):
    """Random steps, and a power cut (a second opening of what is on the disk) at any point."""

    files = Bundle("files")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="tln-journal-"))
        self.journal = Journal(self.folder, reserve=4096)
        self.expected: dict[int, State] = {}
        self.receipts: set[int] = set()
        self.known: dict[tuple[bytes, Identity], int] = {}

    def teardown(self) -> None:
        self.journal.close()
        shutil.rmtree(self.folder)

    @rule(target=files, path=st.binary(min_size=1, max_size=3), size=st.integers(0, 2), keeps=st.booleans())
    def note(self, path: bytes, size: int, keeps: bool) -> object:
        identity = Identity(1, size, 1)
        number, new = self.journal.note(path, identity, NOW, keeps=keeps)
        before = self.known.get((path, identity))
        settled = before is None or self.expected[before] is State.GONE
        again = before is not None and self.expected[before] is State.DONE and not keeps
        assert new == (settled or again)
        if not new:
            assert number == before
            return multiple()
        self.known[path, identity] = number
        self.expected[number] = State.SEEN
        return number

    @rule(number=files, to=st.sampled_from([s for s in State if s is not State.SEEN]))
    def move(self, number: int, to: State) -> None:
        allowed = to in MOVES[self.expected[number]]
        try:
            if to is State.HASHED:
                self.journal.hashed(number, bytes(32), "key", NOW)
            elif to is State.UPLOADING:
                self.journal.uploading(number, "http://service/uploads/1", NOW)
            elif to is State.ACCEPTED:
                self.journal.accepted(number, recording_id="r", receipt="jws", outcome="stored",
                                      companions=None, now=NOW)  # fmt: skip
            else:
                self.journal.finish(number, to, NOW)
        except JournalMisuse:
            assert not allowed
        else:
            assert allowed
            self.expected[number] = to
            if to is State.ACCEPTED:
                self.receipts.add(number)

    @rule(number=files, later=st.floats(0, 1e6))
    def postpone(self, number: int, later: float) -> None:
        self.journal.postpone(number, NOW + later, "service-away")

    @rule()
    def retry(self) -> None:
        listed = [number for number, state in self.expected.items() if state in LISTED]
        assert self.journal.retry(NOW) == len(listed)
        self.expected |= dict.fromkeys(listed, State.SEEN)

    @rule()
    def power_cut(self) -> None:
        # What a second connection sees is what was committed: nothing else survives.
        copy = Path(tempfile.mkdtemp(prefix="tln-journal-"))
        for name in ("journal.sqlite", "journal.sqlite-wal"):
            if (self.folder / name).exists():
                shutil.copy(self.folder / name, copy / name)
        old, self.folder = self.folder, copy
        self.journal.close()
        shutil.rmtree(old)
        self.journal = Journal(self.folder, reserve=4096)
        self.journal.wake()

    @rule(number=consumes(files))
    def nothing_done_without_receipt(self, number: int) -> None:
        entry = self.journal.entry(number)
        assert (entry.state not in {State.ACCEPTED, State.DONE}) or entry.receipt is not None

    @invariant()
    def the_disk_agrees(self) -> None:
        assert {n: self.journal.entry(n).state for n in self.expected} == self.expected
        assert {n for n, s in self.expected.items() if s is State.DONE} <= self.receipts
        summary = self.journal.summary(NOW)
        assert summary.waiting == sum(s in PENDING for s in self.expected.values())
        due = self.journal.due(NOW + 1e7, 1000)
        assert self.journal.next_due([e.id for e in due]) is None
        assert {e.id for e in due} == {n for n, s in self.expected.items() if s in PENDING}
        assert [e.state is not State.ACCEPTED for e in due] == sorted(
            e.state is not State.ACCEPTED for e in due
        )


JournalMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
TestJournalMachine = JournalMachine.TestCase


def test_a_file_that_fails_each_time_lets_the_others_go_first(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    try:
        poisoned, second = (journal.note(name, ONE, NOW)[0] for name in (b"a.wav", b"b.wav"))
        journal.postpone(poisoned, 0.0, "service-away")
        third, _ = journal.note(b"c.wav", ONE, NOW)
        assert [entry.id for entry in journal.due(NOW, 9)] == [second, third, poisoned]
        for number in (second, third):
            journal.postpone(number, 0.0, "service-away")
        assert [entry.id for entry in journal.due(NOW, 9)] == [poisoned, second, third]
        accept(journal, third)
        assert [entry.id for entry in journal.due(NOW, 9)] == [third, poisoned, second]
    finally:
        journal.close()


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    Journal(tmp_path).close()
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_a_full_disk_gives_up_the_reserve_so_that_receipts_are_still_noted(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    numbers = [journal.note(b"%d.wav" % n, ONE, NOW)[0] for n in range(20)]
    (pages,) = journal._db.execute("PRAGMA page_count").fetchone()
    journal._db.execute(f"PRAGMA max_page_count = {pages}")  # SQLite then says that the disk is full

    def fill() -> None:
        for n in range(1000):
            journal.note(b"more-%d" % n * 40, ONE, NOW)

    with pytest.raises(Unavailable, match="the disk is full") as caught:
        fill()
    assert caught.value.dependency == "journal"
    assert not (tmp_path / "reserve").exists()
    accept(journal, numbers[0])  # changes of what is there still fit
    assert journal.entry(numbers[0]).state is State.ACCEPTED
    journal._db.execute("PRAGMA max_page_count = 100000")
    journal.note(b"later", ONE, NOW)
    journal.keep_reserve()
    assert (tmp_path / "reserve").stat().st_size > 0
    journal.close()


def test_a_damaged_journal_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").write_bytes(b"this is no database" * 300)
    with pytest.raises(Corrupt, match=r"move \.recorder-spool away"):
        Journal(tmp_path)


def test_a_journal_of_another_version_is_left_alone(tmp_path: Path) -> None:
    Journal(tmp_path).close()
    with sqlite3.connect(tmp_path / "journal.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(ConfigurationError, match="another version"):
        Journal(tmp_path)


def test_looking_needs_a_journal_and_never_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no agent has worked"):
        Journal(tmp_path, read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_what_was_done_long_ago_is_forgotten_except_files_that_are_there(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for name in (b"kept.wav", b"left.wav"):
        accept(journal, number := journal.note(name, ONE, NOW)[0])
        journal.finish(number, State.DONE, NOW)
    assert journal.forget(NOW, keep={b"kept.wav"}) == 0
    assert journal.forget(NOW + 1, keep={b"kept.wav"}) == 1
    assert journal.knows(b"kept.wav", ONE, keeps=True)
    assert not journal.knows(b"left.wav", ONE, keeps=True)
    journal.close()
