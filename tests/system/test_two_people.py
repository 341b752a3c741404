"""Steps of two people on real processes: two accounts, two sessions; never one person, token or console."""

from __future__ import annotations

import io
import json
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from jwt.algorithms import OKPAlgorithm

from recorder.access import approvals
from recorder.access.principals import Principal
from recorder.app import open_services
from recorder.catalogue.enums import Role
from recorder.errors import Forbidden
from recorder.jobs.reconcile import reconcile
from tests.servers.postgres import PostgresServer
from tests.servers.s3 import S3Server
from tests.system.installation import (
    PASSWORD,
    Answer,
    Api,
    Installation,
    call_of,
    client,
    embedded,
    in_own_loop,
    production,
    tone,
)

AUDIO = tone(0.5)
OLD = 9 * 366  # days: past the eight years of every purpose
BOTH = ["embedded", pytest.param("production", marks=[pytest.mark.postgres, pytest.mark.s3])]


@dataclass
class Person:
    """Somebody who is signed in: the cookie of a session, and its CSRF token."""

    api: Api
    headers: dict[str, str]

    async def ask(self, method: str, path: str, body: Any = None) -> Answer:
        options = {} if body is None else {"json": body}
        return await self.api.request(method, path, headers=self.headers, **options)

    async def form(self, path: str, **fields: str) -> Answer:
        """Post a form of a page, with the token that the page would have."""
        data = {"csrf": self.headers["X-CSRF-Token"], **fields}
        return await self.api.request("POST", path, headers={"Cookie": self.headers["Cookie"]}, data=data)


async def sign_in(api: Api, username: str) -> Person:
    answer = await api.post("/api/v1/session", json={"username": username, "password": PASSWORD})
    assert answer.status == 201, answer.body
    cookie = answer.headers["Set-Cookie"].partition(";")[0]
    return Person(api, {"Cookie": cookie, "X-CSRF-Token": answer.json["csrf"]})


@pytest.fixture(params=BOTH)
def own(request: pytest.FixtureRequest, own_installation: Callable[..., Installation]) -> Installation:
    """An installation with three people: two of legal affairs, one of privacy. Its brake lets one go."""
    brake = {"RECORDER_SWEEP_BRAKE_COUNT": "1", "RECORDER_SWEEP_BRAKE_SHARE": "0.01"}
    if request.param == "embedded":
        made = own_installation(embedded, **brake)
    else:
        servers = (request.getfixturevalue("s3_server"), request.getfixturevalue("postgres"))
        made = own_installation(production, *servers, **brake)
    for username, role in (
        ("leena", Role.LEGAL),
        ("olli", Role.LEGAL),
        ("pia", Role.PRIVACY),
        ("pekka", Role.PRIVACY),
    ):
        made.add_account(username, username.capitalize(), role)
    made.start()
    return made


async def pushed(api: Api, external_id: str, **more: Any) -> str:
    answer = await api.push(call_of(external_id, **more), AUDIO)
    assert answer.status == 201, answer.body
    return str(answer.json["id"])


