"""Every table, by domain. Importing this package registers them all on the metadata."""

from recorder.catalogue.base import Base
from recorder.catalogue.tables.accounts import (
    Account,
    ApiToken,
    Approval,
    LoginFailure,
    RoleGrant,
    WebSession,
)
from recorder.catalogue.tables.archive import MovedObject
from recorder.catalogue.tables.assessments import Assessment, AssessmentTotal
from recorder.catalogue.tables.audit import AuditCheckpoint, AuditEntry, AuditNode
from recorder.catalogue.tables.completeness import ExpectedRecording, SourceHour
from recorder.catalogue.tables.disposition import (
    Certificate,
    Erasure,
    ErasureItem,
    Hold,
    Matter,
    Restriction,
    ScheduleVersion,
    Tombstone,
)
from recorder.catalogue.tables.drift import Finding, ScrubCursor
from recorder.catalogue.tables.fetches import Fetch, FetchState, SourceSecret
from recorder.catalogue.tables.jobs import Job
from recorder.catalogue.tables.outgoing import WebhookEndpoint, WebhookMessage
from recorder.catalogue.tables.parties import (
    BlindIndex,
    Choice,
    Contact,
    Controller,
    Customer,
    CustomerBatch,
    SharedLine,
    Subject,
)
from recorder.catalogue.tables.recordings import (
    Call,
    CallLink,
    IdempotencyKey,
    Listen,
    ListeningLink,
    Recording,
    RecordingAgent,
    RecordingLink,
    RecordingTag,
    Source,
    StoredObjectRow,
)
from recorder.catalogue.tables.registers import (
    Breach,
    BreachRecording,
    Disclosure,
    DisclosureRecording,
    RegisteredRecipient,
)
from recorder.catalogue.tables.rights import (
    PackageRecording,
    RequestItem,
    RequestNotice,
    RequestPackage,
    RightsRequest,
)
from recorder.catalogue.tables.spool import SpooledReceipt, SpoolState
from recorder.catalogue.tables.uploads import ResumableUpload, UploadKind, UploadPiece, UploadState

__all__ = [
    "Account",
    "ApiToken",
    "Approval",
    "Assessment",
    "AssessmentTotal",
    "AuditCheckpoint",
    "AuditEntry",
    "AuditNode",
    "Base",
    "BlindIndex",
    "Breach",
    "BreachRecording",
    "Call",
    "CallLink",
    "Certificate",
    "Choice",
    "Contact",
    "Controller",
    "Customer",
    "CustomerBatch",
    "Disclosure",
    "DisclosureRecording",
    "Erasure",
    "ErasureItem",
    "ExpectedRecording",
    "Fetch",
    "FetchState",
    "Finding",
    "Hold",
    "IdempotencyKey",
    "Job",
    "Listen",
    "ListeningLink",
    "LoginFailure",
    "Matter",
    "MovedObject",
    "PackageRecording",
    "Recording",
    "RecordingAgent",
    "RecordingLink",
    "RecordingTag",
    "RegisteredRecipient",
    "RequestItem",
    "RequestNotice",
    "RequestPackage",
    "Restriction",
    "ResumableUpload",
    "RightsRequest",
    "RoleGrant",
    "ScheduleVersion",
    "ScrubCursor",
    "SharedLine",
    "Source",
    "SourceHour",
    "SourceSecret",
    "SpoolState",
    "SpooledReceipt",
    "StoredObjectRow",
    "Subject",
    "Tombstone",
    "UploadKind",
    "UploadPiece",
    "UploadState",
    "WebSession",
    "WebhookEndpoint",
    "WebhookMessage",
]
