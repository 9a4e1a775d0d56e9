"""The figures that the summary and the page show, read through the report views in one snapshot of the database."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Subquery, distinct, func, select

from storage.clock import now
from storage.errors import InvalidInput
from storage.identity import user_key
from storage.reporting.views.conversations import CONVERSATION_VIEW
from storage.reporting.views.expressions import total, total_usd
from storage.reporting.views.happening import EVENT_DAILY, WEBHOOK
from storage.reporting.views.stored import STORAGE_USAGE

if TYPE_CHECKING:
    from sqlmodel.ext.asyncio.session import AsyncSession

    from storage.database.database import Database

TOP: Final = 20
"""Rows of each ranking: as many as a person reads. The totals count all."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What some conversations used; tokens and US dollars, summed."""

    conversations: int = 0
    cost_usd: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cache_read_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.conversations + other.conversations,
            self.cost_usd + other.cost_usd,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.total_tokens + other.total_tokens,
            self.cache_read_tokens + other.cache_read_tokens,
        )


@dataclass(frozen=True, slots=True)
class DayUsage:
    """The conversations that began on one day and last used one model; None: none was used."""

    day: date
    model: str | None
    usage: Usage


@dataclass(frozen=True, slots=True)
class Named:
    """One line of a ranking: a model, trigger, repository or user."""

    name: str | None
    usage: Usage


@dataclass(frozen=True, slots=True)
class Dearest:
    """A conversation among the dearest."""

    user_id: str
    conversation_id: str
    title: str | None
    model: str | None
    repository: str | None
    created_day: date
    cost_usd: float
    total_tokens: int


@dataclass(frozen=True, slots=True)
class StorageDay:
    """Files first written on a day that are still stored, and their bytes."""

    day: date
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class DeliveryDay:
    """What became of the deliveries of the events of one day that are still kept."""

    day: date
    delivered: int
    pending: int
    dead: int


@dataclass(frozen=True, slots=True)
class Webhook:
    """An endpoint, by its origin alone, and how it is doing. `user_id` is None for the operator's."""

    user_id: str | None
    origin: str
    description: str | None
    state: str
    delivered: int
    pending: int
    dead: int
    last_delivered_at: datetime | None


@dataclass(frozen=True, slots=True)
class Figures:
    """What is stored, of one user or everybody.

    Attributes:
        user_id: whose, in stored form; None is everybody.
        read_at: when.
        since: the first day of conversations and events that counts; None is the first there is.
        until: the last day that counts, itself included; None is the last there is.
        usage: of all conversations between them.
        users: to how many users these belong.
        by_day: by day and model, the earliest first.
        models: all, the dearest first.
        triggers: all, the most conversations first.
        repositories: the dearest first, TOP at most; `repository_count` says how many there are.
        people: users, the dearest first, TOP at most.
        dearest: conversations, the dearest first, TOP at most.
        storage: everything that is stored now, by day, the earliest first; whatever `since` and `until` are.
        webhooks: as they are now, those with dead and waiting events first, TOP at most; `webhook_count` counts all.
        unwell_webhooks: how many are not active, or have dead events.
        pending: deliveries of all of them that wait; `dead` are those that were given up.
        deliveries: by day of the event, the earliest first.
    """

    user_id: str | None
    read_at: datetime
    since: date | None
    until: date | None
    usage: Usage
    users: int
    by_day: tuple[DayUsage, ...]
    models: tuple[Named, ...]
    triggers: tuple[Named, ...]
    repositories: tuple[Named, ...]
    repository_count: int
    people: tuple[Named, ...]
    dearest: tuple[Dearest, ...]
    storage: tuple[StorageDay, ...]
    webhooks: tuple[Webhook, ...]
    webhook_count: int
    unwell_webhooks: int
    pending: int
    dead: int
    deliveries: tuple[DeliveryDay, ...]


