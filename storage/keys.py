"""The key hierarchy: data key <- subject key <- key-encryption key (KEK) of a controller's epoch.

One data key per object, one subject key per customer (or per caller not yet known), one KEK per controller
and epoch. A wrap binds the ids of what it belongs to, so a row copied to another row, customer or controller
does not open. Destroying the one subject key makes every object and field of that customer unreadable.

Nothing here is cached: a subject key is unwrapped for the one call and dropped. Failures of any wrap are
`TamperedObject`; a destroyed epoch is `KeyDestroyed`.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from struct import Struct
from typing import Final, Literal, Protocol
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from storage.errors import Misuse, TamperedObject
from storage.sealed import DATA_KEY_SIZE
from storage.wraps import KEY_SIZE, bind, derive, open_wrap, seal_wrap

__all__ = [
    "CONTROLLER_SUBJECT",
    "SIGNING_KEYS",
    "EpochInfo",
    "Keyring",
    "SigningKeyName",
    "SubjectKeyRef",
    "blind_index",
    "epoch_under_controller",
    "new_data_key",
    "new_subject_key",
    "open_field",
    "open_fields",
    "open_under_controller",
    "rewrap_data_key",
    "rewrap_subject",
    "seal_field",
    "seal_under_controller",
    "unwrap_data_key",
    "wrap_data_key",
]

SigningKeyName = Literal["log", "receipts", "links", "certificates"]
SIGNING_KEYS: Final[tuple[SigningKeyName, ...]] = ("log", "receipts", "links", "certificates")

# The subject under whose key a controller's own sealed values lie (names of staff, free text of settings).
CONTROLLER_SUBJECT: Final = "controller"

_EPOCH: Final = Struct(">BI")
_UNDER_CONTROLLER_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class SubjectKeyRef:
    """A subject's key as the catalogue keeps it: wrapped by the controller's KEK of an epoch.

    Attributes:
        controller_id: Random id of the controller.
        subject_id: Random id of the subject: a customer, an unlinked caller, or `CONTROLLER_SUBJECT`.
        epoch: The KEK epoch that wraps it.
        wrapped: The wrap, opaque to the catalogue.
    """

    controller_id: str
    subject_id: str
    epoch: int
    wrapped: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class EpochInfo:
    """One epoch of a controller's KEK. A destroyed epoch keeps its number and its dates, not its key."""

    epoch: int
    created: datetime | None
    destroyed: datetime | None
    is_current: bool


class Keyring(Protocol):
    """Keeper of the KEKs, the index key and the signing keys. Synchronous: what reads takes microseconds.

    `ensure_controller`, `rotate` and `destroy_epoch` may wait for a disk: async code calls them in a thread.
    All raise `KeyringError` when the keyring cannot be used.
    """

    def ensure_controller(self, controller_id: str, now: datetime | None = None) -> None:
        """Make the first epoch (number 1) for a controller that has none. Idempotent."""
        ...

    def current_epoch(self, controller_id: str) -> int:
        """Return the epoch that new wraps use.

        Raises:
            KeyringError: The keyring does not know this controller.
        """
        ...

    def epochs(self, controller_id: str) -> list[EpochInfo]:
        """Return every epoch there has been, the oldest first."""
        ...

    def rotate(self, controller_id: str, now: datetime) -> int:
        """Make a new epoch, use it for new wraps from now on, and return its number."""
        ...

    def destroy_epoch(self, controller_id: str, epoch: int, now: datetime) -> None:
        """Destroy the KEK of an older epoch for good. Idempotent.

        Raises:
            Misuse: It is the current epoch, or there is none of this number.
        """
        ...

    def wrap(self, controller_id: str, epoch: int, plaintext: bytes, aad: bytes) -> bytes:
        """Wrap a short secret under the KEK of an epoch.

        Raises:
            KeyDestroyed: The epoch was destroyed.
        """
        ...

    def unwrap(self, controller_id: str, epoch: int, wrapped: bytes, aad: bytes) -> bytes:
        """Return a secret that `wrap` wrapped with the same controller, epoch and AAD.

        Raises:
            KeyDestroyed: The epoch was destroyed.
            TamperedObject: The wrap does not authenticate.
        """
        ...

    def index_key(self, controller_id: str) -> bytes:
        """Return the 32-byte HMAC key of the controller's blind indexes."""
        ...

    def signing_key(self, name: SigningKeyName) -> Ed25519PrivateKey:
        """Return the private signing key for one use."""
        ...

    def public_keys(self) -> dict[str, Ed25519PublicKey]:
        """Return the public half of every signing key, by name."""
        ...


