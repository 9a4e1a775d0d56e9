"""One migrated database of each kind for all tests of a folder, each test with users of its own in it.

A conftest says `migrated_url = shared_database("sqlite", "postgresql")` and imports the fixtures that it needs. Cheaper
than a database for each test, where tests do not look at each other's users.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import sqlite3
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from storage.database.database import Database
from storage.database.url import DatabaseURL, parse_url
from storage.encryption.keyring import KeyRing
from storage.encryption.providers.environment import EnvironmentKeys
from tests.servers.postgres import PostgresServer

MASTER_KEY = SecretStr(base64.b64encode(hashlib.sha256(b"the key of these tests").digest()).decode())
OTHER_KEY = SecretStr(base64.b64encode(hashlib.sha256(b"another key").digest()).decode())

Query: TypeAlias = Callable[..., Awaitable[list[dict[str, Any]]]]


def shared_database(*kinds: str) -> Any:
    """A fixture: the URL of a migrated database, made once for the conftest that calls this, for each of `kinds`."""

    @pytest.fixture(scope="session", params=kinds)
    def migrated_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
        if request.param == "memory":
            yield "sqlite:///:memory:"  # each test has its own, see `migrated_memory`
        elif request.param == "sqlite":
            template: Path = request.getfixturevalue("sqlite_template")
            yield f"sqlite:///{shutil.copy(template, tmp_path_factory.mktemp('shared') / 'storage.db')}"
        else:
            server: PostgresServer = request.getfixturevalue("postgres_server")
            url = server.create_database(template=request.getfixturevalue("postgres_template"))
            yield url
            server.drop_database(url)

    return migrated_url


@contextmanager
def migrated_memory(url: DatabaseURL, template: Path) -> Iterator[None]:
    """Where the URL is of a database in memory, it is a copy of the template while this lasts; else nothing happens."""
    if url.display != "sqlite:///:memory:":
        yield
        return
    with closing(sqlite3.connect(url.location, uri=True)):  # it is there while somebody has it open
        with closing(sqlite3.connect(f"file:{template}", uri=True)) as source:
            source.execute("VACUUM INTO ?", [url.location])  # a plain copy would ask for a WAL, which memory has not
        yield


@pytest.fixture
async def database(migrated_url: str) -> AsyncIterator[Database]:
    """The folder's database, opened for this test."""
    database = Database(parse_url(migrated_url))
    yield database
    await database.close()


@pytest.fixture
def user_id() -> str:
    """A user of whom nothing is stored."""
    return f"user-{uuid.uuid4().hex}"


@pytest.fixture
async def keyring(database: Database) -> KeyRing:
    """The ring that everything in the folder's database is sealed with."""
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
