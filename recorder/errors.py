"""The service's error tree.

Errors carry data, never HTTP codes: one middleware maps a type to a status and a problem type
(RFC 9457), one function maps it to a line and an exit code on the command line. Messages say which
field, what was wrong and what to do, and never hold personal data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong with one field of an input.

    Attributes:
        path: JSON pointer (RFC 6901) of the field, or the name of a query parameter or header.
        message: what was wrong and what to do; never the value itself.
    """

    path: str
    message: str


class RecorderError(Exception):
    """Root of everything the service raises on purpose."""

    def __init__(self, message: str, *, fields: Sequence[FieldError] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.fields = tuple(fields)


class ConfigurationError(RecorderError):
    """The operator's settings cannot work; the message says which one and how to mend it."""


class InvalidInput(RecorderError):
    """A caller's input is understood but not acceptable (422)."""


class MalformedInput(RecorderError):
    """A caller's input cannot be parsed at all, or contradicts its own digest (400)."""


class NotFound(RecorderError):
    """No such thing, or none that the caller may know of (404)."""


class Conflict(RecorderError):
    """The request contradicts what is stored (409).

    Attributes:
        kind: stable suffix of the problem type, for example ``conflict`` or ``in-flight``.
        recording_id: what it collides with, where the caller may know.
    """

    def __init__(self, message: str, *, kind: str = "conflict", recording_id: str | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.recording_id = recording_id


class Erased(RecorderError):
    """The recording was here and is provably gone (410).

    Attributes:
        certificate_id: the certificate of erasure, when it has been issued.
    """

    def __init__(self, message: str, *, certificate_id: str | None = None) -> None:
        super().__init__(message)
        self.certificate_id = certificate_id


class Gone(RecorderError):
    """What was here has ended for good, without an erasure: an upload that expired or was given up (410)."""


class Busy(RecorderError):
    """Another request is at work on the same thing (423).

    Attributes:
        retry_after: seconds to wait.
    """

    def __init__(self, message: str, *, retry_after: int = 2) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnsupportedVersion(RecorderError):
    """The request speaks a version of the upload protocol that is not spoken here (412)."""


class ChecksumMismatch(RecorderError):
    """The bytes of a request are not those that its checksum is of; they were dropped (460, tus 1.0.0)."""


class TooLarge(RecorderError):
    """A body is over the source's limit (413)."""


class UnsupportedMediaType(RecorderError):
    """A body of a kind that this route does not take (415)."""


class Unauthenticated(RecorderError):
    """No credential, or one that is wrong, expired or revoked (401)."""


class Locked(RecorderError):
    """Too many failed sign-ins; try again later (429).

    Attributes:
        retry_after: seconds until the next attempt is considered.
    """

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Forbidden(RecorderError):
    """A known caller may not do this (403).

    Attributes:
        reason: stable code of the rule that refused, for example ``window-closed``.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class TooMany(RecorderError):
    """The caller asks for more at once than its share (429).

    Attributes:
        retry_after: seconds to wait.
    """

    def __init__(self, message: str, *, retry_after: int = 5) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RangeNotSatisfiable(RecorderError):
    """A byte range lies outside the representation (416, RFC 9110 section 15.5.17).

    Attributes:
        size: complete length in bytes.
    """

    def __init__(self, message: str, *, size: int) -> None:
        super().__init__(message)
        self.size = size


class Unavailable(RecorderError):
    """A dependency is away; nothing was accepted and trying again later is right (503).

    Attributes:
        dependency: ``database``, ``store``, ``keyring``, ``log``, ``media``, or ``service``
            while it is stopping.
        retry_after: seconds to wait.
    """

    def __init__(self, message: str, *, dependency: str, retry_after: int = 5) -> None:
        super().__init__(message)
        self.dependency = dependency
        self.retry_after = retry_after


class Corrupt(RecorderError):
    """Stored bytes are not what was written; nothing altered is ever released (502 before the body)."""
