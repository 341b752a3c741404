"""What an operator may set of a source beside its secrets; one model a kind, all with the same root."""

from __future__ import annotations

import ipaddress
import zoneinfo
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from recorder.ingest.adapters.filenames import FREEPBX, compile_pattern


def _network(value: str) -> str:
    return str(ipaddress.ip_network(value, strict=False))


def _zone(value: str) -> str:
    try:
        zoneinfo.ZoneInfo(value)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("is no time zone of the IANA database, such as Europe/Helsinki") from None
    return value


Network = Annotated[str, AfterValidator(_network)]
TimeZone = Annotated[str, AfterValidator(_zone)]
Party = Annotated[str, StringConstraints(min_length=1, max_length=32, pattern=r"^[a-z][a-z0-9_]*$")]
Label = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class SourceSettings(BaseModel):
    """What every kind of source has."""

    model_config = ConfigDict(extra="forbid")

    allow: Annotated[list[Network], Field(max_length=64)] = Field(
        default=[], description="networks (CIDR) the source pushes from; empty for anywhere"
    )
    tee: bool | None = Field(
        default=None,
        description="make its pushes durable on local disk before they are stored, for a sender that never "
        "tries again; default by the source's kind",
    )
    uploads: Annotated[int, Field(gt=0, le=10_000)] | None = Field(
        default=None, description="uploads it may have at once; default RECORDER_UPLOADS_PER_SOURCE"
    )

    def document(self) -> dict[str, Any]:
        """As kept in the catalogue."""
        return self.model_dump(mode="json", exclude_unset=True)


class PartySettings(SourceSettings):
    """Settings of kinds whose streams carry labels."""

    parties: Annotated[dict[Label, Party], Field(max_length=64)] = Field(
        default={}, description='who is heard on a stream, by its label: {"1": "agent", "2": "customer"}'
    )


class ZonedSettings(SourceSettings):
    """Settings of kinds that write local times."""

    time_zone: TimeZone = Field("UTC", description="of the times in its file names and messages (IANA name)")


def _pattern(value: str) -> str:
    compile_pattern(value)
    return value


class NamedSettings(ZonedSettings):
    """Settings of switchboards whose file names tell of the call."""

    file_names: Annotated[
        list[Annotated[str, AfterValidator(_pattern)]], Field(min_length=1, max_length=16)
    ] = Field(default=[FREEPBX], description="patterns of file names, tried in order")
    extension_digits: Annotated[int, Field(ge=0, le=15)] = Field(
        5, description="a number of at most so many digits is an extension of the house"
    )
