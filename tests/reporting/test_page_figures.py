"""What the page and the summary show is what the views say, on both databases, of everybody and of one user."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from storage import Storage
from storage.errors import InvalidInput
from storage.reporting.figures import Named, Usage, last_day, read_figures, usage_between
from storage.reporting.summary import parse_month, read_summary
from tests.databases import MASTER_KEY
from tests.reporting.filled import ADA, HOSTILE, HOSTILE_USER, MARCH, fill
from tests.reporting.reading import rows_of
from tests.reporting.rows import conversation, save


@pytest.fixture
async def empty(database_url: str, tmp_path: Path) -> AsyncIterator[Storage]:
    options = {"data_dir": tmp_path, "master_key": MASTER_KEY, "webhook_delivery": False}
    async with Storage.open(database_url, **options) as opened:
        yield opened


@pytest.fixture
async def storage(empty: Storage) -> Storage:
    await fill(empty)
    return empty


def usage(rows: list[dict[str, Any]]) -> Usage:
    """The sum of a view's rows."""
    names = ("cost_usd", "prompt_tokens", "completion_tokens", "total_tokens", "cache_read_tokens")
    sums = {name: sum(row[name] for row in rows) for name in names}
    return Usage(sum(row.get("conversations", 1) for row in rows), **sums)


@pytest.mark.parametrize("user_id", [None, ADA, HOSTILE_USER, "nobody"])
async def test_the_figures_are_those_of_the_views(storage: Storage, user_id: str | None) -> None:
    figures = await read_figures(storage.database, user_id, top=100)
    daily = await rows_of(storage, "report_usage_daily", user_id)
    assert figures.usage == usage(daily)
    assert figures.users == len({row["user_id"] for row in daily})
    for one in figures.by_day:
        mine = [row for row in daily if row["day"] == one.day.isoformat() and row["model"] == one.model]
        assert one.usage == usage(mine)
    assert len(figures.by_day) == len({(row["day"], row["model"]) for row in daily})
    for view, lines in (("report_model", figures.models), ("report_repository", figures.repositories)):
        rows = await rows_of(storage, view, user_id)
        name = view.removeprefix("report_")
        assert {line.name: (line.usage.conversations, line.usage.cost_usd) for line in lines} == {
            row[name]: (row["conversations"], row["cost_usd"]) for row in rows
        }
        costs = [line.usage.cost_usd for line in lines]
        assert costs == sorted(costs, reverse=True)
    for trigger in figures.triggers:
        assert trigger.usage == usage([row for row in daily if row["trigger"] == trigger.name])
    conversations = await rows_of(storage, "report_conversation", user_id)
    costs = sorted((row["cost_usd"] for row in conversations), reverse=True)
    assert [one.cost_usd for one in figures.dearest] == costs


@pytest.mark.parametrize("user_id", [None, ADA])
async def test_storage_and_deliveries_are_those_of_the_views(storage: Storage, user_id: str | None) -> None:
    figures = await read_figures(storage.database, user_id)
    stored = await rows_of(storage, "report_storage_usage", user_id)
    assert sum(day.bytes for day in figures.storage) == sum(row["bytes"] for row in stored)
    assert sum(day.files for day in figures.storage) == sum(row["files"] for row in stored)
    hooks = await rows_of(storage, "report_webhook", user_id)
    assert figures.webhook_count == len(hooks)
    assert (figures.pending, figures.dead) == tuple(sum(row[state] for row in hooks) for state in ("pending", "dead"))
    events = await rows_of(storage, "report_event_daily", user_id)
    for state in ("delivered", "pending", "dead"):
        assert sum(getattr(day, state) for day in figures.deliveries) == sum(row[state] for row in events)
    assert figures.unwell_webhooks == 1


