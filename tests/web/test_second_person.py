"""Steps of two people in two browsers: holds, schedules; and what the roles see of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.web.conftest import Demo, Visit, Visitor
from tests.web.test_accessibility import check

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400), pytest.mark.asyncio(loop_scope="session")]
SCHEDULE = Path(__file__).parents[2] / "retention" / "schedules" / "default-fi.toml"


async def submit(visitor: Visitor, button: str) -> None:
    async with visitor.page.expect_navigation():
        await visitor.page.get_by_role("button", name=button).first.click()


async def held(visitor: Visitor, reference: str, recording: str) -> None:
    """Open a matter that holds a recording."""
    await visitor.open("/app/matters")
    await visitor.page.click("text=Open a matter")
    await visitor.page.fill("[name=reference]", reference)
    await visitor.page.fill("[name=review_on]", "2030-01-01")
    await visitor.page.fill("[name=custodians]", "Leena Legal, Olli Oikeus")
    await submit(visitor, "Open the matter")
    await visitor.page.fill("[name=recording]", recording)
    await submit(visitor, "Hold this recording")
    assert "It is held" in await visitor.page.inner_text("[role=status]")


async def test_a_hold_is_released_by_two_people(visit: Visit, demo: Demo, axe: str) -> None:
    recording = demo.recordings(queue="orders")[0]["id"]
    async with visit("legal") as asker, visit("privacy") as second:
        asker.expected = second.expected = {403, 409}
        await held(asker, "2026-101", recording)
        assert next(c for c in demo.recordings(queue="orders") if c["id"] == recording)["held"]
        matter = asker.page.url.partition("?")[0]
        await submit(asker, "Ask for its release")
        assert "Another person has to approve it" in await asker.page.inner_text("[role=status]")

        await asker.open("/app/approvals")
        own = asker.page.locator("section", has_text="Asked for by Leo Legal").first
        assert "Release a legal hold" in await own.inner_text()
        assert await own.get_by_role("button").count() == 0, "not by whoever asked"

        await check(asker, axe, "approvals, one's own")
        await second.open("/app/approvals")
        await check(second, axe, "approvals, to be decided")
        await submit(second, "Approve: Release a legal hold")
        assert "You approved it" in await second.page.inner_text("[role=status]")

        await asker.page.reload()
        await submit(asker, "Release the hold")
        assert "It is carried out" in await asker.page.inner_text("[role=status]")
        await asker.open(matter.removeprefix(demo.address))
        assert "Released" in await asker.page.inner_text(".reached")
        await submit(asker, "Close the matter")
        assert "Closed" in await asker.page.inner_text(".head")
    assert not next(c for c in demo.recordings(queue="orders") if c["id"] == recording)["held"]


async def test_a_refused_release_leaves_the_hold(visit: Visit, demo: Demo) -> None:
    recording = demo.recordings(queue="orders")[0]["id"]
    async with visit("legal") as asker, visit("privacy") as second:
        await held(asker, "2026-102", recording)
        await submit(asker, "Ask for its release")
        await second.open("/app/approvals")
        await submit(second, "Refuse: Release a legal hold")
        assert "You refused it" in await second.page.inner_text("[role=status]")
        await asker.open("/app/approvals")
        assert await asker.page.get_by_role("button", name="Release the hold").count() == 0
        assert await asker.page.locator("text=Refused").count() > 0
    assert next(c for c in demo.recordings(queue="orders") if c["id"] == recording)["held"]


async def test_the_form_of_whoever_asked_is_refused_too(visit: Visit, demo: Demo) -> None:
    """What the page leaves out is not what keeps it: a form made by hand is refused as well."""
    recording = demo.recordings(queue="orders")[0]["id"]
    async with visit("legal") as asker:
        asker.expected = {403}
        await held(asker, "2026-103", recording)
        await submit(asker, "Ask for its release")
        waiting = demo.json("legal", "/api/v1/approvals?state=pending")["items"][0]["id"]  # the newest
        await asker.tell(
            f"""(() => {{
                const form = document.querySelector("form[action='/app/sign-out']");
                form.action = "/app/approvals/{waiting}/decision";
                form.insertAdjacentHTML("beforeend", "<input name='decision' value='approve'>");
            }})()"""
        )
        await submit(asker, "Sign out")
        assert "Whoever asked for it cannot approve it" in await asker.page.inner_text("[role=alert]")
    assert demo.json("legal", f"/api/v1/approvals/{waiting}")["state"] == "pending"


async def test_a_schedule_is_tried_before_it_is_stored(visit: Visit, axe: str) -> None:
    document = SCHEDULE.read_text("utf-8").replace('controller = "example"', 'controller = "fi-main"')
    document = re.sub(r'(?m)^controller = ".*"', 'controller = "fi-main"', document)
    document = re.sub(r"(?m)^version = \d+", "version = 2", document)
    async with visit("privacy") as visitor:
        visitor.expected = {422}
        await visitor.open("/app/schedules")
        await visitor.page.fill("[name=document]", "version = 'two'")
        await submit(visitor, "Simulate")
        assert await visitor.page.locator("main .because li").count() > 0
        assert await visitor.page.input_value("[name=document]") == "version = 'two'"

        await visitor.page.fill("[name=document]", document)
        await submit(visitor, "Simulate")
        result = await visitor.page.inner_text("[aria-labelledby=result]")
        assert "It shortens nothing" in result
        await check(visitor, axe, "a schedule that was simulated")
        shown = "document.querySelector('.plot').complete && document.querySelector('.plot').naturalWidth"
        await visitor.until(shown)
        assert await visitor.page.locator("[aria-labelledby=versions] tbody tr").count() == 1


async def test_the_operator_finds_nothing_amiss(visit: Visit) -> None:
    async with visit("operator") as visitor:
        await visitor.page.click(".rail >> text=Findings")
        assert "Nothing differs" in await visitor.page.inner_text(".empty")


async def test_the_rail_has_only_what_the_role_may_open(visit: Visit) -> None:
    rails = {
        "quality": ["Calls"],
        "operator": ["Quarantine", "Findings"],
        "privacy": ["Calls", "Custody", "Requests", "Approvals", "Registers", "Retention", "Schedules"],
        "legal": ["Calls", "Custody", "Matters", "Approvals", "Registers", "Retention", "Schedules"],
        "auditor": ["Custody", "Approvals", "Registers", "Retention", "Schedules"],
    }
    known = {name for names in rails.values() for name in names}
    for role, names in rails.items():
        async with visit(role) as visitor:
            visitor.expected = {403}
            shown = [name.strip() for name in await visitor.page.locator(".rail a").all_inner_texts()]
            assert [name for name in shown if name in known] == names
            for path, word in (
                ("/app/requests", "Requests"),
                ("/app/matters", "Matters"),
                ("/app/approvals", "Approvals"),
                ("/app/breaches", "Registers"),
                ("/app/recipients", "Registers"),
                ("/app/disclosures", "Registers"),
                ("/app/schedules", "Schedules"),
                ("/app/findings", "Findings"),
            ):
                assert (await visitor.open(path) == 200) is (word in names), f"{role} at {path}"
