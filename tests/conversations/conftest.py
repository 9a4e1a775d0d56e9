"""A migrated database of each kind for the tests of conversations. They share it, each with users of its own."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from storage.conversations.sql import SQLConversationStore
from storage.database.database import Database
from storage.database.migrate import ensure
from storage.database.url import parse_url
from tests.servers.postgres import PostgresServer


async def migrate(url: str) -> None:
    database = Database(parse_url(url))
    try:
        await ensure(database, database.url)
    finally:
        await database.close()


@pytest.fixture(scope="session", params=["sqlite", "memory", "postgresql"])
def migrated_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "memory":
        yield "sqlite:///:memory:"  # each has its own, and migrates it itself
        return
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('conversations') / 'storage.db'}"
        asyncio.run(migrate(url))
        yield url
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    url = server.create_database()
    asyncio.run(migrate(url))
    yield url
    server.drop_database(url)


@pytest.fixture
async def database(migrated_url: str) -> AsyncIterator[Database]:
    """A migrated database whose tables are empty."""
    database = Database(parse_url(migrated_url))
    await ensure(database, database.url)
    async with database.session() as session:
        connection = await session.connection()
        for table in ("delivery", "event", "file", "conversation", "data_key", "key_encryption_key"):  # children first
            await connection.exec_driver_sql(f"DELETE FROM {table}")
        await session.commit()
    yield database
    await database.close()


@pytest.fixture
def user_id() -> str:
    """A user without conversations."""
    return f"user-{uuid.uuid4().hex}"


@pytest.fixture
def store(database: Database, user_id: str) -> SQLConversationStore:
    return SQLConversationStore(database, user_id)


@pytest.fixture
def other_store(database: Database) -> SQLConversationStore:
    return SQLConversationStore(database, f"other-{uuid.uuid4().hex}")
