"""The registers at the desk: a breach against its clock, recipients and what has run out, disclosures."""

from __future__ import annotations

import hashlib
import re
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.web.conftest import Demo, Visit, Visitor
from tests.web.test_accessibility import check

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400), pytest.mark.asyncio(loop_scope="session")]
ZONE = ZoneInfo("Europe/Helsinki")


async def submit(visitor: Visitor, button: str) -> None:
    async with visitor.page.expect_navigation():
        await visitor.page.get_by_role("button", name=button).click()


def typed(moment: datetime) -> str:
    return f"{moment.astimezone(ZONE):%Y-%m-%dT%H:%M}"


def ago(**length: float) -> datetime:
    return datetime.now(UTC) - timedelta(**length)


async def fill(visitor: Visitor, form: str, **fields: str) -> None:
    """Fill fields of the form with an action, by the page's own names."""
    for name, value in fields.items():
        await visitor.page.fill(f"form[action='{form}'] [name={name}]", value)


def wrong(visitor: Visitor, name: str) -> Any:
    """What is said of a field by what describes it."""
    return visitor.page.evaluate(
        """(name) => {
            const field = document.querySelector(`[name=${name}][aria-invalid=true]`);
            const words = field.getAttribute("aria-describedby").trim().split(/\\s+/);
            return words.map((id) => document.getElementById(id).textContent).join(" ");
        }""",
        name,
    )


async def test_a_breach_is_reported_told_late_and_closed(visit: Visit, demo: Demo, axe: str) -> None:
    noticed = ago(hours=80)
    async with visit("privacy") as visitor:
        visitor.expected = {422}
        page = visitor.page
        await visitor.open("/app/breaches")
        await page.click("text=Report a breach")
        words = "Copies for <b>A.</b> went to B."
        await fill(
            visitor,
            "/app/breaches",
            aware_at=typed(ago(hours=-2)),
            seen_from=typed(noticed),
            seen_until=typed(noticed - timedelta(hours=1)),
            facts=words,
        )
        await submit(visitor, "Report the breach")
        assert "has not come yet" in await wrong(visitor, "aware_at")
        assert await visitor.tell("document.activeElement.name") == "aware_at"
        await check(visitor, axe, "a report that was refused")
        await fill(visitor, "/app/breaches", aware_at=typed(noticed), actor="somebody")
        await submit(visitor, "Report the breach")
        assert "as the log does" in await wrong(visitor, "actor")
        await fill(visitor, "/app/breaches", actor="")
        await submit(visitor, "Report the breach")
        assert "after it began" in await wrong(visitor, "seen_until")
        assert await page.input_value("[name=facts]") == words
        await fill(visitor, "/app/breaches", seen_until=typed(noticed + timedelta(hours=1)))
        await submit(visitor, "Report the breach")

        assert "its clock runs" in await page.inner_text("[role=status]")
        breach = page.url.partition("?")[0].rpartition("/")[2]
        assert str(uuid.UUID(breach)) == breach
        clock = await page.inner_text("[aria-labelledby=clock]")
        assert "8 h 0 min overdue" in clock or "8 h overdue" in clock or "8 h 1 min overdue" in clock
        due = (noticed + timedelta(hours=72)).astimezone(ZONE)
        assert f"{due.day} {due:%b} {due.year} {due:%H:%M}:00 {due:%Z}" in clock
        assert await page.input_value("[name=facts]") == words
        assert await page.get_by_role("button", name="Close the breach").count() == 0
        assert float(str(await page.get_attribute(".clock .over", "width")).rstrip("%")) == pytest.approx(
            10, abs=0.5
        )

        here = f"/app/breaches/{breach}"
        await fill(
            visitor, f"{here}/words", effects="Their address is known to B.", measures="Asked B for it."
        )
        await submit(visitor, "Write it down")
        assert await page.input_value("[name=effects]") == "Their address is known to B."
        await fill(visitor, f"{here}/notification", notified_at=typed(ago(minutes=2)), reference="DPA 2026/7")
        await submit(visitor, "Note that it was told")
        assert "longer than 72 hours" in await wrong(visitor, "delay")
        assert await page.input_value("[name=reference]") == "DPA 2026/7"
        await fill(visitor, f"{here}/notification", delay="The letter came back on Sunday.")
        await submit(visitor, "Note that it was told")
        clock = await page.inner_text("[aria-labelledby=clock]")
        for part in ("late", "DPA 2026/7", "noted by Priya Privacy", "The letter came back on Sunday."):
            assert part in clock

        await page.click("text=Note that they were told")
        await fill(visitor, f"{here}/persons", persons_told_at=typed(ago(minutes=2)))
        await submit(visitor, "Note that they were told")
        assert "Told " in await page.inner_text("[aria-labelledby=persons]")
        await submit(visitor, "Close the breach")
        assert "The breach is closed" in await page.inner_text("[role=status]")
        assert await page.locator("main form").count() == 0
        assert words in await page.inner_text("[aria-labelledby=known]"), "shown as it was typed"
        await check(visitor, axe, "a closed breach")
    [kept] = [b for b in demo.json("auditor", "/api/v1/registers/breaches")["items"] if b["id"] == breach]
    assert (kept["state"], kept["overdue"], kept["measures"]) == ("closed", True, "Asked B for it.")
    assert not any("A." in request.url or "DPA" in request.url for request in visitor.requests)


