"""A real S3 server for the tests: Ceph RGW where it can be had, else the ministack emulator, said aloud."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from pathlib import Path

from minio import Minio

from tests.servers import processes, report


class S3Server(ABC):
    """An S3 server on loopback with one account."""

    kind: str
    secure = False
    region = "us-east-1"

    def __init__(self) -> None:
        self.port = processes.free_port()
        self.access_key = "test" + secrets.token_hex(6)
        self.secret_key = secrets.token_hex(20)

    @property
    def endpoint(self) -> str:
        """Address as ``host:port``, the way minio wants it."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Address as a URL."""
        return f"{'https' if self.secure else 'http'}://{self.endpoint}"

    def client(self) -> Minio:
        """Return a fresh client with the account's keys."""
        return Minio(
            self.endpoint,
            access_key=self.access_key,
            secret_key=self.secret_key,
            secure=self.secure,
            region=self.region,
        )

    def new_bucket(self, *, versioned: bool = False, object_lock: bool = False) -> str:
        """Create an empty bucket under a random name and return the name.

        Args:
            versioned: keep old versions of objects.
            object_lock: allow retention and legal holds; implies ``versioned``.
        """
        from minio.commonconfig import ENABLED
        from minio.versioningconfig import VersioningConfig

        name = f"test-{secrets.token_hex(8)}"
        client = self.client()
        client.make_bucket(name, object_lock=object_lock)
        if versioned and not object_lock:
            client.set_bucket_versioning(name, VersioningConfig(ENABLED))
        return name

    @abstractmethod
    def start(self) -> None:
        """Start, or start again with what was stored, and wait until requests are answered."""

    @abstractmethod
    def stop(self) -> None:
        """Stop in good order; what was stored stays."""

    @abstractmethod
    def kill(self) -> None:
        """Stop every process with SIGKILL; what was acknowledged must survive it."""

    @abstractmethod
    def close(self) -> None:
        """Stop for good and remove everything."""


def new_s3_server() -> S3Server:
    """Start the best S3 server that this machine offers.

    Raises:
        ServerFailedError: one is installed and does not start.
        ServerUnavailableError: neither Ceph RGW nor ministack is there.
    """
    from tests.servers.ministack import MinistackServer
    from tests.servers.rgw import RgwServer, find_ceph

    try:
        ceph = find_ceph()
    except processes.ServerUnavailableError as reason:
        report.missing(
            "Ceph RGW",
            f"{reason}; the S3 tests ran against the ministack emulator, which accepts any key and is no "
            "proof of durability, signatures or Object Lock",
        )
        emulator = MinistackServer()
        emulator.start()
        report.used("S3", emulator.kind)
        return emulator
    server = RgwServer(ceph)
    try:
        server.start()
    except BaseException:
        server.close()
        raise
    report.used("S3", server.kind)
    return server


def describe() -> str:
    """Say in a few words which S3 server a run would start (for pytest's header)."""
    from tests.servers.rgw import find_ceph

    try:
        return f"Ceph RGW ({find_ceph().radosgw})"
    except processes.ServerUnavailableError:
        return "ministack emulator (no Ceph RGW here)"


def log_excerpt(path: Path, size: int = 1500) -> str:
    """Return the end of a log file for an error message."""
    return path.read_text(errors="replace")[-size:] if path.exists() else ""
