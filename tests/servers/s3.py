"""A real S3 server for the tests: Ceph RGW where it can be had, else the ministack emulator, said aloud."""

from __future__ import annotations

import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable

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


def _ceph() -> S3Server:
    from tests.servers.rgw import RgwServer, find_ceph

    return RgwServer(find_ceph())


def _seaweedfs() -> S3Server:
    from tests.servers.seaweedfs import SeaweedServer

    return SeaweedServer()


def _ministack() -> S3Server:
    from tests.servers.ministack import MinistackServer

    return MinistackServer()


_CHOICES: dict[str, Callable[[], S3Server]] = {"rgw": _ceph, "seaweedfs": _seaweedfs, "ministack": _ministack}


def new_s3_server() -> S3Server:
    """Start the best S3 server that this machine offers, or the one that ``TEST_S3_SERVER`` names.

    Raises:
        ServerFailedError: one is installed and does not start.
        ServerUnavailableError: none can be had.
    """
    wanted = os.environ.get("TEST_S3_SERVER")
    reasons: list[str] = []
    for name, make in _CHOICES.items():
        if wanted not in {None, name}:
            continue
        try:
            server = make()
        except processes.ServerUnavailableError as reason:
            reasons.append(str(reason))
            continue
        try:
            server.start()
        except BaseException:
            server.close()
            raise
        report.used("S3", server.kind)
        if reasons:
            report.missing("Ceph RGW", f"{'; '.join(reasons)}; {server.kind} played the object store")
        if name == "ministack":
            report.missing(
                "proof by a real S3 server",
                "the emulator accepts any key and shows nothing about durability, signatures or Object Lock",
            )
        return server
    raise processes.ServerUnavailableError("; ".join(reasons) or f"no S3 server is called {wanted!r}")


def describe() -> str:
    """Say in a few words which S3 server a run would start (for pytest's header)."""
    from tests.servers.rgw import find_ceph
    from tests.servers.seaweedfs import find_weed

    wanted = os.environ.get("TEST_S3_SERVER")
    if wanted is not None:
        return f"{wanted}, as TEST_S3_SERVER asks"
    try:
        return f"Ceph RGW ({find_ceph().radosgw})"
    except processes.ServerUnavailableError:
        pass
    try:
        return f"SeaweedFS ({find_weed()}), no Ceph RGW here"
    except processes.ServerUnavailableError:
        return "the ministack emulator, no Ceph RGW here"
