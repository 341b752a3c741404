"""The light S3 emulator `ministack`, for machines without Ceph. Accepts any key: no proof of signatures."""

from __future__ import annotations

import importlib.metadata
import sys
import tempfile

from tests.servers import processes
from tests.servers.processes import Daemon, ServerFailedError, ServerUnavailableError
from tests.servers.s3 import S3Server


class MinistackServer(S3Server):
    """ministack with its objects on disk, on loopback."""

    def __init__(self) -> None:
        super().__init__()
        try:
            self.kind = f"ministack {importlib.metadata.version('ministack')} (emulator)"
        except importlib.metadata.PackageNotFoundError:
            raise ServerUnavailableError("ministack is not installed") from None
        self._folder = processes.work_folder("s3")
        self._daemon = Daemon(
            "ministack",
            [sys.executable, "-m", "ministack"],
            self._folder / "out.log",
            environment=processes.clean_environment(
                BIND_HOST="127.0.0.1",
                GATEWAY_PORT=str(self.port),
                SERVICES="s3",
                S3_PERSIST="1",
                S3_DATA_DIR=str(self._folder / "data"),
                TMPDIR=str(self._folder),
                HOME=str(self._folder),
                STATE_DIR=str(self._folder / "state"),
                PYTHONWARNINGS="ignore",
                TMP=tempfile.gettempdir(),
            ),
        )

    def start(self) -> None:
        """See `S3Server.start`."""
        self._daemon.start()
        try:
            processes.wait_until(
                lambda: processes.accepts(self.port) or not self._daemon.running, "ministack did not answer"
            )
            if not self._daemon.running:
                raise ServerFailedError("ministack ended")
        except ServerFailedError as error:
            raise ServerFailedError(f"{error}\n{self._daemon.log_tail()}") from error

    def stop(self) -> None:
        """See `S3Server.stop`."""
        self._daemon.stop()

    def kill(self) -> None:
        """See `S3Server.kill`."""
        self._daemon.kill()

    def close(self) -> None:
        """See `S3Server.close`."""
        self._daemon.kill()
        processes.remove_folder(self._folder)
