"""Argon2id: real parameters, PHC strings, refusals."""

from __future__ import annotations

import asyncio

import pytest

from recorder.access import passwords
from recorder.errors import InvalidInput

REAL = passwords.Parameters(memory_kib=64 * 1024, iterations=3, lanes=4)


async def test_real_parameters_round_trip() -> None:
    stored = await passwords.hash_password("correct horse battery", REAL)
    assert stored.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert len(stored) <= 255
    assert await passwords.verify("correct horse battery", stored)
    assert not await passwords.verify("correct horse batterz", stored)
    assert await passwords.hash_password("correct horse battery", REAL) != stored


async def test_many_at_once_all_come_to_an_end() -> None:
    # At the real parameters: two computations at a time stood still for ever, lane waiting for lane.
    async with asyncio.timeout(120):
        stored = await asyncio.gather(
            *(passwords.hash_password("correct horse battery", REAL) for _ in range(4))
        )
        assert all(await asyncio.gather(*(passwords.verify("correct horse battery", one) for one in stored)))


def test_the_default_is_what_rfc_9106_recommends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # take the suite's cheap parameters away
    assert passwords.CURRENT == REAL


@pytest.mark.parametrize(
    "stored", ["", "nonsense", "$argon2id$v=19$m=8,t=1,p=1$", "$2b$12$abcdefghijklmnopqrstuv"]
)
async def test_a_damaged_hash_opens_nothing(stored: str) -> None:
    assert not await passwords.verify("correct horse battery", stored)


async def test_nobody_is_verified_against_no_account() -> None:
    assert not await passwords.verify("correct horse battery", None)


async def test_composed_and_decomposed_letters_are_one_password() -> None:
    stored = await passwords.hash_password("päärynäpuu-42")
    assert await passwords.verify("pa\u0308a\u0308ryna\u0308puu-42", stored)


async def test_other_parameters_ask_for_a_new_hash() -> None:
    assert not passwords.needs_rehash(await passwords.hash_password("correct horse battery"))
    assert passwords.needs_rehash(await passwords.hash_password("correct horse battery", REAL))


@pytest.mark.parametrize("weak", ["short", "x" * 11, "y" * 201, "ababababababab", "maija-maija-1234"])
def test_weak_passwords_are_refused_without_repeating_them(weak: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        passwords.check_strength(weak, unlike=("maija",))
    assert refusal.value.fields[0].path == "/password"
    assert weak not in refusal.value.message + refusal.value.fields[0].message


def test_long_passphrases_pass() -> None:
    passwords.check_strength("kesäyö on valoisa ja lämmin", unlike=("maija",))