def breach_of(demo: Demo, **more: Any) -> str:
    known = {
        "aware_at": ago(hours=50).isoformat(),
        "seen_from": ago(hours=60).isoformat(),
        "seen_until": datetime.now(UTC).isoformat(),
        "facts": "A password was guessed.",
    }
    return str(demo.post("legal", "/api/v1/registers/breaches", known | more)["id"])


async def test_a_breach_in_time_says_what_is_left_and_who_heard_what(visit: Visit, demo: Demo) -> None:
    recording = demo.recordings("quality", queue="orders")[0]["id"]
    assert demo.ask("quality", f"/api/v1/recordings/{recording}/audio?purpose=quality")[0] == 200
    breach = breach_of(demo)
    async with visit("legal") as visitor:
        page = visitor.page
        await visitor.open("/app/breaches")
        row = page.locator("tr", has_text=breach[:8])
        assert re.search(r"\b2[12] h left", await row.inner_text())
        await row.get_by_role("link").click()
        await page.wait_for_url(f"**/{breach}")
        assert recording[:8] in await page.inner_text("[aria-labelledby=heard]")
        await page.click("text=Nobody is at risk")
        await fill(
            visitor, f"/app/breaches/{breach}/no-notice", reason="Only the nonsense test call was heard."
        )
        await submit(visitor, "The authority need not be told")
        assert "need not be told" in await page.inner_text("[aria-labelledby=clock]")
        assert "No notice needed" in await page.inner_text(".head")
        await submit(visitor, "Close the breach")
        await visitor.open("/app/breaches")
        states = await page.locator("tbody tr .state:nth-child(4)").all_inner_texts()
        assert "Closed" in states
        assert states == sorted(states, key=lambda state: state.strip() == "Closed"), "closed ones last"


async def test_nobodys_words_are_written_over(visit: Visit, demo: Demo) -> None:
    breach = breach_of(demo)
    async with visit("privacy") as first:
        first.expected = {422}
        await first.open(f"/app/breaches/{breach}")
        status, _ = demo.ask("legal", f"/api/v1/registers/breaches/{breach}")
        assert status == 200
        async with visit("legal") as second:
            await second.open(f"/app/breaches/{breach}")
            await fill(second, f"/app/breaches/{breach}/words", effects="None is known.")
            await submit(second, "Write it down")
        await fill(first, f"/app/breaches/{breach}/words", measures="The password was changed.")
        await submit(first, "Write it down")
        kept = demo.json("privacy", f"/api/v1/registers/breaches/{breach}")
        assert (kept["effects"], kept["measures"]) == ("None is known.", "The password was changed.")

        async with visit("legal") as second:
            await second.open(f"/app/breaches/{breach}")
            await fill(first, f"/app/breaches/{breach}/words", facts="A password was guessed on Monday.")
            await submit(first, "Write it down")
            second.expected = {422}
            await fill(second, f"/app/breaches/{breach}/words", facts="Two passwords were guessed.")
            await submit(second, "Write it down")
            assert "since the page was opened" in await wrong(second, "facts")
        await fill(first, f"/app/breaches/{breach}/words", effects="")
        await submit(first, "Write it down")
        assert "cannot be emptied" in await wrong(first, "effects")
    kept = demo.json("privacy", f"/api/v1/registers/breaches/{breach}")
    assert (kept["facts"], kept["effects"]) == ("A password was guessed on Monday.", "None is known.")


