"""Files: small contents in rows, keys of sealed contents, indexes for searches; an event names its blob in a column.

Revision: 0003
Follows: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from storage.database.types import PlainText, Sealed

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_SEARCHED = ("media_type", "size", "updated_at")


def upgrade() -> None:
    op.create_table(
        "file_content",
        sa.Column("user_id", PlainText(), nullable=False),
        sa.Column("blob_key", PlainText(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "blob_key", name=op.f("pk_file_content")),
    )
    op.add_column("file", sa.Column("content_key", Sealed(), nullable=True))
    for column in _SEARCHED:
        op.create_index(op.f(f"ix_file_user_id_{column}_path"), "file", ["user_id", column, "path"], unique=False)
    op.add_column("event", sa.Column("blob_key", PlainText(), nullable=True))
    op.add_column("event", sa.Column("content_key", Sealed(), nullable=True))
    op.execute("UPDATE event SET blob_key = payload ->> 'blob_key' WHERE type = 'file.written'")
    if op.get_context().dialect.name == "postgresql":
        op.execute("UPDATE event SET payload = payload - 'blob_key' WHERE type = 'file.written'")
    else:
        op.execute("UPDATE event SET payload = json_remove(payload, '$.blob_key') WHERE type = 'file.written'")
    op.create_index(
        "ix_event_blob_key",
        "event",
        ["blob_key"],
        unique=False,
        sqlite_where=sa.text("blob_key IS NOT NULL"),
        postgresql_where=sa.text("blob_key IS NOT NULL"),
    )

    sealed = sa.text("content_key IS NOT NULL")
    for table in ("file", "event"):
        op.create_index(
            f"ix_{table}_sealed", table, ["user_id"], unique=False, sqlite_where=sealed, postgresql_where=sealed
        )


def downgrade() -> None:
    for table in ("file", "event"):
        op.drop_index(f"ix_{table}_sealed", table_name=table)
    op.drop_index("ix_event_blob_key", table_name="event")
    if op.get_context().dialect.name == "postgresql":
        op.execute(
            "UPDATE event SET payload = payload || jsonb_build_object('blob_key', blob_key) WHERE blob_key IS NOT NULL"
        )
    else:
        op.execute("UPDATE event SET payload = json_set(payload, '$.blob_key', blob_key) WHERE blob_key IS NOT NULL")
    op.drop_column("event", "content_key")
    op.drop_column("event", "blob_key")
    for column in _SEARCHED:
        op.drop_index(op.f(f"ix_file_user_id_{column}_path"), table_name="file")
    op.drop_column("file", "content_key")
    op.drop_table("file_content")
