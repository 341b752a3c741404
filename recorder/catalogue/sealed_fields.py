"""Names under which personal JSON is sealed; each is bound into its ciphertext, so they never change."""

from __future__ import annotations

from typing import Final

RECORDING_METADATA: Final = "recording.metadata"
"""``recordings.sealed``: the metadata as pushed (`RecordingMetadata` as JSON), with ``_file_name``,
``_estimated`` (names of fields the service filled in) and ``_unparsed`` beside it where there are any."""

CUSTOMER_RECORD: Final = "customer.record"
"""``customers.sealed``: the current values, see `recorder.customers.records.CustomerRecord`."""

CUSTOMER_BATCH: Final = "customer.batch"
"""``customer_batches.sealed``: ``{source_ref, fields}`` as delivered."""

CONTACT_NOTE: Final = "contact.note"
"""``contacts.sealed``: ``{note, reference}``."""

MATTER_RECORD: Final = "matter.record"
"""``matters.sealed``: ``{title, notes, custodians}``, under the controller's subject."""

REQUEST_RECORD: Final = "request.record"
"""``requests.sealed``: ``{name, contact, message, note}`` of the person who asks, under the request's own
subject, so that it outlives the erasure of the customer."""

REQUEST_NOTICE: Final = "request.notice"
"""``request_notices.sealed``: ``{recipient, reference}``; a recipient may be a person. Under the request."""

RECIPIENT_NAME: Final = "recipient.name"
"""``recipients.sealed``: ``{name}`` of a recipient who is a person, under the controller's subject."""

SOURCE_SECRET: Final = "source.secret"  # noqa: S105 - the name of a field
"""``source_secrets.sealed``: ``{value}``, under the controller's subject."""

FETCH_ORDER: Final = "fetch.order"
"""``fetches.sealed``: where audio is to be fetched and what it is, under the order's own subject, which has
the order's id."""

BREACH_RECORD: Final = "breach.record"
"""``breaches.sealed``: ``{facts, effects, measures, delay, reason}``, under the controller's subject."""

WEBHOOK_ENDPOINT: Final = "webhook.endpoint"
"""``webhook_endpoints.sealed``: ``{url, secrets}``, under the controller's subject."""
