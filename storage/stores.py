"""From an address in the settings to an object store."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from storage.errors import Misuse
from storage.local import LocalStore
from storage.memory import MemoryStore
from storage.objects import ObjectStore

__all__ = ["open_store"]


def open_store(
    url: str,
    *,
    s3_endpoint: str | None = None,
    access_key: str | None = None,
    secret_key: str | None = None,
    region: str | None = None,
    ca_file: str | None = None,
) -> ObjectStore:
    """Return the object store at an address. Nothing is contacted yet; see `ObjectStore.check`.

    Args:
        url: `file:///absolute/directory`, `s3://bucket` or `memory://`.
        s3_endpoint: Where the S3 server is: `https://host[:port]`, or `http://` for an unencrypted one.
        access_key: S3 access key.
        secret_key: S3 secret key.
        region: S3 region, `us-east-1` unless told.
        ca_file: PEM file of the authority to trust for an S3 server, the system's authorities unless told.

    Raises:
        Misuse: The address or what belongs to it is incomplete or unknown.
    """
    parts = urlsplit(url)
    if parts.scheme == "memory":
        return MemoryStore()
    if parts.scheme == "file":
        if parts.netloc or not parts.path.startswith("/"):
            raise Misuse("a local object store is file:///absolute/directory")
        return LocalStore(unquote(parts.path))
    if parts.scheme == "s3":
        if not parts.netloc or parts.path.strip("/") or parts.query:
            raise Misuse("an S3 object store is s3://bucket")
        if not s3_endpoint or not access_key or not secret_key:
            raise Misuse("an S3 object store needs its endpoint, access key and secret key")
        endpoint = urlsplit(s3_endpoint if "://" in s3_endpoint else f"https://{s3_endpoint}")
        if endpoint.scheme not in {"http", "https"} or not endpoint.netloc or endpoint.path.strip("/"):
            raise Misuse("an S3 endpoint is https://host[:port]")
        # Imported here: the embedded default needs neither minio nor its HTTP client.
        from storage.s3 import S3Store

        return S3Store(
            endpoint.netloc,
            access_key,
            secret_key,
            parts.netloc,
            region or "us-east-1",
            secure=endpoint.scheme == "https",
            ca_file=ca_file,
        )
    raise Misuse("an object store is file:///directory, s3://bucket or memory://")
