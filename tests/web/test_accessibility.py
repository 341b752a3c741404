"""Every page by the rules of axe-core, in both themes and at every width; and by keyboard alone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.web.conftest import Demo, Visit, Visitor

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400), pytest.mark.asyncio(loop_scope="session")]

# 200 % zoom is half the width at twice the density.
_SIZES = {"1440": (1440, 900), "1024": (1024, 768), "390": (390, 844), "200 %": (720, 450)}
_PAGES = {
    "sign-in": (None, "/app/sign-in"),
    "list": ("quality", "/app/calls"),
    "list of several purposes": ("legal", "/app/calls?order=oldest"),
    "empty list": ("quality", "/app/calls?queue=none"),
    "call": ("quality", "/app/calls/{call}"),
    "muted call": ("legal", "/app/calls/{muted}"),
    "erased": ("legal", "/app/calls/{erased}"),
    "refused": ("trainer", "/app/calls/{restricted}"),
    "custody": ("privacy", "/app/calls/{call}/custody"),
    "custody of what": ("auditor", "/app/custody?recording=nonsense"),
    "quarantine": ("operator", "/app/quarantine"),
    "retention": ("privacy", "/app/retention"),
    "record of processing": ("auditor", "/app/article-30"),
    "requests": ("privacy", "/app/requests"),
    "a request being filed": ("privacy", "/app/requests/new"),
    "a request": ("privacy", "/app/requests/{request}"),
    "an answered request": ("privacy", "/app/requests/{answered}"),
    "customers": ("privacy", "/app/customers"),
    "a customer": ("privacy", "/app/customers/{customer}"),
    "matters": ("legal", "/app/matters"),
    "a matter": ("legal", "/app/matters/{matter}"),
    "approvals": ("auditor", "/app/approvals"),
    "breaches": ("privacy", "/app/breaches"),
    "a breach": ("privacy", "/app/breaches/{breach}"),
    "a breach to be read": ("auditor", "/app/breaches/{breach}"),
    "recipients": ("legal", "/app/recipients"),
    "a recipient": ("legal", "/app/recipients/{recipient}"),
    "disclosures": ("auditor", "/app/disclosures"),
    "schedules": ("privacy", "/app/schedules"),
    "a schedule": ("auditor", "/app/schedules/1"),
    "findings": ("operator", "/app/findings"),
}


async def check(visitor: Visitor, axe: str, where: str) -> None:
    await visitor.page.evaluate(axe)
    found: dict[str, Any] = await visitor.page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    told = [
        {
            "rule": v["id"],
            "help": v["help"],
            "nodes": [n["html"][:200] + n["failureSummary"] for n in v["nodes"]],
        }
        for v in found["violations"]
    ]
    assert told == [], f"{where}: {json.dumps(told, indent=1)}"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", list(_PAGES))
async def test_a_page_keeps_the_rules_at_every_size(
    visit: Visit, demo: Demo, erased: str, a_request: str, answered: str, axe: str, name: str, scheme: str
) -> None:
    role, path = _PAGES[name]
    path = path.format(
        call=demo.recordings("quality", queue="orders")[0]["id"],
        muted=demo.recordings(queue="muted")[0]["id"],
        restricted=next(c["id"] for c in demo.recordings() if c["restricted"]),
        erased=erased,
        request=a_request,
        answered=answered,
        customer=demo.customer("100205"),
        matter=demo.json("legal", "/api/v1/matters")["items"][0]["id"],
        breach=demo.json("auditor", "/api/v1/registers/breaches")["items"][0]["id"],
        recipient=demo.json("auditor", "/api/v1/registers/recipients")["items"][0]["id"],
    )
    async with visit(role, color_scheme=scheme) as visitor:
        visitor.expected = {410, 422}
        await visitor.open(path)
        if await visitor.page.locator("[data-player]").count():
            await visitor.wave_is_drawn()
        for size, (width, height) in _SIZES.items():
            await visitor.page.set_viewport_size({"width": width, "height": height})
            assert await visitor.tell("document.documentElement.scrollWidth <= innerWidth"), (
                f"{name} at {size}"
            )
            await check(visitor, axe, f"{name} at {size} in {scheme}")


async def test_the_rules_find_a_fault(visit: Visit, axe: str) -> None:
    async with visit() as visitor:
        await visitor.open("/app/sign-in")
        await visitor.tell("document.querySelector('label span').remove()")
        with pytest.raises(AssertionError, match="label"):
            await check(visitor, axe, "a field without a name")


async def test_a_day_by_keyboard_alone(visit: Visit, demo: Demo) -> None:
    async with visit() as visitor:
        keyboard = visitor.page.keyboard
        await visitor.open("/")
        # The first field has the focus: from the first frame on, which may come later than the document.
        await visitor.until("document.activeElement.matches('input')")
        await keyboard.type("quality")
        await keyboard.press("Tab")
        await keyboard.type(demo.passwords["quality"])
        await keyboard.press("Enter")
        await visitor.page.wait_for_selector("tbody tr")
        await visitor.page.wait_for_load_state()  # the scripts have bound their keys
        await keyboard.press("Tab")
        assert await visitor.tell("document.activeElement.textContent") == "Skip to the content"
        assert await visitor.tell("document.activeElement.getBoundingClientRect().left") >= 0
        await keyboard.press("Enter")
        assert await visitor.tell("document.activeElement.id") == "main"
        await keyboard.press("j")
        await keyboard.press("Enter")
        await visitor.wave_is_drawn()
        await keyboard.press("Space")
        await visitor.until("document.querySelector('audio').currentTime > 0.1")
        await keyboard.press("Space")
        await _every_stop_is_seen(visitor)


async def _every_stop_is_seen(visitor: Visitor) -> None:
    """Walk the page with Tab: each control is reached once, has a name, and shows that it has the focus."""
    reached: list[str] = []
    for _ in range(60):
        await visitor.page.keyboard.press("Tab")
        stop = await visitor.tell(
            """(() => {
                const here = document.activeElement;
                if (here === document.body) return null;
                const shown = here.matches("[data-position]") ? document.querySelector(".lanes") : here;
                const style = getComputedStyle(shown);
                const seen = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1;
                return [here.outerHTML.slice(0, 120), seen];
            })()"""
        )
        if stop is None:
            break
        html, seen = stop
        assert seen, f"no focus to be seen on {html}"
        reached.append(html)
    assert any("data-position" in html for html in reached)
    assert any("data-speed" in html for html in reached)
    assert any("Sign out" in html for html in reached)
    assert len(reached) == len(set(reached)) >= 12
