"""On the desk of the demo: requests, an assessment, a missing call, a step for a second person."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import datetime, time, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import aiohttp

from recorder.api.middleware import CSRF_HEADER, SESSION_COOKIE
from recorder.catalogue.enums import Role
from recorder.demo.accounts import DemoAccounts
from recorder.demo.scripts import CUSTOMERS
from recorder.demo.setup import AGENT_CODE, SOURCE

Send = Callable[..., Awaitable[dict[str, Any]]]
_ACCESS, _ERASURE = 1, 9  # who asks, as places in CUSTOMERS
_ASSESSED: Final = "demo-0003"


class Desk:
    """The steps that put things on the desk, each of them once.

    Args:
        http: To the service, without credentials.
        demo: The credentials.
        zone: The controller's time zone.
        send: Sends as a role, by its token: ``send(role, method, path, json=…)``.
        customers: Ids of :data:`CUSTOMERS`, in their order.
        recordings: Ids of the calls, by the telephony system's id.
    """

    def __init__(
        self,
        http: aiohttp.ClientSession,
        demo: DemoAccounts,
        zone: ZoneInfo,
        send: Send,
        customers: Sequence[str],
        recordings: Mapping[str, str],
    ) -> None:
        self._http = http
        self._demo = demo
        self._zone = zone
        self._send = send
        self._customers = customers
        self._recordings = recordings

    def steps(self) -> Iterator[tuple[str, Callable[[], Awaitable[None]]]]:
        """Names of the steps, and what does them."""
        yield "desk:access", self._access
        yield "desk:erasure", self._erasure
        yield "desk:assessment", self._assessment
        yield "desk:records", self._call_records
        yield "desk:odd", self._odd_delivery
        yield "desk:approval", self._second_person
        yield "desk:recipients", self._recipients
        yield "desk:breach", self._breach

    async def _access(self) -> None:
        """Somebody asked for copies three weeks ago: the answer is owed soon."""
        message = "Jag vill ha kopior av alla samtal som ni har spelat in med mig."
        made = await self._request("access", _ACCESS, "email", 24, message)
        check = {"method": "bank_id", "outcome": "confirmed"}
        await self._send(Role.PRIVACY, "POST", f"/api/v1/requests/{made['id']}/identity", json=check)

    async def _erasure(self) -> None:
        """Somebody who disputes what is stored wants everything gone; who it is has still to be checked."""
        await self._request("erasure", _ERASURE, "post", 2, "Radera alla mina samtal.")

    async def _request(
        self, kind: str, customer: int, channel: str, days: int, message: str
    ) -> dict[str, Any]:
        person = CUSTOMERS[customer]
        filed = datetime.combine(self._demo.first_day - timedelta(days=days), time(9), self._zone)
        body = {
            "type": kind,
            "channel": channel,
            "filed_at": filed.isoformat(),
            "customer": self._customers[customer],
            "language": person.language,
            "person": {"name": person.name, "contact": person.email, "message": message},
        }
        return await self._send(Role.PRIVACY, "POST", "/api/v1/requests", json=body)

    async def _assessment(self) -> None:
        body = {"form": "greeting-2026", "points": 17, "out_of": 20, "agent": AGENT_CODE}
        path = f"/api/v1/recordings/{self._recordings[_ASSESSED]}/assessments"
        await self._send(Role.QUALITY, "POST", path, json=body)

    async def _call_records(self) -> None:
        """The switchboard's records tell of a call yesterday whose recording never came."""
        lines = ["calldate,uniqueid,billsec,disposition"]
        for name, days, clock, seconds in (
            ("demo-0001", 2, time(9, 14), 40),
            ("demo-lost", 1, time(14, 5), 95),
            ("demo-busy", 1, time(15, 20), 0),
        ):
            at = datetime.combine(self._demo.first_day - timedelta(days=days), clock)
            lines.append(f"{at:%Y-%m-%d %H:%M:%S},{name},{seconds},{'ANSWERED' if seconds else 'BUSY'}")
        sources = await self._send(Role.OPERATOR, "GET", "/api/v1/sources")
        source = next(item["id"] for item in sources["items"] if item["name"] == SOURCE)
        await self._send(
            Role.OPERATOR,
            "POST",
            f"/api/v1/sources/{source}/cdr",
            data="\r\n".join([*lines, ""]),
            headers={"Content-Type": "text/csv"},
        )

    async def _odd_delivery(self) -> None:
        """What calls itself a recording and is none: it is kept, for a person to judge."""
        at = datetime.combine(self._demo.first_day - timedelta(days=12), time(16, 40), self._zone)
        await self._send(
            Role.TELEPHONY,
            "PUT",
            f"/ingest/{SOURCE}/demo-odd.wav",
            params={"started_at": at.isoformat(), "direction": "inbound", "queue": "support"},
            data=b"recording could not be opened: no space left on device\n",
            headers={"Content-Type": "audio/wav"},
        )

    async def _recipients(self) -> None:
        """The host's contract ends soon; somebody outside the EEA works under standard clauses."""
        midnight = datetime.combine(self._demo.first_day, time(), self._zone)
        host = {
            "kind": "processor",
            "name": "Mallihosting Oy",
            "purpose": "Runs the servers of this service",
            "country": "FI",
            "contract_reference": "DPA-2024-03",
            "contract_expires_at": (midnight + timedelta(days=45)).isoformat(),
        }
        abroad = {
            "kind": "processor",
            "name": "Example Switchboards Ltd",
            "purpose": "Maintains the telephone exchange",
            "country": "GB",
            "contract_reference": "DPA-2025-11",
            "contract_expires_at": (midnight + timedelta(days=700)).isoformat(),
            "safeguard": "standard_contractual_clauses",
            "safeguard_expires_at": (midnight + timedelta(days=700)).isoformat(),
        }
        for recipient in (host, abroad):
            await self._send(Role.PRIVACY, "POST", "/api/v1/registers/recipients", json=recipient)

    async def _breach(self) -> None:
        """Copies went to the wrong person; that was noticed yesterday, and the authority waits to be told."""
        noticed = datetime.combine(self._demo.first_day - timedelta(days=1), time(15, 30), self._zone)
        body = {
            "aware_at": noticed.isoformat(),
            "seen_from": (noticed - timedelta(hours=6)).isoformat(),
            "seen_until": noticed.isoformat(),
            "facts": "A letter with copies of two calls was posted to another customer of the same name.",
        }
        await self._send(Role.PRIVACY, "POST", "/api/v1/registers/breaches", json=body)

    async def _second_person(self) -> None:
        """The operator gives the agent a role that hears calls; that waits for another person.

        Only somebody who is signed in may ask for that, no token.
        """
        accounts = await self._send(Role.OPERATOR, "GET", "/api/v1/accounts")
        agent = next(item["id"] for item in accounts["items"] if item["username"] == Role.AGENT.value)
        sign_in = {"username": Role.OPERATOR.value, "password": self._demo.accounts[Role.OPERATOR.value]}
        async with self._http.post("/api/v1/session", json=sign_in, raise_for_status=True) as response:
            session = await response.json()
            cookie = response.cookies[SESSION_COOKIE].value
        headers = {"Cookie": f"{SESSION_COOKIE}={cookie}", CSRF_HEADER: session["csrf"]}
        role = {"role": Role.TRAINER.value, "scope": "queue", "values": ["orders"]}
        path = f"/api/v1/accounts/{agent}/roles"
        async with self._http.post(path, json=role, headers=headers, raise_for_status=True):
            pass
        async with self._http.delete("/api/v1/session", headers=headers, raise_for_status=True):
            pass
