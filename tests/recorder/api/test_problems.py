"""Errors become problem details in one place, completely and without personal data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web

import recorder.errors
import storage.errors
from recorder.api.framework import ApiCall, Route
from recorder.api.problems import KINDS, PROBLEM_BASE, kind_of, problem_response, translate
from recorder.errors import (
    ConfigurationError,
    Conflict,
    Erased,
    FieldError,
    Forbidden,
    InvalidInput,
    Locked,
    RangeNotSatisfiable,
    RecorderError,
    TooMany,
    Unauthenticated,
    Unavailable,
)
from tests.recorder.api.conftest import Serve, sqlite_url


@pytest.fixture
def database_url(migrated_sqlite: Path, tmp_path: Path) -> str:
    return sqlite_url(migrated_sqlite, tmp_path)


def below(root: type[Exception]) -> Iterator[type[Exception]]:
    for child in root.__subclasses__():
        yield child
        yield from below(child)


# Raised before anything is served: the command line prints them.
NEVER_HTTP = {ConfigurationError}


def test_every_error_of_ours_has_a_status() -> None:
    in_errors = {e for e in below(RecorderError) if e.__module__ == "recorder.errors"}
    assert len(in_errors) >= 15
    assert {e for e in in_errors if kind_of(e) is None} == NEVER_HTTP


def test_types_are_stable_and_differ() -> None:
    types = [kind.type for kind in KINDS.values()]
    assert len(types) == len(set(types))
    assert {kind.status for kind in KINDS.values()} == {
        *(400, 401, 403, 404, 409, 410, 412, 413, 415, 416, 422, 423, 429, 460, 502, 503)
    }


def test_every_error_of_storage_is_translated() -> None:
    for error in below(storage.errors.StorageError):
        made = error.__new__(error)  # constructors differ; the type alone decides
        ours = translate(made)
        assert ours is not None, error
        assert kind_of(type(ours)) is not None


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (storage.errors.StoreUnavailable("10.0.0.7"), 503),
        (storage.errors.StoreRefused("AccessDenied"), 503),
        (storage.errors.KeyringError("/etc/keyring"), 503),
        (storage.errors.KeyDestroyed("c", 1), 410),
        (storage.errors.TamperedObject("segment 7"), 502),
        (storage.errors.ObjectMissing("or/1f"), 502),
    ],
)
def test_storage_errors_say_what_the_caller_can_do(error: storage.errors.StorageError, status: int) -> None:
    ours = translate(error)
    assert ours is not None
    kind = kind_of(type(ours))
    assert kind is not None
    assert kind.status == status
    assert str(error) not in ours.message


def test_a_stranger_is_no_error_of_ours() -> None:
    assert translate(ValueError("x")) is None


def answer_to(error: RecorderError) -> tuple[web.Response, dict[str, Any]]:
    response = problem_response(error, "0" * 32)
    return response, json.loads(cast("bytes", response.body))


def test_the_members_each_kind_adds() -> None:
    response, body = answer_to(Conflict("other bytes", kind="in-flight", recording_id="r"))
    assert (response.status, body["type"], body["recording_id"]) == (409, PROBLEM_BASE + "in-flight", "r")
    _, body = answer_to(Forbidden("closed", reason="window-closed"))
    assert body["reason"] == "window-closed"
    _, body = answer_to(Erased("gone", certificate_id="c"))
    assert body["certificate_id"] == "c"
    assert body["certificate"] == "/api/v1/certificates/c"
    response, body = answer_to(Unavailable("away", dependency="store", retry_after=7))
    assert (response.headers["Retry-After"], body["dependency"]) == ("7", "store")
    assert answer_to(Locked("wait", retry_after=9))[0].headers["Retry-After"] == "9"
    assert answer_to(TooMany("wait"))[0].headers["Retry-After"] == "5"
    assert answer_to(Unauthenticated("who"))[0].headers["WWW-Authenticate"] == 'Bearer realm="recorder"'
    assert answer_to(RangeNotSatisfiable("outside", size=0))[0].headers["Content-Range"] == "bytes */0"
    _, body = answer_to(InvalidInput("bad", fields=[FieldError("/a", "is bad")]))
    assert body["errors"] == [{"pointer": "/a", "detail": "is bad"}]


@pytest.mark.parametrize(
    "error",
    [
        ValueError("Matti Meikäläinen"),
        KeyError("+358401234567"),
        recorder.errors.ConfigurationError("RECORDER_S3_SECRET_KEY is hunter2"),
    ],
)
async def test_a_failure_nobody_expected_tells_its_request_id_and_nothing_else(
    serve: Serve, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    async def fail(call: ApiCall) -> web.StreamResponse:
        raise error

    client = await serve(Route("GET", "/api/v1/fail", fail, auth="public"))
    answer = await client.get("/api/v1/fail")
    text = await answer.text()
    assert answer.status == 500
    assert json.loads(text)["request_id"] == answer.headers["X-Request-Id"]
    assert json.loads(text)["type"] == PROBLEM_BASE + "internal"
    assert str(error.args[0]) not in text
    assert "unexpected failure" in caplog.text
