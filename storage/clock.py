"""The one place that asks for the time, so that every stored time is aware, in UTC and in whole microseconds."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    """The current time, aware, in UTC, with microsecond resolution."""
    return datetime.now(UTC)
