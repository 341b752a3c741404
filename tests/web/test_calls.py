"""The list of calls, and the pages of the few: quarantine, custody, what was erased, what is another's."""

from __future__ import annotations

import pytest

from tests.web.conftest import Demo, Visit
from tests.web.test_accessibility import check

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400), pytest.mark.asyncio(loop_scope="session")]


async def test_the_newest_call_is_first_until_the_head_is_clicked(visit: Visit) -> None:
    async with visit("quality") as visitor:
        times = "[...document.querySelectorAll('tbody time')].map(t => Date.parse(t.dateTime))"
        newest = await visitor.tell(times)
        assert len(newest) > 10
        assert newest == sorted(newest, reverse=True)
        await visitor.page.click("th a")
        assert await visitor.page.get_attribute("th[aria-sort]", "aria-sort") == "ascending"
        assert await visitor.tell(times) == sorted(newest)


async def test_filters_narrow_the_list_and_stay_in_the_address(visit: Visit, demo: Demo) -> None:
    async with visit("quality") as visitor:
        await visitor.page.fill("[name=queue]", "orders")
        await visitor.page.press("[name=queue]", "Enter")
        await visitor.page.wait_for_url("**queue=orders**")
        rows = await visitor.page.locator("tbody tr").count()
        assert rows == len(demo.recordings("quality", queue="orders")) > 0
        await visitor.page.reload()
        assert await visitor.page.input_value("[name=queue]") == "orders"
        await visitor.page.click("text=Clear")
        assert await visitor.page.locator("tbody tr").count() > rows


async def test_days_are_whole_days_of_the_controller(visit: Visit) -> None:
    async with visit("quality") as visitor:
        await visitor.open("/app/calls?from=2026-03-05&to=2026-03-05")
        queues = await visitor.page.locator("tbody td:nth-child(4)").all_inner_texts()
        assert sorted(queues) == ["junk", "muted"]


async def test_what_no_calendar_holds_is_refused_in_words(visit: Visit) -> None:
    async with visit("quality") as visitor:
        visitor.expected = {422}
        for query in ("from=yesterday", "to=9999-12-31", "queue=%00", "cursor=none"):
            assert await visitor.open(f"/app/calls?{query}") == 422
            assert await visitor.page.inner_text("[role=alert]") != ""


async def test_an_empty_list_says_what_to_do(visit: Visit) -> None:
    async with visit("quality") as visitor:
        await visitor.open("/app/calls?queue=nothing-here")
        assert "No call matches these filters" in await visitor.page.inner_text(".empty")


async def test_an_agent_hears_their_own_calls_from_the_first_page_on(visit: Visit) -> None:
    async with visit("agent") as visitor:
        assert "those that bear your agent code, A-17" in await visitor.page.inner_text(".head")
        assert await visitor.page.input_value("select[name=purpose]") == "quality", "not what needs a link"
        open_ones = visitor.page.locator("tbody tr:not(.closed)")
        assert await open_ones.count() > 0
        await open_ones.first.locator("a").click()
        await visitor.wave_is_drawn()
        await visitor.page.keyboard.press("Space")
        await visitor.until("document.querySelector('audio').currentTime > 0.1")


async def test_an_agent_without_calls_is_told_why(visit: Visit, demo: Demo) -> None:
    asked = ("user", "add", "newcomer", "--name", "Nea Newcomer", "--role", "agent", "--agent-code", "A-99")
    demo.command(*asked, "--controller", "fi-main", "--password-stdin", given="a-long-enough-password\n")
    async with visit() as visitor:
        await visitor.sign_in("newcomer", "a-long-enough-password")
        assert "your agent code, A-99, and none does" in await visitor.page.inner_text(".empty")


async def test_keys_walk_the_list_and_open_a_call(visit: Visit) -> None:
    async with visit("quality") as visitor:
        focused = "document.activeElement.getAttribute('href')"
        links = await visitor.tell(
            "[...document.querySelectorAll('tbody a')].map(a => a.getAttribute('href'))"
        )
        for key, row in (("j", 0), ("j", 1), ("j", 2), ("k", 1)):
            await visitor.page.keyboard.press(key)
            assert await visitor.tell(focused) == links[row]
        await visitor.page.keyboard.press("/")
        assert await visitor.tell("document.activeElement.name") == "queue"
        await visitor.page.keyboard.type("jk/")
        assert await visitor.page.input_value("[name=queue]") == "jk/"
        await visitor.page.locator("tbody a").nth(1).focus()
        await visitor.page.keyboard.press("Enter")
        await visitor.page.wait_for_selector("h1:has-text('call')")
        assert visitor.page.url.endswith(links[1])
        await visitor.page.go_back()
        await visitor.page.wait_for_selector("tbody tr")