async def test_rankings_are_bounded_and_say_how_many_there_are(storage: Storage) -> None:
    figures = await read_figures(storage.database, top=2)
    assert (len(figures.repositories), figures.repository_count) == (2, 4)
    assert (len(figures.people), figures.users) == (2, 2)
    assert (len(figures.dearest), figures.usage.conversations) == (2, 21)
    assert figures.dearest[0].title == HOSTILE


async def test_days_outside_the_span_do_not_count(storage: Storage) -> None:
    since, until = date(2026, 3, 5), date(2026, 3, 11)
    figures = await read_figures(storage.database, since=since, until=until)
    assert figures.usage.conversations == 3
    assert {one.day for one in figures.by_day} == {since, since + timedelta(3), until}
    assert figures.usage == await usage_between(storage.database, None, since=since, until=until)
    assert sum(day.files for day in figures.storage) == 21, "what is stored now does not depend on the span"
    assert figures.deliveries == ()


async def test_a_span_that_ends_before_it_begins_and_an_impossible_user_are_refused(storage: Storage) -> None:
    with pytest.raises(InvalidInput, match="is after the last"):
        await read_figures(storage.database, since=date(2026, 3, 2), until=date(2026, 3, 1))
    with pytest.raises(InvalidInput, match="user_id"):
        await read_figures(storage.database, "")


async def test_nothing_stored_is_no_error(empty: Storage) -> None:
    figures = await read_figures(empty.database)
    assert (figures.usage, figures.by_day, figures.models) == (Usage(), (), ())
    assert await last_day(empty.database) is None
    summary = await read_summary(empty.database, today=date(2026, 5, 17))
    assert (summary.month, summary.so_far, summary.usage) == (date(2026, 5, 1), True, Usage())
    assert [day.day.day for day in summary.by_day] == list(range(1, 18))


async def test_a_summary_is_of_one_month(storage: Storage) -> None:
    summary = await read_summary(storage.database, month=parse_month("2026-04"), today=date(2026, 8, 1))
    rows = [row for row in await rows_of(storage, "report_usage_daily") if row["day"].startswith("2026-04")]
    assert summary.usage == usage(rows)
    assert len(summary.by_day) == 30
    assert sum(day.cost_usd for day in summary.by_day) == summary.usage.cost_usd
    before = [row for row in await rows_of(storage, "report_usage_daily") if row["day"].startswith("2026-03")]
    assert summary.previous == usage(before)
    assert (summary.files, summary.new_files) == (21, 0)


async def test_without_a_month_it_is_the_last_in_which_a_conversation_began(storage: Storage) -> None:
    assert await last_day(storage.database) == date(2026, 5, 1)
    assert await last_day(storage.database, HOSTILE_USER) == date(2026, 4, 25)
    assert (await read_summary(storage.database, today=date(2027, 1, 1))).month == date(2026, 5, 1)
    assert (await read_summary(storage.database, HOSTILE_USER, today=date(2027, 1, 1))).month == date(2026, 4, 1)


async def test_days_to_come_are_shown_only_if_something_began_on_them(storage: Storage) -> None:
    summary = await read_summary(storage.database, month=MARCH.date(), today=date(2026, 3, 6))
    assert summary.so_far
    began = [day.day.day for day in summary.by_day if day.conversations]
    assert began == [2, 5, 8, 11, 14, 17, 20, 23, 26, 29], "a clock that is fast must not lose a figure"
    assert [day.day.day for day in summary.by_day][:6] == [1, 2, 3, 4, 5, 6]


async def test_sums_of_tokens_may_pass_what_a_number_of_64_bits_holds_half_of(empty: Storage) -> None:
    await save(empty, *(conversation(ADA, f"{n}", llm_model="m", total_tokens=2**61) for n in range(3)))
    figures = await read_figures(empty.database)
    assert figures.models == (Named("m", Usage(3, 0.0, 0, 0, 3 * 2**61, 0)),)


@pytest.mark.parametrize("text", ["2026", "2026-13", "2026-1", "march", "2026-03-01", ""])
def test_what_is_no_month_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="write it as"):
        parse_month(text)
