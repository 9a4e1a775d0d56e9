"""A migrated database of each kind, shared; each test has a user of its own in it, and keys that fit."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeAlias

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from storage.database.database import Database
from storage.database.migrate import ensure
from storage.database.url import parse_url
from storage.encryption.environment import EnvironmentKeys
from storage.encryption.keyring import KeyRing
from storage.settings.model import Settings
from storage.settings.sql import SQLSettingsStore
from storage.settings.store import SettingsStore
from tests.servers.postgres import PostgresServer

MASTER_KEY = SecretStr(base64.b64encode(hashlib.sha256(b"the key of these tests").digest()).decode())
OTHER_KEY = SecretStr(base64.b64encode(hashlib.sha256(b"another key").digest()).decode())


async def migrate(url: str) -> None:
    database = Database(parse_url(url))
    try:
        await ensure(database, database.url)
    finally:
        await database.close()


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def migrated_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('settings') / 'storage.db'}"
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
async def keyring(database: Database) -> KeyRing:
    ring = KeyRing(database, EnvironmentKeys(MASTER_KEY))
    await ring.start()
    return ring


@pytest.fixture
async def locked_keyring(database: Database, keyring: KeyRing) -> KeyRing:
    """The ring of someone who has another key, after the first has sealed something."""
    await keyring.active_key(database, "someone")
    ring = KeyRing(database, EnvironmentKeys(OTHER_KEY))
    await ring.start()
    assert ring.state == "locked"
    return ring


Query: TypeAlias = Callable[..., Awaitable[list[dict[str, Any]]]]


@pytest.fixture
def query(database: Database) -> Query:
    """Run SQL of one's own past the store, and commit; rows come as dicts, with bytes for blobs."""

    async def run(statement: str, **parameters: Any) -> list[dict[str, Any]]:
        async with database.session() as session:
            connection = await session.connection()
            result = await connection.execute(text(statement), parameters)
            rows = [dict(row._mapping) for row in result] if result.returns_rows else []
            await session.commit()
        return rows

    return run


@pytest.fixture
def user_id() -> str:
    """A user of whom nothing is stored."""
    return f"user-{uuid.uuid4().hex}"


@pytest.fixture
def store_for(database: Database, keyring: KeyRing) -> Callable[..., SettingsStore]:
    def make(user_id: str | None, model: type[Settings] = Settings) -> SettingsStore:
        return SQLSettingsStore(database, user_id, keyring, model)

    return make