async def test_a_hold_is_released_by_two_signed_in_people(own: Installation) -> None:
    async with client(own) as api:
        recording = await pushed(api, "held")
        leena, olli = await sign_in(api, "leena"), await sign_in(api, "olli")
        matter = {"reference": "2026-1", "ground": "legal_claims", "review_on": "2030-01-01T00:00:00Z"}
        opened = await leena.ask("POST", "/api/v1/matters", matter)
        holds = f"/api/v1/matters/{opened.json['id']}/holds"
        hold = await leena.ask("POST", holds, {"recording": recording})
        assert hold.status == 201, hold.body
        release = f"{holds}/{hold.json['id']}"

        asked = await leena.ask("DELETE", release)
        assert asked.status == 202, asked.body
        approval = asked.json["approval"]
        decision = f"/api/v1/approvals/{approval}/decision"

        early = await leena.ask("DELETE", f"{release}?approval={approval}")
        assert (early.status, early.json["reason"]) == (403, "approval-mismatch"), "nobody has decided"
        alone = await leena.ask("POST", decision, {"decision": "approve"})
        assert (alone.status, alone.json["reason"]) == (403, "own-request")
        # A second session does not make a second person, nor does a token or the shell on the host.
        again = await (await sign_in(api, "leena")).ask("POST", decision, {"decision": "approve"})
        assert (again.status, again.json["reason"]) == (403, "own-request")
        token = await api.post(decision, "legal", json={"decision": "approve"})
        assert (token.status, token.json["reason"]) == (403, "not-a-person")
        assert console(own, approval) == "not-a-person"
        stranger = {**olli.headers, "X-CSRF-Token": leena.headers["X-CSRF-Token"]}
        forged = await api.post(decision, json={"decision": "approve"}, headers=stranger)
        assert (forged.status, forged.json["reason"]) == (403, "csrf")

        given = await olli.ask("POST", decision, {"decision": "approve"})
        assert (given.status, given.json["state"]) == (200, "approved"), given.body
        done = await leena.ask("DELETE", f"{release}?approval={approval}")
        assert (done.status, bool(done.json["released_at"])) == (200, True), done.body
        spent = await leena.ask("DELETE", f"{release}?approval={approval}")
        assert spent.status in {403, 409}


def console(own: Installation, approval: str) -> str:
    """Decide an approval as the operating-system user; the reason of the refusal."""

    async def work() -> str:
        async with open_services(own.open_settings()) as services:
            try:
                await approvals.decide_approval(
                    services, Principal("os", "root", None), uuid.UUID(approval), approve=True
                )
            except Forbidden as refused:
                return refused.reason
        return "approved"

    return in_own_loop(work())


async def test_what_the_console_asks_for_a_person_approves(own: Installation) -> None:
    async with client(own) as api:
        recording = await pushed(api, "held-by-console")
        words = json.dumps({"title": "A claim", "custodians": ["Leena"]})
        opened = await own.run(
            "matter", "open", "2026-2", "--ground", "legal_claims", "--review-on", "2030-01-01T00:00:00Z",
            "--words-stdin", given=words,
        )  # fmt: skip
        assert opened.returncode == 0, opened.stderr
        matter = opened.stdout.strip()
        hold = (await own.run("matter", "hold", matter, "--recording", recording)).stdout.strip()
        waits = await own.run("matter", "release", matter, hold)
        assert waits.returncode == 4, waits.stderr
        assert waits.stderr.count("\n") == 1
        [waiting] = (await api.get("/api/v1/approvals?state=pending", "auditor")).json["items"]
        assert waiting["requested_by"].startswith("os:")
        refused = await own.run("matter", "release", matter, hold, "--approval", waiting["id"])
        assert refused.returncode == 4, "nobody approved it yet"
        olli = await sign_in(api, "olli")
        given = await olli.ask("POST", f"/api/v1/approvals/{waiting['id']}/decision", {"decision": "approve"})
        assert given.status == 200, given.body
        done = await own.run("matter", "release", matter, hold, "--approval", waiting["id"])
        assert done.returncode == 0, done.stderr
        assert (await own.run("matter", "close", matter)).returncode == 0
        listed = json.loads((await own.run("matter", "list", "--json")).stdout)
        assert [m["closed_at"] is not None for m in listed] == [True]


async def test_a_braked_sweep_goes_on_when_two_people_say_so(own: Installation) -> None:
    async with client(own) as api:
        old = [await pushed(api, f"old-{number}", days_ago=OLD) for number in range(3)]
        braked = await own.run("sweep")
        assert braked.returncode == 4, braked.stderr
        [waiting] = (await api.get("/api/v1/approvals?state=pending", "privacy")).json["items"]
        assert waiting["action"] == "sweep_brake"
        pia, pekka = await sign_in(api, "pia"), await sign_in(api, "pekka")
        step = f"/app/approvals/{waiting['id']}"
        assert (await pekka.form(f"{step}/step")).status == 403, "not approved yet"
        approved = await pia.form(f"{step}/decision", decision="approve")
        assert approved.headers["Location"] == "/app/approvals?done=approved"
        alone = await pia.form(f"{step}/step")
        assert alone.status == 403
        assert b"another person must" in alone.body
        started = await pekka.form(f"{step}/step")
        assert started.headers["Location"] == "/app/approvals?done=sweeping"
        for recording in old:
            await api.until(
                lambda recording=recording: api.audio(recording, "legal", "legal_protection"),  # type: ignore[misc]  # mypy cannot infer a lambda with a default
                lambda a: a.status == 410,
            )
        used = await api.get(f"/api/v1/approvals/{waiting['id']}", "privacy")
        assert used.json["state"] == "used"


