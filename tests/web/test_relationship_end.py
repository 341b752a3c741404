"""The end of a relationship at the desk: reported, confirmed by a person, withdrawn; and who may."""

from __future__ import annotations

import pytest

from tests.web.conftest import Demo, Visit, Visitor
from tests.web.test_accessibility import check

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400), pytest.mark.asyncio(loop_scope="session")]


async def submit(visitor: Visitor, button: str) -> None:
    async with visitor.page.expect_navigation():
        await visitor.page.get_by_role("button", name=button).click()


async def report(visitor: Visitor, day: str) -> None:
    await visitor.page.fill("[name=ended_on]:not([type=hidden])", day)
    await visitor.page.select_option("[name=cause]", "death")
    await visitor.page.select_option("[name=source]", "relative")
    await visitor.page.fill("[name=reference]", "letter 7")
    await submit(visitor, "Report the end")


async def test_an_end_is_found_reported_confirmed_and_taken_back(visit: Visit, demo: Demo, axe: str) -> None:
    async with visit("privacy") as visitor:
        page = visitor.page
        await visitor.open("/app/requests")
        await page.click("main >> text=Customers")
        await page.wait_for_url("**/app/customers")
        await page.fill("[name=customer]", "100202")
        await submit(visitor, "Open")
        customer = demo.customer("100202")
        assert page.url == f"{demo.address}/app/customers/{customer}", "the number is in no address"
        assert "No end is known" in await page.inner_text("[aria-labelledby=end]")
        assert "100202" in await page.inner_text("aside")
        await check(visitor, axe, "a customer without an end")

        await report(visitor, "2026-03-05")
        assert page.url.endswith(f"/{customer}?done=reported")
        assert "The end is reported" in await page.inner_text("[role=status]")
        told = await page.inner_text("[aria-labelledby=end]")
        for word in ("5 Mar 2026", "The person has died", "A relative", "letter 7", "by Priya Privacy"):
            assert word in told
        assert "Not yet" in told
        await visitor.open("/app/customers")
        await check(visitor, axe, "an end that waits")
        await page.click(f"text={customer[:8]}")
        await page.wait_for_url(f"**/{customer}")

        await submit(visitor, "Confirm: it ended on 5 Mar 2026")
        assert "The end is confirmed" in await page.inner_text("[role=status]")
        assert "Not yet" not in await page.inner_text("[aria-labelledby=end]")
        assert await page.get_by_role("button", name="Confirm").count() == 0
        await page.reload()  # sends nothing again
        await check(visitor, axe, "a confirmed end")
        await visitor.open("/app/customers")
        assert customer[:8] not in await page.inner_text("main")

        await visitor.open(f"/app/customers/{customer}")
        await submit(visitor, "Take the end back")
        assert "The end is taken back" in await page.inner_text("[role=status]")
        assert "No end is known" in await page.inner_text("[aria-labelledby=end]")


async def test_only_the_day_that_was_seen_is_confirmed(visit: Visit, demo: Demo) -> None:
    customer = demo.customer("100203")
    async with visit("privacy") as visitor:
        visitor.expected = {409, 422}
        await visitor.open(f"/app/customers/{customer}")
        await report(visitor, "2026-03-05")
        other = {"ended_on": "2026-03-06", "cause": "closed", "source": "registration"}
        demo.post("crm", f"/api/v1/customers/{customer}/relationship-end", other)
        await submit(visitor, "Confirm: it ended on 5 Mar 2026")
        assert "has changed" in await visitor.page.inner_text("[role=alert]")
        told = await visitor.page.inner_text("[aria-labelledby=end]")
        assert "6 Mar 2026" in told
        assert "by an API client" in told
        assert "Not yet" in told

        await visitor.tell("document.querySelector('input[type=date]').removeAttribute('max')")
        await report(visitor, "2999-01-01")
        assert "lies in the future" in await visitor.page.inner_text("[role=alert]")
        assert "6 Mar 2026" in await visitor.page.inner_text("[aria-labelledby=end]")
        await submit(visitor, "Take the end back")


async def test_a_number_that_nobody_has_is_said_in_words(visit: Visit) -> None:
    async with visit("privacy") as visitor:
        visitor.expected = {404}
        await visitor.open("/app/customers")
        await visitor.page.fill("[name=customer]", "no-such-number")
        await submit(visitor, "Open")
        assert "No living customer has this number" in await visitor.page.inner_text("[role=alert]")


async def test_a_request_leads_to_its_customer(visit: Visit, demo: Demo, a_request: str) -> None:
    async with visit("privacy") as visitor:
        await visitor.open(f"/app/requests/{a_request}")
        await visitor.page.click("aside a[href^='/app/customers/']")
        await visitor.page.wait_for_url(f"**/app/customers/{demo.customer('100201')}")


async def test_a_form_of_another_session_reports_nothing(visit: Visit, demo: Demo) -> None:
    customer = demo.customer("100204")
    async with visit("privacy") as visitor:
        visitor.expected = {403}
        await visitor.open(f"/app/customers/{customer}")
        await visitor.tell("document.querySelectorAll('[name=csrf]').forEach(f => f.value = 'another')")
        await report(visitor, "2026-03-05")
        assert "was not opened in this session" in await visitor.page.inner_text("[role=alert]")
        await visitor.open(f"/app/customers/{customer}")
        assert "No end is known" in await visitor.page.inner_text("[aria-labelledby=end]")


@pytest.mark.parametrize("role", ["quality", "legal", "operator", "auditor"])
async def test_nobody_else_sees_or_says_it(visit: Visit, demo: Demo, role: str) -> None:
    customer = demo.customer("100204")
    async with visit(role) as visitor:
        visitor.expected = {403}
        for path in ("/app/customers", f"/app/customers/{customer}"):
            assert await visitor.open(path) == 403
            assert "100204" not in await visitor.page.content()
        csrf = await visitor.page.input_value("form[action='/app/sign-out'] [name=csrf]")
        for step in ("end", "end/confirmation", "end/withdrawal"):
            form: dict[str, str | float | bool] = {
                "csrf": csrf,
                "ended_on": "2026-03-05",
                "cause": "death",
                "source": "relative",
            }
            answer = await visitor.context.request.post(
                f"{demo.address}/app/customers/{customer}/{step}",
                form=form,
                headers={"Origin": demo.address},
            )
            assert answer.status == 403