async def test_a_recipient_is_entered_renewed_and_ended(visit: Visit, axe: str) -> None:
    today = datetime.now(ZONE).date()
    name = "Clauses & <i>Sons</i> Inc"
    async with visit("privacy") as visitor:
        visitor.expected = {422}
        page = visitor.page
        await visitor.open("/app/recipients")
        await page.click("text=Enter a recipient")
        new = "/app/recipients"
        await page.select_option("[name=kind]", "processor")
        await page.select_option("[name=safeguard]", "standard_contractual_clauses")
        await fill(
            visitor,
            new,
            name=name,
            country="us",
            purpose="Writes down calls",
            contract_reference="DPA-9",
            contract_expires_at=f"{today + timedelta(days=300)}",
            safeguard_expires_at=f"{today - timedelta(days=1)}",
        )
        await submit(visitor, "Enter the recipient")
        assert "its safeguard ended" in await wrong(visitor, "safeguard"), "one that has ended is told"
        assert await page.input_value("[name=name]") == name
        await check(visitor, axe, "a recipient that was refused")
        await fill(visitor, new, safeguard_expires_at=f"{today + timedelta(days=10)}")
        await submit(visitor, "Enter the recipient")
        assert "in the register" in await page.inner_text("[role=status]")
        assert await page.inner_text("h1") == name
        assert "Safeguard ends in 10 days" in await page.inner_text(".head + * + *")
        here = page.url.partition("?")[0].partition("/app/")[2]

        await visitor.open("/app/recipients")
        row = page.locator("tbody tr", has_text="Clauses &")
        assert "Safeguard ends in 10 days" in await row.inner_text()
        assert "outside the EEA" in await row.inner_text()
        await visitor.open(f"/app/{here}")
        await fill(visitor, f"/app/{here}/terms", contract_expires_at="")
        await submit(visitor, "Enter these terms")
        assert "under a contract" in await wrong(visitor, "contract_expires_at")
        await fill(
            visitor,
            f"/app/{here}/terms",
            contract_expires_at=f"{today + timedelta(days=300)}",
            safeguard_expires_at=f"{today + timedelta(days=290)}",
        )
        await submit(visitor, "Enter these terms")
        assert "In order" in await page.inner_text(".head")
        await submit(visitor, "End this recipient")
        assert "is ended" in await page.inner_text("[role=status]")
        assert await page.locator("main form").count() == 0
        await visitor.open("/app/recipients")
        assert "Ended" in await page.locator("tbody tr", has_text="Clauses &").inner_text()


async def test_a_person_is_ended_and_the_name_goes(visit: Visit, demo: Demo) -> None:
    about = {"kind": "person", "name": "Paavo Perillinen", "purpose": "Heir of a customer", "country": "FI"}
    person = demo.post("privacy", "/api/v1/registers/recipients", about)["id"]
    async with visit("legal") as visitor:
        await visitor.open(f"/app/recipients/{person}")
        assert "Paavo Perillinen" in await visitor.page.inner_text("h1")
        await visitor.page.check("[name=forget]")
        await submit(visitor, "End this recipient")
        assert await visitor.page.inner_text("h1") == "Name removed"
        assert "Paavo" not in await visitor.page.content()


