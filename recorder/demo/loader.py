"""Loads the demo through the service's own HTTP API, as a CRM, a telephony system and the staff would."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import aiohttp
import sqlalchemy as sa

from recorder.catalogue.enums import JobState, Role
from recorder.catalogue.tables import Job
from recorder.demo.accounts import DemoAccounts
from recorder.demo.calls import Push, build_push
from recorder.demo.desk import Desk
from recorder.demo.scripts import CALLS, CUSTOMERS, DemoCall
from recorder.demo.speech import Speaker
from recorder.errors import RecorderError
from recorder.services import Services

STEPS: Final = len(CUSTOMERS) + len(CALLS) + sum(call.fate is not None for call in CALLS) + 3
"""How many steps the progress bar has; the last ones are the contacts, the desk and the renditions."""
_WORK: Final = ("media_check", "rendition", "peaks")
Progress = Callable[[str], None]


class DemoFailed(RecorderError):
    """The service did not do with a demo call what it must."""


class Loader:
    """Loads what is not loaded yet. Interrupted anywhere, the next run goes on."""

    def __init__(
        self, services: Services, address: str, demo: DemoAccounts, zone: ZoneInfo, progress: Progress
    ) -> None:
        self._services = services
        self._address = address
        self._demo = demo
        self._zone = zone
        self._progress = progress
        self._customers: list[str] = []
        self._recordings: dict[str, str] = {}

    async def load(self) -> None:
        """Do everything; return when every call and every rendition is stored.

        Raises:
            DemoFailed: The service refused something, or could not make a rendition.
        """
        timeout = aiohttp.ClientTimeout(total=120)
        async with aiohttp.ClientSession(self._address, timeout=timeout) as http:
            for customer in CUSTOMERS:
                answer = await self._json(
                    http, Role.CRM, "PUT", "/api/v1/customers", {**asdict(customer), "source": "registration"}
                )
                self._customers.append(str(answer["id"]))
                self._progress("customers")
            async for call, push in self._pushes():
                answer = await self._push(http, push)
                self._recordings[call.external_id] = str(answer["id"])
                self._progress(f"call {call.external_id}")
            await self._once("contacts", lambda: self._contacts(http))
            self._progress("contacts")
            for call in CALLS:
                if call.fate is not None:
                    await self._seal_fate(http, call)
                    self._progress(call.fate)
            send = functools.partial(self._send, http)
            desk = Desk(http, self._demo, self._zone, send, self._customers, self._recordings)
            try:
                for step, work in desk.steps():
                    await self._once(step, work)
            except aiohttp.ClientError as error:
                raise DemoFailed(f"the demo's desk could not be laid ({type(error).__name__})") from error
            self._progress("desk")
            await self._renditions()
            self._progress("renditions")

    async def _pushes(self) -> AsyncIterator[tuple[DemoCall, Push]]:
        # Always all of them, in order: only then are the bytes those of the first start.
        speaker = await asyncio.to_thread(Speaker)
        for call in CALLS:
            yield call, await asyncio.to_thread(build_push, speaker, call, self._demo.first_day, self._zone)

    async def _push(self, http: aiohttp.ClientSession, push: Push) -> dict[str, Any]:
        form = aiohttp.FormData(default_to_multipart=True)
        form.add_field("metadata", json.dumps(push.metadata), content_type="application/json")
        form.add_field("audio", push.audio, content_type=push.content_type, filename=push.file_name)
        return await self._send(http, Role.TELEPHONY, "POST", "/api/v1/recordings", data=form)

    async def _contacts(self, http: aiohttp.ClientSession) -> None:
        ordered = datetime.combine(self._demo.first_day, datetime.min.time(), UTC) - timedelta(days=21)
        await self._json(
            http,
            Role.CRM,
            "POST",
            f"/api/v1/customers/{self._customers[0]}/contacts",
            {"kind": "order", "at": ordered.isoformat()},
        )

    async def _seal_fate(self, http: aiohttp.ClientSession, call: DemoCall) -> None:
        customer = self._customers[call.customer or 0]
        choices = f"/api/v1/customers/{customer}/choices"
        match call.fate:
            case "objection":
                body = {"kind": "objection", "purposes": ["training", "quality"], "source": "call"}
                await self._once(
                    f"fate:{call.external_id}", lambda: self._json(http, Role.CRM, "POST", choices, body)
                )
            case "restriction":
                limit = {"recording": self._recordings[call.external_id], "ground": "accuracy"}
                await self._once(
                    f"fate:{call.external_id}",
                    lambda: self._json(http, Role.PRIVACY, "POST", "/api/v1/restrictions", limit),
                )
            case "hold":
                await self._once(f"fate:{call.external_id}", lambda: self._hold(http, call))
            case None:
                pass

    async def _hold(self, http: aiohttp.ClientSession, call: DemoCall) -> None:
        review = datetime.combine(self._demo.first_day, datetime.min.time(), UTC) + timedelta(days=180)
        matter = await self._json(
            http,
            Role.LEGAL,
            "POST",
            "/api/v1/matters",
            {
                "reference": f"{self._demo.first_day.year}-014",
                "ground": "legal_claims",
                "review_on": review.isoformat(),
                "title": "Water damage",
            },
        )
        await self._json(
            http,
            Role.LEGAL,
            "POST",
            f"/api/v1/matters/{matter['id']}/holds",
            {"recording": self._recordings[call.external_id]},
        )

    async def _once(self, step: str, work: Callable[[], Any]) -> None:
        """Do a step that must not be repeated, unless an earlier start did it."""
        if step in self._demo.done:
            return
        await work()
        self._demo.done.add(step)
        await asyncio.to_thread(self._demo.save)

    async def _renditions(self) -> None:
        """Wait until the queue holds no more work on recordings."""
        while True:
            async with self._services.database.snapshot() as session:
                query = sa.select(Job.state, sa.func.count()).where(Job.kind.in_(_WORK)).group_by(Job.state)
                counts = dict((await session.execute(query)).tuples().all())
            if counts.get(JobState.FAILED):
                raise DemoFailed("a rendition of a demo call could not be made; see the log")
            if not counts.get(JobState.QUEUED) and not counts.get(JobState.RUNNING):
                return
            await asyncio.sleep(0.2)

    async def _json(
        self, http: aiohttp.ClientSession, role: Role, method: str, path: str, body: dict[str, Any]
    ) -> dict[str, Any]:
        return await self._send(http, role, method, path, json=body)

    async def _send(
        self, http: aiohttp.ClientSession, role: Role, method: str, path: str, **content: Any
    ) -> dict[str, Any]:
        headers = content.pop("headers", {}) | {"Authorization": f"Bearer {self._demo.tokens[role.value]}"}
        try:
            async with http.request(method, path, headers=headers, **content) as response:
                answer = await response.json(content_type=None) if response.status != 204 else {}
                status = response.status
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise DemoFailed(f"{method} {path}: no usable answer ({type(error).__name__})") from error
        if status >= 300 or not isinstance(answer, dict):
            detail = answer.get("detail", "") if isinstance(answer, dict) else ""
            raise DemoFailed(f"{method} {path} answered {status} {detail}".strip())
        return answer
