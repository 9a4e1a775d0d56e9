"""A migrated database of each kind for the tests of files. They share it, each with a user of its own."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

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


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def migrated_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('files') / 'storage.db'}"
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
    database = Database(parse_url(migrated_url))
    yield database
    await database.close()


@pytest.fixture
def user_id() -> str:
    """A user without files."""
    return f"user-{uuid.uuid4().hex}"
