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
    UPLOAD = "upload"  # an unfinished upload, or an order to fetch one, until it is a recording
    REQUEST = "request"  # a data subject's request, which outlives the erasure of the customer


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


class RequestChannel(StrEnum):
    """How a data subject's request came in; each of them starts the clock."""

    EMAIL = "email"
    POST = "post"
    VISIT = "visit"
    WEB = "web"
    PHONE = "phone"


class IdentityMethod(StrEnum):
    """How it was made sure that the person is who they say; never what they showed or said."""

    CUSTOMER_LOGIN = "customer_login"
    BANK_ID = "bank_id"
    MOBILE_ID = "mobile_id"
    DOCUMENT_SEEN = "document_seen"
    CALL_BACK = "call_back"
    CONTROL_QUESTIONS = "control_questions"
    KNOWN_ADDRESS = "known_address"
    POWER_OF_ATTORNEY = "power_of_attorney"


class IdentityOutcome(StrEnum):
    """What the check came to."""

    CONFIRMED = "confirmed"
    NOT_SHOWN = "not_shown"


class RequestStage(StrEnum):
    """Where a data subject's request stands as a whole."""

    PENDING = "pending"
    GRANTED = "granted"
    PARTLY_GRANTED = "partly_granted"
    REFUSED = "refused"
    NO_DATA = "no_data"
    UNDONE = "undone"


class PackageState(StrEnum):
    """Where a package of copies stands."""

    QUEUED = "queued"
    BUILDING = "building"
    READY = "ready"
    FAILED = "failed"
    EXPIRED = "expired"


class RecipientKind(StrEnum):
    """What somebody is who gets personal data."""

    PROCESSOR = "processor"
    GROUP_COMPANY = "group_company"
    RESEARCH = "research"
    AUTHORITY = "authority"
    PERSON = "person"  # the customer, or who acts for them
    OTHER = "other"


class BreachState(StrEnum):
    """Where a personal data breach stands."""

    OPEN = "open"
    NOTIFIED = "notified"
    NOT_REQUIRED = "not_required"
    CLOSED = "closed"


class WebhookState(StrEnum):
    """Where a webhook message stands."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"
