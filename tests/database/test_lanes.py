"""Units of work, groups of them, cancellation, closing, forks and event loops, on both databases."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import bindparam, delete, func, select
from sqlmodel import select as sqlmodel_select

from storage.database import Change, Database, Executor, Statement, Unit, execute_many, parse_url, sqlite_connection
from storage.errors import (
    DatabaseBusy,
    DatabaseError,
    DatabaseUnavailable,
    ForkDetected,
    StorageClosed,
    UniqueViolation,
)
from storage.webhooks.outbox import INSERT_EVENT, change, record, record_all
from tests.database.happenings import COUNT, EVENT, count, one, opened

KEYS = Statement("test.keys", select(EVENT.c.key).order_by(EVENT.c.seq), register=False)


async def keys(executor: Executor) -> list[str]:
    return [key for (key,) in await executor.read(KEYS, {})]


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = await opened(database_url)
    yield database
    await database.close()


@pytest.fixture
async def sqlite(sqlite_url: str) -> AsyncIterator[Database]:
    database = await opened(sqlite_url)
    yield database
    await database.close()


def failing(key: str) -> Unit[None]:
    yield from record("u", "test.happened", key=key)
    raise RuntimeError(f"{key} fails")


async def test_what_is_awaited_is_there_for_the_next_read(database: Database) -> None:
    for number in range(5):
        await database.run(one(str(number)))
        assert await count(database) == number + 1
        assert (await database.read(COUNT, {}, scan=True))[0][0] == number + 1


async def test_many_tasks_write_at_once(database: Database) -> None:
    await asyncio.gather(*[database.run(one(str(number))) for number in range(300)])
    assert sorted(await keys(database), key=int) == [str(number) for number in range(300)]


async def test_a_unit_that_fails_takes_nothing_else_with_it(database: Database) -> None:
    units = [lambda n=n: failing(str(n)) if n % 3 == 0 else record("u", "t.t", key=str(n)) for n in range(60)]
    outcomes = await asyncio.gather(*[database.run(unit) for unit in units], return_exceptions=True)
    for number, outcome in enumerate(outcomes):
        assert isinstance(outcome, RuntimeError) == (number % 3 == 0)
    assert sorted(map(int, await keys(database))) == [number for number in range(60) if number % 3]


async def test_a_unit_returns_its_value_and_sees_its_own_rows(database: Database) -> None:
    def unit() -> Unit[int]:
        yield from record("u", "t.t", key="a")
        from storage.database import execute

        ((number,),) = yield from execute(COUNT)
        return int(number)

    assert await database.run(unit) == 1


async def test_a_statement_that_returns_rows_may_be_run_many_times(database: Database) -> None:
    remove = Statement(
        "test.remove", delete(EVENT).where(EVENT.c.key == bindparam("key")).returning(EVENT.c.seq), register=False
    )
    await asyncio.gather(*[database.run(one(str(number))) for number in range(5)])
    await database.run(lambda: execute_many(remove, [{"key": key} for key in ("0", "missing", "2", "4")]))
    assert sorted(await keys(database)) == ["1", "3"]


async def test_a_unique_violation_is_raised_inside_the_unit_and_may_be_named_anew(database: Database) -> None:
    item = change("u", "t.t", key="a")

    def unit() -> Unit[None]:
        yield from record_all([item])
        try:
            yield from record_all([item])
        except UniqueViolation as error:
            raise LookupError("taken") from error

    with pytest.raises(LookupError, match="taken"):
        await database.run(unit)
    assert await count(database) == 0


async def test_a_unit_cannot_go_on_after_a_failed_statement(database: Database) -> None:
    item = change("u", "t.t", key="a")

    def unit() -> Unit[str]:
        yield from record_all([item])
        try:
            yield from record_all([item])
        except UniqueViolation:
            return "swallowed"
        return "written twice"

    with pytest.raises(UniqueViolation):
        await database.run(unit)
    assert await count(database) == 0


async def test_errors_name_the_statement_and_no_value(database: Database) -> None:
    item = Change(
        change("u", "t", key="k").id, "marker-user", "t.t", "marker-key", 1, change("u", "t", key="k").created_at
    )
    await database.run(lambda: record_all([item]))
    with pytest.raises(UniqueViolation) as caught:
        await database.run(lambda: record_all([item]))
    assert INSERT_EVENT.name in str(caught.value)
    assert "marker" not in str(caught.value)


# ---- on_commit


async def test_hooks_get_the_changes_after_the_commit_in_order(database: Database) -> None:
    seen: list[str] = []
    visible: list[bool] = []

    def hook(changes: Any) -> None:
        seen.extend(item.key for item in changes)
        visible.append(True)

    database.on_commit(hook)
    await asyncio.gather(*[database.run(one(str(number))) for number in range(50)])
    assert sorted(seen, key=int) == [str(number) for number in range(50)]
    if database.dialect == "sqlite":
        assert seen == await keys(database)


async def test_a_hook_finds_the_change_committed(database: Database) -> None:
    numbers: list[int] = []

    async def hook(changes: Any) -> None:
        numbers.append(await count(database))

    database.on_commit(hook)
    await database.run(one("a"))
    await asyncio.sleep(0)
    await database.close()
    assert numbers in ([1], [])  # a hook that reads after close() gets StorageClosed, which is logged


async def test_a_failed_unit_is_never_announced(database: Database) -> None:
    seen: list[Any] = []
    database.on_commit(seen.extend)
    with pytest.raises(RuntimeError):
        await database.run(lambda: failing("a"))
    await database.run(one("b"))
    assert [item.key for item in seen] == ["b"]


async def test_a_hook_that_raises_is_logged_and_undoes_nothing(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(changes: Any) -> None:
        raise ValueError("hook is broken")

    async def broken_later(changes: Any) -> None:
        raise ValueError("async hook is broken")

    seen: list[Any] = []
    for hook in (broken, broken_later, seen.extend):
        database.on_commit(hook)
    with caplog.at_level(logging.ERROR):
        await database.run(one("a"))
        await asyncio.sleep(0.01)
    assert await count(database) == 1
    assert len(seen) == 1
    assert "hook is broken" in caplog.text
    assert "async hook is broken" in caplog.text


async def test_a_removed_hook_hears_nothing_more(database: Database) -> None:
    seen: list[Any] = []
    remove = database.on_commit(seen.extend)
    await database.run(one("a"))
    remove()
    remove()
    await database.run(one("b"))
    assert [item.key for item in seen] == ["a"]


# ---- cancellation and back-pressure


async def test_a_caller_that_is_cancelled_in_the_queue_takes_its_unit_along(sqlite: Database) -> None:
    async with sqlite.transaction() as held:
        waiting = asyncio.create_task(_outside(sqlite.run, one("cancelled")))
        staying = asyncio.create_task(_outside(sqlite.run, one("stays")))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await held.run(one("held"))
    await staying
    assert await keys(sqlite) == ["held", "stays"]


async def _outside(call: Callable[..., Any], *arguments: Any) -> Any:
    """Call as a task that does not hold the transaction in whose block it was started."""
    import contextvars

    return await asyncio.create_task(call(*arguments), context=contextvars.Context())


async def test_callers_wait_when_too_much_is_under_way(sqlite_url: str) -> None:
    database = await opened(sqlite_url, queue_limit=3)
    async with database.transaction():
        tasks = [asyncio.create_task(_outside(database.run, one(str(number)))) for number in range(10)]
        await asyncio.sleep(0.05)
        assert database._lane._jobs.qsize() == 3  # type: ignore[union-attr]
    await asyncio.gather(*tasks)
    assert await count(database) == 10
    await database.close()


# ---- groups, busy, commit failures


async def test_a_commit_that_fails_fails_every_unit_in_it(sqlite: Database) -> None:
    connection = sqlite._lane._write_connection  # type: ignore[union-attr]
    # A deferred foreign key is checked by COMMIT itself: a real failure of a real commit.
    connection.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
    connection.execute("CREATE TABLE child (id INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")
    orphan = Statement("test.orphan", _text("INSERT INTO child VALUES (7)"), register=False)

    def bad() -> Unit[None]:
        from storage.database import execute

        yield from execute(orphan)

    seen: list[Any] = []
    sqlite.on_commit(seen.extend)
    async with sqlite.transaction():
        tasks = [asyncio.create_task(_outside(sqlite.run, unit)) for unit in (one("a"), bad, one("b"))]
        await asyncio.sleep(0.05)  # all three wait for the transaction, so they form one group
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, DatabaseError) for outcome in outcomes)
    assert await keys(sqlite) == []
    assert seen == []
    await sqlite.run(one("next"))
    assert await keys(sqlite) == ["next"]


def _text(sql: str) -> Any:
    from sqlalchemy import text

    return text(sql)


async def test_another_process_that_holds_the_lock_makes_writes_wait_then_fail(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_connection, "BUSY_TIMEOUT_SECONDS", 0.2)
    database = await opened(sqlite_url)
    other = sqlite3.connect(parse_url(sqlite_url).location, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseBusy, match="another process"):
        await database.run(one("a"))
    assert await count(database) == 0  # reads go on
    other.execute("ROLLBACK")
    other.close()
    await database.run(one("a"))
    assert await count(database) == 1
    await database.close()


async def test_a_lock_that_another_process_lets_go_of_now_and_then_is_soon_found_free(sqlite_url: str) -> None:
    database = await opened(sqlite_url)
    asked: list[str] = []
    database._lane._write_connection.set_trace_callback(asked.append)  # type: ignore[union-attr]
    other = sqlite3.connect(parse_url(sqlite_url).location, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    writing = asyncio.create_task(database.run(one("a")))
    await asyncio.sleep(0.5)
    assert not writing.done()
    assert asked.count("BEGIN IMMEDIATE") > 20  # SQLite's own handler would have looked twelve times by now
    other.execute("ROLLBACK")
    other.close()
    await writing
    await database.close()


async def test_a_full_disk_fails_the_unit_and_leaves_the_database_usable(sqlite: Database) -> None:
    connection = sqlite._lane._write_connection  # type: ignore[union-attr]
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count={pages}")
    big = lambda: record("u", "t.t", key="big", payload={"x": "y" * 1_000_000})  # noqa: E731
    async with sqlite.transaction():
        tasks = [asyncio.create_task(_outside(sqlite.run, unit)) for unit in (one("before"), big, one("after"))]
        await asyncio.sleep(0.05)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(outcomes[1], DatabaseUnavailable)
    assert "disk is full" in str(outcomes[1])
    written = [key for key, outcome in zip(("before", "big", "after"), outcomes, strict=True) if outcome is None]
    assert await keys(sqlite) == written
    connection.execute("PRAGMA max_page_count=1000000")
    await sqlite.run(big)
    assert (await keys(sqlite))[-1] == "big"


# ---- closing, forks, loops


async def test_close_finishes_what_was_accepted(database_url: str) -> None:
    database = await opened(database_url)
    tasks = [asyncio.create_task(database.run(one(str(number)))) for number in range(50)]
    await asyncio.sleep(0)
    await database.close()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    written = sum(outcome is None for outcome in outcomes)
    assert all(outcome is None or isinstance(outcome, StorageClosed) for outcome in outcomes)
    again = await opened(database_url)
    assert await count(again) == written
    await again.close()
    assert written == 50


async def test_a_closed_database_says_so(database_url: str) -> None:
    database = await opened(database_url)
    await database.close()
    await database.close()
    for call in (database.run(one("a")), count(database), _enter(database.transaction()), _enter(database.session())):
        with pytest.raises(StorageClosed, match=r"Storage\.open"):
            await call


async def _enter(manager: Any) -> None:
    async with manager:
        pass


async def test_closing_checkpoints_the_wal_away(sqlite_url: str) -> None:
    database = await opened(sqlite_url)
    await database.run(one("a"))
    await count(database)
    await database.read(COUNT, {}, scan=True)
    await database.close()
    file = database.url.file
    assert file is not None
    assert sorted(path.name for path in file.parent.iterdir()) == [file.name]


def test_one_storage_serves_event_loops_one_after_the_other(database_url: str) -> None:
    database = asyncio.run(opened(database_url))

    async def use(number: int) -> int:
        await database.run(one(str(number)))
        async with database.transaction() as tx:
            await tx.run(one(f"tx{number}"))
        async with database.session() as session:
            await session.exec(sqlmodel_select(func.count()).select_from(EVENT))
        return await count(database)

    assert [asyncio.run(use(number)) for number in range(3)] == [2, 4, 6]
    asyncio.run(database.close())


def test_two_event_loops_in_two_threads_write_at_once(database_url: str) -> None:
    database = asyncio.run(opened(database_url))

    async def use(name: str) -> None:
        await asyncio.gather(*[database.run(one(f"{name}{number}")) for number in range(100)])

    threads = [threading.Thread(target=lambda name=name: asyncio.run(use(name))) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def finish() -> int:
        number = await count(database)
        await database.close()
        return number

    assert asyncio.run(finish()) == 200


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_a_fork_is_detected_and_refused(database_url: str) -> None:
    database = asyncio.run(opened(database_url))
    child = os.fork()
    if child == 0:  # pragma: no cover - its coverage is not collected

        async def use() -> int:
            for call in (lambda: database.run(one("a")), lambda: count(database)):
                try:
                    await call()
                except ForkDetected:
                    continue
                return 1
            await database.close()
            return 0

        code = 1
        try:
            code = asyncio.run(use())
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    async def parent_goes_on() -> int:
        await database.run(one("parent"))
        number = await count(database)
        await database.close()
        return number

    assert asyncio.run(parent_goes_on()) == 1


# ---- files


async def test_the_database_file_and_its_wal_are_for_the_owner_only(tmp_path: Path) -> None:
    database = await opened(f"sqlite:///{tmp_path / 'folder' / 'storage.db'}")
    await database.run(one("a"))
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "folder").iterdir()}
    assert modes == {"storage.db": 0o600, "storage.db-wal": 0o600, "storage.db-shm": 0o600}
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o700
    await database.close()


async def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear Ada, " * 100)
    with pytest.raises(DatabaseUnavailable, match=r"letter\.txt"):
        Database(parse_url(f"sqlite:///{path}"))
    assert path.read_text() == "Dear Ada, " * 100


async def test_a_folder_in_the_way_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match="choose a path that can be written"):
        Database(parse_url(f"sqlite:///{tmp_path}"))


async def test_a_database_in_memory_behaves_like_a_file(tmp_path: Path) -> None:
    database = await opened("sqlite:///:memory:")
    other = await opened("sqlite:///:memory:")
    await asyncio.gather(*[database.run(one(str(number))) for number in range(20)])
    assert await count(database) == 20
    assert await count(other) == 0
    await database.close()
    await other.close()


async def test_an_unreachable_postgresql_is_named_without_its_password(tmp_path: Path) -> None:
    database = Database(parse_url(f"postgresql://someone:marker-password@/nowhere?host={tmp_path}"))
    with pytest.raises(DatabaseUnavailable) as caught:
        await count(database)
    assert "marker-password" not in str(caught.value) + repr(database.url)
    await database.close()


async def test_a_writer_in_another_thread_of_sqlite_is_seen_by_inline_reads(sqlite: Database) -> None:
    file = sqlite.url.file
    assert file is not None
    other = sqlite3.connect(file)
    with other:
        other.execute(
            "INSERT INTO event (id, user_id, type, key, payload, created_at) VALUES ('x', 'u', 't', 'k', '{}', 0)"
        )
    other.close()
    assert await count(sqlite) == 1
