"""Signing in and out, and forms that nobody sent: in words, and shut."""

from __future__ import annotations

import pytest

from tests.web.conftest import Demo, Visit

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400), pytest.mark.asyncio(loop_scope="session")]


async def test_a_wrong_password_is_said_in_words(visit: Visit) -> None:
    async with visit() as visitor:
        visitor.expected = {401}
        await visitor.sign_in("quality", "not the password")
        assert await visitor.page.inner_text("[role=alert]") == "The user name or the password is wrong."
        assert await visitor.page.locator("[name=password]").input_value() == ""
        assert [c for c in await visitor.context.cookies() if c["name"] == "recorder_session"] == []


async def test_too_many_failures_lock_the_door_and_say_so(visit: Visit) -> None:
    async with visit() as visitor:
        visitor.expected = {401, 429}
        for _ in range(6):
            await visitor.sign_in("nobody-of-this-name", "guessing")
        assert "too many" in (await visitor.page.inner_text("[role=alert]")).lower()


async def test_the_door_leads_on_to_the_page_that_was_wanted(visit: Visit, demo: Demo) -> None:
    wanted = f"/app/calls/{demo.recordings('quality')[0]['id']}?purpose=quality"
    async with visit() as visitor:
        await visitor.open(wanted)
        assert "/app/sign-in" in visitor.page.url
        await visitor.sign_in("quality")
        assert visitor.page.url == demo.address + wanted


@pytest.mark.parametrize("elsewhere", ["https://example.org/", "//example.org/app/", "/app/\\example.org"])
async def test_the_door_leads_nowhere_else(visit: Visit, demo: Demo, elsewhere: str) -> None:
    async with visit() as visitor:
        await visitor.open("/app/sign-in?next=" + elsewhere)
        await visitor.sign_in("quality")
        assert visitor.page.url == demo.address + "/app/calls"


async def test_signing_out_ends_the_session_and_back_shows_nothing(visit: Visit, demo: Demo) -> None:
    async with visit("quality") as visitor:
        cookies = await visitor.context.cookies()
        # The browser swaps pages here: until the next one has loaded, there is no history to go back in.
        async with visitor.page.expect_navigation(url="**/app/sign-in"):
            await visitor.page.click("text=Sign out")
        await visitor.page.go_back()
        await visitor.page.wait_for_url("**/app/sign-in?next=**")  # where it was asked for, the door stands
        await visitor.page.wait_for_selector("[name=password]")
        assert await visitor.page.locator("table").count() == 0
        # Nor does the cookie open anything, should somebody have kept it.
        await visitor.context.add_cookies(
            [{"name": c["name"], "value": c["value"], "url": demo.address} for c in cookies]
        )
        await visitor.open("/app/calls")
        assert "/app/sign-in" in visitor.page.url


async def test_the_cookie_is_out_of_reach(visit: Visit) -> None:
    async with visit("quality") as visitor:
        (cookie,) = [c for c in await visitor.context.cookies() if c["name"] == "recorder_session"]
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        assert await visitor.tell("document.cookie") == ""


@pytest.mark.parametrize("given", [None, "another session's"])
async def test_a_form_without_its_token_does_nothing(visit: Visit, given: str | None) -> None:
    async with visit("operator") as visitor:
        visitor.expected = {403}
        await visitor.page.evaluate(
            """given => {
                const field = document.querySelector('form[action="/app/sign-out"] [name=csrf]');
                if (given === null) field.remove(); else field.value = given;
            }""",
            given,
        )
        await visitor.page.click("text=Sign out")
        assert "was not opened in this session" in await visitor.page.inner_text("[role=alert]")
        assert await visitor.open("/app/quarantine") == 200
        assert "/app/quarantine" in visitor.page.url


async def test_each_role_begins_where_its_work_is(visit: Visit, demo: Demo) -> None:
    homes = {"quality": "/app/calls", "operator": "/app/quarantine", "auditor": "/app/custody"}
    for role, home in homes.items():
        async with visit(role) as visitor:
            assert visitor.page.url == demo.address + home
            rail = await visitor.page.locator("nav.rail a").all_inner_texts()
            assert ("Calls" in rail, "Quarantine" in rail, "Custody" in rail) == tuple(
                home == homes[r] for r in ("quality", "operator", "auditor")
            )


async def test_an_address_that_leads_nowhere_is_a_page_in_words(visit: Visit) -> None:
    async with visit("quality") as visitor:
        visitor.expected = {404}
        assert await visitor.open("/app/no-such-page") == 404
        assert "no page at this address" in await visitor.page.inner_text("[role=alert]")
