"""Where a request comes from, believing only proxies that the operator trusts; and senders' credentials."""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Sequence
from typing import Final

from aiohttp import hdrs, web

from recorder.ingest.senders import Address

CONSERVER_TOKEN: Final = "X-Conserver-API-Token"  # noqa: S105 - a header's name
CREDENTIALS: Final = frozenset({"authorization", "proxy-authorization", "cookie", CONSERVER_TOKEN.lower()})
"""Headers (lower case) that no adapter gets to see."""


def peer_address(request: web.Request, trusted: Sequence[str]) -> Address | None:
    """The address a request comes from; None where it cannot be told.

    ``X-Forwarded-For`` counts only as far as trusted proxies wrote it: from the right, the first address that
    is no trusted proxy's is the sender's. What stands left of it anybody may have written.
    """
    peer = _address(request.remote or "")
    networks = [ipaddress.ip_network(network) for network in trusted]
    hops = [hop for line in request.headers.getall("X-Forwarded-For", []) for hop in line.split(",")]
    while peer is not None and hops and any(peer in network for network in networks):
        peer = _address(hops.pop().strip())
    return peer


def forwarded_scheme(request: web.Request, trusted: Sequence[str]) -> str:
    """``https`` where the connection is, or a trusted proxy says that the sender's was."""
    peer = _address(request.remote or "")
    if peer is not None and any(peer in ipaddress.ip_network(network) for network in trusted):
        said = request.headers.get("X-Forwarded-Proto", "").strip().lower()
        if said in ("http", "https"):
            return said
    return request.scheme


def _address(text: str) -> Address | None:
    text = text.removeprefix("[").partition("]")[0]
    if text.count(":") == 1:
        text = text.partition(":")[0]  # some proxies write the port
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def sender_token(request: web.Request) -> str | None:
    """The token of a telephony sender, wherever it could put it; None without one.

    In this order: the URL (``/ingest/t/{token}/``), Bearer, the password of Basic (or its user, where there
    is no password), a vCon conserver's header.
    """
    in_url = request.match_info.get("token")
    if in_url is not None:
        return in_url
    scheme, _, value = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    match scheme.lower():
        case "bearer":
            return value.strip()
        case "basic":
            return _password(value.strip())
        case _:
            return request.headers.get(CONSERVER_TOKEN)


def _password(value: str) -> str:
    try:
        user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return ""
    return password or user
