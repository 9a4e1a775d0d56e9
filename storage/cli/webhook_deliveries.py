"""`storage webhooks deliver`, `status`, `dead`, `replay`, `prune`: sending what waits, and what could not be sent."""

from __future__ import annotations

import asyncio
import signal
import uuid
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from math import isinf
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from storage.cli.connection import DEFAULT, AsJSON, Connection, EveryUser, flag, opened
from storage.cli.output import Column, count, line, moment, note, show_json, table

if TYPE_CHECKING:
    from storage.storage import Storage
    from storage.webhooks.queue.status import WebhookStatus
    from storage.webhooks.verbs import Webhooks

_NOTHING_LEFT_SECONDS: Final = 0.2
"""How often `deliver --until-empty` looks whether it is done."""

EndpointId = Annotated[uuid.UUID, Parameter(help="The endpoint's id; `storage webhooks list` shows it.")]


async def deliver(
    *,
    until_empty: Annotated[
        bool, flag("End as soon as nothing is due any more. Exits with 1 if something waits to be tried again.")
    ] = False,
    connection: Connection = DEFAULT,
) -> int:
    """Deliver web hooks until it is stopped (Ctrl-C or SIGTERM): a dispatcher as a process of its own.

    Any number of them may run on one database, beside applications that deliver by themselves. It also removes events
    that nobody waits for and that are older than event_retention_days.
    """
    async with opened(connection, delivers=True) as storage:
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopped.set)
        if until_empty:
            return await _empty(storage, stopped)
        note("delivering web hooks; Ctrl-C stops")
        await stopped.wait()
        note("stopping: waiting for what is under way")
    return 0


async def _empty(storage: Storage, stopped: asyncio.Event) -> int:
    """Wait until no event is due; returns the exit code."""
    while not stopped.is_set():
        found = await storage.webhooks.status()
        waiting = [each for each in found.endpoints if each.state == "active" and each.pending]
        if not found.to_fan_out or all(each.state == "disabled" for each in found.endpoints):
            if not waiting:
                return 0
            if not await storage.webhooks.has_due():
                line(f"{count(sum(each.pending for each in waiting), 'event')} wait to be tried again")
                return 1
        with suppress(TimeoutError):
            async with asyncio.timeout(_NOTHING_LEFT_SECONDS):
                await stopped.wait()
    return 1


async def status(*, user: EveryUser = None, connection: Connection = DEFAULT, json: AsJSON = False) -> None:
    """Show what waits for each endpoint and since when, what is dead, and which circuit breakers are open.

    JSON: `{to_fan_out, oldest_to_fan_out_at, answers, endpoints: [{id, user_id, state, breaker, blocked_until,
    pending, oldest_pending_at, dead}]}`; breaker is `"closed"`, `"open"` or `"half-open"`, and answers counts the last
    answers to all deliveries that are kept, by `"2xx"` to `"5xx"`, and `"none"` where there was no answer.
    """
    async with opened(connection) as storage:
        hooks = _of(storage, user)
        found, answers = await hooks.status(), await hooks.answers()
    if json:
        values = asdict(found)
        del values["attempts"]  # of this process, which makes none
        show_json({**values, "answers": answers})
        return
    _show(found)
    if answers:
        line("last answers: " + ", ".join(f"{number:,} {outcome}" for outcome, number in answers.items()))


def _show(found: WebhookStatus) -> None:
    if found.endpoints:
        table(
            [
                Column("Endpoint"),
                Column("User", wrap=True),
                Column("State"),
                Column("Breaker"),
                Column("Pending", number=True),
                Column("Oldest (UTC)"),
                Column("Dead", number=True),
            ],
            [
                (
                    each.id,
                    "everyone" if each.user_id is None else each.user_id,
                    each.state,
                    each.breaker,
                    f"{each.pending:,}",
                    moment(each.oldest_pending_at),
                    f"{each.dead:,}",
                )
                for each in found.endpoints
            ],
        )
        line()
    waiting, given_up = sum(each.pending for each in found.endpoints), sum(each.dead for each in found.endpoints)
    line(f"{count(len(found.endpoints), 'endpoint')}, {count(waiting, 'event')} pending, {given_up:,} dead")
    if found.to_fan_out and found.endpoints:
        since = moment(found.oldest_to_fan_out_at)
        note(f"{count(found.to_fan_out, 'event')} since {since} wait for a dispatcher: run `storage webhooks deliver`")


