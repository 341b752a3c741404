"""A call goes in, is heard, explained, held, erased and proved: on one box, and on PostgreSQL with S3."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import wave
from datetime import datetime
from typing import Any

import jwt
import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.system.installation import Answer, Api, Installation, call_of, tone

TWO_SECONDS = tone(2.0)


async def stored(api: Api, external_id: str, audio: bytes = TWO_SECONDS, **more: Any) -> dict[str, Any]:
    answer = await api.push(call_of(external_id, **more), audio)
    assert answer.status == 201, answer.body
    found: dict[str, Any] = answer.json
    assert found["state"] == "stored", found
    return found


async def with_customer(api: Api, number: str, external_id: str) -> tuple[str, dict[str, Any]]:
    answer = await api.request(
        "PUT", "/api/v1/customers", role="crm", json={"number": number, "source": "registration"}
    )
    assert answer.status in {200, 201}, answer.body
    pushed = await stored(api, external_id, customer={"number": number})
    assert pushed["customer"] == {
        **pushed["customer"],
        "status": "linked",
        "id": answer.json["id"],
        "matched_by": "number",
    }
    return answer.json["id"], pushed


def samples(audio: bytes) -> tuple[int, bytes]:
    with wave.open(io.BytesIO(audio)) as file:
        return file.getframerate(), file.readframes(file.getnframes())


async def test_a_push_is_answered_with_a_receipt_that_anybody_can_check(api: Api) -> None:
    pushed = await stored(api, "way-receipt")
    digest = hashlib.sha256(TWO_SECONDS).hexdigest()
    assert (pushed["sha256"], pushed["size"]) == (digest, len(TWO_SECONDS))
    assert pushed["media"]["codec"] == "pcm_s16le"

    keys = (await api.get("/api/v1/keys")).json["keys"]
    header = jwt.get_unverified_header(pushed["receipt"])
    [key] = [k for k in keys if k["kid"] == header["kid"]]
    public = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(key["x"] + "="))
    payload = json.loads(jwt.PyJWS().decode(pushed["receipt"], public, algorithms=["EdDSA"]))
    assert (payload["id"], payload["sha256"], payload["size"]) == (pushed["id"], digest, len(TWO_SECONDS))
    members = {"crv": "Ed25519", "kty": "OKP", "x": key["x"]}
    thumbprint = base64.urlsafe_b64encode(hashlib.sha256(rfc8785.dumps(members)).digest()).rstrip(b"=")
    assert header["kid"] == thumbprint.decode(), "RFC 7638"

    again = await api.get(f"/api/v1/recordings/{pushed['id']}/receipt", "telephony")
    assert again.json["receipt"] == pushed["receipt"]


async def test_the_same_again_is_the_first_and_other_bytes_are_a_conflict(api: Api) -> None:
    first = await stored(api, "way-twice")
    again = await api.push(call_of("way-twice"), TWO_SECONDS)
    assert (again.status, again.json["id"], again.json["receipt"]) == (200, first["id"], first["receipt"])
    other = await api.push(call_of("way-twice"), tone(1.0))
    assert (other.status, other.problem) == (409, "conflict")
    kept = (await api.get("/api/v1/quarantine", "operator")).json["items"]
    assert first["id"] in {item["conflict_of"] for item in kept}


async def test_a_raw_put_is_a_push_too(api: Api) -> None:
    answer = await api.put("way-put.wav", TWO_SECONDS, started_at=call_of("x")["started_at"], queue="sales")
    assert answer.status == 201, answer.body
    assert answer.json["state"] == "stored"
    heard = await api.audio(answer.json["id"])
    assert (heard.status, heard.body) == (200, TWO_SECONDS)


async def test_a_dry_run_keeps_nothing(api: Api) -> None:
    answer = await api.push(call_of("way-dry"), TWO_SECONDS, query="?dry_run=true")
    assert (answer.status, answer.json["would"], answer.json["id"]) == (200, "created", None)
    assert (await api.push(call_of("way-dry"), TWO_SECONDS)).status == 201


async def test_a_push_must_be_what_it_says(api: Api) -> None:
    unknown = await api.push({**call_of("way-bad"), "colour": "red"}, TWO_SECONDS)
    assert (unknown.status, unknown.problem) == (422, "invalid-input")
    assert unknown.json["errors"][0]["pointer"] == "/colour"
    nobody = await api.post("/api/v1/recordings", data=b"")
    assert nobody.status == 401
    reader = await api.post("/api/v1/recordings", "quality", data=b"")
    assert reader.status in {403, 415}
    wrong = f"sha-256=:{base64.b64encode(bytes(32)).decode()}:"
    digest = await api.request(
        "PUT",
        "/ingest/pbx/way-digest.wav",
        role="telephony",
        data=TWO_SECONDS,
        headers={"Content-Digest": wrong},
    )
    assert (digest.status, digest.json["state"]) == (201, "quarantined")
    assert "digest-mismatch" in digest.json["reasons"]


async def test_a_body_that_breaks_off_leaves_nothing(api: Api, service: Installation) -> None:
    head = (
        "PUT /ingest/pbx/way-broken.wav HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
        f"Authorization: Bearer {service.tokens['telephony']}\r\nContent-Length: {len(TWO_SECONDS)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(head.encode())
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(TWO_SECONDS[:20_000])
    await writer.drain()
    writer.transport.abort()
    # The identity is free: nothing of the broken push was kept.
    assert (await api.put("way-broken.wav", TWO_SECONDS)).status == 201


async def test_it_is_listed_searched_and_told_in_detail(api: Api) -> None:
    customer, pushed = await with_customer(api, "K-100200", "way-listed")
    listed = (await api.get(f"/api/v1/recordings?customer={customer}", "quality")).json["items"]
    assert [item["id"] for item in listed] == [pushed["id"]]
    assert {p["purpose"] for p in listed[0]["playable"]} == {"quality"}
    found = await api.post("/api/v1/recordings/search", "quality", json={"number": "K-100200"})
    assert pushed["id"] in [item["id"] for item in found.json["items"]]
    in_url = await api.get("/api/v1/recordings?number=K-100200", "quality")
    assert in_url.status == 422, "what is personal has no place in an address"
    detail = (await api.get(f"/api/v1/recordings/{pushed['id']}", "legal")).json
    assert detail["sha256"] == pushed["sha256"]
    assert detail["metadata"]["customer"]["number"] == "K-100200"
    for_quality = (await api.get(f"/api/v1/recordings/{pushed['id']}", "quality")).json
    assert for_quality["metadata"] is None
    nothing = await api.get("/api/v1/recordings", "telephony")
    assert nothing.status == 403


async def heard(api: Api, recording: str, **headers: str) -> Answer:
    return await api.audio(recording, headers={k.replace("_", "-"): v for k, v in headers.items()})


async def test_it_is_heard_whole_and_by_range(api: Api) -> None:
    recording = (await stored(api, "way-heard"))["id"]
    whole = await heard(api, recording)
    assert (whole.status, whole.body) == (200, TWO_SECONDS)
    assert whole.headers["Content-Type"] == "audio/wav"
    assert whole.headers["Accept-Ranges"] == "bytes"
    etag, size = whole.headers["ETag"], len(TWO_SECONDS)

    part = await heard(api, recording, Range="bytes=100-299")
    assert (part.status, part.body) == (206, TWO_SECONDS[100:300])
    assert part.headers["Content-Range"] == f"bytes 100-299/{size}"
    tail = await heard(api, recording, Range="bytes=-17")
    assert (tail.status, tail.body) == (206, TWO_SECONDS[-17:])
    beyond = await heard(api, recording, Range=f"bytes={size}-")
    assert (beyond.status, beyond.headers["Content-Range"]) == (416, f"bytes */{size}")
    same = await heard(api, recording, Range="bytes=0-0", If_Range=etag)
    assert (same.status, same.body) == (206, TWO_SECONDS[:1])
    other = await heard(api, recording, Range="bytes=0-0", If_Range='"another"')
    assert (other.status, other.body) == (200, TWO_SECONDS)
    assert (await heard(api, recording, If_None_Match=etag)).status == 304
    assert (await heard(api, recording, If_Match='"another"')).status == 412
    head = await api.audio(recording, method="HEAD")
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(size))
    assert head.headers["ETag"] == etag


async def test_nobody_hears_it_without_role_and_purpose(api: Api) -> None:
    recording = (await stored(api, "way-refused"))["id"]
    assert (await api.get(f"/api/v1/recordings/{recording}/audio", "quality")).status == 422
    for role, purpose, reason in [
        ("quality", "training", "purpose"),
        ("operator", "security", "role"),
        ("telephony", "quality", "role"),
        ("crm", "service_evidence", "role"),
    ]:
        answer = await api.audio(recording, role, purpose)
        assert (answer.status, answer.json["reason"]) == (403, reason), role
    assert (await api.get(f"/api/v1/recordings/{recording}/audio?purpose=quality")).status == 401


async def test_muted_spans_are_silence_for_all_but_legal(api: Api) -> None:
    muted = [{"from": 0.5, "to": 1.0, "reason": "health"}]
    recording = (await stored(api, "way-muted", muted=muted))["id"]
    answer = await api.until(lambda: api.audio(recording), lambda a: a.status != 503 and a.status != 409)
    assert answer.status == 200, answer.body
    assert answer.body != TWO_SECONDS
    original = await api.audio(recording, rendition="original")
    assert (original.status, original.json["reason"]) == (403, "muted")
    legal = await api.audio(recording, "legal", "legal_protection", rendition="original")
    assert (legal.status, legal.body) == (200, TWO_SECONDS)
    redacted = await api.audio(recording, "legal", "legal_protection", rendition="redacted")
    assert redacted.body == answer.body


async def test_a_link_is_one_recording_for_one_purpose_and_revocable(api: Api, service: Installation) -> None:
    recording = (await stored(api, "way-link"))["id"]
    made = await api.post(f"/api/v1/recordings/{recording}/links", "quality", json={"purpose": "quality"})
    assert made.status == 201, made.body
    path = made.json["url"].removeprefix(service.url)
    assert path.startswith("/listen/")
    assert (await api.get(path)).status == 401, "a link is opened by somebody"
    opened = await api.get(path, "quality")
    assert (opened.status, opened.body) == (200, TWO_SECONDS)
    assert opened.headers["Referrer-Policy"] == "no-referrer"
    assert (await api.get(path, "crm")).status == 403
    gone = await api.request(
        "DELETE", f"/api/v1/recordings/{recording}/links/{made.json['id']}", role="quality"
    )
    assert gone.status == 204
    assert (await api.get(path, "quality")).status in {403, 404, 410}
    assert (await api.get("/listen/" + "x" * 40, "quality")).status == 404


async def test_retention_is_explained_and_custody_is_told(api: Api) -> None:
    _, pushed = await with_customer(api, "K-300400", "way-explained")
    recording = pushed["id"]
    explained = (await api.get(f"/api/v1/recordings/{recording}/retention", "privacy")).json
    assert explained["explanation"]
    windows = {w["purpose"]: w for w in explained["windows"]}
    assert windows["quality"]["state"] == "open"
    assert windows["quality"]["because"]
    promised = datetime.fromisoformat(pushed["retention"]["erase_on"])
    assert datetime.fromisoformat(explained["erase_on"]) == promised

    assert (await api.audio(recording)).status == 200
    history = (await api.get(f"/api/v1/recordings/{recording}/history", "auditor")).json["items"]
    actions = [item["entry"]["action"] for item in history]
    assert actions[0] == "recording.stored"
    assert "listen.opened" in actions
    listen = next(item["entry"] for item in history if item["entry"]["action"] == "listen.opened")
    assert (listen["purpose"], listen["outcome"]) == ("quality", "ok")
    assert (await api.get(f"/api/v1/recordings/{recording}/history", "quality")).status == 403


async def test_a_hold_outlives_erasure_and_erasure_is_proved(api: Api, service: Installation) -> None:
    _, pushed = await with_customer(api, "K-500600", "way-erased")
    recording = pushed["id"]
    matter = await api.post(
        "/api/v1/matters",
        "legal",
        json={"reference": "R-2026-1", "ground": "legal_claims", "review_on": "2030-01-01T00:00:00Z"},
    )
    assert matter.status == 201, matter.body
    held = await api.post(
        f"/api/v1/matters/{matter.json['id']}/holds", "legal", json={"recording": recording}
    )
    assert held.status == 201, held.body

    refused = await service.run("erase", "--recording", recording, "--ground", "request", "--yes")
    assert refused.returncode == 4, refused.stderr
    assert (await api.audio(recording, "legal", "legal_protection")).status == 200

    # Not held: goes at once, and is provably gone.
    _, free = await with_customer(api, "K-700800", "way-gone")
    erased = await service.run(
        "erase", "--customer", "-", "--ground", "request", "--yes", "--json", given="K-700800\n"
    )
    assert erased.returncode == 0, erased.stderr
    assert free["id"] in json.loads(erased.stdout)["outcomes"]
    gone = await api.audio(free["id"])
    assert (gone.status, gone.problem) == (410, "erased")
    certificate = await api.get(gone.json["certificate"], "auditor")
    if certificate.status == 403:
        certificate = await api.get(gone.json["certificate"], "privacy")
    assert certificate.status == 200, certificate.body
    document = certificate.json["document"]
    assert free["id"] in json.dumps(document)
    assert "K-700800" not in json.dumps(document)
    late = await api.push(call_of("way-gone", customer={"number": "K-700800"}), TWO_SECONDS)
    assert (late.status, late.problem) == (410, "erased")
    other_bytes = await api.push(call_of("way-gone"), tone(1.0))
    assert other_bytes.status == 410
    found = await api.post("/api/v1/recordings/search", "privacy", json={"number": "K-700800"})
    assert found.json["items"] == []


async def test_the_log_is_what_was_signed(api: Api, service: Installation) -> None:
    await stored(api, "way-log")
    await api.until(lambda: api.get("/api/v1/audit/checkpoint", "auditor"), lambda a: a.status == 200)
    done = await service.run("audit", "verify", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["ok"]
    assert report["entries"] > 10


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/api/openapi.json", "/api/docs"])
async def test_the_service_tells_of_itself(api: Api, path: str) -> None:
    assert (await api.get(path)).status == 200
