"""Somebody else's bucket, to be read from: keys of any form, nothing sealed, nothing written."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

from storage.errors import Misuse
from storage.s3 import S3Store
from storage.s3_wire import S3Body, total_size

__all__ = ["ForeignBucket", "open_foreign"]

_LONGEST_KEY: Final = 1024  # of S3 itself, in bytes of UTF-8


class ForeignBucket(S3Store):
    """A bucket whose objects another system wrote."""

    async def objects(self, prefix: str = "") -> AsyncIterator[tuple[str, int]]:
        """Yield key and size in bytes of every object below a prefix, in the order of their keys."""
        async for found in self._pages(
            lambda: self._minio.list_objects(self._bucket, prefix or None, recursive=True)
        ):
            if found.object_name and not found.is_dir:
                yield found.object_name, found.size or 0

    @asynccontextmanager
    async def read(self, key: str) -> AsyncIterator[S3Body]:
        """Open an object from its beginning to its end.

        Raises:
            ObjectMissing: There is none of this key.
            Misuse: No object can have this key.
        """
        if not key or len(key.encode()) > _LONGEST_KEY:
            raise Misuse("an S3 key has 1 to 1024 bytes")
        response = await self._request("GET", key, version_id=None, headers={})
        try:
            await self._raise_for(response, key, None)
            size = total_size(response, ranged=False, start=0, end=None)
            yield S3Body(response.content, size, response.headers.get("x-amz-version-id"))
        finally:
            response.close()


def open_foreign(
    bucket: str, *, endpoint: str, access_key: str, secret_key: str, region: str | None = None
) -> ForeignBucket:
    """The bucket at an S3 server; nothing is contacted yet.

    Raises:
        Misuse: The endpoint is not one.
    """
    parts = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
    if parts.scheme not in {"http", "https"} or not parts.netloc or parts.path.strip("/"):
        raise Misuse("an S3 endpoint is https://host[:port]")
    return ForeignBucket(
        parts.netloc, access_key, secret_key, bucket, region or "us-east-1", secure=parts.scheme == "https"
    )
