"""Telephony and the further registers

Revision: 0002
Follows: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "moved_objects",
        sa.Column("target", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("version_id", sa.String(length=200), nullable=True),
        sa.Column("size", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("verified_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("target", "key", name=op.f("pk_moved_objects")),
    )
    op.create_table(
        "spool_states",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("items", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("size", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("oldest_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("damaged", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("epochs", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("told_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_spool_states")),
    )
    op.create_table(
        "assessment_totals",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("controller_id", sa.Uuid(), nullable=False),
        sa.Column("month", sa.String(length=7), nullable=False),
        sa.Column("queue", sa.String(length=100), nullable=True),
        sa.Column("form", sa.String(length=64), nullable=False),
        sa.Column("count", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("points", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("out_of", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.ForeignKeyConstraint(
            ["controller_id"], ["controllers.id"], name=op.f("fk_assessment_totals_controller_id_controllers")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_assessment_totals")),
    )
    with op.batch_alter_table("assessment_totals", schema=None) as batch_op:
        batch_op.create_index("ix_assessment_totals_month", ["controller_id", "month"], unique=False)

    op.create_table(
        "shared_lines",
        sa.Column("controller_id", sa.Uuid(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=120), nullable=False),
        sa.ForeignKeyConstraint(
            ["controller_id"], ["controllers.id"], name=op.f("fk_shared_lines_controller_id_controllers")
        ),
        sa.PrimaryKeyConstraint("controller_id", "digest", name=op.f("pk_shared_lines")),
    )
    op.create_table(
        "webhook_endpoints",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("controller_id", sa.Uuid(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("label", sa.String(length=64), nullable=False),
        sa.Column("events", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("position", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("disabled_reason", sa.String(length=40), nullable=True),
        sa.Column("previous_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=120), nullable=False),
        sa.Column("removed_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["controller_id"], ["controllers.id"], name=op.f("fk_webhook_endpoints_controller_id_controllers")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_endpoints")),
    )
    with op.batch_alter_table("webhook_endpoints", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_webhook_endpoints_controller_id"), ["controller_id"], unique=False
        )

    op.create_table(
        "fetches",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("controller_id", sa.Uuid(), nullable=False),
        sa.Column("source_id", sa.Uuid(), nullable=False),
        sa.Column("identity", sa.LargeBinary(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column(
            "state",
            sa.Enum("waiting", "done", "failed", name="fetchstate", native_enum=False, length=40),
            nullable=False,
        ),
        sa.Column("attempts", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("error", sa.String(length=60), nullable=True),
        sa.Column("request_id", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("give_up_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("recording_id", sa.Uuid(), nullable=True),
        sa.ForeignKeyConstraint(
            ["controller_id"], ["controllers.id"], name=op.f("fk_fetches_controller_id_controllers")
        ),
        sa.ForeignKeyConstraint(["source_id"], ["sources.id"], name=op.f("fk_fetches_source_id_sources")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fetches")),
        sa.UniqueConstraint("source_id", "identity", name=op.f("uq_fetches_source_id_identity")),
    )
    with op.batch_alter_table("fetches", schema=None) as batch_op:
        batch_op.create_index("ix_fetches_due", ["state", "due_at"], unique=False)

    op.create_table(
        "resumable_uploads",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("controller_id", sa.Uuid(), nullable=False),
        sa.Column("source_id", sa.Uuid(), nullable=False),
        sa.Column("subject_id", sa.Uuid(), nullable=True),
        sa.Column("identity", sa.LargeBinary(), nullable=True),
        sa.Column(
            "kind",
            sa.Enum("whole", "partial", "final", name="uploadkind", native_enum=False, length=40),
            nullable=False,
        ),
        sa.Column(
            "state",
            sa.Enum(
                "open",
                "finishing",
                "done",
                "refused",
                "ended",
                name="uploadstate",
                native_enum=False,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("length", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("received", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("parts", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("holder", sa.String(length=120), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("recording_id", sa.Uuid(), nullable=True),
        sa.Column("problem", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["controller_id"], ["controllers.id"], name=op.f("fk_resumable_uploads_controller_id_controllers")
        ),
        sa.ForeignKeyConstraint(
            ["source_id"], ["sources.id"], name=op.f("fk_resumable_uploads_source_id_sources")
        ),
        sa.ForeignKeyConstraint(
            ["subject_id"], ["subjects.id"], name=op.f("fk_resumable_uploads_subject_id_subjects")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_resumable_uploads")),
    )
    with op.batch_alter_table("resumable_uploads", schema=None) as batch_op:
        batch_op.create_index("ix_resumable_uploads_identity", ["source_id", "identity"], unique=False)
        batch_op.create_index(batch_op.f("ix_resumable_uploads_recording_id"), ["recording_id"], unique=False)
        batch_op.create_index("ix_resumable_uploads_source", ["source_id", "state"], unique=False)
        batch_op.create_index("ix_resumable_uploads_state", ["state", "expires_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_resumable_uploads_subject_id"), ["subject_id"], unique=False)

    op.create_table(
        "source_hours",
        sa.Column("source_id", sa.Uuid(), nullable=False),
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("controller_id", sa.Uuid(), nullable=False),
        sa.Column("received", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("missing", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("expected", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("basis", sa.String(length=10), nullable=True),
        sa.Column("gap", sa.Boolean(), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["controller_id"], ["controllers.id"], name=op.f("fk_source_hours_controller_id_controllers")
        ),
        sa.ForeignKeyConstraint(
            ["source_id"], ["sources.id"], name=op.f("fk_source_hours_source_id_sources")
        ),
        sa.PrimaryKeyConstraint("source_id", "hour", name=op.f("pk_source_hours")),
    )
    with op.batch_alter_table("source_hours", schema=None) as batch_op:
        batch_op.create_index(
            "ix_source_hours_gaps",
            ["source_id", "hour"],
            unique=False,
            sqlite_where=sa.text("gap"),
            postgresql_where=sa.text("gap"),
        )
        batch_op.create_index("ix_source_hours_listing", ["controller_id", "hour"], unique=False)

    op.create_table(
        "source_secrets",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("source_id", sa.Uuid(), nullable=False),
        sa.Column("controller_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["controller_id"], ["controllers.id"], name=op.f("fk_source_secrets_controller_id_controllers")
        ),
        sa.ForeignKeyConstraint(
            ["source_id"], ["sources.id"], name=op.f("fk_source_secrets_source_id_sources")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_source_secrets")),
        sa.UniqueConstraint("source_id", "name", name=op.f("uq_source_secrets_source_id_name")),
    )
    op.create_table(
        "webhook_messages",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("endpoint_id", sa.Uuid(), nullable=False),
        sa.Column("entry_id", sa.Uuid(), nullable=False),
        sa.Column("type", sa.String(length=60), nullable=False),
        sa.Column("payload", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column(
            "state",
            sa.Enum("pending", "delivered", "dead", name="webhookstate", native_enum=False, length=40),
            nullable=False,
        ),
        sa.Column("attempts", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_status", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("last_error", sa.String(length=40), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["endpoint_id"],
            ["webhook_endpoints.id"],
            name=op.f("fk_webhook_messages_endpoint_id_webhook_endpoints"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_messages")),
        sa.UniqueConstraint("endpoint_id", "entry_id", name=op.f("uq_webhook_messages_endpoint_id_entry_id")),
    )
    with op.batch_alter_table("webhook_messages", schema=None) as batch_op:
        batch_op.create_index("ix_webhook_messages_due", ["state", "not_before"], unique=False)
        batch_op.create_index("ix_webhook_messages_listing", ["endpoint_id", "created_at"], unique=False)

    op.create_table(
        "call_links",
        sa.Column("call_id", sa.Uuid(), nullable=False),
        sa.Column("other", sa.LargeBinary(), nullable=False),
        sa.Column("source_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["call_id"], ["calls.id"], name=op.f("fk_call_links_call_id_calls")),
        sa.ForeignKeyConstraint(["source_id"], ["sources.id"], name=op.f("fk_call_links_source_id_sources")),
        sa.PrimaryKeyConstraint("call_id", "other", name=op.f("pk_call_links")),
    )
    with op.batch_alter_table("call_links", schema=None) as batch_op:
        batch_op.create_index("ix_call_links_other", ["source_id", "other"], unique=False)

    op.create_table(
        "upload_pieces",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("upload_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("key", sa.String(length=120), nullable=False),
        sa.Column("version_id", sa.String(length=200), nullable=True),
        sa.Column("wrapped_key", sa.LargeBinary(), nullable=True),
        sa.Column("size", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("sealed_size", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("header", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["upload_id"], ["resumable_uploads.id"], name=op.f("fk_upload_pieces_upload_id_resumable_uploads")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_upload_pieces")),
        sa.UniqueConstraint("key", name=op.f("uq_upload_pieces_key")),
        sa.UniqueConstraint("upload_id", "position", name=op.f("uq_upload_pieces_upload_id_position")),
    )
    op.create_table(
        "assessments",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("controller_id", sa.Uuid(), nullable=False),
        sa.Column("recording_id", sa.Uuid(), nullable=False),
        sa.Column("assessor", sa.String(length=120), nullable=False),
        sa.Column("agent", sa.String(length=64), nullable=False),
        sa.Column("form", sa.String(length=64), nullable=False),
        sa.Column("points", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("out_of", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("given_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["controller_id"], ["controllers.id"], name=op.f("fk_assessments_controller_id_controllers")
        ),
        sa.ForeignKeyConstraint(
            ["recording_id"], ["recordings.id"], name=op.f("fk_assessments_recording_id_recordings")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_assessments")),
    )
    with op.batch_alter_table("assessments", schema=None) as batch_op:
        batch_op.create_index("ix_assessments_agent", ["controller_id", "agent"], unique=False)
        batch_op.create_index(batch_op.f("ix_assessments_assessor"), ["assessor"], unique=False)
        batch_op.create_index(batch_op.f("ix_assessments_recording_id"), ["recording_id"], unique=False)

    op.create_table(
        "expected_recordings",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("controller_id", sa.Uuid(), nullable=False),
        sa.Column("source_id", sa.Uuid(), nullable=False),
        sa.Column("identity", sa.LargeBinary(), nullable=False),
        sa.Column("call_identity", sa.LargeBinary(), nullable=False),
        sa.Column("outcome", sa.String(length=20), nullable=False),
        sa.Column("code", sa.String(length=40), nullable=True),
        sa.Column("told_by", sa.String(length=20), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("duration_ms", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("recording_id", sa.Uuid(), nullable=True),
        sa.ForeignKeyConstraint(
            ["controller_id"],
            ["controllers.id"],
            name=op.f("fk_expected_recordings_controller_id_controllers"),
        ),
        sa.ForeignKeyConstraint(
            ["recording_id"], ["recordings.id"], name=op.f("fk_expected_recordings_recording_id_recordings")
        ),
        sa.ForeignKeyConstraint(
            ["source_id"], ["sources.id"], name=op.f("fk_expected_recordings_source_id_sources")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_expected_recordings")),
        sa.UniqueConstraint("source_id", "identity", name=op.f("uq_expected_recordings_source_id_identity")),
    )
    with op.batch_alter_table("expected_recordings", schema=None) as batch_op:
        batch_op.create_index(
            "ix_expected_recordings_open", ["controller_id", "outcome", "started_at"], unique=False
        )

    op.create_table(
        "spooled_receipts",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("controller_id", sa.Uuid(), nullable=False),
        sa.Column("source_id", sa.Uuid(), nullable=False),
        sa.Column("outcome", sa.String(length=20), nullable=False),
        sa.Column("recording_id", sa.Uuid(), nullable=True),
        sa.Column("certificate_id", sa.Uuid(), nullable=True),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("drained_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["controller_id"], ["controllers.id"], name=op.f("fk_spooled_receipts_controller_id_controllers")
        ),
        sa.ForeignKeyConstraint(
            ["recording_id"], ["recordings.id"], name=op.f("fk_spooled_receipts_recording_id_recordings")
        ),
        sa.ForeignKeyConstraint(
            ["source_id"], ["sources.id"], name=op.f("fk_spooled_receipts_source_id_sources")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_spooled_receipts")),
    )
    with op.batch_alter_table("api_tokens", schema=None) as batch_op:
        batch_op.add_column(sa.Column("issued_by", sa.String(length=120), nullable=True))

    with op.batch_alter_table("breaches", schema=None) as batch_op:
        batch_op.add_column(sa.Column("reminded", sa.String(length=20), nullable=True))

    with op.batch_alter_table("contacts", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_contacts_recording_id"), ["recording_id"], unique=False)

    with op.batch_alter_table("erasure_items", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_erasure_items_recording_id"), ["recording_id"], unique=False)

    with op.batch_alter_table("idempotency_keys", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_idempotency_keys_recording_id"), ["recording_id"], unique=False)

    with op.batch_alter_table("recording_links", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("confidence", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True)
        )

    with op.batch_alter_table("recordings", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("part", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True)
        )

    with op.batch_alter_table("requests", schema=None) as batch_op:
        batch_op.add_column(sa.Column("replied_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("replied_by", sa.String(length=120), nullable=True))

    with op.batch_alter_table("tombstones", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_tombstones_recording_id"), ["recording_id"], unique=False)



def downgrade() -> None:
    with op.batch_alter_table("tombstones", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_tombstones_recording_id"))

    with op.batch_alter_table("requests", schema=None) as batch_op:
        batch_op.drop_column("replied_by")
        batch_op.drop_column("replied_at")

    with op.batch_alter_table("recordings", schema=None) as batch_op:
        batch_op.drop_column("part")

    with op.batch_alter_table("recording_links", schema=None) as batch_op:
        batch_op.drop_column("confidence")

    with op.batch_alter_table("idempotency_keys", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_idempotency_keys_recording_id"))

    with op.batch_alter_table("erasure_items", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_erasure_items_recording_id"))

    with op.batch_alter_table("contacts", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_contacts_recording_id"))

    with op.batch_alter_table("breaches", schema=None) as batch_op:
        batch_op.drop_column("reminded")

    with op.batch_alter_table("api_tokens", schema=None) as batch_op:
        batch_op.drop_column("issued_by")

    op.drop_table("spooled_receipts")
    with op.batch_alter_table("expected_recordings", schema=None) as batch_op:
        batch_op.drop_index("ix_expected_recordings_open")

    op.drop_table("expected_recordings")
    with op.batch_alter_table("assessments", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_assessments_recording_id"))
        batch_op.drop_index(batch_op.f("ix_assessments_assessor"))
        batch_op.drop_index("ix_assessments_agent")

    op.drop_table("assessments")
    op.drop_table("upload_pieces")
    with op.batch_alter_table("call_links", schema=None) as batch_op:
        batch_op.drop_index("ix_call_links_other")

    op.drop_table("call_links")
    with op.batch_alter_table("webhook_messages", schema=None) as batch_op:
        batch_op.drop_index("ix_webhook_messages_listing")
        batch_op.drop_index("ix_webhook_messages_due")

    op.drop_table("webhook_messages")
    op.drop_table("source_secrets")
    with op.batch_alter_table("source_hours", schema=None) as batch_op:
        batch_op.drop_index("ix_source_hours_listing")
        batch_op.drop_index(
            "ix_source_hours_gaps", sqlite_where=sa.text("gap"), postgresql_where=sa.text("gap")
        )

    op.drop_table("source_hours")
    with op.batch_alter_table("resumable_uploads", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_resumable_uploads_subject_id"))
        batch_op.drop_index("ix_resumable_uploads_state")
        batch_op.drop_index("ix_resumable_uploads_source")
        batch_op.drop_index(batch_op.f("ix_resumable_uploads_recording_id"))
        batch_op.drop_index("ix_resumable_uploads_identity")

    op.drop_table("resumable_uploads")
    with op.batch_alter_table("fetches", schema=None) as batch_op:
        batch_op.drop_index("ix_fetches_due")

    op.drop_table("fetches")
    with op.batch_alter_table("webhook_endpoints", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_webhook_endpoints_controller_id"))

    op.drop_table("webhook_endpoints")
    op.drop_table("shared_lines")
    with op.batch_alter_table("assessment_totals", schema=None) as batch_op:
        batch_op.drop_index("ix_assessment_totals_month")

    op.drop_table("assessment_totals")
    op.drop_table("spool_states")
    op.drop_table("moved_objects")
