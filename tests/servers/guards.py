"""Guards around every test: nobody talks to the outside, nobody blocks the event loop."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Container, Iterator
from contextlib import contextmanager
from typing import Any

from blockbuster import BlockBuster

PACKAGES = ["recorder", "storage", "retention"]


class OutsideConnectionError(Exception):
    """A test tried to reach a host that is not this machine."""


class _Every(Container[str]):
    """Holds every function name, for blockbuster's lists of functions that may block."""

    def __contains__(self, name: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(())


def _is_local(host: object) -> bool:
    if host is None or host in ("", "localhost", b"localhost"):
        return True
    text = host.decode() if isinstance(host, bytes) else str(host)
    try:
        return ipaddress.ip_address(text.partition("%")[0]).is_loopback
    except ValueError:
        return False


@contextmanager
def only_loopback(monkeypatch: Any) -> Iterator[None]:
    """Make Python's sockets refuse every host but this one, and the resolver every name but localhost."""
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex
    getaddrinfo, sendto = socket.getaddrinfo, socket.socket.sendto

    def check(family: int, address: Any) -> None:
        if family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):
            raise OutsideConnectionError(f"a test tried to reach {address!r}")

    def guarded_connect(self: socket.socket, address: Any) -> None:
        check(self.family, address)
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        check(self.family, address)
        return connect_ex(self, address)

    def guarded_sendto(self: socket.socket, *arguments: Any) -> int:
        check(self.family, arguments[-1])
        return sendto(self, *arguments)

    def guarded_getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        literal = False
        if isinstance(host, (str, bytes)):
            try:
                ipaddress.ip_address(host.decode() if isinstance(host, bytes) else host)
                literal = True  # looking up a literal sends nothing; connecting to it is checked above
            except ValueError:
                pass
        if not literal and not _is_local(host):
            raise OutsideConnectionError(f"a test tried to resolve {host!r}")
        return getaddrinfo(host, *arguments, **options)

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
    monkeypatch.setattr(socket.socket, "sendto", guarded_sendto)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)
    yield


@contextmanager
def no_blocking_calls() -> Iterator[BlockBuster]:
    """Fail a blocking call that our packages make inside a running event loop.

    Calls that a test itself makes are let through: only stacks with a frame of `PACKAGES` are looked at.
    """
    guard = BlockBuster(scanned_modules=PACKAGES)
    every: Any = _Every()
    for function in guard.functions.values():
        # Importing a module reads files, once; the tests' servers are not the service's doing.
        function.can_block_in("<frozen importlib._bootstrap>", {"_find_and_load"})
        for module in ("processes", "rgw", "s3", "seaweedfs", "ministack", "postgres"):
            function.can_block_in(f"tests/servers/{module}.py", every)
        # Measuring coverage has a lock of its own, which threads may hold for a moment.
        function.can_block_in("coverage/collector.py", {"lock_data"})
        # Tracebacks and warnings read source files to show a line.
        function.can_block_in("linecache.py", {"checkcache", "updatecache", "getlines"})
    guard.activate()
    try:
        yield guard
    finally:
        guard.deactivate()
