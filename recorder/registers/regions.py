"""Where personal data may be: the EU and the EEA, or elsewhere under a safeguard (GDPR art. 44 to 49)."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from recorder.errors import ConfigurationError, Forbidden
from recorder.settings import Settings

# ISO 3166-1 alpha-2. The EEA is the EU with Iceland, Liechtenstein and Norway.
EU: Final = frozenset(
    "AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK".split()  # noqa: SIM905
)
EEA: Final = EU | {"IS", "LI", "NO"}


def transfer_problem(
    country: str, safeguard: str | None, expires_at: datetime | None, now: datetime
) -> str | None:
    """Why data may not be in a country at an instant; None when it may.

    Args:
        country: ISO 3166-1 alpha-2.
        safeguard: what protects it outside the EEA, for example standard contractual clauses.
        expires_at: first instant at which the safeguard no longer holds.
        now: the instant.
    """
    if country in EEA:
        return None
    if not safeguard:
        return f"{country} is outside the EU and the EEA, and no safeguard is named"
    if expires_at is None:
        return f"{country} is outside the EU and the EEA, and its safeguard has no end date"
    if expires_at <= now:
        return f"{country} is outside the EU and the EEA, and its safeguard ended on {expires_at:%Y-%m-%d}"
    return None


def settings_problem(settings: Settings, now: datetime) -> str | None:
    """What is wrong with where the store and the keys are; None when nothing is."""
    for name, country in (
        ("RECORDER_STORE_COUNTRY", settings.store_country),
        ("RECORDER_KEY_COUNTRY", settings.key_country),
    ):
        problem = transfer_problem(
            country, settings.transfer_exception, settings.transfer_exception_until, now
        )
        if problem is not None:
            return (
                f"{name}: {problem}; give RECORDER_TRANSFER_EXCEPTION and RECORDER_TRANSFER_EXCEPTION_UNTIL"
            )
    return None


def check_regions(settings: Settings, now: datetime) -> None:
    """Refuse to run with a store or keys where data may not be.

    Raises:
        ConfigurationError: store or keys are outside the EEA without a safeguard that holds.
    """
    problem = settings_problem(settings, now)
    if problem is not None:
        raise ConfigurationError(problem)


def require_regions(settings: Settings, now: datetime) -> None:
    """Refuse a disclosure from a store, or with keys, where data may not be (any more).

    Raises:
        Forbidden: as for :func:`check_regions`; the service may have started before the safeguard ended.
    """
    problem = settings_problem(settings, now)
    if problem is not None:
        raise Forbidden(problem, reason="transfer")
