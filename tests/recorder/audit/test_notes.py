"""Signed checkpoints: the C2SP form, every flip, and stock OpenSSL as a second opinion."""

from __future__ import annotations

import base64
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from recorder.audit import notes
from recorder.audit.notes import BadNote, Checkpoint

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key()
CHECKPOINT = Checkpoint(notes.origin_of(PUBLIC), 1234567, bytes(range(100, 132)))
ROOT = "A" * 43 + "="
GOLDEN = """\
tallenne/log-56475aa75463474c
1234567
ZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXp7fH1+f4CBgoM=

\N{EM DASH} tallenne/log-56475aa75463474c """


def test_the_form_is_fixed() -> None:
    note = notes.sign(CHECKPOINT, KEY)
    assert note.startswith(GOLDEN)
    assert note.endswith("=\n")
    assert notes.open_note(note, PUBLIC) == CHECKPOINT


def test_the_specification_example_of_a_verifier_key() -> None:
    # golang.org/x/mod/sumdb/note, documentation of NewVerifier.
    name, key = "PeterNeumann", "ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    public = Ed25519PublicKey.from_public_bytes(base64.b64decode(key)[1:])
    assert notes.verifier_key(name, public) == f"{name}+c74f20a3+{key}"


def test_every_flipped_byte_is_refused() -> None:
    note = notes.sign(CHECKPOINT, KEY).encode()
    for spot in range(len(note)):
        flipped = note[:spot] + bytes([note[spot] ^ 0x01]) + note[spot + 1 :]
        try:
            text = flipped.decode()
        except UnicodeDecodeError:
            continue
        with pytest.raises(BadNote):
            notes.open_note(text, PUBLIC)


def test_every_truncation_is_refused() -> None:
    note = notes.sign(CHECKPOINT, KEY)
    for end in range(len(note)):
        with pytest.raises(BadNote):
            notes.open_note(note[:end], PUBLIC)


def test_another_log_is_refused() -> None:
    with pytest.raises(BadNote):
        notes.open_note(notes.sign(CHECKPOINT, KEY), Ed25519PrivateKey.generate().public_key())


def test_a_witness_may_sign_beside_the_log() -> None:
    witness = Ed25519PrivateKey.generate()
    blob = notes.key_id("witness.example", witness.public_key()) + witness.sign(CHECKPOINT.text().encode())
    line = f"\N{EM DASH} witness.example {base64.b64encode(blob).decode()}\n"
    note = notes.sign(CHECKPOINT, KEY)
    assert notes.open_note(note + line, PUBLIC) == CHECKPOINT
    with pytest.raises(BadNote, match="does not bear"):
        notes.open_note(f"{CHECKPOINT.text()}\n{line}", PUBLIC)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "o\n1\n",
        f"o\n01\n{ROOT}\n",
        f"o\n-1\n{ROOT}\n",
        "o\n1\nAAAA\n",
        "o\n1\n*\n",
        f"\n1\n{ROOT}\n",
        f"o\n1\n{ROOT}",
    ],
)
def test_malformed_checkpoints_are_refused(text: str) -> None:
    with pytest.raises(BadNote):
        notes.parse(text)


def test_extension_lines_are_passed_over() -> None:
    assert notes.parse("o\n1\n" + "A" * 43 + "=\nextension\n") == Checkpoint("o", 1, bytes(32))


def test_stock_openssl_agrees(tmp_path: Path) -> None:
    """The commands of docs/audit-log.md, on a note and on a changed one."""
    openssl = shutil.which("openssl")
    assert openssl is not None, "the documented way to check a checkpoint needs the openssl command"
    note = notes.sign(CHECKPOINT, KEY)
    text, _, signature = note.partition("\n\n")
    (tmp_path / "log.pem").write_bytes(PUBLIC.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (tmp_path / "text").write_text(text + "\n")
    (tmp_path / "sig").write_bytes(base64.b64decode(signature.split(" ")[2])[4:])

    def verdict() -> int:
        command = [openssl, "pkeyutl", "-verify", "-pubin", "-inkey", "log.pem", "-rawin", "-in", "text"]
        done = subprocess.run([*command, "-sigfile", "sig"], cwd=tmp_path, capture_output=True, check=False)
        return done.returncode

    assert verdict() == 0
    (tmp_path / "text").write_text(text.replace("1234567", "1234568") + "\n")
    assert verdict() != 0
