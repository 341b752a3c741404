"""An object store on an S3 server: the only module that knows minio.

The bytes travel through aiohttp on URLs that minio presigns, everything else through minio in a few threads;
docs/adr/0002-s3-data-plane.md has the measurement behind that. A known length is one streaming PUT. An
unknown length is gathered part by part, and only what is longer than one part becomes a multipart upload.

Servers differ, so what a bucket can do is found out by trying (`capabilities`), and what a server is asked to
set is read back. `version_id` None is the current version, or the only one of a bucket without versions,
which S3 itself calls `null`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import ssl
import time
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

import aiohttp
import urllib3
from minio import Minio
from minio.datatypes import Object, Part
from minio.datatypes import Upload as MinioUpload
from minio.error import MinioException, S3Error, ServerError
from yarl import URL

from storage.errors import (
    Misuse,
    ObjectLocked,
    ObjectMissing,
    StorageError,
    StoreRefused,
    StoreUnavailable,
    Unsupported,
)
from storage.objects import Capabilities, Chunk, Stat, Upload, Version, check_key, check_prefix, check_range
from storage.s3_wire import (
    GatheredPart,
    Outgoing,
    S3Body,
    chain,
    error_code,
    gather_parts,
    http_time,
    refuse,
    replay,
    total_size,
)

__all__ = ["S3Store"]

# S3 takes 10,000 parts of one upload, so an unknown length ends at 10,000 * PART_SIZE = 78 GiB.
_MAX_PARTS: Final = 10_000
_READ_BUFFER: Final = 256 * 1024
_SMALL: Final = 256 * 1024
_PRESIGNED_FOR: Final = timedelta(minutes=15)
_REUSED_FOR: Final = 300.0  # seconds; far inside what it is signed for, whatever the clocks do
_MOST_SIGNED: Final = 4096
_PAGE: Final = 1000
_THREADS: Final = 4
_NULL: Final = "null"
_T = TypeVar("_T")


class S3Store:
    """`ObjectStore` in one bucket of an S3 server.

    Args:
        endpoint: `host[:port]` of the server.
        access_key: Of an account that may read, write, list and delete in the bucket.
        secret_key: The account's secret.
        bucket: Name of the bucket; see `create_bucket`.
        region: The bucket's region.
        secure: Speak TLS.
        ca_file: PEM file of the authority to trust; the system's authorities unless told.
        timeout: Seconds that the server may keep us waiting (to connect, to take bytes, to give some).
        connections: Most connections at once for object bytes.
    """

    def __init__(
        self,
        endpoint: str,
        access_key: str,
        secret_key: str,
        bucket: str,
        region: str = "us-east-1",
        *,
        secure: bool = True,
        ca_file: str | None = None,
        timeout: float = 30.0,
        connections: int = 256,
    ) -> None:
        self._bucket = bucket
        self._timeout = timeout
        self._connections = connections
        self._tls = ssl.create_default_context(cafile=ca_file) if secure else None
        self._session: aiohttp.ClientSession | None = None
        self._capabilities: Capabilities | None = None
        self._signed: dict[tuple[str, str | None], tuple[URL, float]] = {}
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="s3")
        pool = urllib3.PoolManager(
            maxsize=_THREADS,
            timeout=urllib3.Timeout(connect=min(timeout, 5.0), read=timeout),
            retries=urllib3.Retry(total=1, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504]),
            ssl_context=self._tls,
        )
        try:
            self._minio = Minio(
                endpoint, access_key, secret_key, secure=secure, region=region, http_client=pool
            )
        except ValueError as error:
            raise Misuse(f"the S3 endpoint or region is malformed: {error}") from error

    async def create_bucket(self, *, object_lock: bool = False) -> None:
        """Make the bucket if it is not there; `object_lock` also turns versions on. Idempotent."""
        if not await self._control(self._minio.bucket_exists, self._bucket):
            await self._control(self._minio.make_bucket, self._bucket, None, object_lock)

    async def put(self, key: str, body: AsyncIterable[Chunk], *, size: int | None) -> Stat:
        """See `ObjectStore`."""
        check_key(key)
        if size is not None:
            return await self._put_known(key, body, size)
        parts = gather_parts(body)
        first = await anext(parts)
        if first.is_last:
            return await self._put_known(key, replay(first.chunks), first.size)
        return await self._put_multipart(key, first, parts)

    async def _put_known(self, key: str, body: AsyncIterable[Chunk], size: int) -> Stat:
        headers = await self._send(key, body, size)
        return Stat(key, headers.get("x-amz-version-id"), size, http_time(headers.get("Date")))

    async def _put_multipart(self, key: str, first: GatheredPart, rest: AsyncIterator[GatheredPart]) -> Stat:
        # The multipart calls of minio are marked private: its public put_object wants a blocking reader.
        upload_id = await self._control(self._minio._create_multipart_upload, self._bucket, key, {})  # noqa: SLF001
        try:
            sent: list[Part] = []
            total = 0
            async for part in chain(first, rest):
                if len(sent) == _MAX_PARTS:
                    raise Misuse("a body of unknown length has at most 78 GiB")
                query = {"partNumber": str(len(sent) + 1), "uploadId": upload_id}
                headers = await self._send(key, replay(part.chunks), part.size, query)
                sent.append(Part(len(sent) + 1, headers.get("ETag", "").strip('"')))
                total += part.size
            done = await self._control(
                self._minio._complete_multipart_upload,  # noqa: SLF001
                self._bucket,
                key,
                upload_id,
                sent,
            )
        except BaseException:
            with contextlib.suppress(StorageError):
                await asyncio.shield(self.abort_upload(Upload(key, upload_id, datetime.now(UTC))))
            raise
        return Stat(key, done.version_id, total, datetime.now(UTC))

    @asynccontextmanager
    async def get(
        self, key: str, *, start: int = 0, end: int | None = None, version_id: str | None = None
    ) -> AsyncIterator[S3Body]:
        """See `ObjectStore`."""
        check_range(start, end)
        ranged = start > 0 or end is not None
        headers = {"Range": f"bytes={start}-{'' if end is None else end - 1}"} if ranged else {}
        response = await self._request("GET", check_key(key), version_id=version_id, headers=headers)
        try:
            if response.status == 416:
                # The range begins after the end: nothing to read, but the caller may want the true size.
                found = await self.stat(key, version_id)
                yield S3Body(None, found.size, found.version_id)
                return
            await self._raise_for(response, key, version_id)
            total = total_size(response, ranged=ranged, start=start, end=end)
            yield S3Body(response.content, total, response.headers.get("x-amz-version-id"))
        finally:
            response.close()  # returns the connection if the body was read to its end, else drops it

    async def stat(self, key: str, version_id: str | None = None) -> Stat:
        """See `ObjectStore`."""
        headers = await self._head(check_key(key), version_id)
        return Stat(
            key,
            headers.get("x-amz-version-id"),
            int(headers.get("Content-Length", "0")),
            http_time(headers.get("Last-Modified")),
        )

    async def list(self, prefix: str = "") -> AsyncIterator[Stat]:
        """See `ObjectStore`."""
        check_prefix(prefix)
        async for found in self._pages(
            lambda: self._minio.list_objects(self._bucket, prefix or None, recursive=True)
        ):
            yield Stat(_name(found), None, found.size or 0, _aware(found.last_modified))

    async def versions(self, prefix: str = "") -> AsyncIterator[Version]:
        """See `ObjectStore`."""
        check_prefix(prefix)
        async for found in self._pages(
            lambda: self._minio.list_objects(
                self._bucket, prefix or None, recursive=True, include_version=True
            )
        ):
            yield Version(
                _name(found),
                None if found.version_id == _NULL else found.version_id,
                found.size or 0,
                _aware(found.last_modified),
                found.is_delete_marker,
                (found.is_latest or "").lower() == "true",
            )

    async def delete_version(self, key: str, version_id: str | None) -> None:
        """See `ObjectStore`."""
        try:
            # Never without a version: that would only put a marker on top where the bucket has versions.
            await self._control(
                self._minio.remove_object, self._bucket, check_key(key), version_id or _NULL, key=key
            )
        except ObjectMissing:
            return
        except StoreRefused:
            if await self._is_locked(key, version_id):
                raise ObjectLocked(key, version_id) from None
            raise

    async def delete_all(self, key: str) -> tuple[str, ...]:
        """See `ObjectStore`."""
        deleted = []
        async for version in self.versions(check_key(key)):
            if version.key == key:
                await self.delete_version(key, version.version_id)
                deleted.append(version.version_id or _NULL)
        return tuple(deleted)

    async def uploads(self, prefix: str = "") -> AsyncIterator[Upload]:
        """See `ObjectStore`."""
        check_prefix(prefix)
        async for found in self._pages(lambda: self._list_uploads(prefix)):
            started = _aware(found.initiated_time)
            yield Upload(found.object_name, found.upload_id or "", started)

    async def abort_upload(self, upload: Upload) -> None:
        """See `ObjectStore`."""
        with contextlib.suppress(ObjectMissing):
            await self._control(
                self._minio._abort_multipart_upload,  # noqa: SLF001 - see _put_multipart
                self._bucket,
                check_key(upload.key),
                upload.upload_id,
            )

    async def capabilities(self) -> Capabilities:
        """See `ObjectStore`."""
        if self._capabilities is None:
            self._capabilities = await self._probe()
        return self._capabilities

    async def set_legal_hold(self, key: str, version_id: str | None, on: bool) -> None:
        """See `ObjectStore`."""
        call = self._minio.enable_object_legal_hold if on else self._minio.disable_object_legal_hold
        try:
            await self._control(call, self._bucket, check_key(key), version_id, key=key)
        except StoreRefused as error:
            await self.stat(key, version_id)
            raise Unsupported("this bucket keeps no legal holds (it was made without Object Lock)") from error
        if await self.legal_hold(key, version_id) is not on:
            raise Unsupported("the store took the legal hold and did not keep it")

    async def legal_hold(self, key: str, version_id: str | None) -> bool:
        """See `ObjectStore`."""
        headers = await self._head(check_key(key), version_id)
        return headers.get("x-amz-object-lock-legal-hold", "").upper() == "ON"

    async def check(self) -> None:
        """See `ObjectStore`."""
        if not await self._control(self._minio.bucket_exists, self._bucket):
            raise StoreRefused(
                f"the S3 server has no bucket {self._bucket}: make it, or correct the settings"
            )

    async def aclose(self) -> None:
        """See `ObjectStore`."""
        if self._session is not None:
            await self._session.close()
        await asyncio.to_thread(self._threads.shutdown)

    # The data plane: aiohttp on presigned URLs

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._connections, ssl=True if self._tls is None else self._tls
                ),
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=min(self._timeout, 5.0), sock_read=self._timeout
                ),
                auto_decompress=False,
                read_bufsize=_READ_BUFFER,
                skip_auto_headers=["Content-Type", "Accept-Encoding"],
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def _request(
        self,
        method: str,
        key: str,
        *,
        version_id: str | None = None,
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        body: AsyncIterable[Chunk] | bytes | None = None,
    ) -> aiohttp.ClientResponse:
        url = (
            self._readable(key, version_id)
            if method == "GET" and query is None
            else self._presigned(method, key, version_id, query)
        )
        try:
            return await self._client().request(
                method, url, headers=headers, data=body, allow_redirects=False
            )
        except (aiohttp.ClientError, TimeoutError) as error:
            # The vendor's text would quote the URL and with it the signature, so it is named by type only.
            raise StoreUnavailable(f"the S3 server cannot be reached ({type(error).__name__})") from None

    def _presigned(
        self, method: str, key: str, version_id: str | None, query: dict[str, str] | None = None
    ) -> URL:
        # The signature covers method, host, path and query; headers and body travel unsigned, inside TLS.
        url = self._minio.get_presigned_url(
            method,
            self._bucket,
            key,
            _PRESIGNED_FOR,
            version_id=version_id,
            extra_query_params=dict[str, str | list[str] | tuple[str]](query or {}),
        )
        return URL(url, encoded=True)

    def _readable(self, key: str, version_id: str | None) -> URL:
        """The URL to GET an object from: signed once for all ranges that are read within minutes."""
        now = time.monotonic()
        signed = self._signed.get((key, version_id))
        if signed is None or signed[1] <= now:
            signed = (self._presigned("GET", key, version_id), now + _REUSED_FOR)
            if len(self._signed) >= _MOST_SIGNED:
                self._signed.clear()
            self._signed[key, version_id] = signed
        return signed[0]

    async def _send(
        self, key: str, body: AsyncIterable[Chunk], size: int, query: dict[str, str] | None = None
    ) -> Mapping[str, str]:
        outgoing = Outgoing(body, size, self._timeout)
        headers = {"Content-Length": str(size)}
        try:
            async with asyncio.timeout(None) as patience:
                # A small body is gathered first: it then leaves in one piece with its header.
                data = outgoing.run(patience)
                whole = b"".join([piece async for piece in data]) if size <= _SMALL else None
                response = await self._request(
                    "PUT", key, query=query, headers=headers, body=data if whole is None else whole
                )
                async with response:
                    await self._raise_for(response, key, None)
                    return response.headers
        except (StoreUnavailable, TimeoutError) as error:
            if outgoing.failure is not None:
                raise outgoing.failure from None
            if isinstance(error, TimeoutError):
                raise StoreUnavailable("the S3 server stopped taking bytes") from None
            raise

    async def _head(self, key: str, version_id: str | None) -> Mapping[str, str]:
        response = await self._request("HEAD", key, version_id=version_id)
        async with response:
            await self._raise_for(response, key, version_id)
            return response.headers

    async def _raise_for(self, response: aiohttp.ClientResponse, key: str, version_id: str | None) -> None:
        if response.status < 300:
            return
        code = ""
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            code = error_code(await response.content.read(4096))
        refuse(response.status, code, key, version_id)

    # The control plane: minio in threads

    async def _control(self, call: Callable[..., _T], *args: object, key: str | None = None) -> _T:
        def translated() -> _T:
            try:
                return call(*args)
            except S3Error as error:
                status = error.response.status
                refuse(status, error.code or "", key or self._bucket, None)
            except (ServerError, urllib3.exceptions.HTTPError, OSError) as error:
                raise StoreUnavailable(f"the S3 server cannot be reached ({type(error).__name__})") from None
            except (MinioException, ValueError) as error:
                raise StoreRefused(
                    f"the S3 server's answer is not understood ({type(error).__name__})"
                ) from error

        return await asyncio.get_running_loop().run_in_executor(self._threads, translated)

    async def _pages(self, lister: Callable[[], Iterator[_T]]) -> AsyncIterator[_T]:
        """Walk one of minio's lazy listings, a page of it at a time in a thread."""
        listing = lister()
        while page := await self._control(lambda: list(itertools.islice(listing, _PAGE))):
            for found in page:
                yield found

    def _list_uploads(self, prefix: str) -> Iterator[MinioUpload]:
        key_marker = id_marker = None
        while True:
            page = self._minio._list_multipart_uploads(  # noqa: SLF001 - see _put_multipart
                self._bucket,
                prefix=prefix or None,
                key_marker=key_marker,
                upload_id_marker=id_marker,
                max_uploads=_PAGE,
                encoding_type="url",
            )
            yield from page.uploads
            if not page.is_truncated or not page.uploads:
                return
            # minio 7.2 loses the markers of the answer; the last entry is what they repeat.
            key_marker, id_marker = page.uploads[-1].object_name, page.uploads[-1].upload_id

    async def _is_locked(self, key: str, version_id: str | None) -> bool:
        try:
            headers = await self._head(key, version_id)
        except StorageError:
            return False
        until = headers.get("x-amz-object-lock-retain-until-date")
        return until is not None or headers.get("x-amz-object-lock-legal-hold", "").upper() == "ON"

    async def _probe(self) -> Capabilities:
        key = f"probe/{uuid.uuid4().hex}"
        try:
            first = await self.put(key, replay([b"1"]), size=1)
            conditional = await self._refuses_overwrite(key)
            await self.put(key, replay([b"2"]), size=1)
            kept = len([version async for version in self.versions(key)])
            lock = await self._has_object_lock()
            hold = lock and await self._enforces_hold(key, first.version_id)
            return Capabilities(kept >= 2, lock, hold, conditional)
        finally:
            # Under a default retention of the bucket the probe stays until it runs out.
            with contextlib.suppress(ObjectLocked):
                await self.delete_all(key)

    async def _refuses_overwrite(self, key: str) -> bool:
        headers = {"Content-Length": "1", "If-None-Match": "*"}
        async with await self._request("PUT", key, headers=headers, body=replay([b"x"])) as response:
            return response.status == 412

    async def _has_object_lock(self) -> bool:
        try:
            await self._control(self._minio.get_object_lock_config, self._bucket)
        except (StoreRefused, ObjectMissing):
            return False
        return True

    async def _enforces_hold(self, key: str, version_id: str | None) -> bool:
        try:
            await self.set_legal_hold(key, version_id, on=True)
        except Unsupported:
            return False
        try:
            await self.delete_version(key, version_id)
        except ObjectLocked:
            await self.set_legal_hold(key, version_id, on=False)
            return True
        return False


def _name(found: Object) -> str:
    return found.object_name or ""


def _aware(moment: datetime | None) -> datetime:
    if moment is None:
        raise StoreRefused("the S3 server lists an object without its time")
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
