"""A throw-away MariaDB on a loopback port, as a FreePBX keeps its call detail records in."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
from pathlib import Path

import pymysql

from tests.servers import processes, report
from tests.servers.debian import unpacked
from tests.servers.processes import Daemon, ServerFailedError, ServerUnavailableError

PACKAGES = ("mariadb-server-core", "mariadb-client-core")


def _binaries() -> tuple[Path, Path, Path]:
    """Return mariadbd, mariadb-install-db and the folder that both are installed below."""
    server = shutil.which("mariadbd", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    installer = shutil.which("mariadb-install-db", path="/usr/bin:/usr/local/bin")
    if server is not None and installer is not None:
        return Path(server), Path(installer), Path("/usr")
    root = unpacked("mariadb", PACKAGES)
    server_there, installer_there = root / "usr/sbin/mariadbd", root / "usr/bin/mariadb-install-db"
    if not server_there.is_file() or not installer_there.is_file():
        raise ServerUnavailableError(f"{', '.join(PACKAGES)} hold no server where it is expected")
    return server_there, installer_there, root / "usr"


class MariaDbServer:
    """One server; its root has no password, on loopback only."""

    def __init__(self) -> None:
        server, installer, base = _binaries()
        self._folder = processes.work_folder("maria")
        self.port = processes.free_port()
        data = self._folder / "data"
        common = ["--no-defaults", f"--basedir={base}", f"--datadir={data}"]
        if os.geteuid() == 0:
            common.append("--user=root")  # it refuses to be root unasked; others may not change
        processes.run(
            [installer, *common, "--auth-root-authentication-method=normal", "--skip-test-db", "--force"]
        )
        self._daemon = Daemon(
            "MariaDB",
            [
                server, *common, f"--port={self.port}", "--bind-address=127.0.0.1",
                f"--socket={self._folder / 'sock'}", f"--pid-file={self._folder / 'pid'}",
                "--innodb-flush-log-at-trx-commit=0", "--skip-name-resolve",
            ],
            self._folder / "log",
        )  # fmt: skip

    def start(self) -> None:
        """Start, or start again, and wait until it answers."""
        try:
            processes.wait_until(self._answers, "MariaDB did not answer")
        except ServerFailedError as error:
            raise ServerFailedError(f"{error}\n{self._daemon.log_tail()}") from error

    def _answers(self) -> bool:
        self._daemon.start()
        try:
            self.connect().close()
        except pymysql.err.OperationalError:
            return False
        return True

    def connect(self, database: str | None = None) -> pymysql.connections.Connection[pymysql.cursors.Cursor]:
        """Connect as root."""
        return pymysql.connect(
            host="127.0.0.1", port=self.port, user="root", database=database, autocommit=True
        )

    def new_database(self, password: str) -> tuple[str, str]:
        """Create an empty database and a user who may only read it.

        Returns:
            Its name, and a SQLAlchemy URL without the password.
        """
        name = f"test_{secrets.token_hex(8)}"
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name}")
            cursor.execute(f"CREATE USER {name}@'%%' IDENTIFIED BY %s", (password,))
            cursor.execute(f"GRANT SELECT ON {name}.* TO {name}@'%'")
        return name, f"mysql+pymysql://{name}@127.0.0.1:{self.port}/{name}"

    def stop(self) -> None:
        """Stop in good order."""
        self._daemon.stop(how=signal.SIGTERM, seconds=20.0)

    def close(self) -> None:
        """Stop for good and remove everything."""
        self._daemon.stop(how=signal.SIGKILL)
        processes.remove_folder(self._folder)


def new_mariadb_server() -> MariaDbServer:
    """Start a server.

    Raises:
        ServerFailedError: it is installed and does not start.
        ServerUnavailableError: it is not installed and cannot be fetched.
    """
    server = MariaDbServer()
    try:
        server.start()
    except BaseException:
        server.close()
        raise
    report.used("call records", "MariaDB")
    return server
