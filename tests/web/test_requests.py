"""The way of a request from filing to the letter, and what is said where it cannot go on."""

from __future__ import annotations

import io
import zipfile

import pytest

from tests.web.conftest import Demo, Visit, Visitor

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400), pytest.mark.asyncio(loop_scope="session")]


async def submit(visitor: Visitor, button: str) -> None:
    async with visitor.page.expect_navigation():
        await visitor.page.get_by_role("button", name=button).click()


async def file(visitor: Visitor, kind: str, *, customer: str = "", message: str = "Please answer.") -> None:
    await visitor.open("/app/requests")
    await visitor.page.click("text=File a request")
    await visitor.page.select_option("[name=type]", kind)
    await visitor.page.fill("[name=customer]", customer)
    await visitor.page.fill("[name=name]", "Mary <b>Sample</b>")
    await visitor.page.fill("[name=message]", message)
    await visitor.page.select_option("[name=language]", "en")
    await submit(visitor, "File the request")
    assert "done=filed" in visitor.page.url


async def confirm_identity(visitor: Visitor) -> None:
    await visitor.page.select_option("[name=method]", "bank_id")
    await visitor.page.select_option("select[name=outcome]", "confirmed")
    await submit(visitor, "Note the check")


async def test_a_request_goes_from_filing_to_copies_and_letter(visit: Visit, demo: Demo) -> None:
    async with visit("privacy") as visitor:
        page = visitor.page
        await file(visitor, "access", message="What do you keep of me?")
        assert "What do you keep of me?" in await page.inner_text("blockquote")
        assert await page.locator("dd:has-text('Mary <b>Sample</b>')").count() == 1, "as it was typed"
        assert await page.get_by_role("button", name="Grant the request").count() == 0, "nobody's yet"
        reference = page.url.partition("?")[0].rpartition("/")[2]

        await page.fill("form[action$='/customer'] [name=customer]", "100203")
        await submit(visitor, "It is theirs")
        rows = await page.locator(".reached tbody tr").count()
        assert rows == len(demo.recordings(customer=demo.customer("100203"))) > 0
        await confirm_identity(visitor)
        await submit(visitor, "Grant the request")
        assert "Granted" in await page.inner_text("[aria-labelledby=decided]")

        await submit(visitor, "Make the copies")
        await page.wait_for_selector("text=Download the copies", timeout=60_000)
        async with page.expect_download() as waiting:
            await page.click("text=Download the copies")
        copies = await (await waiting.value).path()
        with zipfile.ZipFile(io.BytesIO(copies.read_bytes())) as archive:
            assert "index.html" in archive.namelist()
            assert sum(name.endswith("call.json") for name in archive.namelist()) == rows

        for language, words in (
            ("Finnish", "Pyyntönne"),
            ("Swedish", "Din begäran"),
            ("English", "Your request"),
        ):
            await page.get_by_role("link", name=language, exact=True).click()
            await page.wait_for_url("**language=*")
            assert words in await page.inner_text(".letter")
        await submit(visitor, "The letter was sent")
        assert await page.get_by_role("button", name="The letter was sent").count() == 0
        assert "Sent " in await page.inner_text("#letter")

        await visitor.open("/app/requests?view=all")
        row = page.locator("tbody tr", has_text=reference[:8])
        assert "Answered" in await row.inner_text()


async def test_a_refusal_needs_a_ground_of_its_kind(visit: Visit, demo: Demo) -> None:
    async with visit("privacy") as visitor:
        await file(visitor, "consent_withdrawal")
        grounds = await visitor.page.locator("[name=ground] option").all_inner_texts()
        assert [g for g in grounds if g != "Choose"] == ["Identity not shown, art. 12(2)"]
        await visitor.page.select_option("[name=ground]", "identity_not_shown")
        await submit(visitor, "Refuse the request")
        assert "Refused" in await visitor.page.inner_text("[aria-labelledby=decided]")
        assert "could not make sure" in await visitor.page.inner_text(".letter")


