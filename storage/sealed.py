"""The sealed format: Tink's streaming AEAD AES256-GCM-HKDF with ciphertext segments of 64 KiB.

Pure and synchronous: bytes in, bytes out. The wire format is written down in docs/sealed-format.md, with test
vectors; any Tink (`AesGcmHkdfStreamingKey`, HKDF over SHA-256, segment size 65536) reads and writes it.

    object   = header segment_0 segment_1 ... segment_last
    header   = 0x28 salt[32] nonce_prefix[7]
    segment  = AES-256-GCM(key, nonce_prefix || u32be(number) || last, plaintext)       ends in a tag[16]
    key      = HKDF-SHA256(data key, salt, info = AAD, 32)

Header and segment 0 together fill one segment, so segment n begins at n * 65536 in the file. An object has at
least one segment; an empty plaintext is one segment that is only a tag.
"""

from __future__ import annotations

import os
import re
from struct import Struct
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from storage.errors import Misuse, TamperedObject

__all__ = [
    "DATA_KEY_SIZE",
    "FIRST_PLAIN_SIZE",
    "FORMAT_VERSION",
    "HEADER_SIZE",
    "NONCE_PREFIX_SIZE",
    "SALT_SIZE",
    "SEGMENT_PLAIN_SIZE",
    "SEGMENT_SIZE",
    "TAG_SIZE",
    "Opener",
    "Sealer",
    "object_aad",
    "plain_size",
    "sealed_size",
    "segment_count",
]

FORMAT_VERSION: Final = 1
DATA_KEY_SIZE: Final = 32
SALT_SIZE: Final = 32
NONCE_PREFIX_SIZE: Final = 7
TAG_SIZE: Final = 16
SEGMENT_SIZE: Final = 65536
HEADER_SIZE: Final = 1 + SALT_SIZE + NONCE_PREFIX_SIZE
SEGMENT_PLAIN_SIZE: Final = SEGMENT_SIZE - TAG_SIZE
FIRST_PLAIN_SIZE: Final = SEGMENT_PLAIN_SIZE - HEADER_SIZE
# The segment number is 32 bits wide in the nonce; one more segment would repeat a nonce.
MAX_SEGMENTS: Final = 2**32
MAX_PLAIN_SIZE: Final = FIRST_PLAIN_SIZE + (MAX_SEGMENTS - 1) * SEGMENT_PLAIN_SIZE

_HEADER: Final = Struct(f">B{SALT_SIZE}s{NONCE_PREFIX_SIZE}s")
_NONCE: Final = Struct(f">{NONCE_PREFIX_SIZE}sIB")
_AAD: Final = Struct(">16sB16sB")
_AAD_MAGIC: Final = b"tallenne.object\x00"
_ROLE: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

Buffer = bytes | bytearray | memoryview


def object_aad(object_id: UUID, role: str, version: int = FORMAT_VERSION) -> bytes:
    """Return the associated data that ties a sealed object to its identity.

    Args:
        object_id: The random id of the object.
        role: What the object is to its recording (`original`, `rendition`, `redacted`, `peaks`, ...).
        version: Version of the sealed format.

    Raises:
        Misuse: The role is not a short lower-case word, or the version does not exist.
    """
    if _ROLE.fullmatch(role) is None:
        raise Misuse("a role is 1 to 64 of a-z 0-9 . _ - and begins with a letter or a digit")
    if version != FORMAT_VERSION:
        raise Misuse(f"sealed format version {version} does not exist")
    name = role.encode("ascii")
    return _AAD.pack(_AAD_MAGIC, version, object_id.bytes, len(name)) + name


