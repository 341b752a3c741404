"""The tests' own servers are real, refuse wrong keys, come back and leave nothing behind."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import textwrap
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import sqlalchemy
from minio import Minio
from minio.error import S3Error
from sqlalchemy.ext.asyncio import create_async_engine

from tests.servers import guards, processes
from tests.servers.janitor import start_time
from tests.servers.postgres import PostgresServer
from tests.servers.prompts import Prompts
from tests.servers.s3 import S3Server

pytestmark = pytest.mark.timeout(180)


@pytest.mark.s3
def test_an_object_comes_back(s3_server: S3Server, s3_bucket: str) -> None:
    client = s3_server.client()
    client.put_object(s3_bucket, "a", io.BytesIO(b"0123456789"), 10)
    answer = client.get_object(s3_bucket, "a", offset=2, length=3)
    try:
        assert answer.read() == b"234"
    finally:
        answer.close()
        answer.release_conn()


@pytest.mark.s3
def test_a_wrong_secret_is_refused_by_a_real_server(s3_server: S3Server, s3_bucket: str) -> None:
    stranger = Minio(
        s3_server.endpoint,
        access_key=s3_server.access_key,
        secret_key="wrong",
        secure=False,
        region="us-east-1",
    )
    if s3_server.kind.startswith("ministack"):
        assert stranger.bucket_exists(s3_bucket)  # the emulator's known weakness, said in the report
        return
    with pytest.raises(S3Error) as refusal:
        stranger.list_objects(s3_bucket).__next__()
    assert refusal.value.code in {"AccessDenied", "SignatureDoesNotMatch"}


@pytest.mark.s3
def test_buckets_with_versions_and_with_locks(s3_server: S3Server) -> None:
    client = s3_server.client()
    versioned = s3_server.new_bucket(versioned=True)
    first = client.put_object(versioned, "a", io.BytesIO(b"1"), 1).version_id
    second = client.put_object(versioned, "a", io.BytesIO(b"2"), 1).version_id
    assert first != second
    locked = s3_server.new_bucket(object_lock=True)
    put = client.put_object(locked, "a", io.BytesIO(b"1"), 1)
    client.enable_object_legal_hold(locked, "a", version_id=put.version_id)
    with pytest.raises(S3Error):
        client.remove_object(locked, "a", version_id=put.version_id)


@pytest.mark.s3
def test_an_s3_server_keeps_its_objects_over_a_stop_and_a_kill(own_s3_server: Callable[[], S3Server]) -> None:
    server = own_s3_server()
    bucket = server.new_bucket()
    server.client().put_object(bucket, "a", io.BytesIO(b"kept"), 4)
    for halt in (server.stop, server.kill):
        halt()
        assert not processes.accepts(server.port)
        server.start()
        assert server.client().stat_object(bucket, "a").size == 4


@pytest.mark.postgres
def test_each_database_is_fresh_and_empty(postgres: PostgresServer) -> None:
    for _ in range(2):
        engine = sqlalchemy.create_engine(postgres.new_database())
        with engine.begin() as connection:
            assert (
                connection.execute(
                    sqlalchemy.text("SELECT count(*) FROM pg_tables WHERE schemaname='public'")
                ).scalar()
                == 0
            )
            connection.execute(sqlalchemy.text("CREATE TABLE mark (id int)"))
        engine.dispose()


@pytest.mark.postgres
def test_a_durable_cluster_keeps_a_commit_over_kill(own_postgres: Callable[..., PostgresServer]) -> None:
    server = own_postgres(durable=True)
    database = server.new_database().replace("+psycopg", "")
    with psycopg.connect(database) as connection:
        assert connection.execute("SHOW fsync").fetchone() == ("on",)
        connection.execute("CREATE TABLE mark AS SELECT 7 AS id")
    server.kill()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(database)
    server.start()
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT id FROM mark").fetchone() == (7,)
    server.stop()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(database)


async def test_every_database_url_serves_the_async_engine(database_url: str) -> None:
    engine = create_async_engine(database_url)
    async with engine.connect() as connection:
        assert (await connection.execute(sqlalchemy.text("SELECT 1"))).scalar() == 1
    await engine.dispose()


def test_ports_are_never_given_twice(free_port: Callable[[], int]) -> None:
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    program = "from tests.servers.processes import free_port\nfor _ in range(300): print(free_port())"
    other = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert not set(ports) & {int(port) for port in other.stdout.split()}


def test_prompts_come_in_three_formats(prompts: Prompts) -> None:
    assert {name: len(paths) > 500 for name, paths in prompts.files.items()} == {
        "gsm": True,
        "wav": True,
        "g722": True,
    }
    assert all(len(paths) == 5 for paths in prompts.sample(5).values())
    assert prompts.files["wav"][0].read_bytes()[:4] == b"RIFF"


def test_a_killed_run_leaves_neither_server_nor_folder(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent("""
        import sys, time
        from tests.servers import processes
        folder = processes.work_folder("x")
        command = [sys.executable, "-c", "import time; time.sleep(600)"]
        daemon = processes.Daemon("sleeper", command, folder / "log")
        daemon.start()
        print(folder, daemon.pid, flush=True)
        time.sleep(600)
        """)
    )
    root = Path(__file__).parents[2]
    run = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert run.stdout is not None
    folder, pid = run.stdout.readline().split()
    assert start_time(int(pid)) is not None
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    processes.wait_until(lambda: start_time(int(pid)) is None, "the server outlived its run", 10)
    processes.wait_until(lambda: not Path(folder).exists(), "the folder outlived its run", 10)


def test_nobody_reaches_outside() -> None:
    with socket.socket() as outside, pytest.raises(guards.OutsideConnectionError):
        outside.connect(("192.0.2.1", 80))  # TEST-NET-1, RFC 5737
    with pytest.raises(guards.OutsideConnectionError):
        urllib.request.urlopen("http://example.org/")


async def test_our_packages_may_not_block_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function compiled under a path of ours stands for careless code in the service."""
    import storage

    careless: dict[str, Callable[[], None]] = {}
    source = "import time\ndef careless():\n    time.sleep(0)\n"
    exec(compile(source, str(Path(storage.__path__[0]) / "careless.py"), "exec"), careless)
    with pytest.raises(Exception, match=r"Blocking call to time\.sleep"):
        careless["careless"]()
