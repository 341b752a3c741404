"""Settings: ``RECORDER_*`` variables over a TOML file over defaults that run on one box."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from recorder.errors import ConfigurationError, FieldError

Country = Annotated[str, Field(pattern=r"^[A-Z]{2}$")]  # ISO 3166-1 alpha-2


class Settings(BaseSettings):
    """Everything an operator may set. Each field is ``RECORDER_<NAME>``, or a key of the TOML file."""

    model_config = SettingsConfigDict(env_prefix="RECORDER_", extra="forbid", frozen=True)

    listen: str = Field("127.0.0.1:8080", description="host:port the service binds")
    data_dir: Path = Field(Path("data"), description="embedded database, objects, keyring, spool")
    database_url: str | None = Field(None, description="SQLAlchemy URL; default SQLite in data_dir")
    object_store: str | None = Field(None, description="file://… or s3://bucket; default in data_dir")
    s3_endpoint: str | None = Field(None, description="http(s)://host:port of the S3 server")
    s3_access_key: str | None = None
    s3_secret_key: SecretStr | None = None
    s3_region: str = "us-east-1"
    keyring: Path | None = Field(None, description="key file, mode 0600; default in data_dir")
    public_url: str | None = Field(None, description="address people use, when a proxy stands before")

    max_upload_bytes: Annotated[int, Field(gt=0)] = 4 * 1024**3
    max_metadata_bytes: Annotated[int, Field(gt=0)] = 256 * 1024
    upload_idle_seconds: Annotated[float, Field(gt=0)] = 60.0
    concurrent_uploads: Annotated[int, Field(gt=0)] = 64
    uploads_per_source: Annotated[int, Field(gt=0)] = Field(
        32, description="of them, those of one source that sets no number of its own"
    )
    spool_dir: Path | None = Field(
        None, description="local disk for deliveries that wait; default in data_dir"
    )
    spool_max_bytes: Annotated[int, Field(ge=0)] = Field(
        10 * 1024**3, description="room for them; 0 spools nothing and answers 503 instead"
    )
    spool_max_items: Annotated[int, Field(gt=0)] = 100_000
    open_uploads_per_source: Annotated[int, Field(gt=0)] = Field(
        500, description="resumable uploads that one source may have begun and not ended"
    )
    upload_expiry_hours: Annotated[float, Field(gt=0)] = Field(
        24.0, description="a resumable upload ends after so long without a byte"
    )
    upload_piece_bytes: Annotated[int, Field(gt=0)] = Field(
        4 * 1024**2, description="size of the sealed pieces in which an unfinished upload is kept"
    )
    resumable_draft: bool = Field(
        False, description="whether /uploads speaks the IETF draft of resumable uploads beside tus"
    )
    shortest_seconds: Annotated[float, Field(ge=0)] = Field(
        1.0, description="what is shorter is noted as too short to be a call"
    )
    clock_skew_seconds: Annotated[int, Field(ge=0)] = 300

    session_hours: Annotated[float, Field(gt=0)] = 10.0
    session_idle_minutes: Annotated[float, Field(gt=0)] = 60.0
    lockout_failures: Annotated[int, Field(gt=0)] = 5
    lockout_seconds: Annotated[int, Field(gt=0)] = 300
    link_minutes: Annotated[int, Field(gt=0)] = 60
    listen_idle_seconds: Annotated[int, Field(gt=0)] = 300

    sweep_at: str = Field("02:30", description="local time of the nightly sweep")
    sweep_brake_count: Annotated[int, Field(gt=0)] = 1000
    sweep_brake_share: Annotated[float, Field(gt=0, le=1)] = 0.05
    scrub_share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.034, description="share of all objects that is re-read and verified each night"
    )
    backup_window_days: Annotated[int, Field(ge=0)] = 35
    store_country: Country = Field("FI", description="where the object store and the database are")
    key_country: Country = Field("FI", description="where the keys are")
    transfer_exception: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="the safeguard that lets store or keys be outside the EU and the EEA"
    )
    transfer_exception_until: AwareDatetime | None = Field(None, description="when that safeguard ends")
    trusted_proxies: tuple[str, ...] = Field(
        (), description="networks (CIDR) of proxies whose X-Forwarded-For and -Proto are believed"
    )
    fetch_hours: Annotated[float, Field(gt=0)] = Field(
        72.0, description="for how long a recording that is to be fetched is tried for"
    )
    fetch_seconds: Annotated[float, Field(gt=0)] = Field(3600.0, description="longest single download")
    fetch_private_hosts: tuple[str, ...] = Field(
        (), description="hosts on one's own network: recordings are fetched there by plain http too"
    )
    log_level: str = "INFO"
    shutdown_seconds: Annotated[float, Field(gt=0)] = 30.0

    @field_validator("listen")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise ValueError("give host:port, for example 127.0.0.1:8080")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(ipaddress.ip_network(network, strict=False)) for network in value)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments over environment over the file that ``RECORDER_CONFIG`` names."""
        del dotenv_settings, file_secret_settings
        config = os.environ.get("RECORDER_CONFIG")
        toml = (TomlConfigSettingsSource(settings_cls, Path(config)),) if config else ()
        return (init_settings, env_settings, *toml)

    @property
    def host(self) -> str:
        """Host part of ``listen``."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """Port part of ``listen``."""
        return int(self.listen.rpartition(":")[2])

    @property
    def embedded(self) -> bool:
        """Whether the database is the SQLite file of one box."""
        return self.resolved_database_url.startswith("sqlite")

    @property
    def resolved_database_url(self) -> str:
        """The database to use."""
        return self.database_url or f"sqlite+aiosqlite:///{self.data_dir.absolute() / 'catalogue.sqlite3'}"

    @property
    def resolved_object_store(self) -> str:
        """The object store to use."""
        return self.object_store or (self.data_dir.absolute() / "objects").as_uri()

    @property
    def resolved_keyring(self) -> Path:
        """The keyring file to use."""
        return self.keyring or self.data_dir.absolute() / "keyring.json"

    @property
    def resolved_spool(self) -> Path:
        """The directory of the spool."""
        return self.spool_dir or self.data_dir.absolute() / "spool"

    @property
    def resolved_public_url(self) -> str:
        """Where people reach the service."""
        return (self.public_url or f"http://{self.listen}").rstrip("/")


def load_settings(**overrides: object) -> Settings:
    """Read the settings.

    Raises:
        ConfigurationError: naming each setting that is wrong, never its value.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]  # pydantic validates
    except ValidationError as error:
        fields = [
            FieldError("RECORDER_" + "_".join(map(str, e["loc"])).upper(), e["msg"]) for e in error.errors()
        ]
        listing = "; ".join(f"{f.path}: {f.message}" for f in fields)
        raise ConfigurationError(f"settings are not usable: {listing}", fields=fields) from None
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"cannot read the file RECORDER_CONFIG names: {error}") from None
