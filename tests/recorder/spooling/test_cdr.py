"""Call detail records from files as Asterisk writes them, and from real databases."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest

from recorder.errors import ConfigurationError, Unavailable
from recorder.spooling.cdr import CsvBook, Sought, SqlBook, metadata_of
from recorder.spooling.config import CsvRecords, SqlRecords
from tests.servers.mariadb import MariaDbServer
from tests.servers.postgres import PostgresServer

HELSINKI = ZoneInfo("Europe/Helsinki")
NAME = "external-2001-0401234567-20260305-101500-1772698500.42.wav"
SOUGHT = Sought(NAME, NAME.removesuffix(".wav"), uniqueid="1772698500.42")
MASTER = (
    '"","0401234567","2001","from-trunk","""Maija M"" <0401234567>","PJSIP/trunk-01","PJSIP/2001-02",'
    '"Queue","600,t","2026-03-05 10:15:00","2026-03-05 10:15:08","2026-03-05 10:20:00",300,292,"ANSWERED",'
    '"DOCUMENTATION","1772698500.42",""\n'
)
COLUMNS = {
    "calldate": "2026-03-05 10:15:00", "clid": '"Maija" <0401234567>', "src": "0401234567", "dst": "2001",
    "dcontext": "from-trunk", "duration": 300, "billsec": 292, "disposition": "ANSWERED",
    "uniqueid": "1772698500.42", "linkedid": "1772698500.40", "recordingfile": NAME, "cnum": "0401234567",
}  # fmt: skip
SCHEMA = (
    "CREATE TABLE cdr (calldate TIMESTAMP NOT NULL, clid VARCHAR(80), src VARCHAR(80), dst VARCHAR(80),"
    " dcontext VARCHAR(80), duration INTEGER, billsec INTEGER, disposition VARCHAR(9), uniqueid VARCHAR(150),"
    " linkedid VARCHAR(150), recordingfile VARCHAR(255), cnum VARCHAR(80))"
)
QUERY = "SELECT * FROM cdr WHERE recordingfile = :recordingfile OR uniqueid = :uniqueid ORDER BY calldate;"


def book(path: Path, **settings: Any) -> CsvBook:
    return CsvBook(CsvRecords(path=path, **settings))


def test_asterisks_own_file_tells_the_call(tmp_path: Path) -> None:
    path = tmp_path / "Master.csv"
    path.write_text(MASTER)
    rows = book(path, columns="asterisk").find(SOUGHT)
    document = metadata_of(rows, HELSINKI, {"from-trunk": "inbound"})
    assert document["caller"] == "0401234567"
    assert document["callee"] == "2001"
    assert document["direction"] == "inbound"
    assert document["call"] == {"external_id": "1772698500.42"}
    assert datetime.fromisoformat(document["started_at"]) == datetime(2026, 3, 5, 8, 15, tzinfo=UTC)
    assert document["extra"]["cdr"]["billsec"] == "292"
    assert "duration" not in document  # the call's, not the recording's


def test_a_line_is_not_read_before_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "Master.csv"
    path.write_text(MASTER[:100])
    records = book(path, columns="asterisk")
    assert records.find(SOUGHT) == []
    with path.open("a") as file:
        file.write(MASTER[100:])
    assert len(records.find(SOUGHT)) == 1


def test_a_rotated_file_is_read_from_its_start_and_what_was_read_stays(tmp_path: Path) -> None:
    path = tmp_path / "Master.csv"
    path.write_text(MASTER)
    records = book(path, columns="asterisk")
    assert len(records.find(SOUGHT)) == 1
    path.rename(tmp_path / "Master.csv.1")
    path.write_text(MASTER.replace("1772698500.42", "1772698999.50"))
    assert len(records.find(Sought("x.wav", "x", uniqueid="1772698999.50"))) == 1
    assert len(records.find(SOUGHT)) == 1


def test_a_header_names_the_columns_and_the_row_of_the_very_file_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "cdr.csv"
    other = "sub/other.wav,1772698500.41,1772698500.40,2002,2026-03-05 10:14:00"
    own = (
        f"/var/spool/asterisk/monitor/2026/03/05/{NAME},1772698500.42,1772698500.40,2001,2026-03-05 10:15:00"
    )
    path.write_text(f"RecordingFile;UniqueID;LinkedID;Dst;Start\n{other}\n{own}\n".replace(",", ";"))
    rows = book(path, delimiter=";").find(
        Sought(NAME, NAME.removesuffix(".wav"), uniqueid="1772698500.42", linkedid="1772698500.40")
    )
    assert [row["dst"] for row in rows] == ["2001", "2002"]