async def test_a_granted_erasure_takes_a_whole_customer_and_proves_it(own: Installation) -> None:
    async with client(own) as api:
        customer = {"number": "K-900100", "name": "Gustav Exempelsson", "source": "registration"}
        made = await api.request("PUT", "/api/v1/customers", role="crm", json=customer)
        assert made.status in {200, 201}, made.body
        theirs = [await pushed(api, f"theirs-{n}", customer={"number": "K-900100"}) for n in range(2)]
        others = await pushed(api, "others")
        pia = await sign_in(api, "pia")
        filed = await pia.form(
            "/app/requests/new", type="erasure", channel="email", language="sv", customer="K-900100",
            name="Gustav Exempelsson", message="Radera allt.", received="",
        )  # fmt: skip
        assert filed.status == 303, filed.body
        page = filed.headers["Location"].partition("?")[0]
        request = page.rpartition("/")[2]
        unsure = await pia.form(f"{page}/decision", outcome="granted", goes="2")
        assert unsure.status == 403
        assert b"identity first" in unsure.body
        assert (await pia.form(f"{page}/identity", method="bank_id", outcome="confirmed")).status == 303
        stale = await pia.form(f"{page}/decision", outcome="granted", goes="7")
        assert stale.status == 409, "it said another number than would go"
        granted = await pia.form(f"{page}/decision", outcome="granted", goes="2")
        assert granted.status == 303, granted.body

        whole = await api.until(
            lambda: pia.ask("GET", f"/api/v1/requests/{request}"),
            lambda a: a.json["completed_at"] is not None,
        )
        assert whole.json["state"] == "granted"
        certificates = set()
        for recording in theirs:
            gone = await api.audio(recording, "legal", "legal_protection")
            assert (gone.status, gone.problem) == (410, "erased")
            certificates.add(gone.json["certificate"])
        assert (await api.audio(others)).status == 200
        found = await api.post("/api/v1/recordings/search", "privacy", json={"number": "K-900100"})
        assert found.json["items"] == []
        nobody = await api.post("/api/v1/customers/search", "privacy", json={"number": "K-900100"})
        assert nobody.json["items"] == []
        for address in certificates:
            certificate = (await api.get(address, "auditor")).json
            await check(api, certificate)
            text = json.dumps(certificate)
            assert "K-900100" not in text
            assert "Gustav" not in text
        named = {
            r for a in certificates for r in theirs if r in json.dumps((await api.get(a, "auditor")).json)
        }
        assert named == set(theirs)
        late = await api.push(call_of("theirs-0", customer={"number": "K-900100"}), AUDIO)
        assert (late.status, late.problem) == (410, "erased")
        again = await own.run("erase", "--request", request, "--yes", "--json")
        assert again.returncode == 0, again.stderr
        assert set(json.loads(again.stdout)["outcomes"].values()) == {"granted"}
        assert (await pia.form(f"{page}/letter")).status == 303
        shown = await own.run("request", "show", request, "--json")
        assert json.loads(shown.stdout)["replied_at"] is not None
        text = (await pia.ask("GET", f"/api/v1/requests/{request}/reply?language=sv")).body.decode()
        assert "Gustav Exempelsson" in text, "the register outlives the customer"