def segment_count(plaintext_size: int) -> int:
    """Return the number of segments that a plaintext of this size (bytes) takes; never less than one.

    Raises:
        Misuse: The size is negative or needs more than 2**32 segments.
    """
    if plaintext_size < 0 or plaintext_size > MAX_PLAIN_SIZE:
        raise Misuse(f"a sealed object holds 0 to {MAX_PLAIN_SIZE} bytes")
    if plaintext_size <= FIRST_PLAIN_SIZE:
        return 1
    return 1 + -(-(plaintext_size - FIRST_PLAIN_SIZE) // SEGMENT_PLAIN_SIZE)


def sealed_size(plaintext_size: int) -> int:
    """Return the size in bytes of the sealed object for a plaintext of `plaintext_size` bytes.

    Raises:
        Misuse: The size is negative or needs more than 2**32 segments.
    """
    return HEADER_SIZE + plaintext_size + TAG_SIZE * segment_count(plaintext_size)


def plain_size(size: int) -> int:
    """Return the size in bytes of the plaintext inside a sealed object of `size` bytes.

    Raises:
        TamperedObject: No plaintext gives a sealed object of this size.
    """
    segments = -(-size // SEGMENT_SIZE)
    inside = size - HEADER_SIZE - TAG_SIZE * segments
    # The second test refuses a last segment that would hold nothing (possible only for an empty object).
    if inside < 0 or inside > MAX_PLAIN_SIZE or segment_count(inside) != segments:
        raise TamperedObject(f"no sealed object is {size} bytes long")
    return inside


def _segment_cipher(data_key: bytes, salt: bytes, aad: bytes) -> AESGCM:
    if len(data_key) != DATA_KEY_SIZE:
        raise Misuse(f"a data key is {DATA_KEY_SIZE} bytes long")
    return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=salt, info=aad).derive(data_key))


class Sealer:
    """Seals one plaintext, given piece by piece. Memory stays at one segment plus the piece at hand.

    Write `header()` first, then what each `update` returns, then `finish()`.

    Args:
        data_key: 32 random bytes, used for this object and never again.
        aad: What the object is tied to, see `object_aad`.
        salt: 32 bytes; random unless a test vector needs them fixed.
        nonce_prefix: 7 bytes; random unless a test vector needs them fixed.

    Raises:
        Misuse: A key, salt or prefix has the wrong length.
    """

    def __init__(
        self, data_key: bytes, aad: bytes, *, salt: bytes | None = None, nonce_prefix: bytes | None = None
    ) -> None:
        salt = os.urandom(SALT_SIZE) if salt is None else salt
        nonce_prefix = os.urandom(NONCE_PREFIX_SIZE) if nonce_prefix is None else nonce_prefix
        if len(salt) != SALT_SIZE or len(nonce_prefix) != NONCE_PREFIX_SIZE:
            raise Misuse(f"the salt is {SALT_SIZE} bytes long and the nonce prefix {NONCE_PREFIX_SIZE}")
        self._cipher = _segment_cipher(data_key, salt, aad)
        self._prefix = nonce_prefix
        self._header = _HEADER.pack(HEADER_SIZE, salt, nonce_prefix)
        self._number = 0
        self._room = FIRST_PLAIN_SIZE
        # Plaintext that waits: at most one whole segment, for only what follows tells whether it is the last.
        self._pending = bytearray()
        self._finished = False

    def header(self) -> bytes:
        """Return the 40 bytes that begin the object."""
        return self._header

    def update(self, chunk: Buffer) -> bytearray:
        """Take plaintext in and return the segments that are complete now (possibly none).

        Raises:
            Misuse: The sealer is finished, or the object would need more than 2**32 segments.
        """
        if self._finished:
            raise Misuse("this sealer is finished")
        waiting = len(self._pending)
        total = waiting + len(chunk)
        if total <= self._room:
            self._pending += chunk
            return bytearray()
        # A segment may leave only when at least one byte follows it.
        count = 1 + (total - self._room - 1) // SEGMENT_PLAIN_SIZE
        if self._number + count >= MAX_SEGMENTS:
            raise Misuse("a sealed object has at most 2**32 segments")
        first_size = self._room + TAG_SIZE
        out = bytearray(first_size + (count - 1) * SEGMENT_SIZE)
        with memoryview(chunk) as source, memoryview(out) as target:
            taken = self._room - waiting
            if waiting > 0:
                self._pending += source[:taken]
                self._seal(self._pending, target[:first_size])
                self._pending = bytearray()
            else:
                self._seal(source[:taken], target[:first_size])
            written = first_size
            for _ in range(count - 1):
                after = taken + SEGMENT_PLAIN_SIZE
                self._seal(source[taken:after], target[written : written + SEGMENT_SIZE])
                taken = after
                written += SEGMENT_SIZE
            self._pending += source[taken:]
        self._room = SEGMENT_PLAIN_SIZE
        return out

    def finish(self) -> bytes:
        """Return the last segment. The sealer takes nothing after it.

        Raises:
            Misuse: The sealer is finished already.
        """
        if self._finished:
            raise Misuse("this sealer is finished")
        self._finished = True
        last = self._cipher.encrypt(_NONCE.pack(self._prefix, self._number, 1), bytes(self._pending), None)
        self._pending = bytearray()
        return last

    def _seal(self, plaintext: Buffer, target: memoryview) -> None:
        self._cipher.encrypt_into(_NONCE.pack(self._prefix, self._number, 0), plaintext, None, target)
        self._number += 1


