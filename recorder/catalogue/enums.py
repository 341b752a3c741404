"""Closed vocabularies of the catalogue. Values are stored; names are the field's standard terms."""

from __future__ import annotations

from enum import StrEnum


class RecordingState(StrEnum):
    """Where a recording stands. ``held`` and ``restricted`` are flags beside it."""

    STORED = "stored"
    SPOOLED = "spooled"
    QUARANTINED = "quarantined"
    ERASING = "erasing"
    ERASED = "erased"


class ObjectRole(StrEnum):
    """What a sealed object is of its recording."""

    ORIGINAL = "original"
    RENDITION = "rendition"
    REDACTED = "redacted"
    PEAKS = "peaks"


class SubjectKind(StrEnum):
    """Whose key a subject key is."""

    CUSTOMER = "customer"
    UNLINKED = "unlinked"
    STAFF = "staff"
    CONTROLLER = "controller"


class LinkRole(StrEnum):
    """How a customer hangs on a recording; the principal's key wraps the data keys."""

    PRINCIPAL = "principal"
    REFERENCE = "reference"
    CANDIDATE = "candidate"


class DataSource(StrEnum):
    """Where a customer datum came from (the register's regular sources)."""

    REGISTRATION = "registration"
    CALL = "call"
    RELATIVE = "relative"
    PUBLIC_REGISTER = "public_register"
    CREDIT_REGISTER = "credit_register"


class LawfulBasis(StrEnum):
    """Why the processing is lawful (GDPR art. 6, in the register's words)."""

    CUSTOMER_RELATIONSHIP = "customer_relationship"
    CONSENT = "consent"
    ASSIGNMENT = "assignment"
    OBJECTIVE_CONNECTION = "objective_connection"
    STATUTORY_OBLIGATION = "statutory_obligation"


class Direction(StrEnum):
    """Who called whom, seen from the contact centre."""

    INBOUND = "inbound"
    OUTBOUND = "outbound"
    INTERNAL = "internal"


class ContactKind(StrEnum):
    """A contact with a customer; only service contacts move ``last_contact``."""

    CALL = "call"
    REGISTRATION = "registration"
    ORDER = "order"
    VISIT = "visit"
    SERVICE = "service"
    PRIVACY_REQUEST = "privacy_request"
    MAILING = "mailing"

    @property
    def counts(self) -> bool:
        """Whether it moves the customer's last contact."""
        return self not in {ContactKind.PRIVACY_REQUEST, ContactKind.MAILING}


class ChoiceKind(StrEnum):
    """An entry of the choices ledger."""

    CONSENT = "consent"
    CONSENT_WITHDRAWN = "consent_withdrawn"
    OBJECTION = "objection"
    OBJECTION_WITHDRAWN = "objection_withdrawn"
    RESTRICTION = "restriction"
    RESTRICTION_LIFTED = "restriction_lifted"
    MARKETING_BAN = "marketing_ban"
    MARKETING_CONSENT = "marketing_consent"


class Role(StrEnum):
    """What a person or an API client is here to do."""

    CRM = "crm"
    AGENT = "agent"
    TRAINER = "trainer"
    QUALITY = "quality"
    LEGAL = "legal"
    PRIVACY = "privacy"
    OPERATOR = "operator"
    AUDITOR = "auditor"
    TELEPHONY = "telephony"


class ScopeKind(StrEnum):
    """How much of a controller's calls a grant reaches."""

    OWN = "own"
    TEAM = "team"
    QUEUE = "queue"
    CONTROLLER = "controller"


class ErasureGround(StrEnum):
    """Why a recording is erased."""

    REQUEST = "request"
    RELATIONSHIP_ENDED = "relationship_ended"
    RETENTION = "retention"
    COURT_ORDER = "court_order"
    CARD_SECURITY = "card_security"


class JobState(StrEnum):
    """Where background work stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class ApprovalState(StrEnum):
    """Where a two-person step stands."""

    PENDING = "pending"
    APPROVED = "approved"
    REFUSED = "refused"
    USED = "used"
    EXPIRED = "expired"