def test_only_the_newest_records_are_kept_and_only_the_tail_is_read(tmp_path: Path) -> None:
    path = tmp_path / "cdr.csv"
    lines = [f"{n}.1,{n}\n" for n in range(1_700_000_000, 1_700_001_000)]
    path.write_text("uniqueid,dst\n" + "".join(lines))
    kept = book(path, keep=10)
    assert kept.find(Sought("a", "a", uniqueid="1700000989.1")) == []
    assert len(kept.find(Sought("a", "a", uniqueid="1700000990.1"))) == 1
    assert len(kept._rows) == 10
    assert len(kept._index) == 10
    tail = book(path, tail=500)
    assert tail.find(Sought("a", "a", uniqueid="1700000000.1")) == []
    assert len(tail.find(Sought("a", "a", uniqueid="1700000999.1"))) == 1


def test_a_quote_that_never_closes_does_not_swallow_the_file(tmp_path: Path) -> None:
    path = tmp_path / "cdr.csv"
    filler = "".join(f"{n},x\n" for n in range(400_000))
    path.write_text(f'uniqueid,dst\n1.1,"oops\n{filler}1772698500.42,2001\n')
    assert [row["dst"] for row in book(path).find(SOUGHT)] == ["2001"]


def test_a_missing_file_is_unavailable_not_empty(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="No such file"):
        book(tmp_path / "none.csv").find(SOUGHT)


@pytest.mark.postgres
def test_a_row_from_postgresql(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    plain = url.replace("postgresql+psycopg", "postgresql")
    names, marks = ", ".join(COLUMNS), ", ".join(["%s"] * len(COLUMNS))
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(SCHEMA)
        connection.execute(f"INSERT INTO cdr ({names}) VALUES ({marks})", list(COLUMNS.values()))
    records = SqlBook(SqlRecords(url=url, query=QUERY), {})
    try:
        check_row(records)
        # A session of the agent's cannot write, whatever the SELECT does.
        writing = SqlBook(
            SqlRecords(url=url, query="WITH x AS (DELETE FROM cdr WHERE uniqueid = :uniqueid RETURNING 1)"
                                      " SELECT * FROM x"), {})  # fmt: skip
        with pytest.raises(Unavailable, match="ReadOnlySqlTransaction"):
            writing.find(SOUGHT)
        writing.close()
    finally:
        records.close()
        postgres.drop_database(url)


def test_a_row_from_mariadb(mariadb: MariaDbServer) -> None:
    name, url = mariadb.new_database("s3cret")
    names, marks = ", ".join(COLUMNS), ", ".join(["%s"] * len(COLUMNS))
    with mariadb.connect(name) as connection, connection.cursor() as cursor:
        cursor.execute(SCHEMA)
        cursor.execute(f"INSERT INTO cdr ({names}) VALUES ({marks})", list(COLUMNS.values()))
    records = SqlBook(SqlRecords(url=url, query=QUERY), {"RECORDER_SPOOL_CDR_PASSWORD": "s3cret"})
    check_row(records)
    mariadb.stop()
    with pytest.raises(Unavailable, match="OperationalError") as caught:
        records.find(SOUGHT)
    assert "0401234567" not in str(caught.value)
    mariadb.start()
    check_row(records)  # the pool notices that its connection died
    records.close()


def check_row(records: SqlBook) -> None:
    rows = records.find(SOUGHT)
    assert len(rows) == 1
    document = metadata_of(rows, HELSINKI, {})
    assert document["call"] == {"external_id": "1772698500.40"}
    assert document["caller"] == "0401234567"
    assert datetime.fromisoformat(document["started_at"]) == datetime(2026, 3, 5, 8, 15, tzinfo=UTC)
    assert document["extra"]["cdr"]["billsec"] == 292
    hostile = "x' OR '1'='1"
    assert records.find(Sought(hostile, hostile, uniqueid=hostile)) == []


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("DELETE FROM cdr WHERE uniqueid = :uniqueid", "one SELECT"),
        ("SELECT 1; DROP TABLE cdr", "one statement"),
        ("", "one SELECT"),
    ],
)
def test_a_query_that_is_no_select_is_refused(query: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        SqlRecords(url="postgresql://pbx/cdr", query=query)


def test_a_query_without_our_parameters_is_refused() -> None:
    for query in ("SELECT * FROM cdr", "SELECT * FROM cdr WHERE a = :uniqueid AND b = :other"):
        with pytest.raises(ConfigurationError, match="uniqueid"):
            SqlBook(SqlRecords(url="postgresql://pbx/cdr", query=query), {})


def test_a_password_has_no_place_in_the_url() -> None:
    with pytest.raises(ValueError, match="password_env"):
        SqlRecords(url="mysql+pymysql://cdr:secret@pbx/asteriskcdrdb", query=QUERY)


def test_mysql_without_its_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pymysql", None)
    with pytest.raises(ConfigurationError, match=r"tallenne\[mysql\]"):
        SqlBook(SqlRecords(url="mysql://cdr@pbx/asteriskcdrdb", query=QUERY), {})