class Opener:
    """Opens segments of one sealed object, in any order.

    Args:
        data_key: The object's data key.
        aad: What the object must be tied to, see `object_aad`.
        header: The first 40 bytes of the object.
        object_id: Named in errors.

    Raises:
        TamperedObject: The header is not one.
        Misuse: The data key has the wrong length.
    """

    def __init__(self, data_key: bytes, aad: bytes, header: Buffer, *, object_id: UUID | None = None) -> None:
        self._object_id = object_id
        if len(header) != HEADER_SIZE or header[0] != HEADER_SIZE:
            raise TamperedObject("the header is malformed", object_id=object_id)
        _, salt, self._prefix = _HEADER.unpack(header)
        self._cipher = _segment_cipher(data_key, salt, aad)

    def open_segment(self, number: int, segment: Buffer, *, is_last: bool) -> bytes:
        """Return the plaintext of one segment (segment 0 without the header).

        Raises:
            TamperedObject: The tag does not fit: another key, object, place or content.
        """
        if not TAG_SIZE <= len(segment) <= SEGMENT_SIZE - (HEADER_SIZE if number == 0 else 0):
            raise TamperedObject(f"segment {number} has an impossible size", object_id=self._object_id)
        out = bytearray(len(segment) - TAG_SIZE)
        self._open(number, segment, is_last, out)
        return bytes(out)

    def open_run(self, first: int, run: Buffer, *, last: int) -> bytearray:
        """Return the plaintext of consecutive segments.

        Args:
            first: Number of the first segment of the run.
            run: Whole segments, one after the other; of segment 0 without the header. Only the object's last
                segment may be short.
            last: Number of the object's last segment, from its known size and not from the bytes at hand.

        Raises:
            TamperedObject: A segment's tag does not fit, or the run ends inside a segment.
        """
        total = len(run)
        offset, number, sizes = 0, first, []
        while offset < total:
            size = min(SEGMENT_SIZE - (HEADER_SIZE if number == 0 else 0), total - offset)
            full = size == SEGMENT_SIZE - (HEADER_SIZE if number == 0 else 0)
            if size < TAG_SIZE or number > last or (not full and number != last):
                raise TamperedObject(f"segment {number} has an impossible size", object_id=self._object_id)
            sizes.append(size)
            offset += size
            number += 1
        out = bytearray(total - TAG_SIZE * len(sizes))
        taken = written = 0
        with memoryview(run) as source, memoryview(out) as target:
            for index, size in enumerate(sizes, first):
                inside = size - TAG_SIZE
                self._open(
                    index, source[taken : taken + size], index == last, target[written : written + inside]
                )
                taken += size
                written += inside
        return out

    def _open(self, number: int, segment: Buffer, is_last: bool, target: bytearray | memoryview) -> None:
        try:
            self._cipher.decrypt_into(_NONCE.pack(self._prefix, number, is_last), segment, None, target)
        except InvalidTag:
            raise TamperedObject(
                f"segment {number} does not authenticate", object_id=self._object_id
            ) from None
