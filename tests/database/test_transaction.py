"""Interactive transactions: all or nothing, isolation, nesting, deadlines, on both databases."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from sqlmodel import select as sqlmodel_select

from storage.database import Database, Unit
from storage.errors import InvalidInput, NestedTransaction, StorageClosed, TransactionClosed, TransactionTimeout
from storage.tables import EventTable
from storage.webhooks.outbox import record
from tests.database.happenings import count, one, opened


def failing() -> Unit[None]:
    yield from record("u", "test.happened", key="undone")
    raise RuntimeError("a unit fails")


@pytest.fixture(params=["file", "memory", "postgresql"])
async def database(request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    if request.param == "memory":
        url = "sqlite:///:memory:"
    else:
        url = request.getfixturevalue({"file": "sqlite_url", "postgresql": "postgres_url"}[request.param])
    database = await opened(url)
    yield database
    await database.close()


def in_memory(database: Database) -> bool:
    return database.url.display == "sqlite:///:memory:"


async def elsewhere(call: Callable[..., Any], *arguments: Any) -> Any:
    """Call as another task would that does not hold the transaction."""
    return await asyncio.create_task(call(*arguments), context=contextvars.Context())


async def test_a_block_that_ends_well_is_committed_and_announced_once(database: Database) -> None:
    seen: list[Any] = []
    database.on_commit(seen.append)
    async with database.transaction() as tx:
        await tx.run(one("a"))
        assert await count(tx) == 1
        await tx.run(one("b"))
        assert seen == []
    assert await count(database) == 2
    assert [[item.key for item in changes] for changes in seen] == [["a", "b"]]


async def test_a_block_that_raises_leaves_nothing(database: Database) -> None:
    seen: list[Any] = []
    database.on_commit(seen.append)
    with pytest.raises(LookupError):
        async with database.transaction() as tx:
            await tx.run(one("a"))
            raise LookupError
    assert await count(database) == 0
    assert seen == []
    await database.run(one("b"))
    assert await count(database) == 1


async def test_a_failed_unit_is_undone_alone_and_the_block_may_go_on(database: Database) -> None:
    seen: list[Any] = []
    database.on_commit(seen.extend)
    async with database.transaction() as tx:
        await tx.run(one("a"))
        with pytest.raises(RuntimeError):
            await tx.run(failing)
        await tx.run(one("b"))
    assert await count(database) == 2
    assert [item.key for item in seen] == ["a", "b"]


async def test_others_do_not_see_it_before_the_commit_and_can_read_meanwhile(database: Database) -> None:
    if in_memory(database):
        pytest.skip("a database in memory has no snapshots: a read outside waits, see the next test")
    async with database.transaction() as tx:
        await tx.run(one("a"))
        assert await elsewhere(count, database) == 0
        assert await count(database) == 0
    assert await elsewhere(count, database) == 1


async def test_in_memory_a_read_outside_waits_for_the_transaction() -> None:
    database = await opened("sqlite:///:memory:")
    async with database.transaction() as tx:
        reading = asyncio.create_task(elsewhere(count, database))
        await tx.run(one("a"))
        with pytest.raises(NestedTransaction):
            await count(database)
        assert not reading.done()
    assert await reading == 1
    await database.close()


async def test_other_writers_wait_and_then_go_on(database: Database) -> None:
    if database.dialect == "postgresql":
        pytest.skip("PostgreSQL has many writers")
    async with database.transaction() as tx:
        writing = asyncio.create_task(elsewhere(database.run, one("other")))
        await tx.run(one("a"))
        await asyncio.sleep(0.05)
        assert not writing.done()
    await writing
    assert await count(database) == 2


async def test_a_nested_transaction_or_a_write_past_the_open_one_is_refused(database: Database) -> None:
    async with database.transaction() as tx:
        with pytest.raises(NestedTransaction, match=r"tx\.conversations"):
            await database.run(one("a"))
        with pytest.raises(NestedTransaction):
            async with database.transaction():
                pass
        with pytest.raises(NestedTransaction):
            async with database.session():
                pass
        await tx.run(one("b"))
    assert await count(database) == 1


async def test_two_databases_may_be_in_a_transaction_at_once(database: Database) -> None:
    other = await opened("sqlite:///:memory:")
    async with database.transaction() as first, other.transaction() as second:
        await first.run(one("a"))
        await second.run(one("b"))
    assert await count(database) == await count(other) == 1
    await other.close()


async def test_one_that_stays_open_too_long_is_rolled_back_and_raises(database: Database) -> None:
    with pytest.raises(TransactionTimeout, match=r"0\.1 s"):
        async with database.transaction(timeout=0.1) as tx:
            await tx.run(one("a"))
            await asyncio.sleep(0.3)
            await tx.run(one("b"))
    assert await count(database) == 0
    await database.run(one("c"))
    assert await count(database) == 1


async def test_a_commit_past_the_deadline_is_refused(database: Database) -> None:
    with pytest.raises(TransactionTimeout):
        async with database.transaction(timeout=0.1) as tx:
            await tx.run(one("a"))
            await asyncio.sleep(0.3)
    assert await count(database) == 0


async def test_the_writer_is_free_again_when_an_owner_forgets_its_transaction(database: Database) -> None:
    manager = database.transaction(timeout=0.2)
    tx = await manager.__aenter__()
    await tx.run(one("a"))
    await elsewhere(database.run, one("b"))
    assert await elsewhere(count, database) == 1
    await asyncio.sleep(0.3)  # PostgreSQL did not have to wait for the first one
    with pytest.raises(TransactionTimeout):
        await manager.__aexit__(None, None, None)


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
async def test_a_timeout_that_is_not_positive_is_refused(database: Database, timeout: float) -> None:
    with pytest.raises(InvalidInput, match="timeout"):
        async with database.transaction(timeout=timeout):
            pass


async def test_an_ended_transaction_says_so(database: Database) -> None:
    async with database.transaction() as tx:
        pass
    with pytest.raises(TransactionClosed, match="open another one"):
        await tx.run(one("a"))
    with pytest.raises(TransactionClosed):
        await count(tx)


async def test_a_cancelled_owner_rolls_back(database: Database) -> None:
    started = asyncio.Event()

    async def work() -> None:
        async with database.transaction() as tx:
            await tx.run(one("a"))
            started.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await count(database) == 0
    await database.run(one("b"))
    assert await count(database) == 1


async def test_cancelling_while_waiting_for_the_turn_gives_it_to_the_next(database: Database) -> None:
    async def hold() -> None:
        async with database.transaction() as tx:
            await tx.run(one("held"))

    async with database.transaction() as tx:
        waiting = [asyncio.create_task(elsewhere(hold)) for _ in range(3)]
        await asyncio.sleep(0.05)
        waiting[1].cancel()
        await tx.run(one("a"))
    await asyncio.gather(*waiting, return_exceptions=True)
    await database.run(one("b"))
    assert await count(database) in (4, 5)  # on PostgreSQL the cancelled one had begun, and may have ended


async def test_closing_rolls_an_open_transaction_back(database_url: str) -> None:
    database = await opened(database_url)
    manager = database.transaction()
    tx = await manager.__aenter__()
    await tx.run(one("a"))
    await database.close()
    with pytest.raises(StorageClosed):
        await manager.__aexit__(None, None, None)
    again = await opened(database_url)
    assert await count(again) == 0
    await again.close()


async def test_calls_of_several_tasks_in_one_transaction_run_one_after_the_other(database: Database) -> None:
    async with database.transaction() as tx:
        await asyncio.gather(*[tx.run(one(str(number))) for number in range(20)])
        assert await count(tx) == 20
    assert await count(database) == 20


# ---- sessions


async def test_a_session_reads_and_writes_the_same_database(database: Database) -> None:
    await database.run(one("a"))
    async with database.session() as session:
        row = (await session.exec(sqlmodel_select(EventTable))).one()
        assert row.key == "a"
        assert row.created_at.tzinfo is not None
        row.key = "b"
        await session.commit()
        assert row.key == "b"
    async with database.session(read_only=True) as session:
        assert (await session.exec(sqlmodel_select(EventTable.key))).one() == "b"


async def test_a_session_that_is_not_committed_changes_nothing(database: Database) -> None:
    await database.run(one("a"))
    async with database.session() as session:
        row = (await session.exec(sqlmodel_select(EventTable))).one()
        row.key = "b"
        await session.flush()
    async with database.session() as session:
        assert (await session.exec(sqlmodel_select(EventTable.key))).one() == "a"


async def test_a_read_only_session_refuses_writes(database: Database) -> None:
    await database.run(one("a"))
    async with database.session(read_only=True) as session:
        row = (await session.exec(sqlmodel_select(EventTable))).one()
        row.key = "b"
        with pytest.raises(Exception, match=r"readonly|read-only"):
            await session.commit()


async def test_a_session_on_sqlite_begins_immediate(sqlite_url: str) -> None:
    """Two sessions that read and then write do not lose an update, and neither fails with a stale snapshot."""
    database = await opened(sqlite_url)
    await database.run(lambda: record("u", "t.t", key="counter", version=0))

    async def add() -> None:
        async with database.session() as session:
            row = (await session.exec(sqlmodel_select(EventTable))).one()
            row.version = (row.version or 0) + 1
            await session.commit()

    await asyncio.gather(*[add() for _ in range(10)])
    async with database.session(read_only=True) as session:
        assert (await session.exec(sqlmodel_select(EventTable.version))).one() == 10
    await database.close()