async def test_a_row_is_one_big_link_and_names_its_exact_time(visit: Visit) -> None:
    async with visit("quality") as visitor:
        first = visitor.page.locator("tbody tr").first
        exact = await first.locator("time").get_attribute("title")
        assert exact is not None
        assert exact in await first.locator("a").inner_text()
        await first.locator("td").nth(3).click()
        await visitor.page.wait_for_selector("h1")
        assert exact in await visitor.page.inner_text("main .head")


async def test_the_list_says_which_calls_the_purpose_may_not_use(visit: Visit, demo: Demo) -> None:
    closed = [c for c in demo.recordings("quality") if not c["playable"] and c["state"] == "stored"]
    async with visit("quality") as visitor:
        assert await visitor.page.locator("tr.closed:has-text('Not for quality')").count() == len(closed) > 0


# What cannot be played, and why


async def test_a_closed_purpose_is_explained_and_nothing_is_fetched(visit: Visit, demo: Demo) -> None:
    objected = next(c for c in demo.recordings(tag="demo") if c["started_at"][:4] == "2026" and not any(
        p["purpose"] == "training" for p in demo.json("trainer", f"/api/v1/recordings/{c['id']}")["playable"]
    ) and not c["restricted"] and not c["held"])  # fmt: skip
    async with visit("trainer") as visitor:
        await visitor.open(f"/app/calls/{objected['id']}")
        words = await visitor.page.inner_text(".notice.bad")
        assert "Training may not use this call: the customer objected on" in words
        assert await visitor.page.locator("audio, [data-play]").count() == 0
        assert visitor.asked_for("/audio") == visitor.asked_for("/peaks") == []


async def test_a_role_is_told_its_own_limits(visit: Visit, demo: Demo) -> None:
    async with visit("agent") as visitor:
        visitor.expected = {403}
        others = next(c for c in demo.recordings() if "A-17" not in c["agents"] and c["agents"])
        assert await visitor.open(f"/app/calls/{others['id']}") == 403
        assert "only" in await visitor.page.inner_text("[role=alert]")


async def test_a_call_of_another_controller_shows_nothing_of_itself(visit: Visit, demo: Demo) -> None:
    password = "a long enough sentence"
    demo.command(
        "user", "add", "stranger", "--name", "Sten Strand", "--role", "legal", "--controller", "se-main",
        "--password-stdin", given=password,
    )  # fmt: skip
    call = demo.recordings()[0]
    async with visit() as visitor:
        visitor.expected = {403}
        await visitor.sign_in("stranger", password)
        assert await visitor.page.locator("tbody tr").count() == 0
        for path in (f"/app/calls/{call['id']}", f"/app/calls/{call['id']}/custody"):
            assert await visitor.open(path) == 403
            assert "no role at this controller" in await visitor.page.inner_text("main")
            assert call["queue"] not in await visitor.page.inner_text("main")


async def test_an_erased_call_is_words_a_certificate_and_its_custody(visit: Visit, erased: str) -> None:
    async with visit("legal") as visitor:
        visitor.expected = {410}
        assert await visitor.open(f"/app/calls/{erased}") == 410
        assert "erased" in await visitor.page.inner_text("[role=alert]")
        certificate = await visitor.page.get_attribute("text=Certificate of erasure", "href")
        assert certificate is not None
        assert await visitor.open(certificate) == 200
        await visitor.page.go_back()
        await visitor.page.click("a:text('Its custody')")
        lines = await visitor.page.inner_text("table.acts")
        assert "Received and stored" in lines
        assert "Erased; the certificate is signed" in lines


async def test_an_erased_call_offers_no_way_on_to_who_may_not_go(visit: Visit, erased: str) -> None:
    async with visit("quality") as visitor:
        visitor.expected = {410}
        assert await visitor.open(f"/app/calls/{erased}") == 410
        assert await visitor.page.locator("[role=alert] a").count() == 0


# Custody and quarantine


async def test_custody_tells_who_listened_when_for_what_and_how_it_began(visit: Visit, demo: Demo) -> None:
    call = demo.recordings("quality", tag="invoice")[0]["id"]
    assert demo.ask("quality", f"/api/v1/recordings/{call}/audio?purpose=quality")[0] == 200
    async with visit("auditor") as visitor:
        await visitor.page.fill("[name=recording]", call)
        await visitor.page.click("main button")
        await visitor.page.wait_for_selector("table.acts")
        lines = await visitor.page.locator("table.acts tbody tr").all_inner_texts()
        assert "Telephony source" in lines[0]
        assert "Received and stored" in lines[0]
        (heard,) = [line for line in lines if "isten" in line and "quality" in line]
        assert "API client" in heard


