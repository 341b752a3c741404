"""What waits for a second person, as the demo shows it."""

from __future__ import annotations

import re

import pytest

from tests.web.conftest import Visit

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400), pytest.mark.asyncio(loop_scope="session")]


async def test_it_is_told_in_words_and_the_fingerprint_can_be_opened(visit: Visit) -> None:
    async with visit("privacy", java_script_enabled=False) as visitor:
        await visitor.open("/app/approvals")
        card = visitor.page.locator("section.card", has_text="Give a role that hears calls").first
        text = await card.inner_text()
        assert "Give Alex Agent the role trainer, for the calls of the queue orders." in text
        assert "Alex Agent may then hear the calls of the queue orders for training." in text
        assert "Asked for by Otto Operator" in text
        whole = card.locator("details code").last
        assert not await whole.is_visible()
        summary = card.locator("summary")
        await summary.focus()
        await visitor.page.keyboard.press("Enter")
        assert await whole.is_visible()
        digest = await whole.inner_text()
        assert re.fullmatch(r"[0-9a-f]{64}", digest)
        assert digest[:8] in await summary.inner_text()
