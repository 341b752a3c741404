"""Which adapter reads a source, and what may be set of it, by the source's kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from recorder.ingest.adapters.base import Adapter
from recorder.ingest.adapters.fetch_settings import (
    FetchSettings,
    JambonzSettings,
    TwilioSettings,
    VconSettings,
)
from recorder.ingest.adapters.oreka import OrekaAdapter
from recorder.ingest.adapters.raw import RawAdapter
from recorder.ingest.adapters.rtpengine import RtpengineAdapter
from recorder.ingest.adapters.settings import NamedSettings, PartySettings, SourceSettings
from recorder.ingest.adapters.siprec import SiprecAdapter
from recorder.ingest.adapters.switches import AsteriskAdapter, FreeSwitchAdapter, KazooAdapter
from recorder.ingest.adapters.twilio import SIGNALWIRE, TwilioAdapter
from recorder.ingest.adapters.vcon import VconAdapter
from recorder.ingest.adapters.vcon_forms import MAX_PLAIN
from recorder.ingest.adapters.zoom import ZoomAdapter

GENERIC: Final = "generic"

_ADAPTERS: Final[tuple[Adapter, ...]] = (
    RawAdapter(GENERIC),
    RawAdapter("spool"),
    AsteriskAdapter(),
    FreeSwitchAdapter(),
    KazooAdapter(),
    OrekaAdapter(),
    RtpengineAdapter(),
    SiprecAdapter(),
    SIGNALWIRE,
    TwilioAdapter(),
    VconAdapter(),
    ZoomAdapter(),
)

ADAPTERS: Final[Mapping[str, Adapter]] = {adapter.kind: adapter for adapter in _ADAPTERS}
"""By source kind."""

SETTINGS: Final[Mapping[str, type[SourceSettings]]] = {
    GENERIC: SourceSettings,
    "spool": SourceSettings,
    "asterisk": NamedSettings,
    "freeswitch": SourceSettings,
    "kazoo": SourceSettings,
    "oreka": SourceSettings,
    "rtpengine": PartySettings,
    "siprec": PartySettings,
    "jambonz": JambonzSettings,
    "signalwire": TwilioSettings,
    "twilio": TwilioSettings,
    "vcon": VconSettings,
    "zoom": FetchSettings,
}
"""What may be set of a source, by kind; kinds without an adapter come by another road (a WebSocket)."""

KINDS: Final = tuple(sorted(SETTINGS))
"""Every kind a source may have."""

DOCUMENT_LIMITS: Final[Mapping[str, int]] = {"vcon": MAX_PLAIN}
"""Largest document in bytes of kinds that carry audio inside one; the others have the limit of metadata."""

SIGNED: Final = frozenset({"twilio", "signalwire", "zoom", "vcon"})
"""Kinds whose adapters verify something; only for these a source's secrets are opened."""


def adapter_of(kind: str) -> Adapter:
    """The adapter of a kind; unknown ones (of an older release) are read as raw bodies."""
    return ADAPTERS.get(kind, ADAPTERS[GENERIC])


def settings_of(kind: str) -> type[SourceSettings]:
    """The settings model of a kind."""
    return SETTINGS.get(kind, SourceSettings)
