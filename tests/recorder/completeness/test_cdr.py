"""Call detail records as telephony systems write them, and as nobody should."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.completeness.cdr import (
    ASTERISK,
    FORMATS,
    FREESWITCH,
    Expected,
    Unanswered,
    Unreadable,
    read_records,
)

HELSINKI = ZoneInfo("Europe/Helsinki")

# As Asterisk 20's cdr_csv writes it, with loguniqueid=yes and loguserfield=yes.
MASTER = (
    '"","0401234567","100","from-trunk","""Matti M"" <0401234567>","PJSIP/trunk-00000001",'
    '"PJSIP/100-00000002","Dial","PJSIP/100,30","2026-03-05 09:00:00","2026-03-05 09:00:04",'
    '"2026-03-05 09:01:04",64,60,"ANSWERED","DOCUMENTATION","1772694000.17",""\n'
    '"","0407654321","100","from-trunk","<0407654321>","PJSIP/trunk-00000003","","Dial","PJSIP/100,30",'
    '"2026-03-05 09:05:00","","2026-03-05 09:05:30",30,0,"NO ANSWER","DOCUMENTATION","1772694300.19",""\n'
)
# As FreePBX 16 exports asteriskcdrdb.cdr.
FREEPBX = (
    "calldate,clid,src,dst,dcontext,channel,dstchannel,lastapp,lastdata,duration,billsec,disposition,amaflags,"
    "accountcode,uniqueid,userfield,did,recordingfile,cnum,cnam,linkedid,peeraccount,sequence\n"
    "2026-03-05 09:00:00,x,0401234567,600,ext-queues,a,b,Queue,c,70,65,ANSWERED,3,,1772694000.17,,,"
    "q-600-0401234567-20260305-090000-1772694000.17.wav,,,1772694000.16,,12\n"
    "2026-03-05 10:00:00,x,100,0401234567,from-internal,a,b,Dial,c,10,9,ANSWERED,3,,1772697600.20,,,,,,"
    "1772697600.20,,13\n"
)
# As FreeSWITCH's mod_cdr_csv writes it with its example template.
SWITCH = (
    '"Matti","0401234567","100","default","2026-03-05 09:00:00","2026-03-05 09:00:02","2026-03-05 09:00:32",'
    '"32","30","NORMAL_CLEARING","7f4de4bc-17d7-11dd-b7a0-db4edd065621","","1000","PCMU","PCMU"\n'
    '"Matti","0401234567","100","default","2026-03-05 09:00:00","","2026-03-05 09:00:32","32","0",'
    '"NO_ANSWER","8f4de4bc-17d7-11dd-b7a0-db4edd065621","","1000","PCMU","PCMU"\n'
)


def rows(text: str, columns: tuple[str, ...] | None = None) -> list[object]:
    return list(read_records(text.splitlines(keepends=True), zone=HELSINKI, columns=columns))


def test_asterisk_master_csv() -> None:
    first, second = rows(MASTER, ASTERISK)
    assert first == Expected(
        1, ("1772694000.17",), "1772694000.17", datetime(2026, 3, 5, 7, 0, tzinfo=UTC), 60.0, None
    )
    assert second == Unanswered(2)


def test_freepbx_names_the_recording_and_the_linked_call() -> None:
    first, second = rows(FREEPBX)
    assert isinstance(first, Expected)
    stem = "q-600-0401234567-20260305-090000-1772694000.17"
    assert first.names == (stem, f"{stem}.wav", "1772694000.17")
    assert (first.call, first.recorded, first.seconds) == ("1772694000.16", True, 65.0)
    assert isinstance(second, Expected)
    assert second.recorded is False


def test_freeswitch() -> None:
    first, second = rows(SWITCH, FREESWITCH)
    assert isinstance(first, Expected)
    assert first.names == ("7f4de4bc-17d7-11dd-b7a0-db4edd065621",)
    assert first.started_at == datetime(2026, 3, 5, 7, 0, tzinfo=UTC)
    assert second == Unanswered(2)


@pytest.mark.parametrize(
    ("start", "instant"),
    [
        ("2026-03-29 02:59:59", datetime(2026, 3, 29, 0, 59, 59, tzinfo=UTC)),
        ("2026-03-29 04:00:00", datetime(2026, 3, 29, 1, 0, tzinfo=UTC)),  # the hour between is not there
        ("2026-03-05T09:00:00+01:00", datetime(2026, 3, 5, 8, 0, tzinfo=UTC)),
        ("2026-03-05T09:00:00Z", datetime(2026, 3, 5, 9, 0, tzinfo=UTC)),
        ("1772694000", datetime(2026, 3, 5, 7, 0, tzinfo=UTC)),
        ("1772694000000000", datetime(2026, 3, 5, 7, 0, tzinfo=UTC)),
    ],
)
def test_starts_with_and_without_a_zone(start: str, instant: datetime) -> None:
    [row] = rows(f"start,uniqueid,billsec\n{start},u1,5\n")
    assert isinstance(row, Expected)
    assert row.started_at == instant


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("yesterday,u1,5", "start"),
        ("9999-99-99 00:00:00,u1,5", "start"),
        ("0001-01-01 00:00:00,u1,5", "start"),
        ("2026-03-05 09:00:00,u1,long", "duration"),
        ("2026-03-05 09:00:00,u1,nan", "duration"),
        ("2026-03-05 09:00:00,,5", "no id"),
        (f"2026-03-05 09:00:00,{'x' * 300},5", "no id"),
    ],
)
def test_an_unreadable_line_is_told_by_number_and_reason_never_by_value(line: str, reason: str) -> None:
    [row] = rows(f"start,uniqueid,billsec\n{line}\n")
    assert isinstance(row, Unreadable)
    assert row.line == 2
    assert reason in row.reason
    assert "u1" not in row.reason


def test_a_header_without_what_is_needed_says_so_once() -> None:
    [row] = rows("a,b,c\n1,2,3\n4,5,6\n")
    assert isinstance(row, Unreadable)
    assert "header" in row.reason


def test_windows_paths_and_byte_order_marks() -> None:
    [row] = rows("\ufeffcalldate,recordingfile,billsec\n2026-03-05 09:00:00,C:\\rec\\2026\\a.b.wav,5\n")
    assert isinstance(row, Expected)
    assert row.names == ("a.b", "a.b.wav")


@given(text=st.text(max_size=400), layout=st.sampled_from(sorted(FORMATS)))
def test_anything_is_read_without_an_exception(text: str, layout: str) -> None:
    for row in read_records(text.splitlines(keepends=True), zone=HELSINKI, columns=FORMATS[layout]):
        assert isinstance(row, (Expected, Unanswered, Unreadable))


@given(cells=st.lists(st.text(max_size=40), min_size=3, max_size=3))
def test_any_cells_are_read_without_an_exception(cells: list[str]) -> None:
    line = ",".join('"{}"'.format(cell.replace('"', '""')) for cell in cells)
    text = f"calldate,uniqueid,billsec\n{line}\n"
    for row in read_records(text.splitlines(keepends=True), zone=HELSINKI):
        assert isinstance(row, (Expected, Unanswered, Unreadable))
