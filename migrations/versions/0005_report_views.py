"""The report views. They are made after every migration (see env.py), so this revision says only that there are any.

A change to a view needs a revision like this one, so that databases which have the old one are migrated.

Revision: 0005
Follows: 0004
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

VIEWS = "0a52f8308de81319c7c88e5f5508b9e7"
"""Fingerprint of the views that this revision comes with; a test holds that of the newest revision against the code."""


def upgrade() -> None:
    """Nothing; the views follow."""


def downgrade() -> None:
    """The views are gone already, and what questions were asked through on PostgreSQL goes after them.

    Its roles stay: other databases of the server may have them too.
    """
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP FUNCTION IF EXISTS storage_report_query(text, bigint)")
        op.execute("DROP FUNCTION IF EXISTS storage_report_query_of_user(text, bigint)")
