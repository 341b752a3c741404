"""vCons between us and the library of others (`vcon` on PyPI), which has an environment of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from recorder.ingest.adapters.base import Inline, Later
from recorder.ingest.adapters.vcon import VconAdapter
from recorder.rights import vcon as export
from tests.recorder.ingest.test_vcon import NOW, WAV, sent

pytestmark = pytest.mark.slow
REQUIREMENTS = Path(__file__).parents[3] / "requirements" / "vcon.txt"
BUILD = """
import base64, hashlib, json, sys, warnings
warnings.simplefilter("ignore")
from vcon import Vcon
from vcon.dialog import Dialog
from vcon.party import Party
wav = open("a.wav", "rb").read()
vcon = Vcon.build_new()
vcon.add_party(Party(tel="+358401234567", name="Maija", role="customer"))
vcon.add_party(Party(tel="+358912345", role="agent"))
common = dict(type="recording", start="2026-03-05T07:58:00+00:00", parties=[0, 1], mimetype="audio/wav")
for encoding, encode in (("base64url", base64.urlsafe_b64encode), ("base64", base64.b64encode)):
    vcon.add_dialog(Dialog(**common, filename="a.wav", body=encode(wav).decode(), encoding=encoding))
linked = Dialog(**common)
linked.url, linked.alg = "https://files.example.com/a.wav", "sha256"
linked.signature = base64.urlsafe_b64encode(hashlib.sha256(wav).digest()).decode()
vcon.add_dialog(linked)
assert vcon.is_valid() == (True, []), vcon.is_valid()
open("plain.json", "w").write(vcon.to_json())
private, _ = Vcon.generate_key_pair()
vcon.sign(private)
open("signed.json", "w").write(vcon.to_json())
"""
READ = """
import json, sys, warnings
warnings.simplefilter("ignore")
from vcon import Vcon
vcon = Vcon.build_from_json(open("ours.json").read())
valid, complaints = vcon.is_valid()
print(json.dumps([vcon.uuid, len(vcon.parties), vcon.dialog[0]["body"], complaints]))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has the library."""
    folder = tmp_path_factory.mktemp("vcon") / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    install = [
        "-m",
        "pip",
        "install",
        "-q",
        "--require-hashes",
        "--no-deps",
        "--only-binary",
        ":all:",
        "-r",
        str(REQUIREMENTS),
    ]
    subprocess.run([str(python), *install], check=True)
    return python


def test_what_the_library_writes_is_taken(library: Path, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(WAV)
    subprocess.run([str(library), "-c", BUILD], cwd=tmp_path, check=True)
    plain = VconAdapter().read(sent((tmp_path / "plain.json").read_bytes()))
    assert [type(intent) for intent in plain] == [Inline, Inline, Later]
    for intent in plain:
        assert isinstance(intent, Inline | Later)
        assert intent.request.reasons == ()
        assert intent.request.metadata.customer is not None
    assert [intent.body for intent in plain if isinstance(intent, Inline)] == [WAV, WAV]
    [announced] = plain[2].request.digests.announced  # type: ignore[union-attr]
    assert announced[1] == "sha-256"
    # Its signed form names no certificate: as good as unsigned, and taken only where that is allowed.
    signed = (tmp_path / "signed.json").read_bytes()
    for allowed, reasons in ((True, ()), (False, ("signature-untrusted",))):
        first = VconAdapter().read(sent(signed, unsigned=allowed))[0]
        assert isinstance(first, Inline)
        assert (first.body, first.request.reasons) == (WAV, reasons)


async def test_the_library_reads_what_we_write(library: Path, tmp_path: Path) -> None:
    async def audio() -> AsyncIterator[bytes]:
        yield WAV

    dialog = export.Dialog(NOW, 0.1, (0, 1), "audio/wav", "recording.wav")
    ours = export.document(uuid.uuid4(), NOW, [{"role": "customer"}, {"role": "agent"}], dialog, [])
    text = b"".join([piece async for piece in export.stream(ours, audio())])
    (tmp_path / "ours.json").write_bytes(text)
    said = subprocess.run(  # noqa: ASYNC221 - nothing else runs here
        [str(library), "-c", READ], cwd=tmp_path, check=True, capture_output=True
    )
    name, parties, body, complaints = json.loads(said.stdout)
    assert (name, parties, body) == (ours["uuid"], 2, json.loads(text)["dialog"][0]["body"])
    # It checks against an older draft, which had a version and another name for the media type.
    assert complaints == ["Missing required field: vcon", "Dialog 0 has invalid mimetype: missing"]
