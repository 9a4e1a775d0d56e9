"""The views that reports are written against: the same names and columns on both databases, kept stable.

They are an interface: a release may add views and columns at the end; whatever else changes raises INTERFACE_VERSION.
Migrating makes them anew, so they always fit the release that has the database.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Integer, literal_column, select

from storage.reporting.views.conversations import CONVERSATION_VIEW, MODEL, REPOSITORY, USAGE_DAILY
from storage.reporting.views.happening import EVENT_DAILY, WEBHOOK
from storage.reporting.views.stored import FILE_VIEW, SECRET, STORAGE_USAGE, USER
from storage.reporting.views.view import KINDS, View, ViewColumn, columns

__all__ = ["INTERFACE_VERSION", "KINDS", "VIEWS", "View", "ViewColumn"]

INTERFACE_VERSION: Final = 1
"""What `SELECT version FROM report_interface` gives."""

VIEWS: Final = (
    View(
        "report_interface",
        "One row: which form the views have.",
        columns(("version", "integer", "goes up when something that was there is changed or removed")),
        lambda _: select(literal_column(str(INTERFACE_VERSION), Integer()).label("version")),
    ),
    CONVERSATION_VIEW,
    USAGE_DAILY,
    USER,
    MODEL,
    REPOSITORY,
    FILE_VIEW,
    STORAGE_USAGE,
    SECRET,
    WEBHOOK,
    EVENT_DAILY,
)
"""All of them. Their names begin with `report_`."""
