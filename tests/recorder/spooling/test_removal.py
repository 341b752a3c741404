"""Nothing but the very file of a receipt leaves the directory; links lead nowhere."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recorder.errors import ConfigurationError
from recorder.spooling import removal
from recorder.spooling.folder import Folder, Found, Identity, being_written
from recorder.spooling.removal import Removal

AUDIO = b"speech" * 1000
SHA = hashlib.sha256(AUDIO).digest()
NAME = b"2026/03/05/call.wav"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    (tmp_path / "monitor/2026/03/05").mkdir(parents=True)
    return Folder(tmp_path / "monitor")


def put(folder: Folder, audio: bytes = AUDIO, name: bytes = NAME) -> Identity:
    path = folder.root / os.fsdecode(name)
    path.write_bytes(audio)
    return Identity.of(path.stat())


def files(folder: Folder) -> list[bytes]:
    return sorted(found.path for found in folder.walk())


def test_the_very_file_is_deleted(folder: Folder) -> None:
    identity = put(folder)
    assert removal.delete(folder, NAME, identity, 7) is Removal.REMOVED
    assert files(folder) == []
    assert removal.delete(folder, NAME, identity, 7) is Removal.MISSING
    assert list((folder.root / ".recorder-spool/leaving").iterdir()) == []


def test_a_file_that_grew_or_was_replaced_stays(folder: Folder) -> None:
    identity = put(folder)
    with (folder.root / os.fsdecode(NAME)).open("ab") as file:
        file.write(b"more")
    assert removal.delete(folder, NAME, identity, 7) is Removal.CHANGED
    other = folder.root / "other"
    other.write_bytes(AUDIO)
    other.rename(folder.root / os.fsdecode(NAME))
    assert removal.delete(folder, NAME, identity, 7) is Removal.CHANGED
    assert (folder.root / os.fsdecode(NAME)).read_bytes() == AUDIO


def test_a_file_that_is_written_to_goes_back(folder: Folder) -> None:
    identity = put(folder)
    assert removal.delete(folder, NAME, identity, 7, lambda *_: True) is Removal.CHANGED
    assert files(folder) == [NAME]


def test_one_that_took_its_place_between_look_and_rename_goes_back_beside_a_third(folder: Folder) -> None:
    wrong = Identity(1, 1, 1)
    put(folder, b"second", b"2026/03/05/call.wav")
    inner = folder.root / ".recorder-spool/leaving/7"
    inner.mkdir(parents=True)
    (folder.root / os.fsdecode(NAME)).rename(inner / "call.wav")  # as the rename found it
    put(folder, b"third")
    assert removal.delete(folder, NAME, wrong, 7) is Removal.CHANGED
    there = sorted((folder.root / "2026/03/05").iterdir())
    assert sorted(path.read_bytes() for path in there) == [b"second", b"third"]
    assert all(path.suffix == ".wav" for path in there)


def test_after_a_power_cut_the_removal_goes_on_where_it_was(folder: Folder, tmp_path: Path) -> None:
    identity = put(folder)
    inner = folder.root / ".recorder-spool/leaving/7"
    inner.mkdir(parents=True)
    (folder.root / os.fsdecode(NAME)).rename(inner / "call.wav")
    target = tmp_path / "archive/call.wav"
    target.parent.mkdir()
    os.link(inner / "call.wav", target)  # archived, and not yet taken away here
    assert removal.archive(folder, NAME, identity, 7, target, SHA) is Removal.REMOVED
    assert [path.name for path in target.parent.iterdir()] == ["call.wav"]
    assert not inner.exists()


def test_files_on_their_way_out_that_no_journal_knows_come_back(folder: Folder) -> None:
    inner = folder.root / ".recorder-spool/leaving/7"
    inner.mkdir(parents=True)
    (inner / "call.wav").write_bytes(AUDIO)
    assert removal.recover(folder, lambda number: number == 7) == 0
    assert removal.recover(folder, lambda _: False) == 1
    assert files(folder) == [b"call.wav"]


def test_an_archive_never_loses_what_is_in_it(folder: Folder, tmp_path: Path) -> None:
    target = tmp_path / "archive/2026/03/05/call.wav"
    for n, audio in enumerate((AUDIO, b"other", AUDIO)):
        identity = put(folder, audio)
        digest = hashlib.sha256(audio).digest()
        assert removal.archive(folder, NAME, identity, n, target, digest) is Removal.REMOVED
    assert {p.name: p.read_bytes() for p in target.parent.iterdir()} == {
        "call.wav": AUDIO,
        "call~1.wav": b"other",
    }


def test_an_archive_on_another_file_system_gets_a_checked_copy(folder: Folder, tmp_path: Path) -> None:
    import tempfile

    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        assert Path(other).stat().st_dev != tmp_path.stat().st_dev
        identity = put(folder)
        target = Path(other, "2026/call.wav")
        with pytest.raises(OSError, match="not the file"):
            removal.archive(folder, NAME, identity, 7, target, bytes(32))
        assert not target.exists()
        assert removal.archive(folder, NAME, identity, 7, target, SHA) is Removal.REMOVED
        assert target.read_bytes() == AUDIO
        assert [path.name for path in target.parent.iterdir()] == ["call.wav"]
        assert target.stat().st_mtime_ns == identity.mtime_ns


def test_symbolic_links_are_no_recordings_and_lead_nowhere(folder: Folder, tmp_path: Path) -> None:
    secret = tmp_path / "secret.wav"
    secret.write_bytes(b"not ours")
    (folder.root / "link.wav").symlink_to(secret)
    (folder.root / "inside").symlink_to(tmp_path)
    assert files(folder) == []
    assert folder.look(b"link.wav") is None
    assert folder.look(b"inside/secret.wav") is None
    for path in (b"link.wav", b"inside/secret.wav", b"../secret.wav", b"2026/../../secret.wav"):
        with pytest.raises(OSError, match=r"No such|Not a directory|symbolic"):
            folder.open(path)
    removal.delete(folder, b"inside/secret.wav", Identity.of(secret.stat()), 7)
    assert secret.read_bytes() == b"not ours"


def test_only_paths_below_the_directory_are_relative_to_it(folder: Folder) -> None:
    root = os.fsencode(folder.root)
    assert folder.relative(root + b"/2026/a.wav") == b"2026/a.wav"
    for path in (
        b"/etc/passwd",
        root + b"x/a.wav",
        root + b"/../a.wav",
        root + b"/.recorder-spool/lock",
        root,
    ):
        assert folder.relative(path) is None


def test_hidden_folders_and_the_agents_own_are_not_looked_into(folder: Folder) -> None:
    (folder.root / ".hidden").mkdir()
    (folder.root / ".hidden/a.wav").write_bytes(AUDIO)
    (folder.root / ".recorder-spool/b.wav").write_bytes(AUDIO)
    put(folder)
    assert files(folder) == [NAME]


def test_a_directory_that_is_none_is_a_mistake_of_the_operator(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="must be a directory"):
        Folder(tmp_path / "missing")


def test_a_process_that_has_a_file_open_for_writing_is_seen(folder: Folder) -> None:
    put(folder)
    found = folder.look(NAME)
    assert found is not None
    path = folder.root / os.fsdecode(NAME)
    for mode, seen in (("ab", {NAME}), ("rb", set[bytes]())):
        program = f"import sys; f = open(sys.argv[1], {mode!r}); print('open', flush=True); sys.stdin.read()"
        with subprocess.Popen([sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE) as writer:  # fmt: skip
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"open\n"
            assert being_written([found]) == seen
            writer.communicate()
    assert being_written([Found(b"x", Identity(1, 1, 1), 0)]) == set()
