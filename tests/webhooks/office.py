"""A storage that delivers to a real receiver, with waits short enough for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from storage.config import StorageConfig
from storage.storage import Storage
from tests.databases import MASTER_KEY

SECONDS = 20.0
"""After so long a test fails that waits for something; none takes a tenth of it."""


class Office:
    """Where it is, and how it is opened."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder

    def config(self, **settings: Any) -> StorageConfig:
        return StorageConfig(**(self.settings() | settings))

    def settings(self) -> dict[str, Any]:
        return {
            "database_url": self.url,
            "data_dir": self.folder,
            "master_key": MASTER_KEY.get_secret_value(),
            "webhook_allowed_networks": ("127.0.0.0/8",),
            "webhook_poll_seconds": 0.05,
            "webhook_timeout": 0.8,
            "webhook_close_seconds": 0.2,
        }

    @asynccontextmanager
    async def open(self, **settings: Any) -> AsyncIterator[Storage]:
        async with Storage.open(self.config(**settings)) as storage:
            yield storage


@pytest.fixture
def office(own_url: str, tmp_path: Path, place: Any, monkeypatch: pytest.MonkeyPatch) -> Office:
    """An office in a database of the module's own; failures are tried again at once."""
    monkeypatch.setattr("storage.webhooks.queue.retry.BASE_SECONDS", 0.01)
    monkeypatch.setattr("storage.webhooks.queue.retry.PAUSE_BASE_SECONDS", 0.01)
    return Office(own_url, tmp_path)


async def until(condition: Callable[[], bool] | Callable[[], Awaitable[bool]]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(SECONDS):
        while True:
            met: Any = condition()
            if (await met) if hasattr(met, "__await__") else met:
                return
            await asyncio.sleep(0.01)


async def rows(storage: Storage, sql: str) -> list[tuple[Any, ...]]:
    """Rows of a query of one's own."""
    async with storage.session(read_only=True) as session:
        connection = await session.connection()
        return [tuple(row) for row in await connection.execute(text(sql))]


async def settled(storage: Storage) -> None:
    """Wait until nothing is pending."""

    async def nothing_left() -> bool:
        [(waiting,)] = await rows(storage, "SELECT COUNT(*) FROM event WHERE to_fan_out IS NOT NULL")
        [(pending,)] = await rows(storage, "SELECT COUNT(*) FROM delivery WHERE state = 'pending'")
        return not waiting and not pending

    await until(nothing_left)
