"""SIPREC recording metadata: RFC 7865's form, older ones, and what is no such document."""

from __future__ import annotations

import contextlib
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.ingest.adapters.siprec import SiprecError, parse_siprec, parse_time
from tests.recorder.ingest.adapters.recorded import envelope, raw

START = datetime(2026, 3, 5, 7, 15, tzinfo=UTC)
RFC = dict(envelope("siprec").fields)["metadata"].strip().encode()


def test_the_form_of_the_rfc() -> None:
    found = parse_siprec(RFC)
    assert found.complete
    (session,) = found.sessions
    assert session.id == "hVpd7YQgRW2nD22h7q60JQ=="
    assert session.group == "7+OTCyoxTmqmqyA/1weDAg=="
    assert session.sip_session_ids == (
        "ab30317f1a784dc48ff824d0d3715d86;remote=47755a9de7794ba387653f2099600ef2",
    )
    assert (session.started_at, session.ended_at) == (START, datetime(2026, 3, 5, 7, 15, 42, tzinfo=UTC))
    assert found.labels == ("96", "97")
    (sender,) = found.senders_of("96")
    assert (sender.number, sender.names[0][1]) == ("+358401234567", "Maija Meikäläinen")
    assert found.streams[0].receivers == ("zSfPoSvdSDCmU3A3TRDxAw==",)


def test_an_older_form_without_the_rfcs_namespace() -> None:
    found = parse_siprec(raw("siprec-older.xml"))
    assert found.sessions[0].started_at == START
    (sender,) = found.senders_of("1")
    assert sender.number == "0401234567"
    document = found.document(parties={"1": "customer"})
    assert (document["caller"], document["callee"]) == ("0401234567", "1200")
    assert document["customer"] == {"phone": "0401234567"}
    assert document["channels"] == [{"party": "customer"}], "the file of its one stream"


def test_channels_are_told_by_labels_and_never_by_order() -> None:
    found, parties = parse_siprec(RFC), {"96": "customer", "97": "agent"}
    assert "channels" not in found.document(parties=parties)
    turned = found.document(parties=parties, labels=("97", "96"))
    assert [channel["party"] for channel in turned["channels"]] == ["agent", "customer"]
    half = found.document(parties={"97": "agent"}, labels=("97", "96"))
    assert [channel["party"] for channel in half["channels"]] == ["agent", "unknown"]
    assert "channels" not in found.document(labels=("97", "96"))


def test_what_is_missing_is_not_made_up() -> None:
    found = parse_siprec(b"<recording><session session_id='s'/></recording>")
    assert found.document() == {"external_id": "s", "call": {"external_id": "s"}}
    nobody = parse_siprec(b"<recording><stream stream_id='a'/><participant/></recording>")
    assert nobody.streams[0].label is None
    assert "external_id" not in nobody.document()


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-03-05T07:15:00Z", START),
        ("2026-03-05T09:15:00+0200", START),
        ("2026-03-05T10:15:00+03:00", START),
        ("2026-03-05T07:15:00.000+0000", START),
        ("2026-03-05 07:15:00", START),
        ("2026-03-05T07:15:00.123456789Z", START.replace(microsecond=123456)),
        ("2026-13-05T07:15:00Z", None),
        ("0001-01-01T00:00:00+23:59", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_times(text: str, time: datetime | None) -> None:
    assert parse_time(text) == time


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))


@pytest.mark.parametrize(
    "xml",
    [
        b"",
        b"\x00",
        b"{}",
        b"<recording>",
        b"<a/>",
        b"<recording/>",
        f'<!DOCTYPE r [<!ENTITY l0 "ha">{LAUGHS}]><recording>&l9;</recording>'.encode(),
        b'<!DOCTYPE r SYSTEM "file:///etc/passwd"><recording><session session_id="s"/></recording>',
        b'<!DOCTYPE r [<!ENTITY e SYSTEM "file:///etc/passwd">]><recording><datamode>&e;</datamode></recording>',
        b'<!DOCTYPE r [<!ENTITY % e SYSTEM "http://127.0.0.1/">%e;]><recording/>',
        b'<?xml version="1.0" encoding="utf-99"?><recording/>',
        b"<recording>" + b"<session/>" * 6000 + b"</recording>",
        b"\xff\xfe<\x00r\x00",
    ],
)
def test_what_is_no_document_is_refused_by_name(xml: bytes) -> None:
    with pytest.raises(SiprecError) as caught:
        parse_siprec(xml)
    assert "passwd" not in str(caught.value)


def test_deep_and_wide_documents_take_no_long_time() -> None:
    deep = b"<recording>" + b"<participant>" * 2000 + b"</participant>" * 2000 + b"</recording>"
    wide = b"<recording>" + b"<session session_id='s'/><participantsessionassoc session_id='s'/>" * 2000
    started = time.process_time()
    assert parse_siprec(deep).participants
    assert len(parse_siprec(wide + b"</recording>").sessions) == 32
    assert time.process_time() - started < 10


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(xml: bytes) -> None:
    with contextlib.suppress(SiprecError):
        parse_siprec(xml)


_TEXT = st.text(
    alphabet=st.characters(codec="utf-8", exclude_characters="<>&'\"", exclude_categories=("Cc", "Cs")),
    max_size=40,
)


@given(st.lists(st.tuples(st.integers(0, len(RFC)), st.integers(0, 40), st.binary(max_size=8)), max_size=4))
def test_a_damaged_document_is_read_or_refused(damage: list[tuple[int, int, bytes]]) -> None:
    xml = RFC
    for at, length, new in damage:
        xml = xml[:at] + new + xml[at + length :]
    with contextlib.suppress(SiprecError):
        parse_siprec(xml).document(parties={"96": "customer"}, labels=("96", "97"))


@given(_TEXT, _TEXT, _TEXT)
def test_any_text_in_it_can_be_kept(identity: str, aor: str, label: str) -> None:
    xml = (
        f"<recording><session session_id='{identity}'/><participant participant_id='p'><nameID aor='{aor}'/>"
        f"</participant><stream stream_id='{identity}'><label>{label}</label></stream></recording>"
    )
    document = parse_siprec(xml.encode()).document(parties={label: "customer"})
    assert 0 < len(document.get("external_id", "x")) <= 256
