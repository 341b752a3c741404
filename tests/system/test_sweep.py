"""The dry run of the sweep says exactly what the sweep then does."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.system.installation import Installation, call_of, client, embedded, production, tone

AUDIO = tone(0.5)
OLD = 9 * 366  # days: past the eight years of every purpose
BOTH = ["embedded", pytest.param("production", marks=[pytest.mark.postgres, pytest.mark.s3])]


@pytest.fixture(params=BOTH)
def own(request: pytest.FixtureRequest, own_installation: Callable[..., Installation]) -> Installation:
    # A handful of calls are soon more than the usual share.
    brake = {"RECORDER_SWEEP_BRAKE_SHARE": "1.0"}
    if request.param == "embedded":
        made = own_installation(embedded, **brake)
    else:
        servers = (request.getfixturevalue("s3_server"), request.getfixturevalue("postgres"))
        made = own_installation(production, *servers, **brake)
    made.start()
    return made


async def swept(own: Installation, *options: str) -> dict[str, list[str]]:
    done = await own.run("sweep", "--json", *options)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)["fi-main"]
    return {"due": [item["recording"] for item in report["due"]], "erased": report["erased"]}


async def test_the_sweep_does_what_its_dry_run_said(own: Installation) -> None:
    async with client(own) as api:
        old, new = set(), set()
        for number in range(3):
            answer = await api.push(call_of(f"old-{number}", days_ago=OLD), AUDIO)
            assert answer.status == 201, answer.body
            old.add(answer.json["id"])
            new.add((await api.push(call_of(f"new-{number}"), AUDIO)).json["id"])
        held = min(old)
        matter = {"reference": "R-1", "ground": "legal_claims", "review_on": "2030-01-01T00:00:00Z"}
        opened = await api.post("/api/v1/matters", "legal", json=matter)
        hold = await api.post(f"/api/v1/matters/{opened.json['id']}/holds", "legal", json={"recording": held})
        assert hold.status == 201, hold.body

        said = await swept(own, "--dry-run")
        assert (set(said["due"]), said["erased"]) == (old - {held}, [])
        listed = (await api.get("/api/v1/recordings", "quality")).json["items"]
        assert {item["id"] for item in listed} == old | new, "a dry run changes nothing"

        did = await swept(own)
        assert set(did["due"]) == set(said["due"])
        for recording in old - {held}:
            assert (await api.audio(recording, "legal", "legal_protection")).status == 410
        assert (await api.audio(held, "legal", "legal_protection")).status == 200, "held"
        for recording in new:
            assert (await api.audio(recording)).status == 200
        assert (await swept(own, "--dry-run"))["due"] == []


async def test_the_brake_asks_a_second_person(own_installation: Callable[..., Installation]) -> None:
    own = own_installation(embedded, RECORDER_SWEEP_BRAKE_COUNT="1", RECORDER_SWEEP_BRAKE_SHARE="0.01")
    own.start()
    async with client(own) as api:
        for number in range(3):
            assert (await api.push(call_of(f"old-{number}", days_ago=OLD), AUDIO)).status == 201
        done = await own.run("sweep")
        assert done.returncode == 4, done.stderr
        assert "second person" in done.stderr
        assert len((await api.get("/api/v1/recordings", "quality")).json["items"]) == 3
