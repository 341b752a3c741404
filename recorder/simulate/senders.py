"""One sender of each kind, by name.

A sender knows how its system retries, and nothing of why: a system that forgets a recording after one attempt
forgets it here as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from recorder.simulate.clients import Generic, Tus
from recorder.simulate.providers import SignalWire, Twilio, Vcon, Zoom
from recorder.simulate.sending import Media, Piece, Sender, Sent, Target
from recorder.simulate.switches import (
    Asterisk,
    FreeSwitch,
    Httapi,
    Jambonz,
    Kazoo,
    Oreka,
    Rtpengine,
    Siprec,
)

__all__ = ["FETCHED", "SENDERS", "Media", "Piece", "Sender", "Sent", "Target"]

SENDERS: Final[Mapping[str, type[Sender]]] = {
    "generic": Generic,
    "freeswitch": FreeSwitch,
    "httapi": Httapi,
    "kazoo": Kazoo,
    "rtpengine": Rtpengine,
    "asterisk": Asterisk,
    "siprec": Siprec,
    "oreka": Oreka,
    "tus": Tus,
    "vcon": Vcon,
    "twilio": Twilio,
    "signalwire": SignalWire,
    "zoom": Zoom,
    "jambonz": Jambonz,
}
"""By the name of what is simulated; several may push to a source of one kind."""

FETCHED: Final = frozenset({"twilio", "signalwire", "zoom"})
"""Those whose audio the service fetches."""
