"""Find the few conversations of a user that have secret fields without reading all of that user's conversations.

Revision: 0002
Follows: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_conversation_sealed",
        "conversation",
        ["user_id"],
        unique=False,
        sqlite_where=sa.text("sealed_extra IS NOT NULL"),
        postgresql_where=sa.text("sealed_extra IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_conversation_sealed", table_name="conversation")
