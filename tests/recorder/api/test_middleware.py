"""Around every request: who asks, from where, what is told to whom, and what is logged."""

from __future__ import annotations

import json
import logging
import re
import uuid
from pathlib import Path

import pytest
from aiohttp import web

from recorder.access.sessions import OpenedSession
from recorder.api.framework import ApiCall, Route, no_content
from recorder.api.middleware import SESSION_COOKIE
from recorder.catalogue.enums import Role
from recorder.logs import JsonFormatter
from recorder.services import Services
from tests.recorder.api.conftest import Client, MakeToken, Serve, sqlite_url

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


async def act(call: ApiCall) -> web.StreamResponse:
    _ = call.principal
    return no_content()


async def stream(call: ApiCall) -> web.StreamResponse:
    response = web.StreamResponse()
    response.content_length = 4
    await response.prepare(call.request)
    await response.write(b"abcd")
    await response.write_eof()
    return response


async def fail(call: ApiCall) -> web.StreamResponse:
    raise RuntimeError("Matti Meikäläinen")


@pytest.fixture
def database_url(migrated_sqlite: Path, tmp_path: Path) -> str:
    return sqlite_url(migrated_sqlite, tmp_path)


@pytest.fixture
async def client(serve: Serve) -> Client:
    return await serve(
        Route("GET", "/api/v1/act", act),
        Route("POST", "/api/v1/act", act),
        Route("GET", "/api/v1/stream/{id}", stream, auth="public"),
        Route("GET", "/api/v1/fail/{id}", fail, auth="public"),
    )


def cookie(browser: OpenedSession) -> dict[str, str]:
    return {"Cookie": f"{SESSION_COOKIE}={browser.cookie}"}


async def reason_of(answer: object) -> str:
    assert hasattr(answer, "json")
    return str((await answer.json(content_type="application/problem+json")).get("reason"))


async def test_a_session_reads_without_and_writes_with_its_csrf_token(
    client: Client, browser: OpenedSession
) -> None:
    signed_in = cookie(browser)
    assert (await client.get("/api/v1/act", headers=signed_in)).status == 204
    assert (
        await client.post("/api/v1/act", headers={**signed_in, "X-CSRF-Token": browser.csrf})
    ).status == 204


@pytest.mark.parametrize("given", [None, "", "x", "ä", b"\xff\xfe"])
async def test_without_the_right_csrf_token_nothing_is_written(
    client: Client, browser: OpenedSession, given: str | bytes | None
) -> None:
    headers = cookie(browser)
    if given is not None:
        headers["X-CSRF-Token"] = given if isinstance(given, str) else given.decode(errors="surrogateescape")
    answer = await client.post("/api/v1/act", headers=headers)
    assert (answer.status, await reason_of(answer)) == (403, "csrf")


@pytest.mark.parametrize("site", ["cross-site", "same-site", "nonsense"])
async def test_another_site_writes_nothing_even_with_the_token(
    client: Client, browser: OpenedSession, site: str
) -> None:
    headers = {**cookie(browser), "X-CSRF-Token": browser.csrf, "Sec-Fetch-Site": site}
    answer = await client.post("/api/v1/act", headers=headers)
    assert (answer.status, await reason_of(answer)) == (403, "cross-site")


@pytest.mark.parametrize("site", ["same-origin", "none"])
async def test_our_own_pages_write(client: Client, browser: OpenedSession, site: str) -> None:
    headers = {**cookie(browser), "X-CSRF-Token": browser.csrf, "Sec-Fetch-Site": site}
    assert (await client.post("/api/v1/act", headers=headers)).status == 204


async def test_a_bearer_token_needs_no_csrf_and_outranks_a_cookie(
    client: Client, browser: OpenedSession, make_token: MakeToken
) -> None:
    bearer = {"Authorization": f"Bearer {await make_token(Role.PRIVACY)}"}
    assert (await client.post("/api/v1/act", headers=bearer)).status == 204
    # A wrong token is refused, not passed over for the cookie beside it.
    wrong = {**cookie(browser), "Authorization": "Bearer nothing"}
    assert (await client.get("/api/v1/act", headers=wrong)).status == 401