async def read_figures(
    database: Database,
    user_id: str | None = None,
    *,
    since: date | None = None,
    until: date | None = None,
    top: int = TOP,
) -> Figures:
    """Read what one user has, or everybody if `user_id` is None. Reads whole tables.

    Args:
        database: where.
        user_id: the user; None is everybody (and not the local user).
        since: the first day (UTC) of conversations and events that counts.
        until: the last one, itself included.
        top: the most lines of a ranking.

    Raises:
        InvalidInput: a user id that cannot be one, or `since` after `until`.
        DatabaseError: the database failed.
    """
    if since is not None and until is not None and since > until:
        raise InvalidInput(f"the first day, {since}, is after the last, {until}")
    async with database.session(read_only=True) as session:
        if database.dialect == "postgresql":
            # One snapshot for all queries, as SQLite's read transaction is.
            await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        reader = _Reader(session, None if user_id is None else user_key(user_id), since, until, top)
        return await reader.read()


async def usage_between(database: Database, user_id: str | None, *, since: date, until: date) -> Usage:
    """What the conversations used that began from one day (UTC) to another, both included.

    Raises:
        InvalidInput: a user id that cannot be one.
        DatabaseError: the database failed.
    """
    async with database.session(read_only=True) as session:
        return await _Reader(session, None if user_id is None else user_key(user_id), since, until, 0).usage()


async def last_day(database: Database, user_id: str | None = None) -> date | None:
    """The day (UTC) on which the newest conversation began; None if there is none.

    Raises:
        InvalidInput: a user id that cannot be one.
    """
    view = CONVERSATION_VIEW.select(None if user_id is None else user_key(user_id)).subquery("conversation")
    async with database.session(read_only=True) as session:
        connection = await session.connection()
        return _day((await connection.execute(select(func.max(view.c.created_day)))).scalar())


