"""A fork finds none of our threads inside SQLite: a lock of its allocator that one held would be locked for ever."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import text

from storage import Storage
from storage.database import Database, Statement, execute, forking, sqlite_connection, sqlite_lane
from storage.reporting.query import sqlite as query
from tests.database.happenings import opened

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
]

NAP: Final = Statement("test.nap", text("SELECT nap()"), register=False)
NAP_SECONDS: Final = 0.5


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set while a thread is inside SQLite, which it is for half a second in `SELECT nap()`."""
    inside = threading.Event()
    connect = sqlite_connection.connect

    def nap() -> None:
        inside.set()
        time.sleep(NAP_SECONDS)
        inside.clear()

    def connected(*args: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*args, **options)
        connection.create_function("nap", 0, nap)
        return connection

    monkeypatch.setattr(sqlite_lane, "connect", connected)
    return inside


async def _read(database: Database) -> None:
    await database.read(NAP, {})


async def _scan(database: Database) -> None:
    await database.read(NAP, {}, scan=True)


async def _unit(database: Database) -> None:
    await database.run(lambda: execute(NAP))


async def _transaction(database: Database) -> None:
    async with database.transaction() as transaction:
        await transaction.run(lambda: execute(NAP))


def _found_inside(work: Callable[[], Awaitable[object]], inside: threading.Event) -> bool:
    """Whether a child, forked while another thread is at work, was copied with that thread inside SQLite."""

    async def working() -> None:
        await work()

    thread = threading.Thread(target=asyncio.run, args=(working(),))
    thread.start()
    assert inside.wait(30)
    child = os.fork()
    if child == 0:
        os._exit(int(inside.is_set()))  # pragma: no cover - its coverage is not collected
    thread.join(30)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


@pytest.mark.parametrize("work", [_read, _scan, _unit, _transaction])
def test_a_fork_waits_until_nobody_is_inside(
    work: Callable[[Database], Coroutine[Any, Any, None]], tmp_path: Path, inside: threading.Event
) -> None:
    database = asyncio.run(opened(f"sqlite:///{tmp_path / 'storage.db'}"))
    assert not _found_inside(lambda: work(database), inside)
    asyncio.run(work(database))  # it goes on
    asyncio.run(database.close())


def test_a_fork_waits_for_a_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = threading.Event()
    run = query._run

    def watched(connection: sqlite3.Connection, *args: Any) -> Any:
        inside.set()
        time.sleep(NAP_SECONDS)
        try:
            return run(connection, *args)
        finally:
            inside.clear()

    monkeypatch.setattr(query, "_run", watched)

    async def ask() -> None:
        async with Storage.open(data_dir=tmp_path, webhook_delivery=False) as storage:
            await storage.query("SELECT 1")

    assert not _found_inside(ask, inside)


def test_a_fork_does_not_wait_for_ever(
    tmp_path: Path, inside: threading.Event, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(forking, "PATIENCE_SECONDS", 0.05)
    database = asyncio.run(opened(f"sqlite:///{tmp_path / 'storage.db'}"))
    with caplog.at_level(logging.WARNING, "storage"):
        assert _found_inside(lambda: _scan(database), inside)
    assert ["is forked while SQLite is at work" in record.message for record in caplog.records] == [True]
    asyncio.run(_scan(database))  # it has its lock again
    asyncio.run(database.close())
