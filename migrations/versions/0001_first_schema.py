"""The whole schema of the first release.

Revision: 0001
Follows: nothing
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from storage.database.types import JSONValue, PlainText, Sealed, Sequence, UTCDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "conversation",
        sa.Column("user_id", PlainText(), nullable=False),
        sa.Column("conversation_id", PlainText(), nullable=False),
        sa.Column("title", PlainText(), nullable=True),
        sa.Column("selected_repository", PlainText(), nullable=True),
        sa.Column("selected_branch", PlainText(), nullable=True),
        sa.Column("git_provider", PlainText(), nullable=True),
        sa.Column("trigger", PlainText(), nullable=True),
        sa.Column("llm_model", PlainText(), nullable=True),
        sa.Column("pr_number", JSONValue(), nullable=False),
        sa.Column("tags", JSONValue(), nullable=False),
        sa.Column("accumulated_cost", sa.Double(), nullable=False),
        sa.Column("max_budget_per_task", sa.Double(), nullable=True),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.Column("total_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cache_read_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cache_write_tokens", sa.BigInteger(), nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger(), nullable=False),
        sa.Column("context_window", sa.BigInteger(), nullable=False),
        sa.Column("per_turn_token", sa.BigInteger(), nullable=False),
        sa.Column("conversation_version", PlainText(), nullable=True),
        sa.Column("sandbox_id", PlainText(), nullable=True),
        sa.Column("parent_conversation_id", PlainText(), nullable=True),
        sa.Column("public", sa.Boolean(), nullable=True),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("last_updated_at", UTCDateTime(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("extra", JSONValue(), nullable=False),
        sa.Column("sealed_extra", Sealed(), nullable=True),
        sa.PrimaryKeyConstraint("user_id", "conversation_id", name=op.f("pk_conversation")),
        sa.UniqueConstraint("conversation_id", name=op.f("uq_conversation_conversation_id")),
    )
    op.create_index(
        "ix_conversation_cost",
        "conversation",
        ["user_id", "accumulated_cost", "conversation_id"],
        unique=False,
    )
    op.create_index(
        "ix_conversation_created", "conversation", ["user_id", "created_at", "conversation_id"], unique=False
    )
    op.create_index(
        "ix_conversation_title",
        "conversation",
        ["user_id", sa.text("substr(coalesce(title, ''), 1, 200)"), "conversation_id"],
        unique=False,
    )
    op.create_index(
        "ix_conversation_updated",
        "conversation",
        ["user_id", sa.text("coalesce(last_updated_at, created_at)"), "conversation_id"],
        unique=False,
    )
    op.create_index("ix_conversation_parent", "conversation", ["user_id", "parent_conversation_id"], unique=False)
    op.create_table(
        "custom_secret",
        sa.Column("user_id", PlainText(), nullable=False),
        sa.Column("name", PlainText(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("description", PlainText(), nullable=False),
        sa.Column("value", Sealed(), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("updated_at", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "name", name=op.f("pk_custom_secret")),
        sa.UniqueConstraint("id", name=op.f("uq_custom_secret_id")),
    )
    op.create_table(
        "event",
        sa.Column("seq", Sequence, nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", PlainText(), nullable=False),
        sa.Column("type", PlainText(), nullable=False),
        sa.Column("key", PlainText(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("payload", JSONValue(), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_event")),
        sa.UniqueConstraint("id", name=op.f("uq_event_id")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_event_user_id_seq"), "event", ["user_id", "seq"], unique=False)
    op.create_table(
        "file",
        sa.Column("user_id", PlainText(), nullable=False),
        sa.Column("path", PlainText(), nullable=False),
        sa.Column("blob_key", PlainText(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("media_type", PlainText(), nullable=True),
        sa.Column("conversation_id", PlainText(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("updated_at", UTCDateTime(), nullable=False),
        sa.CheckConstraint("size >= 0", name=op.f("ck_file_size")),
        sa.PrimaryKeyConstraint("user_id", "path", name=op.f("pk_file")),
    )
    op.create_index(op.f("ix_file_blob_key"), "file", ["blob_key"], unique=False)
    op.create_index(op.f("ix_file_user_id_conversation_id"), "file", ["user_id", "conversation_id"], unique=False)
    op.create_table(
        "key_encryption_key",
        sa.Column("kek_id", sa.LargeBinary(), nullable=False),
        sa.Column("check_value", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("retired_at", UTCDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("kek_id", name=op.f("pk_key_encryption_key")),
    )
    op.create_table(
        "provider_token",
        sa.Column("user_id", PlainText(), nullable=False),
        sa.Column("provider", PlainText(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("host", PlainText(), nullable=True),
        sa.Column("provider_user_id", PlainText(), nullable=True),
        sa.Column("token", Sealed(), nullable=True),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("updated_at", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "provider", name=op.f("pk_provider_token")),
        sa.UniqueConstraint("id", name=op.f("uq_provider_token_id")),
    )
    op.create_table(
        "settings",
        sa.Column("user_id", PlainText(), nullable=False),
        sa.Column("language", PlainText(), nullable=True),
        sa.Column("agent", PlainText(), nullable=True),
        sa.Column("max_iterations", sa.Integer(), nullable=True),
        sa.Column("security_analyzer", PlainText(), nullable=True),
        sa.Column("confirmation_mode", sa.Boolean(), nullable=True),
        sa.Column("llm_model", PlainText(), nullable=True),
        sa.Column("llm_api_key", Sealed(), nullable=True),
        sa.Column("llm_base_url", PlainText(), nullable=True),
        sa.Column("user_version", sa.Integer(), nullable=True),
        sa.Column("remote_runtime_resource_factor", sa.Integer(), nullable=True),
        sa.Column("enable_default_condenser", sa.Boolean(), nullable=False),
        sa.Column("enable_sound_notifications", sa.Boolean(), nullable=False),
        sa.Column("enable_proactive_conversation_starters", sa.Boolean(), nullable=False),
        sa.Column("enable_solvability_analysis", sa.Boolean(), nullable=False),
        sa.Column("user_consents_to_analytics", sa.Boolean(), nullable=True),
        sa.Column("sandbox_base_container_image", PlainText(), nullable=True),
        sa.Column("sandbox_runtime_container_image", PlainText(), nullable=True),
        sa.Column("mcp_config", Sealed(), nullable=True),
        sa.Column("disabled_skills", JSONValue(), nullable=True),
        sa.Column("search_api_key", Sealed(), nullable=True),
        sa.Column("sandbox_api_key", Sealed(), nullable=True),
        sa.Column("max_budget_per_task", sa.Double(), nullable=True),
        sa.Column("condenser_max_size", sa.Integer(), nullable=True),
        sa.Column("email", PlainText(), nullable=True),
        sa.Column("email_verified", sa.Boolean(), nullable=True),
        sa.Column("git_user_name", PlainText(), nullable=True),
        sa.Column("git_user_email", PlainText(), nullable=True),
        sa.Column("v1_enabled", sa.Boolean(), nullable=False),
        sa.Column("sandbox_grouping_strategy", PlainText(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("extra", JSONValue(), nullable=False),
        sa.Column("sealed_extra", Sealed(), nullable=True),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("updated_at", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_settings")),
    )
    op.create_table(
        "user_secrets",
        sa.Column("user_id", PlainText(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("extra", JSONValue(), nullable=False),
        sa.Column("sealed_extra", Sealed(), nullable=True),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("updated_at", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_user_secrets")),
    )
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
    op.create_table(
        "data_key",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", PlainText(), nullable=False),
        sa.Column("kek_id", sa.LargeBinary(), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.Column("state", PlainText(), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.CheckConstraint("state IN ('active', 'retired')", name=op.f("ck_data_key_state")),
        sa.ForeignKeyConstraint(
            ["kek_id"], ["key_encryption_key.kek_id"], name=op.f("fk_data_key_kek_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_data_key")),
    )
    op.create_index(op.f("ix_data_key_kek_id"), "data_key", ["kek_id"], unique=False)
    op.create_index(op.f("ix_data_key_user_id"), "data_key", ["user_id"], unique=False)
    op.create_index(
        "uq_data_key_active_user_id",
        "data_key",
        ["user_id"],
        unique=True,
        sqlite_where=sa.text("state = 'active'"),
        postgresql_where=sa.text("state = 'active'"),
    )
    op.create_table(
        "delivery",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("endpoint_id", sa.Uuid(), nullable=False),
        sa.Column("event_seq", Sequence, nullable=False),
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


def downgrade() -> None:
    op.drop_table("delivery")
    op.drop_table("data_key")
    op.drop_table("webhook_endpoint")
    op.drop_table("user_secrets")
    op.drop_table("settings")
    op.drop_table("provider_token")
    op.drop_table("key_encryption_key")
    op.drop_table("file")
    op.drop_table("event")
    op.drop_table("custom_secret")
    op.drop_table("conversation")
