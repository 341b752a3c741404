"""Values brought to one form, and the ledger read as of a moment."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.catalogue.enums import ChoiceKind
from recorder.customers import normalise
from recorder.customers.choices import state_as_of
from recorder.customers.records import is_national_identity_number
from retention.model import Purpose

T = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("written", "region", "e164"),
    [
        ("040 123 4567", "FI", "+358401234567"),
        ("+358 (0)40-1234567", "FI", "+358401234567"),
        ("00358401234567", "FI", "+358401234567"),
        ("070-123 45 67", "SE", "+46701234567"),
        ("tel:+46-70-123-45-67;ext=1", "FI", "+46701234567"),
        ("sip:+358401234567@pbx.example", "SE", "+358401234567"),
        ("０４０１２３４５６７", "FI", "+358401234567"),
        ("anonymous", "FI", None),
        ("", "FI", None),
        ("sip:maija@example.fi", "FI", None),
        ("9" * 80, "FI", None),
    ],
)
def test_phones(written: str, region: str, e164: str | None) -> None:
    assert normalise.phone(written, region) == e164


@pytest.mark.parametrize(
    ("written", "folded"),
    [
        (" Maija.Meikäläinen@Example.FI ", "maija.meikäläinen@example.fi"),
        ("a@b", "a@b"),
        ("a b@c.fi", None),
        ("@b.fi", None),
        ("a@", None),
        ("a@b@c", None),
        ("a@b..fi", None),
    ],
)
def test_emails(written: str, folded: str | None) -> None:
    assert normalise.email(written) == folded


def test_numbers_and_names() -> None:
    assert normalise.number(" c-1 00\u00a01") == "C-1001"
    assert normalise.name_tokens("Åsa-Maria  RÄSÄNEN, Åsa") == ("asa", "maria", "rasanen")
    assert normalise.name_tokens("!!!") == ()


@given(st.text(max_size=80))
def test_normalising_is_total_and_settles(text: str) -> None:
    for fold in (normalise.number, normalise.email):
        once = fold(text)
        if once:
            assert fold(once) == once
    phone = normalise.phone(text, "FI")
    if phone is not None:
        assert normalise.phone(phone, "SE") == phone
    assert all(token == normalise.name_tokens(token)[0] for token in normalise.name_tokens(text))


def test_identity_numbers_are_told_by_form_and_check() -> None:
    for number in ("131052-308T", "010594Y9032", "811218-9876", "19811218-9876", "811218+9876"):
        assert is_national_identity_number(number), number
    for number in ("131052-308A", "811218-9875", "8112189876", "C-100", "20260305"):
        assert not is_national_identity_number(number), number


@dataclass
class Entry:
    kind: ChoiceKind
    effective_at: datetime = T
    purposes: list[str] = field(default_factory=list)
    channel: str | None = None


def test_an_objection_closes_training_and_quality_until_it_is_withdrawn() -> None:
    ledger = [
        Entry(ChoiceKind.OBJECTION, T),
        Entry(ChoiceKind.OBJECTION_WITHDRAWN, T + timedelta(days=2), ["training"]),
    ]
    assert state_as_of(ledger, T - timedelta(seconds=1)).objected == frozenset()
    assert state_as_of(ledger, T).objected == {Purpose.TRAINING, Purpose.QUALITY}
    assert state_as_of(ledger, T + timedelta(days=2)).objected == {Purpose.QUALITY}


@pytest.mark.parametrize("turn", [1, -1])
def test_of_two_at_the_same_moment_the_restrictive_one_wins(turn: int) -> None:
    ledger = [
        Entry(ChoiceKind.CONSENT),
        Entry(ChoiceKind.CONSENT_WITHDRAWN, purposes=["training"]),
        Entry(ChoiceKind.RESTRICTION_LIFTED),
        Entry(ChoiceKind.RESTRICTION),
        Entry(ChoiceKind.MARKETING_CONSENT, channel="email"),
        Entry(ChoiceKind.MARKETING_BAN, channel="email"),
    ][::turn]
    state = state_as_of(ledger, T)
    assert state.consent_withdrawn == {Purpose.TRAINING}
    assert state.consented == set(Purpose) - {Purpose.TRAINING}
    assert state.restricted == set(Purpose)
    assert state.marketing == {"email": False}


def test_a_ban_on_all_marketing_outweighs_a_consent_to_one_channel() -> None:
    later = T + timedelta(days=1)
    ledger = [Entry(ChoiceKind.MARKETING_BAN), Entry(ChoiceKind.MARKETING_CONSENT, later, channel="sms")]
    assert state_as_of(ledger, later).marketing == {"*": False, "sms": False}