async def test_an_auditor_begins_with_what_happened_lately(visit: Visit, demo: Demo) -> None:
    call = demo.recordings("quality", queue="orders")[0]["id"]
    demo.ask("quality", f"/api/v1/recordings/{call}/audio?purpose=quality")
    async with visit("auditor", java_script_enabled=False) as visitor:
        await visitor.open("/app/custody")
        numbers = [int(n) for n in await visitor.page.locator("tbody td:last-child").all_inner_texts()]
        assert len(numbers) == 25
        assert numbers == sorted(numbers, reverse=True)
        await visitor.page.click("text=Older entries")
        older = [int(n) for n in await visitor.page.locator("tbody td:last-child").all_inner_texts()]
        assert max(older) < min(numbers)
        await visitor.page.click("text=Newest entries")

        await visitor.page.select_option("[name=action]", label="Listening")
        async with visitor.page.expect_navigation():
            await visitor.page.get_by_role("button", name="Show").last.click()
        assert "action=listen." in visitor.page.url
        shown = await visitor.page.locator("tbody td:nth-child(2)").all_inner_texts()
        assert set(shown) <= {
            "Began to listen",
            "Listened",
            "Was refused to listen",
            "RefusedWas refused to listen",
        }
        await visitor.page.locator(f"tbody a:text('{call}')").first.click()
        assert f"Recording {call}" in await visitor.page.inner_text(".head")

        await visitor.open("/app/custody?day=2020-02-29")
        assert "No entry fits" in await visitor.page.inner_text(".empty")
        visitor.expected = {422}
        for query in ("day=2026-02-30", "action=listen", "before=-1", "before=" + "9" * 40):
            assert await visitor.open(f"/app/custody?{query}") == 422


async def test_the_newest_entries_keep_the_rules(visit: Visit, axe: str) -> None:
    for scheme in ("light", "dark"):
        async with visit("auditor", color_scheme=scheme) as visitor:
            for width in (1440, 390):
                await visitor.page.set_viewport_size({"width": width, "height": 844})
                await visitor.open("/app/custody")
                assert await visitor.tell("document.documentElement.scrollWidth <= innerWidth")
                await check(visitor, axe, f"newest entries at {width} in {scheme}")


async def test_the_log_is_for_those_who_may_read_it(visit: Visit) -> None:
    async with visit("privacy") as visitor:
        await visitor.open("/app/custody")
        assert await visitor.page.locator("table").count() == 0
        assert await visitor.page.locator("[name=recording]").count() == 1


async def test_custody_says_what_is_no_id(visit: Visit) -> None:
    async with visit("auditor") as visitor:
        visitor.expected = {404, 422}
        await visitor.page.fill("[name=recording]", "<b>1234</b>")
        await visitor.page.click("main button")
        assert "not the id of a recording" in await visitor.page.inner_text("[role=alert]")
        assert await visitor.page.input_value("[name=recording]") == "<b>1234</b>"
        assert await visitor.open("/app/calls/00000000-0000-4000-8000-000000000000/custody") == 404


async def test_custody_is_not_for_everybody(visit: Visit, demo: Demo) -> None:
    async with visit("quality") as visitor:
        visitor.expected = {403}
        assert await visitor.open(f"/app/calls/{demo.recordings()[0]['id']}/custody") == 403
        assert "Quality may not see who used a call" in await visitor.page.inner_text("main")


async def test_an_operator_judges_what_came_in_wrong(visit: Visit, demo: Demo) -> None:
    (junk,) = demo.recordings("quality", queue="junk")
    async with visit("quality") as listener:
        await listener.open(f"/app/calls/{junk['id']}")
        assert "in quarantine" in await listener.page.inner_text(".notice.bad")
    async with visit("operator") as visitor:
        card = visitor.page.locator("section.card", has_text=junk["id"])
        assert "format of the audio is not known" in await card.inner_text()
        await card.locator("text=Check the audio again").click()
        assert "checked again" in await visitor.page.inner_text("[role=status]")
        await visitor.page.locator("section.card", has_text=junk["id"]).locator("text=Take it in").click()
        await visitor.page.wait_for_selector("text=Accepted.")
        assert await visitor.page.locator("section.card", has_text=junk["id"]).count() == 0
    assert "quarantine.accepted" in demo.custody(junk["id"])
    assert demo.recordings("quality", queue="junk")[0]["state"] == "stored"
