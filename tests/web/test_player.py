"""The player: looking is not listening, play plays, seeking asks for a range, muted is muted."""

from __future__ import annotations

from typing import Any

import pytest

from tests.web.conftest import MUTED, Demo, Visit, Visitor

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400), pytest.mark.asyncio(loop_scope="session")]

# Keeps the gains that the player makes, so that a test can look at what is heard.
_GAINS = """
window.gains = [];
const make = AudioContext.prototype.createGain;
AudioContext.prototype.createGain = function () { gains.push(make.call(this)); return gains.at(-1); };
"""
_SHIFTS = """
window.shifted = 0;
new PerformanceObserver((list) => { for (const entry of list.getEntries()) shifted += entry.value; })
  .observe({ type: "layout-shift", buffered: true });
"""


def stereo_call(demo: Demo) -> dict[str, Any]:
    """A long call that quality may hear, agent and customer each on a channel."""
    playable = [c for c in demo.recordings("quality", queue="orders") if c["playable"]]
    return max(playable, key=lambda call: call["duration"])


async def time_passes(visitor: Visitor, after: float) -> None:
    await visitor.until(f"document.querySelector('audio').currentTime > {after}")


async def test_looking_is_not_listening_and_the_wave_needs_no_audio(visit: Visit, demo: Demo) -> None:
    call = demo.recordings("quality", tag="return")[0]["id"]  # to which no other test listens
    assert "listen.opened" not in demo.custody(call)
    async with visit("quality") as visitor:
        await visitor.open(f"/app/calls/{call}")
        await visitor.wave_is_drawn()
        coloured = await visitor.tell(
            """[...document.querySelectorAll("canvas")].map((canvas) => {
                const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height / 3).data;
                return data.filter((value, i) => i % 4 === 3 && value > 0).length;
            })"""
        )
        assert len(coloured) == 2
        assert min(coloured) > 100
        assert visitor.asked_for("/audio") == []
        assert "listen.opened" not in demo.custody(call)

        await visitor.page.click("[data-play]")
        await time_passes(visitor, 0.2)
        assert len(visitor.asked_for("/audio")) > 0
        assert await visitor.page.inner_text("[data-play]") == "Pause"
        assert demo.custody(call).count("listen.opened") == 1
        await visitor.page.click("[data-play]")
        await visitor.page.wait_for_selector("[data-play]:text-is('Play')")


async def test_the_audio_is_asked_for_by_range_under_the_declared_purpose(visit: Visit, demo: Demo) -> None:
    call = stereo_call(demo)
    async with visit("quality") as visitor:
        await visitor.open(f"/app/calls/{call['id']}")
        await visitor.wave_is_drawn()
        await visitor.page.keyboard.press("Space")
        await time_passes(visitor, 0)
        requests = visitor.asked_for("/audio")
        assert all("purpose=quality" in request.url for request in requests)
        assert [(await r.all_headers())["range"].startswith("bytes=") for r in requests] == [True] * len(
            requests
        )
        answer = await requests[0].response()
        assert answer is not None
        assert answer.status == 206
        end = call["duration"] - 3
        await visitor.page.locator("[data-position]").fill(str(round(end, 1)))
        await time_passes(visitor, end)


async def test_keys_play_seek_speed_up_and_mute(visit: Visit, demo: Demo) -> None:
    async with visit("quality") as visitor:
        await visitor.page.add_init_script(_GAINS)
        await visitor.open(f"/app/calls/{stereo_call(demo)['id']}")
        await visitor.wave_is_drawn()
        await visitor.page.keyboard.press("Space")
        await time_passes(visitor, 0.1)
        await visitor.page.keyboard.press("Space")
        assert await visitor.tell("document.querySelector('audio').paused")
        at = await visitor.tell("document.querySelector('audio').currentTime")
        for key, step in (("ArrowRight", 5), (".", 1), ("ArrowLeft", -5), (",", -1), ("ArrowRight", 5)):
            await visitor.page.keyboard.press(key)
            at += step
            found = await visitor.tell("document.querySelector('audio').currentTime")
            assert found == pytest.approx(max(0, at), abs=0.01)
        for key, rate in (("]", 1.25), ("]", 1.5), ("[", 1.25)):
            await visitor.page.keyboard.press(key)
            assert await visitor.tell("document.querySelector('audio').playbackRate") == rate
        assert await visitor.page.inner_text("[data-speed]") == "1.25×"
        heard = "gains.map((gain) => gain.gain.value)"
        assert await visitor.tell(heard) == [1, 1]
        await visitor.page.keyboard.press("2")
        assert await visitor.tell(heard) == [1, 0]
        assert await visitor.page.get_attribute("[data-channel='1']", "aria-pressed") == "true"
        await visitor.page.click("text=Mute customer")
        await visitor.page.locator("[data-balance]").fill("-0.5")
        assert await visitor.tell(heard) == [1, 0.5]


