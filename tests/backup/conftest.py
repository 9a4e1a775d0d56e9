"""Storages that hold something of everything, on either database, and empty ones to restore into."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from storage import ConversationMetadata, Storage, StorageConfig
from storage.backup.snapshot import snapshot, tables
from storage.backup.values import archived
from storage.database.url import parse_url
from tests.databases import MASTER_KEY
from tests.servers.postgres import PostgresServer

CANARY = "canary-in-a-backup"


def config(url: str, folder: Path, **more: Any) -> StorageConfig:
    given = {"data_dir": folder, "master_key": MASTER_KEY, "webhook_delivery": False, **more}
    return StorageConfig.load(database_url=url, **given)


async def fill(storage: Storage, user: str = "ada", files: int = 3) -> None:
    """Something in every table."""
    one = storage.user(user)
    row = ConversationMetadata(
        conversation_id=f"c-{user}",
        title='Ünïcode, "quotes" and\nlines 🙂',
        accumulated_cost=0.1 + 0.2,
        total_tokens=2**62,
        tags=["a", "b"],
        public=True,
        further={"b": 1, "a": [1.5, None, {"deep": "x"}]},
    )
    await one.conversations.save_metadata(row)
    await one.secrets.set_custom_secret("NAME", CANARY, "what for")
    await one.secrets.set_provider_token("gitlab", CANARY, "git.example.com")
    await one.settings.update(language="fr", llm_api_key=SecretStr(CANARY))
    await one.webhooks.add("https://hooks.example.com/x")
    for number in range(files):
        await one.files.write(f"{number}.txt", f"{user} {number}".encode() * 100)


@pytest.fixture
async def storage(database_url: str, tmp_path: Path) -> AsyncIterator[Storage]:
    async with Storage.open(config(database_url, tmp_path / "source")) as opened:
        await fill(opened)
        yield opened


@pytest.fixture
async def sqlite_storage(tmp_path: Path) -> AsyncIterator[Storage]:
    async with Storage.open(config(f"sqlite:///{tmp_path / 'source.db'}", tmp_path / "source")) as opened:
        await fill(opened)
        yield opened


def new_database(kind: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a database that nobody has opened yet."""
    if kind == "sqlite":
        folder: Path = request.getfixturevalue("tmp_path")
        yield f"sqlite:///{folder / 'restored.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    url = server.create_database()
    yield url
    server.drop_database(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Of a database that nobody has opened yet: of the same kind as the source, or of the other one."""
    yield from new_database(request.param, request)


@pytest.fixture
def other_url(request: pytest.FixtureRequest, database_url: str) -> Iterator[str]:
    """Of a database that nobody has opened yet, of the other kind than the source."""
    yield from new_database("postgresql" if database_url.startswith("sqlite") else "sqlite", request)


async def lines_of(url: str) -> dict[str, list[bytes]]:
    """Every row of every table, as an archive has it."""
    found = {}
    async with snapshot(parse_url(url)) as source:
        for table in tables():
            columns = [archived(column) for column in table.columns]
            keys = [column.name for column in table.primary_key]
            async with aclosing(source.lines(table.name, columns, keys)) as batches:
                found[table.name] = [line async for batch in batches for line in batch]
    return found
