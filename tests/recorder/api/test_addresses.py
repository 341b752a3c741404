"""Where a request comes from, when proxies stand between, and what they may say."""

from __future__ import annotations

import base64

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from recorder.api.addresses import forwarded_scheme, peer_address, sender_token
from recorder.errors import ConfigurationError
from recorder.ingest.senders import allowed
from recorder.settings import load_settings

TRUSTED = ("10.0.0.0/8", "2001:db8::/32")


class _Transport:
    """A connection as far as a request asks it."""

    def __init__(self, peer: str) -> None:
        self._peer = peer

    def get_extra_info(self, name: str, default: object = None) -> object:
        return (self._peer, 1) if name == "peername" else default


def address(peer: str, *forwarded: str) -> str | None:
    headers = CIMultiDict([("X-Forwarded-For", value) for value in forwarded])
    request = make_mocked_request("GET", "/", headers, transport=_Transport(peer))
    found = peer_address(request, TRUSTED)
    return None if found is None else str(found)


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("192.0.2.1", (), "192.0.2.1"),
        ("192.0.2.1", ("198.51.100.7",), "192.0.2.1"),  # nobody's proxy: its word is not taken
        ("10.0.0.1", (), "10.0.0.1"),
        ("10.0.0.1", ("198.51.100.7",), "198.51.100.7"),
        ("10.0.0.1", ("198.51.100.7, 10.0.0.2",), "198.51.100.7"),
        ("10.0.0.1", ("10.9.9.9, 198.51.100.7",), "198.51.100.7"),  # the left is the sender's own invention
        ("10.0.0.1", ("198.51.100.7", "203.0.113.9"), "203.0.113.9"),
        ("10.0.0.1", ("198.51.100.7:4711",), "198.51.100.7"),
        ("2001:db8::1", ("[2001:db9::7]:443",), "2001:db9::7"),
        ("::ffff:10.0.0.1", ("::ffff:198.51.100.7",), "198.51.100.7"),
        ("10.0.0.1", ("unknown",), None),
        ("10.0.0.1", ("",), None),
        ("", (), None),
    ],
)
def test_whose_address_it_is(peer: str, forwarded: tuple[str, ...], expected: str | None) -> None:
    assert address(peer, *forwarded) == expected


@given(st.lists(st.text(max_size=30), max_size=4))
def test_any_header_is_survived(forwarded: list[str]) -> None:
    address("10.0.0.1", *forwarded)
    assert address("192.0.2.1", *forwarded) == "192.0.2.1"


def test_networks() -> None:
    request = make_mocked_request("GET", "/", transport=_Transport("::ffff:10.1.2.3"))
    peer = peer_address(request, ())
    assert allowed((), None)
    assert allowed(("192.0.2.0/24", "10.0.0.0/8"), peer)
    assert not allowed(("192.0.2.0/24", "2001:db8::/32"), peer)
    assert not allowed(("0.0.0.0/0",), None)


def test_the_scheme_is_the_senders() -> None:
    said = CIMultiDict({"X-Forwarded-Proto": "https"})
    for peer, scheme in (("10.0.0.1", "https"), ("192.0.2.1", "http")):
        request = make_mocked_request("GET", "/", said, transport=_Transport(peer))
        assert forwarded_scheme(request, TRUSTED) == scheme


def test_proxies_are_networks() -> None:
    assert load_settings(trusted_proxies=["10.0.0.1", "2001:db8::/32"]).trusted_proxies == (
        "10.0.0.1/32",
        "2001:db8::/32",
    )
    with pytest.raises(ConfigurationError, match="RECORDER_TRUSTED_PROXIES"):
        load_settings(trusted_proxies=["proxy.example"])


@given(st.text(alphabet=st.characters(codec="latin-1", min_codepoint=32), max_size=60))
def test_any_authorization_is_a_token_or_none(value: str) -> None:
    request = make_mocked_request("GET", "/", {"Authorization": value})
    assert sender_token(request) is None or value.partition(" ")[0].lower() in ("bearer", "basic")


@given(st.text(max_size=20), st.text(min_size=1, max_size=40))
def test_the_password_is_the_token(user: str, password: str) -> None:
    user = user.replace(":", "")
    credentials = base64.b64encode(f"{user}:{password}".encode()).decode()
    request = make_mocked_request("GET", "/", {"Authorization": f"Basic {credentials}"})
    assert sender_token(request) == password
