"""A certificate of erasure as a page that a person can read, print and check."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, Final

_GROUNDS: Final = {
    "request": "the request of the person concerned (GDPR art. 17)",
    "relationship_ended": "the end of the customer relationship",
    "retention": "the end of the retention period (GDPR art. 5(1)(e))",
    "court_order": "the order of a court or authority",
    "card_security": "a card security code in the recording (PCI DSS 3.3.1)",
}
_SCOPES: Final = {
    "recording": "one recording",
    "customer": "everything held of one customer",
    "original": "the original of one recording; a muted copy without the code lives on",
}
_STEPS: Final = {
    "begin": "Decided, and closed to every use",
    "rewrap_kept": "What had to stay was put under a fresh key",
    "destroy_keys": "Keys destroyed: the audio cannot be read by anyone",
    "delete_objects": "Every stored version deleted",
    "prove_absence": "The store listed again: nothing was left",
    "tombstone": "Recorded in the ledger, so that neither a late push nor a restore brings it back",
}
_CODES: Final = {
    "hold": "a legal hold",
    "statute": "a statutory duty to keep it",
    "shared": "another customer is on the call; a person decides",
    "no_derivative": "there is no muted copy yet",
    "arrived_late": "it arrived while the erasure ran",
    "kept_before_restore": "it had been kept before the database was restored",
}


def page(document: Mapping[str, Any], signature: str, key: Mapping[str, str]) -> str:
    """The whole page; everything in it is from the signed document.

    Args:
        document: the certificate.
        signature: compact JWS over it.
        key: public JWK of the signing key, as published.
    """
    identity = str(document["id"])
    gone = [r for r in document["recordings"] if r["outcome"] == "erased"]
    kept = [r for r in document["recordings"] if r["outcome"] != "erased"]
    objects = sum(len(r["objects"]) for r in gone)
    versions = sum(len(o.get("versions", ())) for r in gone for o in r["objects"])
    facts = [
        ("Certificate", identity),
        ("Erasure", str(document["erasure"])),
        ("Controller", str(document["controller"])),
        ("Customer", str(document["customer"] or "not a whole customer")),
        ("Ground", _GROUNDS.get(document["ground"], str(document["ground"]))),
        ("Extent", _SCOPES.get(document["scope"], str(document["scope"]))),
        ("Asked by", str(document["requested_by"])),
        ("Asked at", _moment(document["requested_at"])),
        ("Issued at", _moment(document["issued_at"])),
        ("Erased", f"{len(gone)} recordings, {objects} stored objects, {versions} stored versions"),
        ("Copies erased with it", _copies(document.get("copies", {}))),
        ("No backup opens it after", _moment(document["backups_expire_on"])),
    ]
    times = document["times"]
    steps = [(words, _moment(times[name])) for name, words in _STEPS.items() if name in times]
    return "".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f"<title>Certificate of erasure {escape(identity)}</title>",
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="stylesheet" href="/static/certificate.css"></head><body><main>',
            "<h1>Certificate of erasure</h1>",
            "<p>What is listed here was destroyed, and its absence was checked at the store. The certificate "
            "holds random ids only: nothing in it says who the person was.</p>",
            _table("What was done", facts),
            _table("When each step was complete (UTC)", steps),
            _erased(gone),
            _kept(kept),
            _keys(document["subject_keys"]),
            _checking(identity, signature, key),
            "</main></body></html>",
        )
    )


def _table(caption: str, rows: Iterable[tuple[str, str]]) -> str:
    body = "".join(f'<tr><th scope="row">{escape(a)}</th><td>{escape(b)}</td></tr>' for a, b in rows)
    return f"<table><caption>{escape(caption)}</caption><tbody>{body}</tbody></table>"


def _erased(recordings: Sequence[Mapping[str, Any]]) -> str:
    rows = "".join(
        f"<tr><td>{escape(str(r['id']))}</td><td>{escape(str(o['role']))}</td>"
        f"<td>{escape(str(o.get('key', 'was never stored')))}</td>"
        f"<td>{escape(', '.join(map(str, o.get('versions', ()))))}</td></tr>"
        for r in recordings
        for o in r["objects"]
    )
    return (
        '<table class="wide"><caption>Destroyed objects</caption><thead><tr><th scope="col">Recording</th>'
        '<th scope="col">Role</th><th scope="col">Name in the store</th><th scope="col">Versions</th></tr>'
        f"</thead><tbody>{rows}</tbody></table>"
    )


def _kept(recordings: Sequence[Mapping[str, Any]]) -> str:
    if not recordings:
        return "<p>Nothing had to be kept.</p>"
    rows = [
        (
            str(r["id"]),
            _CODES.get(str(r["code"]), str(r["code"]))
            + (f", until {_moment(r['until'])}" if r["until"] else ""),
        )
        for r in recordings
    ]
    return _table("Kept, and why", rows)


def _keys(keys: Sequence[Mapping[str, Any]]) -> str:
    if not keys:
        return ""
    return _table("Destroyed keys of persons", [(str(k["subject"]), f"epoch {k['epoch']}") for k in keys])


def _checking(identity: str, signature: str, key: Mapping[str, str]) -> str:
    address = f"/api/v1/certificates/{identity}"
    return (
        '<section class="check"><h2>How to check this certificate</h2><ol>'
        f"<li>Fetch it as JSON from <code>{escape(address)}</code> (Accept: application/json). Its "
        "<code>signature</code> is the text below.</li>"
        "<li>Fetch the public keys from <code>/api/v1/keys</code>; the one that signed has the "
        f"<code>kid</code> <code>{escape(key['kid'])}</code>. Keep a copy of it somewhere else.</li>"
        "<li>Verify the signature with any program for JSON Web Signatures (RFC 7515; EdDSA over Ed25519, "
        "RFC 8037). The signed payload is the certificate in its canonical form (RFC 8785); compare it with "
        "this page.</li>"
        "<li>Search the store for the names listed above: none of them may be there, in any version.</li>"
        f"</ol><h3>Public key</h3><pre>{escape(json.dumps(dict(key), sort_keys=True))}</pre>"
        f"<h3>Signature</h3><pre>{escape(signature)}</pre></section>"
    )


def _moment(text: str) -> str:
    return str(text).replace("T", " ").split(".", maxsplit=1)[0].removesuffix("Z") + " UTC"


def _copies(copies: Mapping[str, Any]) -> str:
    counts = (
        (len(copies.get("packages", ())), "packages for requests"),
        (copies.get("uploads", 0), "unfinished uploads"),
        (copies.get("spooled", 0), "spooled deliveries"),
    )
    return ", ".join(f"{count} {words}" for count, words in counts if count) or "none"
