"""What the agent is told: one TOML file, or options of the command line; docs/spool-agent.md lists all."""

from __future__ import annotations

import fnmatch
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from recorder.errors import ConfigurationError
from recorder.ingest.adapters.filenames import FREEPBX, FileNames, compile_pattern
from recorder.ingest.metadata import field_errors

AUDIO: Final = (
    "*.wav", "*.WAV", "*.wav49", "*.gsm", "*.g722", "*.ulaw", "*.alaw", "*.sln", "*.sln16", "*.mp3", "*.ogg",
    "*.opus", "*.webm", "*.flac", "*.amr",
)  # fmt: skip
TEMPORARY: Final = ("*.tmp", "*.part", "*.partial", "*.swp", "*~")
Zone = ZoneInfo
_Seconds = Annotated[float, Field(ge=0, le=7 * 86400, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class Completion(_Section):
    """When a file is taken to be whole.

    Attributes:
        policy: ``settle``: size and time did not change for ``settle`` seconds and nobody holds it open for
            writing. ``rename``: the writer renames it into place, so it is whole when it is there.
            ``marker``: an empty file of its name and ``marker`` stands beside it.
        settle: seconds.
        marker: what is appended to the name.
        check_open: look through /proc for writers; finds those of the same user, or all as root.
    """

    policy: Literal["settle", "rename", "marker"] = "settle"
    settle: _Seconds = 10.0
    marker: Annotated[str, Field(min_length=2, max_length=20, pattern=r"^\.[\w.-]+$")] = ".done"
    check_open: bool = True


class CsvRecords(_Section):
    """Call detail records in a growing CSV file.

    Attributes:
        path: for example /var/log/asterisk/cdr-csv/Master.csv.
        columns: names in order, for a file without a header; empty: the first line names them.
            ``asterisk`` stands for the columns of Master.csv.
        delimiter: between fields.
        encoding: of the text; what cannot be read is replaced.
        tail: bytes at the end of the file that are read at the start; older calls are not looked for.
        keep: records kept in memory, newest last.
    """

    path: Path
    columns: tuple[str, ...] | Literal["asterisk"] = ()
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    encoding: str = "utf-8"
    tail: Annotated[int, Field(ge=0)] = 64 * 1024 * 1024
    keep: Annotated[int, Field(ge=1, le=5_000_000)] = 100_000


class SqlRecords(_Section):
    """Call detail records in a database.

    Attributes:
        url: SQLAlchemy URL without the password: ``postgresql+psycopg://…`` or ``mysql+pymysql://…``.
        query: one SELECT with bind parameters ``:uniqueid``, ``:linkedid``, ``:recordingfile``, ``:stem``.
        password_env: environment variable that holds the password.
        password_file: file that holds it.
        timeout: seconds to wait for the database.
    """

    url: str
    query: str
    password_env: str | None = "RECORDER_SPOOL_CDR_PASSWORD"  # noqa: S105 - a name
    password_file: Path | None = None
    timeout: Annotated[float, Field(gt=0, le=120)] = 10.0

    @field_validator("url")
    @classmethod
    def _no_password(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.password is not None:
            raise ValueError("keep the password out of the URL: password_env or password_file")
        if parts.scheme not in {
            "postgresql",
            "postgresql+psycopg",
            "mysql",
            "mysql+pymysql",
            "mariadb+pymysql",
        }:
            raise ValueError("give postgresql+psycopg://… or mysql+pymysql://…")
        return value

    @field_validator("query")
    @classmethod
    def _reads_only(cls, value: str) -> str:
        stripped = value.strip().rstrip(";").strip()
        if stripped.split(None, 1)[0:1] == [] or stripped.split(None, 1)[0].upper() not in {"SELECT", "WITH"}:
            raise ValueError("give one SELECT")
        if ";" in stripped:
            raise ValueError("give one statement")
        return stripped


class Records(_Section):
    """Where call detail records come from, and how long a file waits for its own.

    Attributes:
        wait: seconds from when the file was first seen; then it is pushed without, and says so.
        poll: seconds between two looks for one file's record.
        directions: Asterisk's ``dcontext`` to ``inbound``, ``outbound`` or ``internal``.
    """

    csv: CsvRecords | None = None
    sql: SqlRecords | None = None
    wait: _Seconds = 300.0
    poll: Annotated[float, Field(gt=0, le=3600)] = 10.0
    directions: dict[str, Literal["inbound", "outbound", "internal"]] = {}

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.csv is None) == (self.sql is None):
            raise ValueError("give [cdr.csv] or [cdr.sql], one of them")
        return self


class Sidecars(_Section):
    """Metadata files beside the audio: the same name with another extension, or one appended.

    Attributes:
        kinds: which are read: ``json`` (.json), ``siprec`` (.xml), ``vcon`` (.vcon, .vcon.json).
        wait: seconds from when the audio was complete that its sidecar may take; 0 looks once.
        required: without one, the audio is not pushed at all but listed as failed.
    """

    kinds: tuple[Literal["json", "siprec", "vcon"], ...] = ("json", "siprec", "vcon")
    wait: _Seconds = 0.0
    required: bool = False


class Backoff(_Section):
    """Waiting after a failed push: doubles from ``base`` to ``longest`` seconds, half of it random."""

    base: Annotated[float, Field(gt=0, le=60)] = 1.0
    longest: Annotated[float, Field(gt=0, le=3600)] = 300.0


class SpoolConfig(_Section):
    """The whole of it.

    Attributes:
        directory: what is watched, with everything below it.
        server: address of the service.
        time_zone: IANA name of the zone in which the switchboard writes local times.
        include: names that are recordings (shell patterns on the last part of the path).
        exclude: names, or paths below the directory, that are not.
        patterns: how file names carry metadata, tried in order: ``freepbx``, or patterns with ``{fields}``.
        extension_digits: a number of at most so many digits is an extension of the house.
        parallel: pushes at once.
        bandwidth: bytes a second of all pushes together; None does not limit.
        chunk: bytes of one request of a resumable upload.
        transport: ``tus`` (resumable), ``multipart`` (one request), ``auto`` asks the service.
        rescan: seconds between two looks at the whole directory, whatever the kernel reported.
        after: what becomes of a file that the service holds: ``delete``, ``archive``, ``keep``.
        archive: folder for ``archive``; the files lie in it by date.
        on_conflict: a file whose identity is taken by other bytes: ``leave`` it or ``move`` it aside.
        on_erased: a file whose recording was erased: ``keep`` it (and say so) or ``delete`` it.
        metadata: fixed values for every recording, weaker than anything else that is known.
        metrics: Prometheus text file to write.
        notify: loopback ``host:port`` that takes notifications of new files.
    """

    directory: Path
    server: str = "http://127.0.0.1:8080"
    token_file: Path | None = None
    time_zone: Zone | None = None
    include: tuple[str, ...] = AUDIO
    exclude: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    extension_digits: Annotated[int, Field(ge=1, le=12)] = 5
    parallel: Annotated[int, Field(ge=1, le=64)] = 2
    bandwidth: Annotated[int, Field(ge=1024)] | None = None
    chunk: Annotated[int, Field(ge=64 * 1024, le=1024**3)] = 8 * 1024 * 1024
    transport: Literal["auto", "tus", "multipart"] = "auto"
    rescan: Annotated[float, Field(ge=1, le=86400)] = 60.0
    after: Literal["delete", "archive", "keep"] = "delete"
    archive: Path | None = None
    on_conflict: Literal["leave", "move"] = "leave"
    on_erased: Literal["keep", "delete"] = "keep"
    complete: Completion = Completion()
    sidecar: Sidecars = Sidecars()
    cdr: Records | None = None
    backoff: Backoff = Backoff()
    metadata: dict[str, Any] = {}
    metrics: Path | None = None
    notify: str | None = None
    status_interval: Annotated[float, Field(ge=1, le=86400)] = 60.0

    @field_validator("time_zone", mode="before")
    @classmethod
    def _zone(cls, value: object) -> object:
        if isinstance(value, str):
            try:
                return ZoneInfo(value)
            except (KeyError, OSError, ValueError) as error:
                raise ValueError("no IANA time zone of this name, as in Europe/Helsinki") from error
        return value

    @field_validator("patterns", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        many = (value,) if isinstance(value, str) else value
        if isinstance(many, (list, tuple)):
            return tuple(FREEPBX if one in ("freepbx", "asterisk") else one for one in many)
        return many

    @field_validator("patterns")
    @classmethod
    def _usable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            compile_pattern(one)
        return value

    @field_validator("server")
    @classmethod
    def _address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.password:
            raise ValueError("give http(s)://host[:port]")
        return value.rstrip("/")

    @field_validator("notify")
    @classmethod
    def _loopback(cls, value: str | None) -> str | None:
        if value is None:
            return None
        host, _, port = value.rpartition(":")
        if (
            host not in {"127.0.0.1", "localhost", "[::1]"}
            or not port.isdigit()
            or not 0 <= int(port) < 65536
        ):
            raise ValueError("give a loopback address and port, as in 127.0.0.1:8099")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.after == "archive") != (self.archive is not None):
            raise ValueError("after = 'archive' and archive = DIR go together")
        if self.archive is not None and _inside(self.archive, self.directory):
            raise ValueError("the archive lies in the watched directory and would be pushed again")
        if self.time_zone is None and (self.patterns or self.cdr is not None):
            raise ValueError("file names and call records carry local times: set time_zone")
        return self

    def names(self) -> FileNames | None:
        """Reads the file names, where patterns are given."""
        if not self.patterns or self.time_zone is None:
            return None
        return FileNames(self.patterns, time_zone=self.time_zone.key, extension_digits=self.extension_digits)

    def is_audio(self, relative: bytes) -> bool:
        """Whether a path below the directory names a recording."""
        path = os.fsdecode(relative)
        name = path.rpartition("/")[2]
        if name.startswith(".") or any(fnmatch.fnmatchcase(name, one) for one in TEMPORARY):
            return False
        if any(fnmatch.fnmatchcase(name, one) or fnmatch.fnmatchcase(path, one) for one in self.exclude):
            return False
        return any(fnmatch.fnmatchcase(name, one) for one in self.include)


def _inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def load_config(file: Path | None, given: Mapping[str, Any]) -> SpoolConfig:
    """Read the configuration; what is given on the command line wins over the file.

    Args:
        file: TOML, or None.
        given: options by the names of :class:`SpoolConfig`; None is not given. A dot reaches into a section.

    Raises:
        ConfigurationError: The file cannot be read, or a value cannot work; the message names the keys.
    """
    document: dict[str, Any] = {}
    if file is not None:
        try:
            document = tomllib.loads(file.read_text("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{file} is not TOML: {error}") from None
        except OSError as error:
            raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from None
    for name, value in given.items():
        if value is None or value == ():
            continue
        target = document
        *above, last = name.split(".")
        for one in above:
            target = target.setdefault(one, {})
            if not isinstance(target, dict):
                raise ConfigurationError(f"{one} is a section of the configuration")
        target[last] = value
    if "archive" in document:
        document.setdefault("after", "archive")
    try:
        return SpoolConfig.model_validate(document)
    except ValidationError as error:
        listing = "; ".join(f"{f.path.strip('/').replace('/', '.') or 'configuration'}: {f.message}"
                            for f in field_errors(error)[:5])  # fmt: skip
        raise ConfigurationError(listing) from None


def read_token(config: SpoolConfig, environment: Mapping[str, str]) -> str:
    """Return the source's token, from RECORDER_TOKEN or the token file; never from the command line.

    Raises:
        ConfigurationError: There is none, or its file cannot be read.
    """
    if config.token_file is not None:
        return read_secret(config.token_file)
    # systemd's LoadCredential= puts secrets into a folder that only the unit can read.
    folder = environment.get("CREDENTIALS_DIRECTORY")
    if folder and Path(folder, "token").is_file():
        return read_secret(Path(folder, "token"))
    token = environment.get("RECORDER_TOKEN", "").strip()
    if not token:
        raise ConfigurationError("set RECORDER_TOKEN, or token_file in the configuration")
    return token


def read_secret(path: Path) -> str:
    """Read a secret of one line.

    Raises:
        ConfigurationError: It cannot be read, or is empty.
    """
    try:
        value = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigurationError(f"{path} cannot be read") from None
    if not value:
        raise ConfigurationError(f"{path} is empty")
    return value