def new_data_key() -> bytes:
    """Return a fresh data key for one object."""
    return os.urandom(DATA_KEY_SIZE)


def new_subject_key(keyring: Keyring, controller_id: str, subject_id: str) -> SubjectKeyRef:
    """Make a subject key and return it wrapped under the controller's current epoch.

    Raises:
        KeyringError: The keyring does not know the controller, or cannot be used.
    """
    return _wrap_subject(keyring, controller_id, subject_id, os.urandom(KEY_SIZE), None)


def rewrap_subject(keyring: Keyring, ref: SubjectKeyRef, epoch: int | None = None) -> SubjectKeyRef:
    """Return the same subject key wrapped under another epoch, the current one unless told.

    Raises:
        KeyDestroyed: The epoch of `ref`, or the one to wrap under, was destroyed.
        TamperedObject: The wrap does not authenticate.
    """
    key = _subject_key(keyring, ref)
    return _wrap_subject(keyring, ref.controller_id, ref.subject_id, key, epoch)


def wrap_data_key(
    keyring: Keyring, ref: SubjectKeyRef, data_key: bytes, *, object_id: UUID, size: int, sha256: bytes
) -> bytes:
    """Wrap an object's data key under its subject's key.

    Args:
        keyring: Where the subject's KEK lies.
        ref: The subject that the object belongs to.
        data_key: The 32 bytes that sealed the object.
        object_id: Bound by the wrap, as are size and digest.
        size: Plaintext size in bytes.
        sha256: SHA-256 of the plaintext.

    Raises:
        KeyDestroyed: The subject's epoch was destroyed.
        Misuse: The data key has the wrong length.
    """
    if len(data_key) != DATA_KEY_SIZE:
        raise Misuse(f"a data key is {DATA_KEY_SIZE} bytes long")
    key = derive(_subject_key(keyring, ref), bind("tallenne.subject.data-keys"))
    return seal_wrap(key, data_key, _data_key_aad(ref, object_id, size, sha256))


def unwrap_data_key(
    keyring: Keyring, ref: SubjectKeyRef, wrapped: bytes, *, object_id: UUID, size: int, sha256: bytes
) -> bytes:
    """Return the data key of an object.

    Raises:
        KeyDestroyed: The subject's epoch was destroyed.
        TamperedObject: The wrap belongs to another object or subject, or size or digest are false.
    """
    key = derive(_subject_key(keyring, ref), bind("tallenne.subject.data-keys"))
    aad = _data_key_aad(ref, object_id, size, sha256)
    data_key = open_wrap(key, wrapped, aad, what="the wrapped data key", object_id=object_id)
    if len(data_key) != DATA_KEY_SIZE:
        raise TamperedObject("the wrapped data key has the wrong length", object_id=object_id)
    return data_key


def rewrap_data_key(
    keyring: Keyring,
    old: SubjectKeyRef,
    new: SubjectKeyRef,
    wrapped: bytes,
    *,
    object_id: UUID,
    size: int,
    sha256: bytes,
) -> bytes:
    """Move an object to another subject (or to the subject's new key) by re-wrapping its 32-byte data key.

    Raises:
        KeyDestroyed: An epoch of either subject was destroyed.
        TamperedObject: The old wrap does not authenticate.
    """
    data_key = unwrap_data_key(keyring, old, wrapped, object_id=object_id, size=size, sha256=sha256)
    return wrap_data_key(keyring, new, data_key, object_id=object_id, size=size, sha256=sha256)


def seal_field(keyring: Keyring, ref: SubjectKeyRef, field: str, row_id: str, plaintext: bytes) -> bytes:
    """Seal one personal field of one row under its subject's key.

    Args:
        keyring: Where the subject's KEK lies.
        ref: The subject whose data it is.
        field: Name of the field, for example `customer.name`; bound.
        row_id: Random id of the row; bound.
        plaintext: The value. Its length shows in the sealed value.

    Raises:
        KeyDestroyed: The subject's epoch was destroyed.
    """
    key = derive(_subject_key(keyring, ref), bind("tallenne.subject.fields"))
    return seal_wrap(key, plaintext, _field_aad(ref, field, row_id))