async def check(api: Api, certificate: Mapping[str, Any]) -> None:
    """Verify the signature of a certificate with the keys that the service publishes."""
    keys = (await api.get("/api/v1/keys")).json["keys"]
    header = jwt.get_unverified_header(certificate["signature"])
    [jwk] = [key for key in keys if key["kid"] == header["kid"]]
    public = OKPAlgorithm.from_jwk(jwk)
    assert isinstance(public, Ed25519PublicKey)
    signed = jwt.PyJWS().decode(certificate["signature"], public, algorithms=["EdDSA"])
    assert signed == rfc8785.dumps(certificate["document"])


async def test_what_drifts_is_found_and_settled_by_a_person(
    own_installation: Callable[..., Installation],
) -> None:
    own = own_installation(embedded)
    own.add_account("oona", "Oona", Role.OPERATOR)
    own.start()
    async with client(own) as api:
        await pushed(api, "drifts")
        oona = await sign_in(api, "oona")
        [stored] = [p for p in (own.data / "objects").rglob("*") if p.is_file() and p.stat().st_size > 4000]
        away = own.folder / "away"
        shutil.move(stored, away)
        scrub = await own.run("scrub", "--share", "1")
        assert scrub.returncode == 1, scrub.stderr
        [finding] = (await oona.ask("GET", "/api/v1/findings")).json["items"]
        assert (finding["kind"], finding["state"]) == ("missing", "open")
        resolution = f"/api/v1/findings/{finding['id']}/resolution"
        for action, problem in (
            ("recheck", "finding-stands"),
            ("repair", "not-repairable"),
            ("adopt", "nothing-to-adopt"),
        ):
            stands = await oona.ask("POST", resolution, {"action": action})
            assert (stands.status, stands.problem) == (409, problem), stands.body
        for role in ("privacy", "auditor", "quality"):
            assert (await api.get("/api/v1/findings", role)).status == 403
            assert (await api.post(resolution, role, json={"action": "accept"})).status == 403
        shown = await oona.ask("GET", "/app/findings")
        assert finding["id"].encode() in shown.body

        _put_back(away, stored)
        page = await oona.form(f"/app/findings/{finding['id']}", action="adopt")
        assert page.headers["Location"] == "/app/findings?done=adopt"
        assert (await oona.ask("GET", "/api/v1/findings")).json["items"] == []
        settled = await oona.ask("POST", resolution, {"action": "recheck"})
        assert (settled.status, settled.problem) == (409, "finding-settled")
        assert (await own.run("scrub", "--share", "1")).returncode == 0


@pytest.mark.postgres
@pytest.mark.s3
async def test_a_foreign_version_in_the_bucket_is_found_and_deleted(
    own_installation: Callable[..., Installation], s3_server: S3Server, postgres: PostgresServer
) -> None:
    own = own_installation(production, s3_server, postgres)
    own.add_account("oona", "Oona", Role.OPERATOR)
    own.start()
    async with client(own) as api:
        recording = await pushed(api, "overwritten")
        oona = await sign_in(api, "oona")
        bucket, store = own.settings["RECORDER_OBJECT_STORE"].removeprefix("s3://"), s3_server.client()

        def versions() -> list[str]:
            found = store.list_objects(bucket, recursive=True, include_version=True)
            return [str(each.object_name) for each in found if each.size and each.size > 4000]

        [key] = versions()
        store.put_object(bucket, key, io.BytesIO(b"foreign " * 1000), 8000)
        assert versions() == [key, key]
        in_own_loop(_reconcile(own))
        [finding] = (await oona.ask("GET", "/api/v1/findings")).json["items"]
        assert (finding["kind"], finding["recording"]) == ("extra_version", recording)
        stands = await oona.form(f"/app/findings/{finding['id']}", action="recheck")
        assert stands.status == 409
        repaired = await oona.form(f"/app/findings/{finding['id']}", action="repair")
        assert repaired.headers["Location"] == "/app/findings?done=repair"
        assert versions() == [key]
        heard = await api.audio(recording)
        assert (heard.status, heard.body) == (200, AUDIO)


async def _reconcile(own: Installation) -> None:
    async with open_services(own.open_settings()) as services:
        await reconcile(services, services.clock.now() + timedelta(days=2))


def _put_back(copy: Path, place: Path) -> None:
    shutil.copy(copy, place)
