"""Running a unit of work, or one SELECT, on an asyncpg connection; driver errors as ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import asyncpg

from storage.database.carried_through import carried_through
from storage.database.change import Change
from storage.database.statement import Row, Statement, does_not_fit
from storage.database.unit import Step, T, Unit, refuse
from storage.errors import DatabaseError, DatabaseUnavailable, StorageError, TransactionAborted, UniqueViolation

DRIVER_ERRORS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
"""What asyncpg raises. To be caught around its calls only: a unit of work may raise an OSError of its own."""

CONNECTION_LOST: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.TooManyConnectionsError,
)
"""PostgreSQL's ways of saying that there is no connection, or no longer."""


MUTUAL_WAITING: Final = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
"""Not a fault of the statement: the same transaction succeeds once the others have ended."""


def translate(error: BaseException, statement: str) -> StorageError:
    """Our error for one of asyncpg's; names the statement and constraint, never parameters. Set the cause yourself.

    PostgreSQL's detail line is left out: it quotes the row's values.
    """
    if isinstance(error, asyncpg.UniqueViolationError):
        return UniqueViolation(f"{statement}: unique constraint {error.constraint_name} refused the row")
    if isinstance(error, TimeoutError):
        return DatabaseUnavailable(f"{statement}: no answer from PostgreSQL within postgres_command_timeout; try again")
    if isinstance(error, (OSError, *CONNECTION_LOST)):
        return DatabaseUnavailable(f"{statement}: PostgreSQL cannot be reached: {str(error) or type(error).__name__}")
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError | asyncpg.InvalidCatalogNameError):
        return DatabaseUnavailable(f"{statement}: PostgreSQL refused the connection: {error}")
    if isinstance(error, MUTUAL_WAITING):
        return TransactionAborted(
            f"{statement}: {error.args[0]} (SQLSTATE {error.sqlstate}): transactions waited for each other, and this "
            "call had to give way; it has changed nothing: run the whole transaction again"
        )
    if isinstance(error, asyncpg.PostgresError):
        return DatabaseError(f"{statement}: {error.args[0] if error.args else error} (SQLSTATE {error.sqlstate})")
    if isinstance(error, asyncpg.InterfaceError) and ("closed" in str(error) or "released back" in str(error)):
        return DatabaseUnavailable(f"{statement}: the connection to PostgreSQL was lost")
    return DatabaseError(f"{statement}: {error}")


def _failed(error: BaseException, statement: Statement) -> StorageError:
    # asyncpg's message quotes the value, so does PostgreSQL's.
    return does_not_fit(statement) if isinstance(error, asyncpg.DataError) else translate(error, statement.name)


async def select(connection: Any, statement: Statement, parameters: Mapping[str, Any]) -> list[Row]:
    """All rows of one statement, decoded."""
    compiled = statement.compiled("postgresql")
    values = compiled.bind(parameters)
    try:
        records = await connection.fetch(compiled.sql, *values)
    except DRIVER_ERRORS as error:
        raise _failed(error, statement) from error
    return compiled.decode([tuple(record) for record in records])


async def perform(connection: Any, step: Step) -> list[Row]:
    """Run one step of a unit."""
    if isinstance(step.parameters, Mapping):
        return await select(connection, step.statement, step.parameters)
    compiled = step.statement.compiled("postgresql")
    values = [compiled.bind(parameters) for parameters in step.parameters]
    try:
        await connection.executemany(compiled.sql, values)
    except DRIVER_ERRORS as error:
        raise _failed(error, step.statement) from error
    return []


async def drive(connection: Any, unit: Unit[T], changes: list[Change]) -> T:
    """Run a unit to its end on an open transaction, collecting its changes. See sqlite_drive.drive."""
    try:
        step = next(unit)
        while True:
            try:
                rows = await perform(connection, step)
            except StorageError as error:
                refuse(unit, error)
            changes.extend(step.changes)
            step = unit.send(rows)
    except StopIteration as stop:
        result: T = stop.value
        return result


async def begin(connection: Any) -> None:
    """Begin a transaction; `commit` or `roll_back` must follow, also if this was cancelled."""
    await control(connection, "BEGIN")


async def control(connection: Any, command: str) -> None:
    """BEGIN, SAVEPOINT and the like."""
    try:
        await connection.execute(command)
    except DRIVER_ERRORS as error:
        raise translate(error, command) from error


async def commit(connection: Any, committed: Callable[[], None]) -> None:
    """Commit, and call `committed` at once. Carried through: a COMMIT that was sent cannot be called back.

    Raises:
        DatabaseError: it was not committed. PostgreSQL answers ROLLBACK, and no error, to a COMMIT of a transaction in
            which a statement has failed.
    """

    async def work() -> None:
        try:
            answer = await connection.execute("COMMIT")
        except DRIVER_ERRORS as error:
            raise translate(error, "COMMIT") from error
        if answer != "COMMIT":
            raise DatabaseError("COMMIT: a statement had failed before, so PostgreSQL rolled back; nothing was written")
        committed()

    await carried_through(work())


async def roll_back(connection: Any) -> None:
    """Leave no transaction behind. Raises no error of the driver: nothing may hide why it has to be undone.

    A connection that cannot do it is ended instead, whereupon the server rolls back by itself.
    """
    try:
        await carried_through(connection.execute("ROLLBACK"))
    except DRIVER_ERRORS:
        with suppress(asyncpg.InterfaceError):  # the pool has noticed by itself that it is lost
            connection.terminate()