async def test_muted_parts_are_hatched_and_say_why(visit: Visit, demo: Demo) -> None:
    (call,) = demo.recordings(queue="muted")
    in_span = """(() => {
        const canvas = document.querySelector("canvas");
        const pixels = canvas.width / Number(document.querySelector("[data-player]").dataset.duration);
        const g = canvas.getContext("2d");
        const colours = (from, to) => {
            const x = Math.ceil(from * pixels) + 2, w = Math.floor((to - from) * pixels) - 4;
            const data = g.getImageData(x, 0, w, canvas.height / 4).data, found = new Set();
            for (let i = 0; i < data.length; i += 4) found.add(data.slice(i, i + 4).join());
            return found.size;
        };
        return [colours(5, 12), colours(20, 26)];
    })()"""
    async with visit("quality") as visitor:
        visitor.permitted = ("willReadFrequently",)  # it is the test that reads the canvas
        await visitor.open(f"/app/calls/{call['id']}")
        await visitor.wave_is_drawn()
        assert min(await visitor.tell(in_span)) > 2
        words = await visitor.page.locator(".because li").all_inner_texts()
        assert words[:2] == ["00:05 to 00:12: payment", "00:20 to 00:26: recording paused"]
        assert len(MUTED) == 2
        assert "You hear silence" in await visitor.page.inner_text("main")
    async with visit("legal") as visitor:
        await visitor.open(f"/app/calls/{call['id']}?purpose=legal_protection")
        assert "You hear the original here" in await visitor.page.inner_text("main")


async def test_silence_is_skipped_on_request(visit: Visit, demo: Demo) -> None:
    (call,) = demo.recordings(queue="muted")
    async with visit("quality") as visitor:
        await visitor.open(f"/app/calls/{call['id']}")
        await visitor.wave_is_drawn()
        await visitor.page.click("text=Skip silence")
        await visitor.page.locator("[data-position]").fill("4")
        await visitor.page.click("[data-play]")
        await time_passes(visitor, 12)
        heard = await visitor.tell(
            """(() => { const played = document.querySelector("audio").played;
                return [...Array(played.length).keys()].map((i) => [played.start(i), played.end(i)]); })()"""
        )
        assert not [span for span in heard if span[0] <= 8 <= span[1]]


async def test_the_wave_moves_nothing_when_it_arrives(visit: Visit, demo: Demo) -> None:
    async with visit("quality") as visitor:
        await visitor.page.add_init_script(_SHIFTS)
        for path in ("/app/calls", f"/app/calls/{stereo_call(demo)['id']}"):
            await visitor.open(path)
            if path != "/app/calls":
                await visitor.wave_is_drawn()
            await visitor.tell(
                "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
            )
            assert await visitor.tell("shifted") == 0


async def test_purposes_are_declared_and_the_page_follows(visit: Visit, demo: Demo) -> None:
    async with visit("legal") as visitor:
        await visitor.open(f"/app/calls/{stereo_call(demo)['id']}")
        assert "You may hear this for service evidence until" in await visitor.page.inner_text("aside")
        await visitor.page.select_option("aside select", "legal_protection")
        await visitor.page.click("aside button")
        await visitor.page.wait_for_url("**purpose=legal_protection")
        assert "You may hear this for legal protection until" in await visitor.page.inner_text("aside")
        source = await visitor.page.get_attribute("audio", "src")
        assert source is not None
        assert source.endswith("purpose=legal_protection")


async def test_the_page_and_the_list_name_the_day_of_the_explanation(visit: Visit, demo: Demo) -> None:
    async with visit("quality") as visitor:
        kept = await visitor.page.locator("tbody tr").first.locator("td").last.inner_text()
        await visitor.page.locator("tbody a").first.click()
        await visitor.page.wait_for_selector(".because")
        assert f"Kept until {kept}:" in await visitor.page.inner_text("main")
        until = await visitor.page.inner_text("aside p:has-text('You may hear')")
        assert until.split(" until ")[1].rstrip(".") in await visitor.page.inner_text(".because >> nth=-1")


async def test_a_refusal_that_comes_between_is_told_in_words(visit: Visit, demo: Demo) -> None:
    async with visit("quality") as visitor:
        visitor.expected = {401}
        await visitor.open(f"/app/calls/{stereo_call(demo)['id']}")
        await visitor.wave_is_drawn()
        await visitor.context.clear_cookies()
        await visitor.page.click("[data-play]")
        await visitor.until("document.querySelector('[data-status]').textContent.length > 10")
        assert "play" not in await visitor.page.inner_text("[data-status]")
