"""A migrated database of each kind, shared; each test has users of its own in it, and keys that fit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, TypeAlias

import pytest

from storage.storage import Storage
from tests.databases import MASTER_KEY, database, query, shared_database, user_id

__all__ = ["database", "query", "user_id"]

migrated_url = shared_database("sqlite", "postgresql")

Opener: TypeAlias = Callable[..., Awaitable[Storage]]


@pytest.fixture
async def opened(migrated_url: str) -> AsyncIterator[Opener]:
    """Open the folder's database, with its master key unless told otherwise."""
    async with AsyncExitStack() as stack:

        async def open_storage(**settings: Any) -> Storage:
            values = {"master_key": MASTER_KEY.get_secret_value(), "file_store": "memory", **settings}
            return await stack.enter_async_context(Storage.open(migrated_url, **values))

        yield open_storage


@pytest.fixture
async def storage(opened: Opener) -> Storage:
    """The folder's database as a storage, with blobs in memory."""
    return await opened()
