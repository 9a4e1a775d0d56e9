"""Web hooks: an event waits to be fanned out; an endpoint has its options and breaker; a delivery has its line.

Revision: 0004
Follows: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from storage.database.types import JSONValue, PlainText, Sealed, UTCDateTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_KEPT = (
    "id",
    "user_id",
    "url",
    "secret",
    "headers",
    "event_types",
    "mode",
    "format",
    "state",
    "created_at",
    "updated_at",
)
_PARTIAL = {
    "ix_delivery_pending": (["endpoint_id", "event_seq"], "state = 'pending'"),
    "ix_delivery_line": (["endpoint_id", "line", "event_seq"], "state = 'pending'"),
    "ix_delivery_dead_line": (["endpoint_id", "line", "event_seq"], "state = 'dead'"),
    "ix_delivery_batch": (["endpoint_id", "batch_id"], "state = 'pending' AND batch_id IS NOT NULL"),
    "ix_delivery_dead": (["endpoint_id", "event_seq"], "state = 'dead'"),
}


def upgrade() -> None:
    # NULL for what is there: nothing was delivered before this revision, and no endpoint is older than its events now.
    op.add_column("event", sa.Column("to_fan_out", sa.Boolean(), nullable=True))
    to_fan_out = sa.text("to_fan_out IS NOT NULL")
    op.create_index(
        "ix_event_to_fan_out", "event", ["seq"], unique=False, sqlite_where=to_fan_out, postgresql_where=to_fan_out
    )
    _set_aside()
    op.create_table(
        "webhook_endpoint",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", PlainText(), nullable=True),
        sa.Column("url", PlainText(), nullable=False),
        sa.Column("description", PlainText(), nullable=False),
        sa.Column("secret", Sealed(), nullable=True),
        sa.Column("previous_secret", Sealed(), nullable=True),
        sa.Column("previous_secret_until", UTCDateTime(), nullable=True),
        sa.Column("headers", Sealed(), nullable=True),
        sa.Column("event_types", JSONValue(), nullable=False),
        sa.Column("mode", PlainText(), nullable=False),
        sa.Column("format", PlainText(), nullable=False),
        sa.Column("include", PlainText(), nullable=False),
        sa.Column("include_bytes", sa.BigInteger(), nullable=False),
        sa.Column("secret_names", sa.Boolean(), nullable=False),
        sa.Column("on_dead", PlainText(), nullable=False),
        sa.Column("batch_events", sa.Integer(), nullable=False),
        sa.Column("batch_bytes", sa.BigInteger(), nullable=False),
        sa.Column("batch_seconds", sa.Double(), nullable=False),
        sa.Column("state", PlainText(), nullable=False),
        sa.Column("state_reason", PlainText(), nullable=True),
        sa.Column("from_seq", sa.BigInteger(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("blocked_until", UTCDateTime(), nullable=True),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("updated_at", UTCDateTime(), nullable=False),
        sa.CheckConstraint("mode IN ('standard', 'batched')", name=op.f("ck_webhook_endpoint_mode")),
        sa.CheckConstraint(
            "format IN ('standard', 'cloudevents', 'openhands')", name=op.f("ck_webhook_endpoint_format")
        ),
        sa.CheckConstraint("include IN ('nothing', 'link', 'content')", name=op.f("ck_webhook_endpoint_include")),
        sa.CheckConstraint("on_dead IN ('skip', 'block')", name=op.f("ck_webhook_endpoint_on_dead")),
        sa.CheckConstraint("state IN ('active', 'paused', 'disabled')", name=op.f("ck_webhook_endpoint_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_endpoint")),
    )
    op.create_index(op.f("ix_webhook_endpoint_user_id"), "webhook_endpoint", ["user_id"], unique=False)
    no = "false" if op.get_context().dialect.name == "postgresql" else "0"
    _take_back(
        {
            "description": "''",
            "format": "CASE WHEN format = 'openhands' THEN format ELSE 'standard' END",
            "include": "'nothing'",
            "include_bytes": "16777216",
            "secret_names": no,
            "on_dead": "'skip'",
            "batch_events": "100",
            "batch_bytes": "1048576",
            "batch_seconds": "5.0",
            "from_seq": "(SELECT COALESCE(MAX(seq), 0) FROM event)",
            "failures": "0",
        }
    )
    op.create_table(
        "delivery",
        sa.Column("endpoint_id", sa.Uuid(), nullable=False),
        sa.Column("event_seq", sa.BigInteger(), nullable=False),
        sa.Column("line", sa.BigInteger(), nullable=False),
        sa.Column("batch_id", sa.Uuid(), nullable=True),
        sa.Column("state", PlainText(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", UTCDateTime(), nullable=False),
        sa.Column("lease_until", UTCDateTime(), nullable=True),
        sa.Column("lease_token", sa.Uuid(), nullable=True),
        sa.Column("last_status", sa.Integer(), nullable=True),
        sa.Column("last_error", PlainText(), nullable=True),
        sa.Column("updated_at", UTCDateTime(), nullable=False),
        sa.CheckConstraint("state IN ('pending', 'delivered', 'dead')", name=op.f("ck_delivery_state")),
        sa.ForeignKeyConstraint(
            ["endpoint_id"], ["webhook_endpoint.id"], name=op.f("fk_delivery_endpoint_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["event_seq"], ["event.seq"], name=op.f("fk_delivery_event_seq"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("endpoint_id", "event_seq", name=op.f("pk_delivery")),
    )
    op.create_index(op.f("ix_delivery_event_seq"), "delivery", ["event_seq"], unique=False)
    for name, (columns, condition) in _PARTIAL.items():
        where = sa.text(condition)
        op.create_index(name, "delivery", columns, unique=False, sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    _set_aside()
    op.create_table(
        "webhook_endpoint",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", PlainText(), nullable=True),
        sa.Column("url", PlainText(), nullable=False),
        sa.Column("secret", Sealed(), nullable=True),
        sa.Column("headers", Sealed(), nullable=True),
        sa.Column("event_types", JSONValue(), nullable=False),
        sa.Column("mode", PlainText(), nullable=False),
        sa.Column("format", PlainText(), nullable=False),
        sa.Column("state", PlainText(), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("updated_at", UTCDateTime(), nullable=False),
        sa.CheckConstraint("mode IN ('standard', 'batched')", name=op.f("ck_webhook_endpoint_mode")),
        sa.CheckConstraint("state IN ('active', 'paused', 'disabled')", name=op.f("ck_webhook_endpoint_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_endpoint")),
    )
    op.create_index(op.f("ix_webhook_endpoint_user_id"), "webhook_endpoint", ["user_id"], unique=False)
    _take_back({})
    op.create_table(
        "delivery",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("endpoint_id", sa.Uuid(), nullable=False),
        sa.Column("event_seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("batch_id", sa.Uuid(), nullable=True),
        sa.Column("state", PlainText(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", UTCDateTime(), nullable=False),
        sa.Column("lease_until", UTCDateTime(), nullable=True),
        sa.Column("lease_token", sa.Uuid(), nullable=True),
        sa.Column("last_status", sa.Integer(), nullable=True),
        sa.Column("last_error", PlainText(), nullable=True),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("updated_at", UTCDateTime(), nullable=False),
        sa.CheckConstraint("state IN ('pending', 'delivered', 'dead')", name=op.f("ck_delivery_state")),
        sa.ForeignKeyConstraint(
            ["endpoint_id"], ["webhook_endpoint.id"], name=op.f("fk_delivery_endpoint_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["event_seq"], ["event.seq"], name=op.f("fk_delivery_event_seq"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_delivery")),
        sa.UniqueConstraint("endpoint_id", "event_seq", name=op.f("uq_delivery_endpoint_id_event_seq")),
    )
    op.create_index(op.f("ix_delivery_event_seq"), "delivery", ["event_seq"], unique=False)
    op.create_index(op.f("ix_delivery_state_next_at"), "delivery", ["state", "next_at"], unique=False)
    op.drop_index("ix_event_to_fan_out", table_name="event")
    op.drop_column("event", "to_fan_out")


def _set_aside() -> None:
    """Drop both tables and keep the endpoints' rows; how far deliveries had come means nothing to the other schema."""
    op.execute("CREATE TABLE webhook_endpoint_before AS SELECT * FROM webhook_endpoint")
    op.drop_table("delivery")
    op.drop_table("webhook_endpoint")


def _take_back(others: dict[str, str]) -> None:
    """The endpoints' rows in the new table: what both have, and what `others` says."""
    values = dict(zip(_KEPT, _KEPT, strict=True)) | others
    columns, expressions = ", ".join(values), ", ".join(values.values())
    op.execute(f"INSERT INTO webhook_endpoint ({columns}) SELECT {expressions} FROM webhook_endpoint_before")  # noqa: S608
    op.drop_table("webhook_endpoint_before")