async def test_what_is_wrong_is_said_beside_what_was_typed(visit: Visit) -> None:
    async with visit("privacy") as visitor:
        visitor.expected = {404, 409}
        await visitor.open("/app/requests/new")
        await visitor.page.fill("[name=customer]", "no-such-number")
        await visitor.page.fill("[name=message]", "Typed with care")
        await submit(visitor, "File the request")
        assert "No living customer" in await visitor.page.inner_text("[role=alert]")
        assert await visitor.page.input_value("[name=message]") == "Typed with care"


async def test_more_time_is_taken_once_and_the_clock_says_so(visit: Visit) -> None:
    async with visit("privacy") as visitor:
        await file(visitor, "rectification")
        before = await visitor.page.inner_text(".head .mark")
        await visitor.page.click("text=Take two further months")
        await visitor.page.select_option("[name=reason]", "complexity")
        await submit(visitor, "Extend, and send the notice")
        after = await visitor.page.inner_text(".head .mark")
        assert int(after.split()[0]) > int(before.split()[0]) + 50
        assert await visitor.page.locator("text=Take two further months").count() == 0
        assert "the request is complex" in await visitor.page.inner_text(".letter")


async def test_one_filed_under_the_wrong_person_goes_on_under_another(visit: Visit) -> None:
    async with visit("privacy") as visitor:
        await file(visitor, "restriction", customer="100204")
        await visitor.page.click("text=Take it off its customer")
        await visitor.page.select_option("form[action$='/undo'] [name=reason]", "wrong_person")
        await submit(visitor, "Take it off")
        assert "Not known yet" in await visitor.page.inner_text("aside")
        assert "Nobody knows yet whose request it is" in await visitor.page.inner_text("main")


async def test_an_overdue_answer_is_first_in_colour_and_in_words(visit: Visit, a_request: str) -> None:
    async with visit("privacy") as visitor:
        await visitor.open("/app/requests")
        first = visitor.page.locator("tbody tr").first
        assert await first.locator(".mark.due").inner_text() == await first.locator(".mark").inner_text()
        assert "days late" in await first.inner_text()
        assert a_request[:8] in await first.inner_text()
        await visitor.open("/app/requests?view=overdue&type=access")
        assert a_request[:8] in await visitor.page.inner_text("tbody")
        await visitor.open("/app/requests?view=overdue&type=erasure")
        assert "No request fits these filters" in await visitor.page.inner_text(".empty")


async def test_a_request_is_decided_by_keyboard_alone(visit: Visit) -> None:
    async with visit("privacy") as visitor:
        await file(visitor, "objection", customer="100205")
        keyboard = visitor.page.keyboard
        await visitor.page.focus("[name=method]")
        await keyboard.type("Bank")
        await keyboard.press("Tab")
        await keyboard.type("It is")
        await keyboard.press("Tab")
        async with visitor.page.expect_navigation():
            await keyboard.press("Enter")
        await visitor.page.focus("#main")
        for _ in range(30):
            await keyboard.press("Tab")
            if await visitor.tell("document.activeElement.textContent") == "Grant the request":
                break
        async with visitor.page.expect_navigation():
            await keyboard.press("Enter")
        assert "Granted" in await visitor.page.inner_text("[aria-labelledby=decided]")


@pytest.mark.parametrize("role", ["quality", "legal", "operator", "auditor"])
async def test_nobody_else_sees_the_register(visit: Visit, a_request: str, role: str) -> None:
    async with visit(role) as visitor:
        visitor.expected = {403}
        assert await visitor.page.locator(".rail >> text=Requests").count() == 0
        for path in ("/app/requests", "/app/requests/new", f"/app/requests/{a_request}"):
            assert await visitor.open(path) == 403
            assert "Aino" not in await visitor.page.content()
