"""A backup or restore whose caller stops waiting ends at once, leaves no thread at work, and can be begun again."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage import ConversationMetadata, Storage
from storage.backup.archive import open_archive, verified
from storage.backup.sqlite_thread import SQLiteThread
from storage.database.sqlite_connection import prepare_file
from tests.backup.conftest import config, lines_of

CONVERSATIONS = 1200
"""Of three batches."""

MOMENTS = pytest.mark.parametrize("moment", [1, 5, 9])
"""Which call of the progress callback is the one at which the caller is cancelled: between two batches or contents."""


async def add_many(storage: Storage) -> None:
    async with storage.user("ada").transaction(60) as tx:
        for number in range(CONVERSATIONS):
            row = ConversationMetadata(conversation_id=f"many-{number:04}", title="x" * 500)
            await tx.conversations.save_metadata(row)


async def cancelled_at(moment: int, begin: Callable[[Callable[[int, int | None], None]], Any]) -> None:
    """Begin something, and cancel it when it tells of its progress for so many times; it may end before."""
    calls = 0

    def told(done: int, total: int | None) -> None:
        nonlocal calls
        calls += 1
        if calls == moment:
            task.cancel()

    task = asyncio.ensure_future(begin(told))
    with pytest.raises(asyncio.CancelledError):
        await task


@MOMENTS
@pytest.mark.parametrize("name", ["backup.tar", "backup"], ids=["file", "folder"])
async def test_a_backup_that_is_cancelled_leaves_nothing_that_looks_whole(
    storage: Storage, tmp_path: Path, name: str, moment: int
) -> None:
    await add_many(storage)
    place = tmp_path / "place"
    place.mkdir()
    await cancelled_at(moment, lambda told: storage.backup(place / name, files=True, progress=told))
    left = {path.name for path in place.rglob("*") if path.is_file()}
    assert not [path for path in left if "-" not in path and path != "copied.jsonl"], "contents at most"
    assert (await storage.backup(place / name, files=True)).blobs == 3
    with open_archive(place / name) as archive:
        archive.verify()


@MOMENTS
async def test_a_restore_that_is_cancelled_leaves_an_empty_database(
    sqlite_storage: Storage, empty_url: str, tmp_path: Path, moment: int
) -> None:
    await add_many(sqlite_storage)
    await sqlite_storage.backup(tmp_path / "backup.tar", files=True)
    target = config(empty_url, tmp_path / "target")
    await cancelled_at(moment, lambda told: Storage.restore(tmp_path / "backup.tar", target, progress=told))
    async with Storage.open(target):
        assert not any((await lines_of(empty_url)).values())
    await Storage.restore(tmp_path / "backup.tar", target)
    assert await lines_of(empty_url) == await lines_of(str(sqlite_storage.config.database_url))


async def test_reading_an_archive_ends_when_nobody_waits_for_it(sqlite_storage: Storage, tmp_path: Path) -> None:
    for number in range(20):
        await sqlite_storage.user("ada").files.write(f"more-{number}", b"x")
    await sqlite_storage.backup(tmp_path / "backup.tar", files=True)
    loop, calls = asyncio.get_running_loop(), 0

    def told(done: int, total: int | None) -> None:
        nonlocal calls
        calls += 1
        loop.call_soon_threadsafe(task.cancel)
        time.sleep(0.2)  # the loop hears of it meanwhile

    with open_archive(tmp_path / "backup.tar") as archive:
        task = asyncio.ensure_future(verified(archive, told))
        with pytest.raises(asyncio.CancelledError):
            await task
    assert calls < 20


async def test_a_connection_is_closed_only_after_the_work_that_was_left_at_it(tmp_path: Path) -> None:
    begun, may_end, done = threading.Event(), threading.Event(), list[str]()

    def work(connection: sqlite3.Connection) -> None:
        begun.set()
        may_end.wait(10)
        done.append(connection.execute("SELECT 'still open'").fetchone()[0])

    location = str(tmp_path / "some.db")
    prepare_file(location)
    thread = SQLiteThread(location)
    task = asyncio.ensure_future(thread.run(work))
    assert await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    closing = asyncio.ensure_future(thread.close())
    await asyncio.sleep(0)
    may_end.set()
    await closing
    assert done == ["still open"]