class _Reader:
    """One snapshot, asked one question after the other."""

    def __init__(
        self, session: AsyncSession, owner: str | None, since: date | None, until: date | None, top: int
    ) -> None:
        self._session = session
        self._owner = owner
        self._since = since
        self._until = until
        self._top = top
        self._conversation = CONVERSATION_VIEW.select(owner).subquery("conversation")
        c = self._conversation.c
        tokens = (c.prompt_tokens, c.completion_tokens, c.total_tokens, c.cache_read_tokens)
        self._sums = (func.count(), total_usd(c.cost_usd), *(total(column) for column in tokens))
        self._cost = self._sums[1]

    async def usage(self) -> Usage:
        [sums] = await self._of_conversations()
        return _usage(sums)

    async def read(self) -> Figures:
        c = self._conversation.c
        by_day = [
            DayUsage(_known_day(day), model, _usage(sums))
            for day, model, *sums in await self._of_conversations(c.created_day, c.model)
        ]
        by_day.sort(key=lambda one: (one.day, one.model or ""))
        models: dict[str | None, Usage] = {}
        for one in by_day:
            models[one.model] = models.get(one.model, Usage()) + one.usage
        [(users, repositories)] = await self._rows(
            self._within(
                select(func.count(distinct(c.user_id)), func.count(distinct(c.repository))),
                self._conversation,
                c.created_day,
            )
        )
        triggers = [Named(name, _usage(sums)) for name, *sums in await self._of_conversations(c.trigger)]
        webhooks = await self._webhooks()
        return Figures(
            user_id=self._owner,
            read_at=now(),
            since=self._since,
            until=self._until,
            usage=sum((usage for usage in models.values()), Usage()),
            users=users,
            by_day=tuple(by_day),
            models=tuple(sorted((Named(*pair) for pair in models.items()), key=_by_cost)),
            triggers=tuple(sorted(triggers, key=lambda one: (-one.usage.conversations, one.name or ""))),
            repositories=await self._ranking(c.repository),
            repository_count=repositories,
            people=await self._ranking(c.user_id),
            dearest=await self._dearest(),
            storage=await self._storage(),
            webhooks=tuple(webhooks[: self._top]),
            webhook_count=len(webhooks),
            unwell_webhooks=sum(1 for hook in webhooks if hook.state != "active" or hook.dead),
            pending=sum(hook.pending for hook in webhooks),
            dead=sum(hook.dead for hook in webhooks),
            deliveries=await self._deliveries(),
        )

    async def _rows(self, query: Any) -> list[Any]:
        connection = await self._session.connection()
        return list(await connection.execute(query))

    def _within(self, query: Any, view: Subquery, day: Any) -> Any:
        query = query.select_from(view)
        # ISO 8601 sorts as text does.
        if self._since is not None:
            query = query.where(day >= self._since.isoformat())
        if self._until is not None:
            query = query.where(day <= self._until.isoformat())
        return query

    async def _of_conversations(self, *by: Any) -> list[Any]:
        query = self._within(select(*by, *self._sums), self._conversation, self._conversation.c.created_day)
        return await self._rows(query.group_by(*by) if by else query)

    async def _ranking(self, by: Any) -> tuple[Named, ...]:
        query = self._within(select(by, *self._sums), self._conversation, self._conversation.c.created_day)
        query = query.where(by.is_not(None)).group_by(by).order_by(self._cost.desc(), by).limit(self._top)
        return tuple(Named(name, _usage(sums)) for name, *sums in await self._rows(query))

    async def _dearest(self) -> tuple[Dearest, ...]:
        c = self._conversation.c
        wanted = (c.user_id, c.conversation_id, c.title, c.model, c.repository, c.created_day, c.cost_usd)
        query = self._within(select(*wanted, c.total_tokens), self._conversation, c.created_day)
        query = query.order_by(c.cost_usd.desc(), c.user_id, c.conversation_id).limit(self._top)
        found = [Dearest(*row) for row in await self._rows(query)]
        return tuple(replace(one, created_day=_known_day(one.created_day)) for one in found)

    async def _storage(self) -> tuple[StorageDay, ...]:
        view = STORAGE_USAGE.select(self._owner).subquery("storage")
        sums = (total(view.c.files), total(view.c.bytes))
        rows = await self._rows(select(view.c.day, *sums).group_by(view.c.day).order_by(view.c.day))
        return tuple(StorageDay(_known_day(day), int(files), int(size)) for day, files, size in rows)

    async def _webhooks(self) -> list[Webhook]:
        view = WEBHOOK.select(self._owner).subquery("webhook")
        c = view.c
        wanted = (c.user_id, c.origin, c.description, c.state, c.delivered, c.pending, c.dead, c.last_delivered_at)
        query = select(*wanted).order_by(c.dead.desc(), c.pending.desc(), c.delivered.desc(), c.origin, c.webhook_id)
        found = [Webhook(*row) for row in await self._rows(query)]
        return [replace(hook, last_delivered_at=_moment(hook.last_delivered_at)) for hook in found]

    async def _deliveries(self) -> tuple[DeliveryDay, ...]:
        view = EVENT_DAILY.select(self._owner).subquery("event")
        sums = tuple(total(view.c[state]) for state in ("delivered", "pending", "dead"))
        query = self._within(select(view.c.day, *sums), view, view.c.day).where(view.c.deliveries > 0)
        rows = await self._rows(query.group_by(view.c.day).order_by(view.c.day))
        return tuple(DeliveryDay(_known_day(day), *map(int, counts)) for day, *counts in rows)


def _usage(sums: list[Any]) -> Usage:
    conversations, cost, *tokens = sums
    return Usage(int(conversations), float(cost), *(int(number) for number in tokens))


def _by_cost(line: Named) -> tuple[float, int, str]:
    return -line.usage.cost_usd, -line.usage.conversations, line.name or ""


def _day(text: str | None) -> date | None:
    return None if text is None else date.fromisoformat(text)


def _known_day(text: Any) -> date:
    return date.fromisoformat(text)


def _moment(value: Any) -> datetime | None:
    """A view's time: text on SQLite, itself on PostgreSQL."""
    return datetime.fromisoformat(value) if isinstance(value, str) else value
