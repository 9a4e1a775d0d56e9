"""The cost report adds up what the rows say, the same on both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from storage.database.database import Database
from storage.database.migrate import ensure
from storage.database.url import parse_url
from storage.errors import InvalidInput
from storage.reporting.cost import CostLine, cost_report
from storage.reporting.usage import ConversationUsage, UserUsage, usage_report
from storage.tables import ConversationTable, FileTable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NOVEMBER = datetime(2025, 11, 30, 23, 59, 59, 999_999, tzinfo=UTC)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    url = parse_url(database_url)
    database = Database(url)
    await ensure(database, url)
    yield database
    await database.close()


def conversation(user_id: str, conversation_id: str, **fields: Any) -> ConversationTable:
    numbers = dict.fromkeys(
        (
            "prompt_tokens",
            "completion_tokens",
            "total_tokens",
            "cache_read_tokens",
            "cache_write_tokens",
            "reasoning_tokens",
            "context_window",
            "per_turn_token",
        ),
        0,
    )
    given = {"accumulated_cost": 0.0, "created_at": NOVEMBER, "version": 1, "pr_number": [], "tags": [], "extra": {}}
    return ConversationTable(user_id=user_id, conversation_id=conversation_id, **{**numbers, **given, **fields})


def file(user_id: str, path: str, size: int, conversation_id: str | None) -> FileTable:
    return FileTable(
        user_id=user_id,
        path=path,
        blob_key=f"blobs/{user_id}/{path}",
        content_key=None,
        size=size,
        sha256=bytes(32),
        media_type=None,
        conversation_id=conversation_id,
        version=1,
        created_at=NOVEMBER,
        updated_at=NOVEMBER,
    )


async def save(database: Database, *rows: Any) -> None:
    async with database.session() as session:
        session.add_all(rows)
        await session.commit()


async def test_an_empty_storage_has_cost_nothing(database: Database) -> None:
    report = await cost_report(database)
    assert report.total == CostLine(None, 0, 0.0, 0, 0, 0)
    assert (report.by_model, report.by_month, report.top_repositories) == ([], [], [])


async def test_costs_and_tokens_are_added_up_by_model_with_the_dearest_first(database: Database) -> None:
    tokens = {"prompt_tokens": 2**52, "completion_tokens": 1, "total_tokens": 2**52 + 1}
    await save(
        database,
        conversation("a", "1", llm_model="small", accumulated_cost=0.25, **tokens),
        conversation("b", "2", llm_model="small", accumulated_cost=0.5),
        conversation("a", "3", llm_model="large", accumulated_cost=2.0),
        conversation("a", "4"),
    )
    report = await cost_report(database)
    assert report.by_model == [
        CostLine("large", 1, 2.0, 0, 0, 0),
        CostLine("small", 2, 0.75, 2**52, 1, 2**52 + 1),
        CostLine(None, 1, 0.0, 0, 0, 0),
    ]
    assert report.total == CostLine(None, 4, 2.75, 2**52, 1, 2**52 + 1)


async def test_a_report_of_one_user_leaves_out_all_others(database: Database) -> None:
    await save(
        database,
        conversation("a", "1", accumulated_cost=1.0, selected_repository="o/a"),
        conversation("b", "2", accumulated_cost=4.0, selected_repository="o/b"),
    )
    report = await cost_report(database, "a")
    assert report.total.cost == 1.0
    assert [line.name for line in report.top_repositories] == ["o/a"]
    assert (await cost_report(database, "nobody")).total.conversations == 0


async def test_months_are_those_of_utc_and_come_in_order(database: Database) -> None:
    tokyo = timezone(timedelta(hours=9))
    await save(
        database,
        conversation("a", "1", created_at=NOVEMBER),
        conversation("a", "2", created_at=NOVEMBER + timedelta(microseconds=1)),
        conversation("a", "3", created_at=datetime(2025, 12, 1, 8, tzinfo=tokyo)),
        conversation("a", "4", created_at=datetime(2024, 2, 29, tzinfo=UTC)),
    )
    lines = (await cost_report(database)).by_month
    assert [(line.name, line.conversations) for line in lines] == [("2024-02", 1), ("2025-11", 2), ("2025-12", 1)]


async def test_only_the_dearest_repositories_are_named_and_none_is_no_repository(database: Database) -> None:
    rows = [conversation("a", f"{n}", selected_repository=f"o/{n}", accumulated_cost=float(n % 3)) for n in range(6)]
    await save(database, *rows, conversation("a", "none", accumulated_cost=9.0))
    lines = (await cost_report(database, top=3)).top_repositories
    assert [(line.name, line.cost) for line in lines] == [("o/2", 2.0), ("o/5", 2.0), ("o/1", 1.0)]


async def test_an_impossible_user_is_refused(database: Database) -> None:
    with pytest.raises(InvalidInput, match="user_id"):
        await cost_report(database, "")
    with pytest.raises(InvalidInput, match="user_id"):
        await usage_report(database, "")


async def test_usage_counts_users_who_have_only_files_or_only_conversations(database: Database) -> None:
    await save(
        database,
        conversation("a", "1", title="First"),
        file("a", "sessions/1/events/0.json", 100, "1"),
        file("a", "sessions/1/events/1.json", 50, "1"),
        file("b", "notes.txt", 7, None),
        conversation("c", "2"),
    )
    report = await usage_report(database)
    assert report.users == [UserUsage("a", 1, 2, 150), UserUsage("b", 0, 1, 7), UserUsage("c", 1, 0, 0)]
    assert report.largest_conversations == [ConversationUsage("a", "1", "First", 2, 150)]
    assert (await usage_report(database, "b")).largest_conversations == []


async def test_the_largest_conversations_come_first_and_need_no_metadata(database: Database) -> None:
    await save(database, *(file("a", f"sessions/{n}/x", n, f"{n}") for n in (1, 3, 2)))
    report = await usage_report(database, top=2)
    assert [(found.conversation_id, found.title, found.bytes) for found in report.largest_conversations] == [
        ("3", None, 3),
        ("2", None, 2),
    ]
