"""Keeps the latest events of each user and removes older ones, some at a time; what is waited for stays."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final

from sqlalchemy import BigInteger, Integer, bindparam, delete, func, select

from storage.database.pace import Pace
from storage.database.statement import Statement
from storage.database.types import PlainText, UTCDateTime
from storage.database.unit import Unit, execute
from storage.webhooks.queue.statements import EVENT, PRUNABLE

if TYPE_CHECKING:
    from storage.database.database import Database

_OF_USER: Final = EVENT.c.user_id == bindparam("user_id")
_UP_TO: Final = EVENT.c.seq <= bindparam("last", type_=BigInteger)

NEXT_OWNER: Final = Statement(
    "event.next_owner",
    select(EVENT.c.user_id)
    .where(EVENT.c.user_id > bindparam("after", type_=PlainText()))
    .order_by(EVENT.c.user_id)
    .limit(1),
)
BEYOND: Final = Statement(
    "event.beyond_cap",
    select(EVENT.c.seq).where(_OF_USER).order_by(EVENT.c.seq.desc()).limit(1).offset(bindparam("kept", type_=Integer)),
)
"""The latest event that is not among the latest `kept` ones: reads as many entries of the index."""

NEXT: Final = Statement(
    "event.next_of_user",
    select(EVENT.c.seq)
    .where(_OF_USER, EVENT.c.seq > bindparam("after", type_=BigInteger), _UP_TO)
    .order_by(EVENT.c.seq)
    .limit(bindparam("limit", type_=Integer)),
)
PRUNE_OF_USER: Final = Statement(
    # It looks at every endpoint once for some hundred events, as report.webhook_prune does.
    "report.webhook_prune_of_user",
    delete(EVENT)
    .where(_OF_USER, EVENT.c.seq > bindparam("after", type_=BigInteger), _UP_TO, PRUNABLE)
    .returning(EVENT.c.seq),
)
COUNT_OLD: Final = Statement(
    "report.webhook_prunable",
    select(func.count())
    .select_from(EVENT)
    .where(EVENT.c.created_at < bindparam("before", type_=UTCDateTime()), PRUNABLE),
)
COUNT_OLD_OF_USER: Final = Statement(
    "report.webhook_prunable_of_user",
    select(func.count())
    .select_from(EVENT)
    .where(_OF_USER, _UP_TO, EVENT.c.created_at >= bindparam("before", type_=UTCDateTime()), PRUNABLE),
)


async def owners(database: Database, only: str | None) -> list[str]:
    """Everyone who has events, by id; or just `only`, in stored form."""
    if only is not None:
        return [only]
    found: list[str] = []
    while rows := await database.read(NEXT_OWNER, {"after": found[-1] if found else ""}):
        found.append(str(rows[0][0]))
    return found


async def beyond(database: Database, user_id: str, kept: int) -> int | None:
    """`seq` of the latest event of a user that is not among the latest `kept`; None if there is none."""
    rows = await database.read(BEYOND, {"user_id": user_id, "kept": kept}, scan=True)
    return int(rows[0][0]) if rows else None


async def count_old(database: Database, before: datetime) -> int:
    """How many events `prune` would remove. Reads the whole table."""
    ((number,),) = await database.read(COUNT_OLD, {"before": before}, scan=True)
    return int(number)


async def count_beyond(database: Database, user_id: str, kept: int, since: datetime) -> int:
    """How many events of a user `prune_beyond` would remove, of those that happened at `since` or later."""
    last = await beyond(database, user_id, kept)
    if last is None:
        return 0
    parameters = {"user_id": user_id, "last": last, "before": since}
    ((number,),) = await database.read(COUNT_OLD_OF_USER, parameters, scan=True)
    return int(number)


async def prune_beyond(database: Database, user_id: str, kept: int) -> int:
    """Remove a user's events but for the latest `kept` and those that are waited for; returns how many.

    Can be interrupted at any moment, and two at once do no harm.

    Args:
        database: where.
        user_id: whose, in stored form.
        kept: how many stay.

    Raises:
        DatabaseError: the database cannot be written; some may have gone.
    """
    last = await beyond(database, user_id, kept)
    pace = Pace()
    removed = after = 0
    while last is not None:
        parameters = {"user_id": user_id, "after": after, "last": last, "limit": pace.at_once}
        rows = await database.read(NEXT, parameters)
        if not rows:
            break
        until = int(rows[-1][0])
        removed += await database.run(pace.timed(lambda after=after, until=until: _prune(user_id, after, until)))  # type: ignore[misc]
        after = until
        await pace.rest()
    return removed


def _prune(user_id: str, after: int, until: int) -> Unit[int]:
    return len((yield from execute(PRUNE_OF_USER, user_id=user_id, after=after, last=until)))