@pytest.mark.parametrize("value", ["", "x", "ä" * 43, "A" * 43])
async def test_a_cookie_that_opens_nothing_is_nobody(client: Client, value: str) -> None:
    answer = await client.get("/api/v1/act", headers={"Cookie": f"{SESSION_COOKIE}={value}"})
    assert answer.status == 401


@pytest.mark.parametrize("scheme", ["Basic eDp5", "bearer x", "Bearer", "Bearer  ", "Digest x"])
async def test_other_credentials_are_nobody(client: Client, scheme: str) -> None:
    assert (await client.get("/api/v1/act", headers={"Authorization": scheme})).status == 401


@pytest.mark.parametrize("path", ["/api/v1/stream/1", "/api/v1/fail/1", "/api/v1/act", "/nothing"])
async def test_every_answer_has_security_headers_and_a_request_id(client: Client, path: str) -> None:
    answer = await client.get(path)
    assert {name: answer.headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-Id"])


async def test_a_random_request_id_is_taken_over(client: Client) -> None:
    for offered in (uuid.uuid4().hex, str(uuid.uuid4())):
        answer = await client.get("/api/v1/stream/1", headers={"X-Request-Id": offered})
        assert answer.headers["X-Request-Id"] == offered


@pytest.mark.parametrize(
    "offered", ["Matti", "4111111111111111", "00358-40-1234567", "a" * 33, "0" * 31, "ä" * 32, "A" * 32]
)
async def test_what_might_be_personal_is_no_request_id(client: Client, offered: str) -> None:
    answer = await client.get("/api/v1/stream/1", headers={"X-Request-Id": offered})
    assert answer.headers["X-Request-Id"] != offered
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-Id"])


@pytest.mark.parametrize(
    ("path", "route", "status"),
    [
        ("/api/v1/stream/0401234567?caller=Matti", "/api/v1/stream/{id}", 200),
        ("/api/v1/fail/0401234567", "/api/v1/fail/{id}", 500),
        ("/api/v2/0401234567", "unmatched", 404),
    ],
)
async def test_the_log_line_names_the_route_and_never_the_path(
    client: Client, caplog: pytest.LogCaptureFixture, path: str, route: str, status: int
) -> None:
    with caplog.at_level(logging.INFO):
        answer = await client.get(path, headers={"Referer": "https://crm.example/0401234567"})
    # The test server's own access log is off in the service; tests/system reads a whole process's log.
    lines = [JsonFormatter().format(r) for r in caplog.records if r.name.startswith("recorder")]
    entries = [json.loads(line) for line in lines]
    [entry] = [e for e in entries if e["event"] == "request"]
    assert entry["request_id"] == answer.headers["X-Request-Id"]
    assert (entry["method"], entry["route"], entry["status"]) == ("GET", route, status)
    for line in lines:
        assert "0401234567" not in line
        assert "Matti" not in line


async def test_the_log_line_names_the_caller_by_random_id(
    client: Client, caplog: pytest.LogCaptureFixture, browser: OpenedSession
) -> None:
    with caplog.at_level(logging.INFO):
        await client.get("/api/v1/act", headers=cookie(browser))
    [record] = [r for r in caplog.records if r.name == "recorder.http"]
    assert json.loads(JsonFormatter().format(record))["actor"] == f"account:{browser.principal.id}"
    assert "maija" not in JsonFormatter().format(record)


async def test_requests_are_counted_by_route_and_status(client: Client, services: Services) -> None:
    await client.get("/api/v1/stream/1")
    await client.get("/api/v1/stream/2")
    await client.get("/somewhere/else")
    value = services.metrics.registry.get_sample_value
    names = {"method": "GET", "route": "/api/v1/stream/{id}", "status": "200"}
    assert value("recorder_http_requests_total", names) == 2
    assert value("recorder_http_requests_total", {**names, "route": "unmatched", "status": "404"}) == 1
    assert value("recorder_http_in_flight") == 0
