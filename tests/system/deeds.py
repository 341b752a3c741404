"""For every JSON operation of the API a request that is granted, and the things it is done upon.

Chance alone hardly gets past the doors: it has no id that exists, and nothing in a state in which a step is
due. A deed is done as it stands first; what chance makes of it afterwards starts from there.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import requests

from retention.schedule import default_schedule_text
from tests.system.installation import PASSWORD, Installation, call_of, client, in_own_loop, tone

SOON: Final = (datetime.now(UTC) + timedelta(days=90)).isoformat(timespec="seconds")
BEFORE: Final = (datetime.now(UTC) - timedelta(days=2)).isoformat(timespec="seconds")
EARLIER: Final = (datetime.now(UTC) - timedelta(days=3)).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True)
class Deed:
    """One request that is granted.

    Attributes:
        who: A role, whose token asks; or the user name of a person, who is signed in for it; "" for nobody.
        path: Values of the placeholders, by name.
        body: The JSON members; None for none.
    """

    who: str
    path: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] | None = None
    query: dict[str, str] = field(default_factory=dict)


class Office:
    """The people and machines of an installation, who can make whatever a deed is done upon."""

    def __init__(self, installation: Installation, http: requests.Session) -> None:
        self.installation = installation
        self._http = http
        self._count = 0

    def headers(self, who: str) -> dict[str, str]:
        """What proves who asks: a token, or a fresh session of a person."""
        if not who:
            return {}
        if who in self.installation.tokens:
            return {"Authorization": f"Bearer {self.installation.tokens[who]}"}
        signed_in = self.http("POST", "/api/v1/session", {}, {"username": who, "password": PASSWORD})
        cookie = signed_in.headers["Set-Cookie"].partition(";")[0]
        return {"Cookie": cookie, "X-CSRF-Token": signed_in.json()["csrf"]}

    def http(self, method: str, path: str, headers: dict[str, str], body: Any = None) -> requests.Response:
        """Ask, without a memory of cookies."""
        self._http.cookies.clear()
        url = self.installation.url + path
        answer = self._http.request(method, url, headers=headers, json=body, timeout=60)
        assert answer.status_code < 300, (method, path, answer.status_code, answer.text)
        self._http.cookies.clear()
        return answer

    def post(self, path: str, who: str, **body: Any) -> dict[str, Any]:
        return dict(self.http("POST", f"/api/v1/{path}", self.headers(who), body).json())

    def items(self, path: str, who: str) -> list[dict[str, Any]]:
        return list(self.http("GET", f"/api/v1/{path}", self.headers(who)).json()["items"])

    def another(self, prefix: str) -> str:
        """A name that was not used yet."""
        self._count += 1
        return f"{prefix}{self._count}"

    # What deeds are done upon

    def recording(self, seconds: float = 0.2, **more: Any) -> str:
        return str(self._pushed(seconds, **more)["id"])

    def _pushed(self, seconds: float, **more: Any) -> dict[str, Any]:
        async def push() -> dict[str, Any]:
            async with client(self.installation) as api:
                answer = await api.push(call_of(self.another("deed-"), **more), tone(seconds))
                assert answer.status == 201, answer.body
                return dict(answer.json)

        return in_own_loop(push())

    def quarantined(self) -> str:
        async def push() -> str:
            digest = f"sha-256=:{base64.b64encode(bytes(32)).decode()}:"
            async with client(self.installation) as api:
                answer = await api.request(
                    "PUT",
                    f"/ingest/pbx/{self.another('wrong-')}.wav",
                    role="telephony",
                    data=tone(0.2),
                    headers={"Content-Digest": digest},
                )
                assert answer.json["state"] == "quarantined", answer.body
                return str(answer.json["id"])

        return in_own_loop(push())

    def call(self) -> str:
        found = self.http("GET", f"/api/v1/recordings/{self.recording()}", self.headers("quality")).json()
        return str(found["call_id"])

    def customer(self) -> str:
        upsert = {"number": self.another("K-"), "source": "registration"}
        return str(self.http("PUT", "/api/v1/customers", self.headers("crm"), upsert).json()["id"])

    def ended(self) -> str:
        customer = self.customer()
        ended = {"ended_on": "2026-01-31", "cause": "closed", "source": "call"}
        self.post(f"customers/{customer}/relationship-end", "crm", **ended)
        return customer

    def request(self, kind: str = "access", *, with_call: bool = True) -> str:
        customer = self.customer()
        if with_call:
            recording = self.recording()
            self.post(f"recordings/{recording}/customers", "pia", customer=customer)
        return str(self.post("requests", "privacy", type=kind, channel="email", customer=customer)["id"])

    def identified(self, kind: str = "access") -> str:
        request = self.request(kind)
        self.post(f"requests/{request}/identity", "privacy", method="bank_id", outcome="confirmed")
        return request

    def decided(self, kind: str = "access") -> str:
        request = self.identified(kind)
        self.post(f"requests/{request}/decision", "privacy", outcome="granted")
        return request

    def noticed(self) -> str:
        """A request whose decision a recipient was told of."""
        customer, recording = self.customer(), self.recording()
        self.post(f"recordings/{recording}/customers", "pia", customer=customer)
        disclosure = {
            "recordings": [recording],
            "recipient": self.recipient(),
            "ground": "authority_request",
            "reference": "A-1",
        }
        self.disclosed(disclosure)
        filed = self.post("requests", "privacy", type="restriction", channel="email", customer=customer)
        request = str(filed["id"])
        self.post(f"requests/{request}/identity", "privacy", method="bank_id", outcome="confirmed")
        self.post(f"requests/{request}/decision", "privacy", outcome="granted")
        return request

    def disclosed(self, disclosure: dict[str, Any]) -> None:
        """Hand something out: asked by one person, allowed by another."""
        asked = self.post("registers/disclosures", "leena", **disclosure)
        approval = asked["approval"]
        self.post(f"approvals/{approval}/decision", "olli", decision="approve")
        self.post("registers/disclosures", "leena", **disclosure, approval=approval)

    def recipient(self, kind: str = "processor") -> str:
        about = {"kind": kind, "name": self.another("Recipient "), "purpose": "hosting", "country": "FI"}
        given = {"contract_reference": "C-1", "contract_expires_at": SOON}
        return str(self.post("registers/recipients", "legal", **about, **given)["id"])

    def breach(self) -> str:
        seen = {"aware_at": BEFORE, "seen_from": EARLIER, "seen_until": BEFORE}
        return str(self.post("registers/breaches", "privacy", **seen, facts="A laptop was lost.")["id"])

    def told(self) -> str:
        breach = self.breach()
        notified = {"notified_at": BEFORE, "reference": "DPA-1", "delay": ""}
        self.post(f"registers/breaches/{breach}/notification", "privacy", **notified)
        return breach

    def matter(self) -> str:
        about = {"reference": self.another("R-"), "ground": "legal_claims", "review_on": SOON}
        return str(self.post("matters", "legal", **about)["id"])

    def hold(self) -> dict[str, str]:
        matter = self.matter()
        held = self.post(f"matters/{matter}/holds", "legal", recording=self.recording())
        return {"id": matter, "hold": str(held["id"])}

    def approval(self) -> str:
        """A question that a second person has not answered yet."""
        hold = self.hold()
        path = f"/api/v1/matters/{hold['id']}/holds/{hold['hold']}"
        return str(self.http("DELETE", path, self.headers("leena")).json()["approval"])

    def link(self) -> dict[str, str]:
        recording = self.recording()
        made = self.post(f"recordings/{recording}/links", "quality", purpose="quality")
        return {"id": recording, "link": str(made["id"])}

    def restriction(self) -> str:
        made = self.post("restrictions", "privacy", recording=self.recording(), ground="accuracy")
        return str(made["id"])

    def schedule(self) -> str:
        """A stored version that is not in force."""
        return str(self.post("schedules", "privacy", document=self.edition())["version"])

    def edition(self) -> str:
        """A document that may be stored as the next version."""
        newest = max(int(found["version"]) for found in self.items("schedules", "privacy"))
        return default_schedule_text("FI", "fi-main").replace(
            "version    = 1", f"version    = {newest + 1}", 1
        )

    def certificate(self) -> str:
        recording = self.recording()
        done = self.installation.command(
            "erase", "--recording", recording, "--ground", "court_order", "--yes", "--json"
        )
        assert done.returncode == 0, done.stderr
        url = f"{self.installation.url}/api/v1/recordings/{recording}"
        gone = self._http.get(url, headers=self.headers("quality"), timeout=60)
        assert gone.status_code == 410, gone.text
        return str(gone.json()["certificate_id"])

    def finding(self) -> str:
        before = {p for p in (self.installation.data / "objects").rglob("*") if p.is_file()}
        self.recording(0.4)
        after = {p for p in (self.installation.data / "objects").rglob("*") if p.is_file()}
        for new in after - before:
            new.unlink()
        self.installation.command("scrub", "--share", "1")
        return str(self.items("findings?state=open", "operator")[0]["id"])

    def source(self) -> str:
        return str(self.post("sources", "operator", name=self.another("source-"), kind="generic")["id"])

    def source_token(self) -> dict[str, str]:
        source = self.source()
        self.post(f"sources/{source}/tokens", "operator", label="one")
        [token] = [t for t in self.items("tokens", "operator") if t["source"] == source]
        return {"id": source, "token": str(token["id"])}

    def secret(self) -> dict[str, str]:
        source = self.source()
        path = f"/api/v1/sources/{source}/secrets/bearer"
        self.http("PUT", path, self.headers("operator"), {"value": "opaque"})
        return {"id": source, "name": "bearer"}

    def upload(self) -> str:
        """An upload that has only begun."""
        about = {"Tus-Resumable": "1.0.0", "Upload-Length": "1000", "Upload-Metadata": "filename eC53YXY="}
        begun = self.http("POST", "/uploads", {**self.headers("telephony"), **about})
        return begun.headers["Location"].rpartition("/")[2]

    def account(self) -> str:
        about = {"name": "Somebody Else", "password": PASSWORD, "username": self.another("somebody.")}
        return str(self.post("accounts", "operator", **about)["id"])

    def granted(self) -> dict[str, str]:
        account = self.account()
        made = self.post(f"accounts/{account}/roles", "operator", role="crm")
        return {"id": account, "grant": str(made["id"])}

    def token(self) -> str:
        return str(self.post("tokens", "operator", label=self.another("label"), role="crm")["id"])

    def webhook(self) -> str:
        for old in self.items("webhooks", "operator"):  # there is room for so many only
            self.http("DELETE", f"/api/v1/webhooks/{old['id']}", self.headers("operator"))
        given = {"url": "https://hooks.example.com/in", "label": self.another("hook ")}
        return str(self.post("webhooks", "operator", **given)["id"])


Make = Callable[[Office], Deed]


def _upon(who: str, thing: Callable[[Office], str], **body: Any) -> Make:
    return lambda office: Deed(who, {"id": thing(office)}, body or None)


def _asking(who: str, **body: Any) -> Make:
    return lambda office: Deed(who, {}, body or None)


def _inside(who: str, path: Callable[[Office], dict[str, str]], **body: Any) -> Make:
    return lambda office: Deed(who, path(office), body or None)


def _shared(office: Office) -> Deed:
    office.post("shared-lines", "crm", phone="+358 9 7654321")
    return Deed("crm", {}, {"phone": "+358 9 7654321"})


def _linked(office: Office) -> Deed:
    return Deed("pia", {"id": office.recording()}, {"customer": office.customer()})


def _named(office: Office) -> Deed:
    filed = {"type": "access", "channel": "post", "language": "fi"}
    return Deed(
        "privacy",
        {"id": str(office.post("requests", "privacy", **filed)["id"])},
        {"customer": office.customer()},
    )


def _disclosed(office: Office) -> Deed:
    body = {
        "recordings": [office.recording()],
        "recipient": office.recipient(),
        "ground": "authority_request",
        "reference": "A-1",
    }
    return Deed("leena", {}, body)


def _researched(office: Office) -> Deed:
    office.recording()
    span = {"since": EARLIER, "until": SOON, "queue": "support"}
    return Deed("leena", {}, {"recipient": office.recipient("research"), "reference": "S-1", **span})


def _staff(office: Office) -> Deed:
    return Deed("privacy", {"account": office.account()})


def _activated(office: Office) -> Deed:
    return Deed("pia", {"version": office.schedule()}, {})


def _proven(office: Office) -> Deed:
    office.recording()
    return Deed("auditor", query={"entry": str(office.items("audit/entries?limit=1", "auditor")[0]["id"])})


def _approved(office: Office) -> Deed:
    return Deed("olli", {"id": office.approval()}, {"decision": "approve"})


def _own_password(office: Office) -> Deed:
    return Deed("operator", {"id": office.account()}, {"new": "a longer secret than before"})


DEEDS: Final[dict[str, Make]] = {
    # The service
    "GET /healthz": _asking(""),
    "GET /readyz": _asking(""),
    "GET /metrics": _asking(""),
    "GET /api/openapi.json": _asking(""),
    "GET /api/docs": _asking(""),
    "GET /api/v1/keys": _asking(""),
    # Recordings
    "GET /api/v1/recordings": _asking("quality"),
    "POST /api/v1/recordings/search": _asking("quality", queue="support"),
    "GET /api/v1/recordings/{id}": _upon("quality", Office.recording),
    "GET /api/v1/recordings/{id}/receipt": _upon("telephony", Office.recording),
    "GET /api/v1/recordings/{id}/retention": _upon("privacy", Office.recording),
    "GET /api/v1/recordings/{id}/history": _upon("auditor", Office.recording),
    "GET /api/v1/calls/{id}": _upon("quality", Office.call),
    "POST /api/v1/recordings/{id}/redactions": lambda office: Deed(
        "privacy", {"id": office.recording(1.0)}, {"from": 0.1, "to": 0.3, "reason": "card_code"}
    ),
    "POST /api/v1/recordings/{id}/links": _upon("quality", Office.recording, purpose="quality"),
    "DELETE /api/v1/recordings/{id}/links/{link}": _inside("quality", Office.link),
    "POST /api/v1/recordings/{id}/customers": _linked,
    "GET /api/v1/quarantine": _asking("operator"),
    "POST /api/v1/quarantine/{id}/decision": _upon("operator", Office.quarantined, decision="accept"),
    # Quality
    "POST /api/v1/recordings/{id}/assessments": _upon(
        "quality", Office.recording, form="greeting", points=3, out_of=5
    ),
    "GET /api/v1/recordings/{id}/assessments": _upon("quality", Office.recording),
    "GET /api/v1/assessments/totals": _asking("quality"),
    # Customers
    "PUT /api/v1/customers": _asking("crm", number="K-0", source="registration", language="fi"),
    "POST /api/v1/customers/search": _asking("privacy", number="K-0"),
    "POST /api/v1/customers/{id}/contacts": _upon("crm", Office.customer, kind="visit", at=BEFORE),
    "POST /api/v1/customers/{id}/relationship-end": _upon(
        "crm", Office.customer, ended_on="2026-01-31", cause="closed", source="call"
    ),
    "POST /api/v1/customers/{id}/relationship-end/confirmation": _upon(
        "pia", Office.ended, ended_on="2026-01-31"
    ),
    "DELETE /api/v1/customers/{id}/relationship-end": _upon("pia", Office.ended),
    "POST /api/v1/customers/{id}/choices": _upon(
        "privacy", Office.customer, kind="objection", purposes=["training"]
    ),
    "GET /api/v1/customers/{id}/choices": _upon("privacy", Office.customer),
    "GET /api/v1/customers/{id}/consultations": _upon("privacy", Office.customer),
    "POST /api/v1/shared-lines": _asking("crm", phone="+358 9 1234567"),
    "POST /api/v1/shared-lines/removal": _shared,
    # Data subjects' requests
    "GET /api/v1/requests": _asking("privacy"),
    "POST /api/v1/requests": _asking("privacy", type="access", channel="email", language="sv"),
    "GET /api/v1/requests/{id}": _upon("privacy", Office.request),
    "POST /api/v1/requests/{id}/customer": _named,
    "POST /api/v1/requests/{id}/identity": _upon(
        "privacy", Office.request, method="bank_id", outcome="confirmed"
    ),
    "POST /api/v1/requests/{id}/extension": _upon("privacy", Office.request, reason="complexity"),
    "POST /api/v1/requests/{id}/decision": _upon("privacy", Office.identified, outcome="granted"),
    "POST /api/v1/requests/{id}/undo": _upon("privacy", Office.request, reason="filed_in_error"),
    "POST /api/v1/requests/{id}/notices/{number}/acknowledgement": lambda office: Deed(
        "privacy", {"id": office.noticed(), "number": "1"}
    ),
    "POST /api/v1/requests/{id}/export": _upon("privacy", Office.decided),
    "POST /api/v1/requests/{id}/reply": _upon("privacy", Office.decided),
    # Registers
    "GET /api/v1/registers/recipients": _asking("privacy"),
    "POST /api/v1/registers/recipients": _asking(
        "legal", kind="authority", name="Police", purpose="a request", country="FI"
    ),
    "PATCH /api/v1/registers/recipients/{id}": _upon("legal", Office.recipient, country="SE"),
    "DELETE /api/v1/registers/recipients/{id}": _upon("legal", Office.recipient),
    "GET /api/v1/registers/disclosures": _asking("privacy"),
    "POST /api/v1/registers/disclosures": _disclosed,
    "POST /api/v1/registers/research-exports": _researched,
    "GET /api/v1/registers/breaches": _asking("privacy"),
    "POST /api/v1/registers/breaches": _asking(
        "privacy", aware_at=BEFORE, seen_from=EARLIER, seen_until=BEFORE, facts="A laptop was lost."
    ),
    "GET /api/v1/registers/breaches/{id}": _upon("privacy", Office.breach),
    "PATCH /api/v1/registers/breaches/{id}": _upon("privacy", Office.breach, effects="none known"),
    "GET /api/v1/registers/breaches/{id}/heard": _upon("privacy", Office.breach),
    "POST /api/v1/registers/breaches/{id}/notification": _upon(
        "privacy", Office.breach, notified_at=BEFORE, reference="DPA-1", delay=""
    ),
    "POST /api/v1/registers/breaches/{id}/no-notification": _upon(
        "privacy", Office.breach, reason="It was sealed."
    ),
    "POST /api/v1/registers/breaches/{id}/close": _upon("privacy", Office.told),
    "GET /api/v1/staff/{account}/copy": _staff,
    # Disposition
    "GET /api/v1/matters": _asking("legal"),
    "POST /api/v1/matters": _asking("legal", reference="R-0", ground="legal_claims", review_on=SOON),
    "GET /api/v1/matters/{id}": _upon("legal", Office.matter),
    "PATCH /api/v1/matters/{id}": _upon("legal", Office.matter, notes="A note."),
    "POST /api/v1/matters/{id}/close": _upon("legal", Office.matter),
    "POST /api/v1/matters/{id}/holds": _upon("legal", Office.matter, query={"queue": ["nobody"]}),
    "DELETE /api/v1/matters/{id}/holds/{hold}": _inside("leena", Office.hold),
    "POST /api/v1/restrictions": lambda office: Deed(
        "privacy", {}, {"recording": office.recording(), "ground": "accuracy"}
    ),
    "DELETE /api/v1/restrictions/{id}": _upon("privacy", Office.restriction),
    "GET /api/v1/schedules": _asking("privacy"),
    "GET /api/v1/schedules/{version}": lambda office: Deed("privacy", {"version": "1"}),
    "POST /api/v1/schedules": lambda office: Deed("privacy", {}, {"document": office.edition()}),
    "POST /api/v1/schedules/simulate": _asking("privacy", document=default_schedule_text("SE", "fi-main")),
    "POST /api/v1/schedules/{version}/activate": _activated,
    "GET /api/v1/reevaluation": _asking("privacy"),
    "GET /api/v1/certificates/{id}": _upon("privacy", Office.certificate),
    "GET /api/v1/reports/retention": _asking("privacy"),
    "GET /api/v1/reports/processing-record": _asking("privacy"),
    "GET /api/v1/findings": _asking("operator"),
    "POST /api/v1/findings/{id}/resolution": _upon("operator", Office.finding, action="accept"),
    # Senders and receivers
    "GET /uploads/{id}": _upon("telephony", Office.upload),
    "GET /api/v1/sources": _asking("operator"),
    "POST /api/v1/sources": lambda office: Deed(
        "operator", {}, {"name": office.another("a-source-"), "kind": "generic"}
    ),
    "GET /api/v1/sources/{id}": _upon("operator", Office.source),
    "PATCH /api/v1/sources/{id}": _upon("operator", Office.source, enabled=False),
    "POST /api/v1/sources/{id}/tokens": _upon("operator", Office.source, label="first"),
    "POST /api/v1/sources/{id}/tokens/rotate": lambda office: Deed(
        "operator", {"id": office.source_token()["id"]}, {"overlap": 60}
    ),
    "DELETE /api/v1/sources/{id}/tokens/{token}": _inside("operator", Office.source_token),
    "GET /api/v1/sources/{id}/secrets": _upon("operator", Office.source),
    "PUT /api/v1/sources/{id}/secrets/{name}": lambda office: Deed(
        "operator", {"id": office.source(), "name": "bearer"}, {"value": "opaque"}
    ),
    "DELETE /api/v1/sources/{id}/secrets/{name}": _inside("operator", Office.secret),
    "GET /api/v1/completeness": _asking("operator"),
    "GET /api/v1/completeness/expected": _asking("operator"),
    "POST /api/v1/webhooks": _asking("operator", url="https://hooks.example.com/all", label="all"),
    "GET /api/v1/webhooks": _asking("operator"),
    "PATCH /api/v1/webhooks/{id}": _upon("operator", Office.webhook, enabled=False),
    "DELETE /api/v1/webhooks/{id}": _upon("operator", Office.webhook),
    "POST /api/v1/webhooks/{id}/test": _upon("operator", Office.webhook),
    "POST /api/v1/webhooks/{id}/secret": _upon("operator", Office.webhook, overlap_hours=1),
    "GET /api/v1/webhooks/{id}/messages": _upon("operator", Office.webhook),
    "POST /api/v1/webhooks/{id}/replay": lambda office: Deed("operator", {"id": office.webhook()}, {}),
    # People and machines
    "POST /api/v1/session": _asking("", username="leena", password=PASSWORD),
    "GET /api/v1/session": _asking("leena"),
    "DELETE /api/v1/session": _asking("leena"),
    "GET /api/v1/accounts": _asking("operator"),
    "POST /api/v1/accounts": lambda office: Deed(
        "operator", {}, {"username": office.another("new."), "name": "New Person", "password": PASSWORD}
    ),
    "DELETE /api/v1/accounts/{id}": _upon("operator", Office.account),
    "POST /api/v1/accounts/{id}/password": _own_password,
    "POST /api/v1/accounts/{id}/roles": _upon("operator", Office.account, role="crm"),
    "DELETE /api/v1/accounts/{id}/roles/{grant}": _inside("operator", Office.granted),
    "GET /api/v1/tokens": _asking("operator"),
    "POST /api/v1/tokens": _asking("operator", label="machine", role="crm"),
    "DELETE /api/v1/tokens/{id}": _upon("operator", Office.token),
    "GET /api/v1/approvals": _asking("legal"),
    "POST /api/v1/approvals": _asking(
        "pia", action="erase_principal", target="customer:0", details={"customers": 1}
    ),
    "GET /api/v1/approvals/{id}": _upon("legal", Office.approval),
    "POST /api/v1/approvals/{id}/decision": _approved,
    # The audit log
    "GET /api/v1/audit/checkpoint": _asking("auditor"),
    "GET /api/v1/audit/entries": _asking("auditor"),
    "GET /api/v1/audit/proof": _proven,
}
"""By method and path. An operation without a deed here fails the tests."""
