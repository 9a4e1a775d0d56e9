"""One month at a glance: what it cost, by day and by model, and how what is stored and delivered stands now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Final

from storage.clock import now
from storage.errors import InvalidInput
from storage.reporting.figures import Figures, Named, Usage, last_day, read_figures, usage_between

if TYPE_CHECKING:
    from storage.database.database import Database

TOP_REPOSITORIES: Final = 5
"""How many repositories a summary names."""


@dataclass(frozen=True, slots=True)
class DayCost:
    """The conversations that began on one day."""

    day: date
    conversations: int
    cost_usd: float


@dataclass(frozen=True, slots=True)
class Summary:
    """One month of one user, or of everybody.

    Attributes:
        month: its first day, UTC.
        so_far: whether it is the present month.
        user_id: whose, in stored form; None is everybody.
        usage: of the conversations that began in it.
        previous: of those that began in the month before.
        by_day: each day of the month, today the last of the present one.
        by_model: the dearest first.
        top_repositories: the dearest first, TOP_REPOSITORIES at most.
        files: how many are stored now, and `bytes` how large they are together.
        new_files: how many of them were first written in the month, and `new_bytes` how large these are.
        webhooks: how many endpoints there are; `unwell_webhooks` are not active or have dead events.
        pending: deliveries that wait; `dead` are those that were given up.
    """

    month: date
    so_far: bool
    user_id: str | None
    usage: Usage
    previous: Usage
    by_day: tuple[DayCost, ...]
    by_model: tuple[Named, ...]
    top_repositories: tuple[Named, ...]
    files: int
    bytes: int
    new_files: int
    new_bytes: int
    webhooks: int
    unwell_webhooks: int
    pending: int
    dead: int


async def read_summary(
    database: Database, user_id: str | None = None, *, month: date | None = None, today: date | None = None
) -> Summary:
    """Add up one month. Reads whole tables.

    Args:
        database: where.
        user_id: the user; None is everybody (and not the local user).
        month: any day of it; None is the last one in which a conversation began, and the present one if there is none.
        today: the present day (UTC), for the days that are still to come; by the clock if None.

    Raises:
        InvalidInput: a user id that cannot be one.
        DatabaseError: the database failed.
    """
    today = now().date() if today is None else today
    if month is None:
        month = await last_day(database, user_id) or today
    first = month.replace(day=1)
    last = _last_of(first)
    figures = await read_figures(database, user_id, since=first, until=last, top=TOP_REPOSITORIES)
    before = first - timedelta(days=1)
    previous = await usage_between(database, user_id, since=before.replace(day=1), until=before)
    return _summary(figures, previous, first, min(last, today) if first <= today else last, today)


def parse_month(text: str) -> date:
    """The first day of a month such as `2025-11`.

    Raises:
        InvalidInput: it is none.
    """
    try:
        return date.fromisoformat(f"{text}-01")
    except ValueError:
        raise InvalidInput(f"{text!r} is no month; write it as 2025-11") from None


def _summary(figures: Figures, previous: Usage, first: date, until: date, today: date) -> Summary:
    days = {first + timedelta(days=number): Usage() for number in range((until - first).days + 1)}
    for one in figures.by_day:
        days[one.day] = days.get(one.day, Usage()) + one.usage
    new = [day for day in figures.storage if first <= day.day <= _last_of(first)]
    return Summary(
        month=first,
        so_far=first == today.replace(day=1),
        user_id=figures.user_id,
        usage=figures.usage,
        previous=previous,
        by_day=tuple(DayCost(day, used.conversations, used.cost_usd) for day, used in sorted(days.items())),
        by_model=figures.models,
        top_repositories=figures.repositories,
        files=sum(day.files for day in figures.storage),
        bytes=sum(day.bytes for day in figures.storage),
        new_files=sum(day.files for day in new),
        new_bytes=sum(day.bytes for day in new),
        webhooks=figures.webhook_count,
        unwell_webhooks=figures.unwell_webhooks,
        pending=figures.pending,
        dead=figures.dead,
    )


def _last_of(first: date) -> date:
    years, month = divmod(first.month, 12)
    if first.year + years > date.max.year:
        return date.max
    return date(first.year + years, month + 1, 1) - timedelta(days=1)
