"""What may be set of sources whose audio is fetched, and of those that stream it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from recorder.ingest.adapters.settings import Party, PartySettings, SourceSettings

Host = Annotated[
    str,
    StringConstraints(
        min_length=1,
        max_length=255,
        to_lower=True,
        pattern=r"^(?:(?:\*\.)?[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*|\[?[0-9a-fA-F:.]+\]?)(?::\d{1,5})?$",
    ),
]
Channels = Annotated[list[Party], Field(max_length=16)]


class FetchSettings(SourceSettings):
    """Settings of kinds that tell where their audio is."""

    fetch_hosts: Annotated[list[Host], Field(max_length=32)] = Field(
        default=[],
        description="hosts that audio is fetched from: name, *.domain or name:port; none else is asked",
    )


class TwilioSettings(FetchSettings):
    """Settings of Twilio and SignalWire."""

    signature: Literal["required", "off"] = Field(
        "required", description="off only where something else proves the sender, such as networks"
    )
    credential: Literal["basic", "bearer", "none"] = Field(
        "basic", description="the secret to sign in with when audio is fetched"
    )
    channels: Channels = Field(
        default=[], description="who is heard on each channel of a dual-channel recording, in order"
    )


class VconSettings(FetchSettings, PartySettings):
    """Settings of senders of vCons; ``parties`` maps a party's role to ours."""

    unsigned: bool = Field(False, description="take vCons that nobody signed")
    credential: Literal["basic", "bearer", "none"] = Field(
        "none", description="the secret to sign in with when audio is fetched"
    )


class JambonzSettings(SourceSettings):
    """Settings of jambonz."""

    channels: Channels = Field(default=["caller", "callee"], description="who is heard on each channel")