async def dead(
    endpoint: EndpointId,
    /,
    *,
    after: Annotated[int, Parameter(help="Only those behind this `seq`, the last one of the page before.")] = 0,
    limit: Annotated[int, Parameter(help="At most so many, up to 1,000.")] = 100,
    user: EveryUser = None,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> None:
    """List events that were given up for an endpoint, with what the receiver said last.

    JSON: a list of `{endpoint_id, id, seq, user_id, type, key, version, created_at, batch_id, attempts, status, error,
    died_at}`.
    """
    async with opened(connection) as storage:
        letters = await _of(storage, user).dead_letters(endpoint, after=after, limit=limit)
    if json:
        show_json([asdict(letter) for letter in letters])
        return
    if not letters:
        line("no dead letters")
        return
    table(
        [
            Column("Event"),
            Column("Seq", number=True),
            Column("Type"),
            Column("Key", wrap=True),
            Column("Attempts", number=True),
            Column("Status", number=True),
            Column("Last answer", wrap=True),
            Column("Given up (UTC)"),
        ],
        [
            (
                letter.id,
                letter.seq,
                letter.type,
                letter.key,
                letter.attempts,
                "" if letter.status is None else letter.status,
                letter.error or "",
                moment(letter.died_at),
            )
            for letter in letters
        ],
    )


async def replay(
    endpoint: EndpointId,
    events: Annotated[tuple[uuid.UUID, ...], Parameter(help="Ids of dead letters; all of the endpoint if none.")] = (),
    /,
    *,
    since: Annotated[
        datetime | None, Parameter(help="Only of events that happened then or later, such as 2026-01-31T08:00:00Z.")
    ] = None,
    until: Annotated[datetime | None, Parameter(help="Only of events that happened before.")] = None,
    user: EveryUser = None,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> None:
    """Have dead letters delivered again, each under the id that it had. The next dispatcher that looks sends them.

    They may arrive behind younger events of the same key; the version that each carries tells. A receiver of the format
    `openhands` is not told versions: replay there only what it has not got anew since.

    JSON: `{replayed}`.
    """
    async with opened(connection) as storage:
        number = await _of(storage, user).replay(endpoint, events or None, since=_aware(since), until=_aware(until))
    if json:
        show_json({"replayed": number})
    else:
        line(f"{count(number, 'event')} to be delivered again")


async def prune(
    *,
    days: Annotated[
        float | None, Parameter(help="Older than so many days; event_retention_days of the configuration if not given.")
    ] = None,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> None:
    """Remove events that nobody waits for. What is pending or dead for an endpoint stays.

    JSON: `{removed}`.
    """
    from storage.clock import now
    from storage.errors import InvalidInput
    from storage.webhooks.queue.retention import MOST_DAYS
    from storage.webhooks.queue.retention import prune as prune_events

    async with opened(connection) as storage:
        age = storage.config.event_retention_days if days is None else days
        if isinf(age):
            raise InvalidInput("event_retention_days keeps events for ever; say how old they have to be with --days")
        if not 0 <= age <= MOST_DAYS:
            raise InvalidInput(f"--days must be from 0 to {MOST_DAYS:,}, not {age:g}")
        removed = await prune_events(storage.database, now() - timedelta(days=age))
    if json:
        show_json({"removed": removed})
    else:
        line(f"{count(removed, 'event')} removed")


def _of(storage: Storage, user: str | None) -> Webhooks:
    return storage.webhooks if user is None else storage.user(user).webhooks


def _aware(value: datetime | None) -> datetime | None:
    """A time without a zone is UTC, as everything is that is shown here."""
    return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value
