from __future__ import annotations

import pytest

from storage.database.database import Database
from storage.files.backends.memory import MemoryFileStore
from storage.files.blobs import ContentRules
from storage.files.catalog import FileCatalog
from storage.files.maintenance.user_usage import UserUsage, user_usage


@pytest.fixture
def migrated_url(database_url: str) -> str:
    """A database of the test's own: it looks at everybody's files."""
    return database_url


async def test_usage_is_of_each_user_by_id(database: Database) -> None:
    blobs = MemoryFileStore()
    alice, bob = (
        FileCatalog(database, blobs, user_id, rules=ContentRules(small_bytes=10)) for user_id in ("alice", "bob")
    )
    await bob.write("large", b"x" * 100)
    await bob.write("small", b"1234")
    await alice.write("large", b"x" * 1000)
    assert await user_usage(database) == [UserUsage("alice", 1, 1000, 0), UserUsage("bob", 2, 104, 4)]


async def test_contents_in_the_database_count_once_and_until_they_are_collected(database: Database) -> None:
    files = FileCatalog(database, MemoryFileStore(), "alice", rules=ContentRules(small_bytes=10))
    await files.write("one", b"1234")
    await files.copy("one", "copy")
    await files.write("gone", b"12")
    await files.delete("gone")
    assert await user_usage(database) == [UserUsage("alice", 2, 8, 6)]
    await files.delete("one")
    await files.delete("copy")
    assert await user_usage(database) == [UserUsage("alice", 0, 0, 6)]


async def test_nothing_is_stored_by_nobody(database: Database) -> None:
    assert await user_usage(database) == []
