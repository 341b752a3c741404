"""The forms a vCon comes in: compressed, encrypted (JWE, RFC 7516), signed (JWS, RFC 7515), or plain JSON."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from joserfc import jwe, jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from recorder.errors import FieldError, InvalidInput, MalformedInput, TooLarge

MAX_PLAIN: Final = 64 * 1024 * 1024
"""Bytes of the largest vCon, decompressed; larger audio belongs behind a URL."""
MAX_VALUES: Final = 500_000
"""JSON values of the largest vCon: each takes far more memory than the three bytes that it may be long."""
UNSIGNED: Final = "vcon-unsigned"
SIGNATURE_INVALID: Final = "signature-invalid"
SIGNATURE_UNTRUSTED: Final = "signature-untrusted"

GZIP: Final = b"\x1f\x8b"
_MAX_DEPTH: Final = 4
_MAX_SIGNATURES: Final = 8
_MAX_CHAIN: Final = 6
_SIGNING: Final = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
_ENCRYPTING: Final = (
    *("RSA-OAEP", "RSA-OAEP-256", "ECDH-ES", "ECDH-ES+A128KW", "ECDH-ES+A256KW"),
    *("A128CBC-HS256", "A192CBC-HS384", "A256CBC-HS512", "A128GCM", "A192GCM", "A256GCM"),
)


@dataclass(frozen=True, slots=True)
class Opened:
    """A vCon in its plain form.

    Attributes:
        doubts: why it may not be what its sender signed; codes that put recordings into quarantine.
    """

    vcon: Mapping[str, Any]
    doubts: tuple[str, ...]


def open_vcon(
    document: bytes, secrets: Mapping[str, str], *, now: datetime, unsigned_allowed: bool
) -> Opened:
    """Take every wrapping off.

    Args:
        secrets: of the source; ``vcon_key`` decrypts, ``trust_anchors`` are whom signers descend from.
        unsigned_allowed: whether the operator takes what nobody signed, or whom nobody vouches for.

    Raises:
        MalformedInput: it cannot be read.
        InvalidInput: it is encrypted, and not to a key that the source has.
        TooLarge: it is a bomb.
    """
    value, signed, doubts = _json(inflate(document)), False, list[str]()
    for _ in range(_MAX_DEPTH):
        if "ciphertext" in value:
            value = _json(inflate(_decrypted(value, secrets)))
        elif isinstance(value.get("payload"), str) and ("signatures" in value or "signature" in value):
            if not signed:  # what is inside an archived signature may well have outlived its certificate
                doubts += _doubts(value, secrets, now, unsigned_allowed=unsigned_allowed)
            signed = True
            value = _json(inflate(unbase64(value["payload"])))
        else:
            break
    else:
        raise MalformedInput("the vCon is wrapped more than four times")
    if not signed and not unsigned_allowed:
        doubts.append(UNSIGNED)
    return Opened(value, tuple(doubts))


def inflate(data: bytes) -> bytes:
    """The bytes, decompressed where they are gzip.

    Raises:
        TooLarge: there is more in it than any vCon has.
        MalformedInput: it breaks off.
    """
    if not data.startswith(GZIP):
        return data
    stream = zlib.decompressobj(wbits=31)
    try:
        plain = stream.decompress(data, MAX_PLAIN + 1)
    except zlib.error:
        raise MalformedInput("the vCon is not gzip (RFC 1952)") from None
    if len(plain) > MAX_PLAIN:
        raise TooLarge(f"the vCon is over {MAX_PLAIN} bytes decompressed")
    if not stream.eof:
        raise MalformedInput("the compressed vCon breaks off")
    return plain


def unbase64(text: str) -> bytes:
    """Base64 or base64url, padded or not, folded or not (RFC 4648).

    Raises:
        MalformedInput: it is neither.
    """
    try:
        packed = b"".join(text.encode("ascii").translate(None, b"=").split())
        packed = packed.translate(bytes.maketrans(b"-_", b"+/"))
        return base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True)
    except (ValueError, binascii.Error):
        raise MalformedInput("the vCon holds text that is not base64url") from None


def _json(data: bytes) -> dict[str, Any]:
    # Counted before anything is built; base64 has none of these characters, so audio is never counted.
    if data.count(b",") + data.count(b"[") + data.count(b"{") > MAX_VALUES:
        raise TooLarge(f"the vCon holds more than {MAX_VALUES} values")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise MalformedInput("the vCon is not JSON (RFC 8259)") from None
    if not isinstance(value, dict):
        raise MalformedInput("the vCon is no JSON object")
    return value


class _Signatures(jws.JWSRegistry):
    """Chains of certificates lie in the header, audio in the payload."""

    max_header_length = 256 * 1024
    max_payload_length = 2 * MAX_PLAIN
    max_signature_length = 4096


class _Encryptions(jwe.JWERegistry):
    """As large as vCons are. ``zip`` is none of the algorithms, so no bomb hides inside."""

    max_protected_header_length = 256 * 1024
    max_encrypted_key_length = 4096
    max_ciphertext_length = 2 * MAX_PLAIN


def _decrypted(value: Mapping[str, Any], secrets: Mapping[str, str]) -> bytes:
    pem = secrets.get("vcon_key")
    if pem is None:
        raise _refused("the vCon is encrypted, and the source has no vcon_key")
    members = ("protected", "unprotected", "iv", "aad", "ciphertext", "tag", "recipients", "header")
    data: Any = {n: value[n] for n in (*members, "encrypted_key") if n in value}
    try:
        private: Any = _imported(serialization.load_pem_private_key(pem.encode(), password=None))
        registry = _Encryptions(
            algorithms=_ENCRYPTING, verify_all_recipients=False, strict_check_header=False
        )
        plain = jwe.decrypt_json(data, private, registry=registry).plaintext
    except (JoseError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise _refused("the vCon cannot be decrypted with the source's vcon_key") from None
    if plain is None:
        raise _refused("the vCon is empty")
    return plain


def _doubts(
    value: Mapping[str, Any], secrets: Mapping[str, str], now: datetime, *, unsigned_allowed: bool
) -> Sequence[str]:
    """What speaks against a signed vCon: nothing, where one signature is right and its signer trusted."""
    flat = {n: value[n] for n in ("protected", "header", "signature") if n in value}
    signatures = value.get("signatures", [flat])
    if not isinstance(signatures, list) or not 1 <= len(signatures) <= _MAX_SIGNATURES:
        return (SIGNATURE_INVALID,)
    anchors = (
        x509.load_pem_x509_certificates(secrets["trust_anchors"].encode())
        if "trust_anchors" in secrets
        else []
    )
    found = {_verdict(value["payload"], one, anchors, now) for one in signatures}
    if "" in found:
        return ()
    if SIGNATURE_UNTRUSTED in found:
        # Right in itself, but nobody vouches for the signer: as good as unsigned.
        return () if unsigned_allowed and not anchors else (SIGNATURE_UNTRUSTED,)
    return (SIGNATURE_INVALID,)


def _verdict(payload: str, one: object, anchors: Sequence[x509.Certificate], now: datetime) -> str:
    """The doubt about one signature; empty where there is none."""
    try:
        if not isinstance(one, dict):
            return SIGNATURE_INVALID
        protected = json.loads(unbase64(one["protected"])) if "protected" in one else {}
        header = {**one.get("header", {}), **protected}
        if "x5c" not in header:  # by whom, nobody can tell
            return SIGNATURE_UNTRUSTED
        chain = [x509.load_der_x509_certificate(unbase64(text)) for text in list(header["x5c"])[:_MAX_CHAIN]]
        # Working group examples repeat protected members in the header, against RFC 7515; once is enough.
        rest = {n: v for n, v in one.get("header", {}).items() if n not in protected and n == "alg"}
        flat: Any = {"payload": payload, "signature": one["signature"]}
        flat |= {"protected": one["protected"]} if "protected" in one else {}
        flat |= {"header": rest} if rest else {}
        registry = _Signatures(algorithms=_SIGNING, strict_check_header=False)
        jws.deserialize_json(flat, _imported(chain[0].public_key()), registry=registry)
    except (JoseError, MalformedInput, ValueError, TypeError, KeyError, IndexError, AttributeError):
        return SIGNATURE_INVALID
    except RecursionError:
        return SIGNATURE_INVALID
    return "" if descends(chain, anchors, now) else SIGNATURE_UNTRUSTED


def descends(chain: Sequence[x509.Certificate], anchors: Sequence[x509.Certificate], now: datetime) -> bool:
    """Whether a chain (RFC 7515 section 4.1.6: the signer first) leads to a certificate the operator trusts.

    An anchor is trusted as it is; between it and the signer only authorities may stand.
    """
    for place, current in enumerate(chain):
        if not current.not_valid_before_utc <= now <= current.not_valid_after_utc:
            return False
        if place and not _authority(current):
            return current in anchors
        if current in anchors or any(_issued(current, anchor, now) for anchor in anchors):
            return True
        if place + 1 < len(chain) and not _issued(current, chain[place + 1], now):
            return False
    return False


def _issued(certificate: x509.Certificate, issuer: x509.Certificate, now: datetime) -> bool:
    if not issuer.not_valid_before_utc <= now <= issuer.not_valid_after_utc:
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _imported(key: object) -> RSAKey | ECKey | OKPKey:
    """A key for joserfc.

    Raises:
        ValueError: of a kind that no vCon is signed or encrypted with.
    """
    if isinstance(key, rsa.RSAPublicKey | rsa.RSAPrivateKey):
        return RSAKey.import_key(_pem(key))
    if isinstance(key, ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey):
        return ECKey.import_key(_pem(key))
    if isinstance(key, ed25519.Ed25519PublicKey | ed25519.Ed25519PrivateKey):
        return OKPKey.import_key(_pem(key))
    raise ValueError("a key of another kind")


def _pem(key: Any) -> bytes:
    if hasattr(key, "private_bytes"):
        pem: bytes = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return pem
    public: bytes = key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return public


def _refused(what: str) -> InvalidInput:
    return InvalidInput(what, fields=[FieldError("", what)])
