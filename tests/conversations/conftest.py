"""A migrated database of each kind for the tests of conversations. They share it, each with users of its own."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from storage.conversations.sql import SQLConversationStore
from storage.database.database import Database
from storage.database.migrate import ensure
from storage.database.url import parse_url
from tests.databases import migrated_memory, shared_database, user_id

__all__ = ["user_id"]

migrated_url = shared_database("sqlite", "memory", "postgresql")


@pytest.fixture
async def database(migrated_url: str, sqlite_template: Path) -> AsyncIterator[Database]:
    """A migrated database whose tables are empty."""
    database = Database(parse_url(migrated_url))
    with migrated_memory(database.url, sqlite_template):
        await ensure(database, database.url)
        async with database.session() as session:
            connection = await session.connection()
            for table in ("delivery", "event", "file", "conversation", "data_key", "key_encryption_key"):
                await connection.exec_driver_sql(f"DELETE FROM {table}")  # children first
            await session.commit()
        yield database
        await database.close()


@pytest.fixture
def store(database: Database, user_id: str) -> SQLConversationStore:
    return SQLConversationStore(database, user_id)


@pytest.fixture
def other_store(database: Database) -> SQLConversationStore:
    return SQLConversationStore(database, f"other-{uuid.uuid4().hex}")
