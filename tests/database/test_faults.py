"""What goes wrong from outside: cancelled callers, lost connections, deleted files, odd errors, an early close()."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from functools import partial
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import bindparam, func, select, text
from sqlmodel import select as sqlmodel_select

from storage.database import Database, Statement, Unit, execute, parse_url
from storage.database.migrate import upgrade
from storage.errors import (
    ConfigurationError,
    DatabaseError,
    DatabaseUnavailable,
    InvalidInput,
    NestedTransaction,
    StorageClosed,
    TransactionAborted,
    TransactionClosed,
    VersionConflict,
)
from storage.webhooks.outbox import INSERT_EVENT, record
from tests.database.happenings import COUNT, EVENT, count, one, opened

BACKEND = Statement("test.backend", text("SELECT pg_backend_pid()"), register=False)
LOCK = Statement("test.lock", select(func.pg_advisory_xact_lock(bindparam("key"))), register=False)
SLEEP = Statement("test.sleep", text("SELECT pg_sleep(0.2)"), register=False)

HANGS = 30.0
"""Seconds after which a caller counts as waiting for ever."""


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = await opened(database_url)
    yield database
    await database.close()


@pytest.fixture
async def postgres(postgres_url: str) -> AsyncIterator[Database]:
    database = await opened(postgres_url)
    yield database
    await database.close()


@pytest.fixture
async def sqlite(sqlite_url: str) -> AsyncIterator[Database]:
    database = await opened(sqlite_url)
    yield database
    await database.close()


def alone(call: Awaitable[Any]) -> asyncio.Task[Any]:
    """A task that does not hold the transaction in whose block it was started."""

    async def go() -> Any:
        return await call

    return asyncio.get_running_loop().create_task(go(), context=contextvars.Context())


# ---- cancellation, at every point where a call can be waiting


class CancelledAt:
    """Awaits a coroutine and cancels its task where it waits for the nth time: then, or just as it is answered."""

    def __init__(self, call: Awaitable[Any], number: int, *, answered: bool) -> None:
        self._call = call
        self._number = number
        self._answered = answered
        self.reached = False

    def __await__(self) -> Generator[Any, Any, Any]:
        task = asyncio.current_task()
        assert task is not None
        steps: Any = self._call.__await__()
        step = steps.__next__
        for number in range(10_000):
            try:
                waits_for = step()
            except StopIteration as stop:
                return stop.value
            if number == self._number:
                self.reached = True
                if self._answered and waits_for is not None:
                    waits_for.add_done_callback(lambda _: task.cancel())
                else:
                    asyncio.get_running_loop().call_soon(task.cancel)
            try:
                yield waits_for
            except BaseException as error:  # noqa: BLE001 - it belongs to the coroutine
                step = partial(steps.throw, error)
            else:
                step = steps.__next__
        raise AssertionError("it never ends")


def two() -> Unit[None]:
    yield from record("u", "test.happened", key="a")
    yield from record("u", "test.happened", key="b")


async def in_a_unit(database: Database) -> None:
    await database.run(two)


async def in_a_transaction(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.run(one("a"))
        await count(tx)
        await tx.run(one("b"))


async def in_a_block_that_raises(database: Database) -> None:
    with pytest.raises(LookupError):
        async with database.transaction() as tx:
            await tx.run(one("a"))
            raise LookupError


async def in_a_session(database: Database) -> None:
    async with database.session() as session:
        await session.exec(sqlmodel_select(func.count()).select_from(EVENT))
        await session.exec(EVENT.insert().values(_row("a")))
        await session.exec(EVENT.insert().values(_row("b")))
        await session.commit()


def _row(key: str) -> dict[str, Any]:
    from storage.webhooks.outbox import change
    from storage.webhooks.table import EventTable

    item = change("u", "test.happened", key=key)
    columns = EventTable.__table__.c.keys()  # type: ignore[attr-defined]
    return {name: getattr(item, name) for name in columns if name not in ("seq", "to_fan_out")}


@pytest.mark.parametrize("answered", [False, True], ids=["while-waiting", "when-answered"])
@pytest.mark.parametrize("call", [in_a_unit, in_a_transaction, in_a_block_that_raises, in_a_session])
async def test_a_call_may_be_cancelled_wherever_it_waits(
    database: Database, call: Callable[[Database], Awaitable[None]], answered: bool
) -> None:
    """All of it is written or nothing, nobody waits for ever afterwards, and no connection is left in a transaction."""
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    kept = []  # tasks with their tracebacks: they must not keep a lock
    for number in range(1000):
        before = await count(database)
        cancelled = CancelledAt(call(database), number, answered=answered)
        kept.append(alone(cancelled))
        done, _ = await asyncio.wait(kept[-1:], timeout=HANGS)
        assert done, f"hangs when cancelled at wait {number}"
        async with asyncio.timeout(HANGS):
            await database.run(one("next"))
            async with database.transaction() as tx:
                written = await count(tx) - before - 1
        assert written in (0, 2), f"half of it was written when cancelled at wait {number}"
        if not cancelled.reached:
            break
    assert kept[-1].exception() is None
    assert len(kept) > 1
    assert complaints == []


async def test_a_cancelled_close_goes_on_and_another_waits_for_it(database_url: str) -> None:
    database = await opened(database_url)
    await database.run(one("a"))
    async with database.session() as session:
        await session.exec(sqlmodel_select(func.count()).select_from(EVENT))
    closing = asyncio.create_task(database.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await asyncio.gather(database.close(), database.close())
    if database.url.file is not None:
        assert [path.name for path in database.url.file.parent.iterdir()] == [database.url.file.name]


@pytest.mark.parametrize("rounds", [0, 1, 2, 3, 5, 8, 13, 21])
async def test_close_leaves_nobody_waiting(database_url: str, rounds: int) -> None:
    database = await opened(database_url, pool_size=2, queue_limit=2)
    calls = (in_a_unit, in_a_transaction, in_a_block_that_raises, in_a_session, count)
    tasks = [alone(call(database)) for call in calls * 6]
    for _ in range(rounds):
        await asyncio.sleep(0)
    async with asyncio.timeout(HANGS):
        await asyncio.gather(database.close(), database.close())
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for outcome in outcomes:
        assert outcome is None or isinstance(outcome, int | StorageClosed), repr(outcome)


async def test_a_hook_may_close_the_database(database_url: str) -> None:
    database = await opened(database_url)
    closed = asyncio.Event()

    async def hook(changes: Any) -> None:
        await database.close()
        closed.set()

    database.on_commit(hook)
    await database.run(one("a"))
    async with asyncio.timeout(HANGS):
        await closed.wait()
        await database.close()


# ---- odd exceptions


@pytest.mark.parametrize(
    "error", [FileNotFoundError("theirs"), TimeoutError("theirs"), ConnectionError("theirs"), asyncio.CancelledError()]
)
async def test_what_a_unit_raises_reaches_the_caller_as_it_is(database: Database, error: BaseException) -> None:
    def unit() -> Unit[None]:
        yield from record("u", "test.happened", key="undone")
        raise error

    with pytest.raises(type(error)) as caught:
        await database.run(unit)
    assert caught.value is error or isinstance(error, asyncio.CancelledError)
    async with database.transaction() as tx:
        with pytest.raises(type(error)):
            await tx.run(unit)
        await tx.run(one("goes on"))
    assert await count(database) == 1


async def test_a_factory_that_raises_stop_iteration_leaves_nobody_waiting(database: Database) -> None:
    def factory() -> Unit[None]:
        return next(iter([]))

    async with asyncio.timeout(HANGS):
        with pytest.raises(RuntimeError, match="StopIteration"):
            await database.run(factory)
        async with database.transaction() as tx:
            with pytest.raises(RuntimeError, match="StopIteration"):
                await tx.run(factory)


async def test_a_unit_that_yields_no_step_is_an_error_and_no_end(database: Database) -> None:
    def garbage() -> Unit[None]:
        yield from record("u", "test.happened", key="undone")
        yield "SELECT 1"  # type: ignore[misc]

    async with asyncio.timeout(HANGS):
        with pytest.raises(AttributeError):
            await database.run(garbage)
        await database.run(one("next"))
    assert await count(database) == 1


async def test_a_hook_that_raises_cancelled_keeps_no_caller_waiting(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    def hook(changes: Any) -> None:
        raise asyncio.CancelledError

    database.on_commit(hook)
    async with asyncio.timeout(HANGS):
        await asyncio.gather(*[database.run(one(str(number))) for number in range(20)])
    assert await count(database) == 20
    assert "the commit stands" in caplog.text


async def test_hooks_may_write_and_open_transactions(database: Database) -> None:
    finished = asyncio.Event()

    async def hook(changes: Any) -> None:
        if changes[0].key == "first":
            await database.run(one("from a hook"))
            async with database.transaction() as tx:
                await tx.run(one("in a transaction of a hook"))
            finished.set()

    database.on_commit(hook)
    async with asyncio.timeout(HANGS):
        async with database.transaction() as tx:
            await tx.run(one("first"))
        await finished.wait()
    assert await count(database) == 3


async def test_a_transaction_may_be_entered_in_one_task_and_left_in_another(database: Database) -> None:
    manager = database.transaction()
    tx = await alone(manager.__aenter__())
    await tx.run(one("a"))
    await alone(manager.__aexit__(None, None, None))
    assert await count(database) == 1


async def test_a_number_beyond_64_bits_is_refused_and_not_quoted(database: Database) -> None:
    row = _row("k") | {"version": 2**80}
    with pytest.raises(InvalidInput, match="64 bits") as caught:
        await database.run(lambda: execute(INSERT_EVENT, **row))
    assert str(2**80) not in str(caught.value)


# ---- PostgreSQL goes away, or says no


async def terminate(database: Database, url: str, pid: int) -> None:
    other = await opened(url)
    kill = Statement("test.kill", text(f"SELECT pg_terminate_backend({pid}, 10000)"), register=False)
    await other.read(kill, {})
    await other.close()


async def test_a_transaction_whose_connection_is_lost_says_so_and_the_next_call_works(
    postgres: Database, postgres_url: str
) -> None:
    with pytest.raises(DatabaseUnavailable):
        async with postgres.transaction() as tx:
            ((pid,),) = await tx.read(BACKEND, {})
            await tx.run(one("lost"))
            await terminate(postgres, postgres_url, pid)
            await tx.run(one("lost too"))
    await postgres.run(one("next"))
    assert await count(postgres) == 1


async def test_a_commit_on_a_lost_connection_is_an_error(postgres: Database, postgres_url: str) -> None:
    with pytest.raises(DatabaseUnavailable):
        async with postgres.transaction() as tx:
            ((pid,),) = await tx.read(BACKEND, {})
            await tx.run(one("lost"))
            await terminate(postgres, postgres_url, pid)
    assert await count(postgres) == 0


async def test_a_lost_connection_does_not_hide_what_the_block_raised(postgres: Database, postgres_url: str) -> None:
    with pytest.raises(VersionConflict):
        async with postgres.transaction() as tx:
            ((pid,),) = await tx.read(BACKEND, {})
            await terminate(postgres, postgres_url, pid)
            raise VersionConflict
    await postgres.run(one("next"))


async def test_a_unit_whose_connection_is_ended_by_the_server_is_told_so(postgres: Database) -> None:
    suicide = Statement("test.suicide", text("SELECT pg_terminate_backend(pg_backend_pid())"), register=False)

    def unit() -> Unit[None]:
        yield from record("u", "test.happened", key="lost")
        yield from execute(suicide)

    with pytest.raises(DatabaseUnavailable, match=r"test\.suicide"):
        await postgres.run(unit)
    await postgres.run(one("next"))
    assert await count(postgres) == 1


async def test_a_commit_that_postgresql_answers_with_rollback_is_an_error(postgres: Database) -> None:
    seen: list[Any] = []
    postgres.on_commit(seen.extend)
    with pytest.raises(DatabaseError, match="nothing was written"):
        async with postgres.transaction() as tx:
            await tx.run(one("lost"))
            with pytest.raises(Exception, match="division"):
                await tx._connection.execute("SELECT 1/0")  # type: ignore[attr-defined]
    assert await count(postgres) == 0
    assert seen == []


async def test_a_call_that_cannot_be_undone_alone_ends_the_transaction(postgres: Database) -> None:
    def unit() -> Unit[None]:
        yield from execute(Statement("test.release", text("RELEASE unit"), register=False))
        raise LookupError

    with pytest.raises(TransactionClosed, match="whole transaction"):
        async with postgres.transaction() as tx:
            await tx.run(one("lost"))
            with pytest.raises(LookupError):
                await tx.run(unit)
            await tx.run(one("lost too"))
    assert await count(postgres) == 0


async def test_two_units_that_deadlock_both_succeed(postgres: Database) -> None:
    def unit(first: int, second: int) -> Unit[None]:
        yield from execute(LOCK, key=first)
        yield from execute(SLEEP)
        yield from execute(LOCK, key=second)
        yield from record("u", "test.happened", key=str(first))

    await asyncio.gather(postgres.run(lambda: unit(1, 2)), postgres.run(lambda: unit(2, 1)))
    assert await count(postgres) == 2


async def test_of_two_transactions_that_deadlock_one_is_told_to_begin_again(postgres: Database) -> None:
    def lock(key: int) -> Unit[None]:
        yield from execute(LOCK, key=key)

    async def transaction(first: int, second: int) -> None:
        async with postgres.transaction() as tx:
            await tx.run(one(str(first)))
            await tx.run(lambda: lock(first))
            await both.wait()
            await tx.run(lambda: lock(second))

    both = asyncio.Barrier(2)
    outcomes = await asyncio.gather(transaction(1, 2), transaction(2, 1), return_exceptions=True)
    [refused] = [outcome for outcome in outcomes if outcome is not None]
    assert isinstance(refused, TransactionAborted)
    assert "run the whole transaction again" in str(refused)
    assert await count(postgres) == 1


async def test_with_one_connection_a_read_past_the_open_transaction_is_refused(postgres_url: str) -> None:
    database = await opened(postgres_url, pool_size=1)
    async with database.transaction() as tx:
        with pytest.raises(NestedTransaction):
            await count(database)
        assert await count(tx) == 0
    assert await count(database) == 0
    await database.close()


async def test_a_pool_that_is_in_use_is_named_as_the_reason(postgres_url: str) -> None:
    database = await opened(postgres_url, pool_size=1, command_timeout=0.2)
    async with database.transaction():
        with pytest.raises(DatabaseUnavailable, match="postgres_pool_size"):
            await alone(count(database))
    await database.close()


# ---- the SQLite file goes away


async def test_a_deleted_file_is_noticed_before_anything_is_written_into_nothing(sqlite: Database) -> None:
    await sqlite.run(one("a"))
    file = sqlite.url.file
    assert file is not None
    file.unlink()
    with pytest.raises(DatabaseUnavailable, match="deleted or replaced"):
        await sqlite.run(one("b"))
    with pytest.raises(DatabaseUnavailable, match="deleted or replaced"):
        async with sqlite.transaction():
            pass
    with pytest.raises(DatabaseUnavailable):
        await sqlite.read(COUNT, {}, scan=True)
    with pytest.raises(DatabaseUnavailable):
        await in_a_session(sqlite)
    assert not file.exists(), "an empty database was put in its place"


async def test_opening_a_file_again_leaves_the_locks_of_those_who_have_it_open(sqlite: Database) -> None:
    """Closing any descriptor of a file drops all locks that the process holds on it."""
    await sqlite.run(one("a"))
    second = await opened(f"sqlite:///{sqlite.url.location}")
    await upgrade(sqlite.url)
    await second.close()
    alone_now = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('PRAGMA journal_mode=DELETE')"
    command = [sys.executable, "-c", alone_now, sqlite.url.location]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert "database is locked" in done.stderr
    await sqlite.run(one("b"))
    assert await count(sqlite) == 2


@pytest.mark.parametrize("name", ["a b.db", "100%.db", "%41.db", "a?b.db", "a#b.db", "ü😀.db", "a'b\".db", "file:x.db"])
async def test_any_file_name_does_for_a_database(tmp_path: Any, name: str) -> None:
    database = await opened(f"sqlite:///{quote(str(tmp_path / name))}")
    await database.run(one("a"))
    assert await count(database) == (await database.read(COUNT, {}, scan=True))[0][0] == 1
    await in_a_session(database)
    assert await count(database) == 3
    await database.close()
    assert [path.name for path in tmp_path.iterdir()] == [name]


# ---- URLs


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://someone:marker@host/db",
        "postgresql://someone@host/db?password=marker",
        "postgresql://someone@host/db?sslpassword=marker&host=/tmp",
    ],
)
def test_a_password_is_shown_nowhere(url: str) -> None:
    parsed = parse_url(url)
    assert "marker" in parsed.location
    assert "marker" not in parsed.display + repr(parsed)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://someone:pa@marker:ss@host/db",
        "postgresql://someone@host:marker/db",
        "sqlite:///~nobody-of-this-name/x.db",
        "sqlite:///a\0b.db",
    ],
)
def test_a_url_that_cannot_be_read_is_a_configuration_error_that_quotes_no_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_url(url)
    assert "marker" not in str(caught.value)
    assert caught.value.__cause__ is None or "marker" not in str(caught.value.__cause__)


async def test_ten_thousand_units_at_once_are_all_written(sqlite: Database, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        await asyncio.gather(*[sqlite.run(one(str(number))) for number in range(10_000)])
    assert await count(sqlite) == 10_000
    assert caplog.text == ""
