"""What is heard: a sealed object that may be streamed to one caller now."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from storage.vault import Fetch, StoredObject

__all__ = ["Audio"]


@dataclass(frozen=True, slots=True)
class Audio:
    """Something that may be streamed to one caller now.

    Attributes:
        listen_id: the listen its bytes are counted on; None where nothing is to be counted.
        content_type: media type to serve it with.
        size: complete length in bytes.
        duration_ms: of the recording, where it is known.
        fetch: the ciphertext of the range that was asked for, where it is under way already.
    """

    recording_id: uuid.UUID
    controller_id: uuid.UUID
    obj: StoredObject
    content_type: str
    duration_ms: int | None
    listen_id: uuid.UUID | None = None
    fetch: Fetch | None = field(default=None, compare=False, repr=False)

    @property
    def size(self) -> int:
        """Complete length in bytes."""
        return self.obj.size

    @property
    def etag(self) -> str:
        """Strong entity tag: a sealed object never changes, so its random id tells all (RFC 9110 8.8.3)."""
        return f'"{self.obj.object_id.hex}-{self.obj.role}"'