def open_field(keyring: Keyring, ref: SubjectKeyRef, field: str, row_id: str, sealed: bytes) -> bytes:
    """Return the plaintext of one sealed field.

    Raises:
        KeyDestroyed: The subject's epoch was destroyed.
        TamperedObject: The value was altered, or belongs to another field, row or subject.
    """
    return open_fields(keyring, ref, [(field, row_id, sealed)])[0]


def open_fields(
    keyring: Keyring, ref: SubjectKeyRef, sealed: Iterable[tuple[str, str, bytes]]
) -> list[bytes]:
    """Return the plaintexts of several fields of one subject, given as (field, row id, sealed value).

    The subject key is unwrapped once for all of them.

    Raises:
        KeyDestroyed: The subject's epoch was destroyed.
        TamperedObject: A value was altered, or belongs to another field, row or subject.
    """
    key = derive(_subject_key(keyring, ref), bind("tallenne.subject.fields"))
    return [
        open_wrap(key, value, _field_aad(ref, name, row_id), what=f"the sealed field {name}")
        for name, row_id, value in sealed
    ]


def seal_under_controller(keyring: Keyring, controller_id: str, label: str, plaintext: bytes) -> bytes:
    """Seal a short secret straight under the controller's current epoch, for when no subject is at hand.

    Meant for keys of what is on its way (a spooled recording): it needs nothing but the keyring. The value
    names its epoch and dies with it.

    Raises:
        KeyringError: The keyring does not know the controller.
    """
    epoch = keyring.current_epoch(controller_id)
    aad = bind("tallenne.controller.sealed", controller_id, label)
    return _EPOCH.pack(_UNDER_CONTROLLER_VERSION, epoch) + keyring.wrap(controller_id, epoch, plaintext, aad)


def open_under_controller(keyring: Keyring, controller_id: str, label: str, sealed: bytes) -> bytes:
    """Return what `seal_under_controller` sealed with the same controller and label.

    Raises:
        KeyDestroyed: The epoch was destroyed.
        TamperedObject: The value was altered or belongs elsewhere.
    """
    epoch = epoch_under_controller(sealed)
    aad = bind("tallenne.controller.sealed", controller_id, label)
    return keyring.unwrap(controller_id, epoch, sealed[_EPOCH.size :], aad)


def epoch_under_controller(sealed: bytes) -> int:
    """Return the epoch that a value of `seal_under_controller` hangs on; needs no key.

    Raises:
        TamperedObject: The value is malformed.
    """
    if len(sealed) < _EPOCH.size or sealed[0] != _UNDER_CONTROLLER_VERSION:
        raise TamperedObject("a value sealed under the controller is malformed or of an unknown version")
    epoch: int = _EPOCH.unpack_from(sealed)[1]
    return epoch


def blind_index(keyring: Keyring, controller_id: str, kind: str, value: str) -> bytes:
    """Return the 32-byte blind index of a normalised value, for exact look-up without the value.

    HMAC-SHA256 (RFC 2104) under the controller's index key; the kind (`phone`, `email`, ...) is bound, so
    equal values of two kinds have unrelated indexes. Normalising the value is the caller's part.
    """
    return hmac.digest(keyring.index_key(controller_id), bind("tallenne.index", kind, value), hashlib.sha256)


def _wrap_subject(
    keyring: Keyring, controller_id: str, subject_id: str, key: bytes, epoch: int | None
) -> SubjectKeyRef:
    epoch = keyring.current_epoch(controller_id) if epoch is None else epoch
    wrapped = keyring.wrap(controller_id, epoch, key, _subject_aad(subject_id))
    return SubjectKeyRef(controller_id, subject_id, epoch, wrapped)


def _subject_key(keyring: Keyring, ref: SubjectKeyRef) -> bytes:
    # Controller and epoch are bound by the keyring itself, see storage/keyrings/state.py.
    return keyring.unwrap(ref.controller_id, ref.epoch, ref.wrapped, _subject_aad(ref.subject_id))


def _subject_aad(subject_id: str) -> bytes:
    return bind("tallenne.subject.key", subject_id)


def _data_key_aad(ref: SubjectKeyRef, object_id: UUID, size: int, sha256: bytes) -> bytes:
    return bind("tallenne.object.data-key", ref.controller_id, ref.subject_id, object_id.bytes, size, sha256)


def _field_aad(ref: SubjectKeyRef, name: str, row_id: str) -> bytes:
    return bind("tallenne.field", ref.controller_id, ref.subject_id, name, row_id)
