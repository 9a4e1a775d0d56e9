"""A database of each kind with the tables of keys and of sealed values in it, and a place for a key file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from storage.database import Database, parse_url
from storage.encryption.registry import sealed_columns
from storage.tables import metadata

# Straight from their definitions: the whole migration takes a hundred times as long, and is tested elsewhere.
SEALED = sorted({column.table for column in sealed_columns()})
TABLES = [metadata.tables[name] for name in ("key_encryption_key", "data_key", *SEALED)]


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database(parse_url(database_url))
    try:
        await create_tables(database_url)
        yield opened
    finally:
        await opened.close()


async def create_tables(url: str) -> None:
    drivers = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
    dialect, _, rest = url.partition("://")
    engine = create_async_engine(f"{drivers[dialect]}://{rest}")
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all, tables=TABLES)
    await engine.dispose()


@pytest.fixture
def key_path(tmp_path: Path) -> Path:
    return tmp_path / "config" / "master.key"