async def test_a_disclosure_is_read_with_its_ground(visit: Visit, demo: Demo, axe: str) -> None:
    court = {"kind": "authority", "name": "District <Court>", "purpose": "Decides a case", "country": "FI"}
    recipient = demo.post("legal", "/api/v1/registers/recipients", court)["id"]
    given = [call["id"] for call in demo.recordings(queue="orders")[:2]]
    body = {"recordings": given, "ground": "court_order", "reference": "L 26/77", "recipient": recipient}
    path = "/api/v1/registers/disclosures"
    async with visit("legal") as asking, visit("privacy") as visitor:
        # An account asks: of a token nobody could say whose it is.
        await asking.open("/app/recipients")
        csrf = await asking.page.input_value("form[action='/app/sign-out'] [name=csrf]")

        async def disclose(**more: str) -> dict[str, Any]:
            answer = await asking.context.request.post(
                demo.address + path,
                data=body | more,
                headers={"Origin": demo.address, "X-CSRF-Token": csrf},
            )
            assert answer.ok, await answer.text()
            told: dict[str, Any] = await answer.json()
            return told

        approval = str((await disclose())["approval"])
        page = visitor.page
        await visitor.open("/app/approvals")
        await page.get_by_role("button", name="Approve: Disclose recordings").first.click()
        await page.wait_for_selector("text=You approved it")
        await disclose(approval=approval)
        await visitor.open(f"/app/recipients/{recipient}")
        await page.click("text=What was given to it")
        await page.wait_for_url(f"**/app/disclosures?recipient={recipient}")
        [row] = await page.locator("tbody tr").all()
        told = await row.inner_text()
        for part in ("District <Court>", "A court’s order", "L 26/77", "2 recordings"):
            assert part.replace("’", "'") in told.replace("’", "'")
        await page.click("summary")
        await check(visitor, axe, "a disclosure")
        assert all([await row.locator(f"a[href='/app/calls/{call}/custody']").count() for call in given])
        await page.click("text=Show all")
        assert await page.locator("tbody tr", has_text="L 26/77").count() == 1


async def test_an_auditor_reads_and_changes_nothing(visit: Visit, demo: Demo) -> None:
    breach = breach_of(demo)
    recipient = demo.json("auditor", "/api/v1/registers/recipients")["items"][0]["id"]
    async with visit("auditor") as visitor:
        visitor.expected = {403}
        for path in (
            "/app/breaches",
            f"/app/breaches/{breach}",
            "/app/recipients",
            f"/app/recipients/{recipient}",
            "/app/disclosures",
        ):
            assert await visitor.open(path) == 200
            assert await visitor.page.locator("main form").count() == 0
        csrf = await visitor.page.input_value("form[action='/app/sign-out'] [name=csrf]")
        known = {
            "notified_at": typed(ago(minutes=1)),
            "reference": "DPA-1",
            "reason": "none",
            "facts": "none",
            "was_facts": hashlib.sha256(b"A password was guessed.").hexdigest(),
            **{f"was_{name}": hashlib.sha256(b"").hexdigest() for name in ("effects", "measures")},
        }
        for path in (
            f"/app/breaches/{breach}/notification",
            f"/app/breaches/{breach}/no-notice",
            f"/app/breaches/{breach}/words",
            f"/app/breaches/{breach}/close",
            f"/app/recipients/{recipient}/end",
        ):
            answer = await visitor.context.request.post(
                demo.address + path, form={"csrf": csrf, **known}, headers={"Origin": demo.address}
            )
            assert answer.status == 403, path
    assert demo.json("auditor", f"/api/v1/registers/breaches/{breach}")["state"] == "open"


@pytest.mark.parametrize("role", ["quality", "operator"])
async def test_nobody_else_sees_the_registers(visit: Visit, demo: Demo, role: str) -> None:
    breach = breach_of(demo)
    async with visit(role) as visitor:
        visitor.expected = {403}
        for path in ("/app/breaches", f"/app/breaches/{breach}", "/app/recipients", "/app/disclosures"):
            assert await visitor.open(path) == 403
            assert "You may not" in await visitor.page.inner_text("main")
            assert "password" not in await visitor.page.inner_text("main")


async def test_an_address_that_leads_nowhere_says_so(visit: Visit) -> None:
    async with visit("privacy") as visitor:
        visitor.expected = {404, 422}
        for path, status in (
            ("/app/breaches/nonsense", 404),
            (f"/app/breaches/{uuid.UUID(int=1)}", 404),
            (f"/app/recipients/{uuid.UUID(int=1)}", 404),
            ("/app/disclosures?page=0", 422),
            ("/app/disclosures?page=nine", 422),
            ("/app/disclosures?recipient=nobody", 422),
            ("/app/disclosures?page=2", 200),
        ):
            assert await visitor.open(path) == status, path
        assert "ends before this page" in await visitor.page.inner_text("main")
