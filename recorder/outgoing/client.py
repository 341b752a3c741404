"""Fetching audio over HTTP from where a sender says it lies: from allowed hosts only, and bounded.

A sender chooses the address, so the address is not trusted (server-side request forgery): the host must be on
the source's list, the scheme https, and what the name resolves to a public address. The check is made on the
very addresses that are then connected to, so that a name cannot change in between. Redirects are followed by
hand, each checked like the first, and credentials stay with the origin they were meant for.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from recorder.errors import RecorderError

_PORTS: Final = {"https": 443, "http": 80}
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_HOPS: Final = 5
# Addresses that carry an IPv4 address of anybody's choice: NAT64 (RFC 6052, RFC 8215), 6to4, Teredo.
_TUNNELS: Final = tuple(
    ipaddress.ip_network(n) for n in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")
)


class FetchFailed(RecorderError):
    """Audio could not be fetched this time.

    Attributes:
        code: what was in the way: ``forbidden-host``, ``unreachable``, ``timeout``, ``broken-off``,
            ``status-404`` and so on; never personal.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Download:
    """An answer whose body is still to be read.

    Attributes:
        size: bytes to come, where the sender says so.
        chunks: the body, once; raises `FetchFailed` where it breaks off.
    """

    size: int | None
    content_type: str | None
    chunks: AsyncIterator[bytes]


class Downloader:
    """Opens downloads.

    Args:
        private_hosts: ``host`` or ``host:port`` that may have private addresses and be asked without TLS.
        idle_seconds: without a byte, after which a download is given up.
        total_seconds: for one download.
    """

    def __init__(
        self,
        *,
        private_hosts: Collection[str] = (),
        idle_seconds: float = 60.0,
        total_seconds: float = 3600.0,
    ) -> None:
        self._private = frozenset(private_hosts)
        self._timeout = aiohttp.ClientTimeout(
            total=total_seconds, sock_connect=min(10.0, idle_seconds), sock_read=idle_seconds
        )

    @asynccontextmanager
    async def open(
        self, url: str, *, hosts: Collection[str], headers: Mapping[str, str]
    ) -> AsyncIterator[Download]:
        """Ask for a resource and follow its redirects.

        Args:
            url: as the sender gave it.
            hosts: ``host``, ``*.domain`` or ``host:port`` that may be asked.
            headers: sent to the first origin only.

        Raises:
            FetchFailed: it may not be asked, cannot be reached, or does not answer 200.
        """
        connector = aiohttp.TCPConnector(resolver=Guarded(self._private), use_dns_cache=False)
        async with aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        ) as session:
            response = await self._follow(session, url, hosts, headers)
            try:
                yield _download(response)
            finally:
                response.close()

    async def _follow(
        self, session: aiohttp.ClientSession, url: str, hosts: Collection[str], headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        where = self._checked(url, hosts)
        origin = where.origin()
        for _ in range(_HOPS):
            own = headers if where.origin() == origin else {}
            sent = {"User-Agent": "tallenne", **own, "Accept-Encoding": "identity"}
            try:
                response = await session.get(where, headers=sent, allow_redirects=False)
            except FetchFailed:
                raise
            except TimeoutError:
                raise FetchFailed("timeout", "the sender did not answer in time") from None
            except (aiohttp.ClientError, OSError, ValueError):
                raise FetchFailed("unreachable", "the sender cannot be reached") from None
            if response.status == 200:
                return response
            location = response.headers.get("Location", "")
            response.close()
            if response.status not in _REDIRECTS or not location:
                raise FetchFailed(f"status-{response.status}", f"the sender answered {response.status}")
            where = self._checked(location, hosts, base=where)
        raise FetchFailed("redirects", f"the sender redirected more than {_HOPS} times")

    def _checked(self, text: str, hosts: Collection[str], *, base: URL | None = None) -> URL:
        """The address, if it may be asked.

        Raises:
            FetchFailed: it may not.
        """
        try:
            where = URL(text) if base is None else base.join(URL(text))
            host, port = where.host, where.port
        except ValueError:
            raise FetchFailed("bad-address", "the address cannot be read") from None
        if host is None or where.scheme not in _PORTS or where.user is not None:
            raise FetchFailed("bad-address", "the address is not an https URL")
        if not _listed(host, port, where.scheme, hosts):
            raise FetchFailed("forbidden-host", "the address is not of a host that the source allows")
        private = _is_private(host, self._private, port)
        if where.scheme != "https" and not private:
            raise FetchFailed("not-https", "the address is not https")
        if not private and is_private_address(host):
            raise FetchFailed("private-address", "the address is not a public one")
        return where


class Guarded(AbstractResolver):
    """Resolves names, and refuses those that lead into private networks.

    Addresses written out are resolved by nobody: ask `is_private_address` about those.

    Args:
        private: ``host`` or ``host:port`` that may lead there.
    """

    def __init__(self, private: frozenset[str] = frozenset()) -> None:
        self._inner = ThreadedResolver()
        self._private = private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of a name.

        Raises:
            FetchFailed: one of them is not public.
        """
        found = await self._inner.resolve(host, port, family)
        if not _is_private(host, self._private, port) and not all(_public(one["host"]) for one in found):
            raise FetchFailed("private-address", "the host's name leads to an address that is not public")
        return found

    async def close(self) -> None:
        """Nothing is kept."""
        await self._inner.close()


def _download(response: aiohttp.ClientResponse) -> Download:
    if response.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
        raise FetchFailed("encoded", "the sender compressed what it was asked to send as it is")
    return Download(response.content_length, response.headers.get("Content-Type"), _chunks(response))


async def _chunks(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.content.iter_any():
            yield chunk
    except TimeoutError:
        raise FetchFailed("timeout", "the download stalled") from None
    except (aiohttp.ClientError, aiohttp.http.HttpProcessingError, OSError):
        raise FetchFailed("broken-off", "the download broke off") from None


def _listed(host: str, port: int | None, scheme: str, hosts: Collection[str]) -> bool:
    host = host.lower().rstrip(".")
    usual = port == _PORTS[scheme]
    for entry in hosts:
        name = entry.lower().strip()
        if name.startswith("*.") and usual and host.endswith(name[1:]) and host != name[2:]:
            return True
        if name == f"{host}:{port}" or (usual and name == host):
            return True
    return False


def _is_private(host: str, private: frozenset[str], port: int | None) -> bool:
    return host in private or f"{host}:{port}" in private


def is_private_address(host: str) -> bool:
    """Whether a host is an address, rather than a name, and not a public one."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return not _public(host)


def _public(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        elif any(address in tunnel for tunnel in _TUNNELS):
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved
