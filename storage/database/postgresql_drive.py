"""Running a unit of work, or one SELECT, on an asyncpg connection; driver errors as ours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import asyncpg

from storage.database.change import Change
from storage.database.statement import Row, Statement
from storage.database.unit import Step, T, Unit, refuse
from storage.errors import DatabaseError, DatabaseUnavailable, StorageError, UniqueViolation


def translate(error: BaseException, statement: str) -> StorageError:
    """Our error for one of asyncpg's; names the statement and constraint, never parameters. Set the cause yourself.

    PostgreSQL's detail line is left out: it quotes the row's values.
    """
    if isinstance(error, asyncpg.UniqueViolationError):
        return UniqueViolation(f"{statement}: unique constraint {error.constraint_name} refused the row")
    if isinstance(error, OSError | TimeoutError | asyncpg.PostgresConnectionError | asyncpg.CannotConnectNowError):
        return DatabaseUnavailable(f"{statement}: PostgreSQL cannot be reached: {str(error) or type(error).__name__}")
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError | asyncpg.InvalidCatalogNameError):
        return DatabaseUnavailable(f"{statement}: PostgreSQL refused the connection: {error}")
    if isinstance(error, asyncpg.PostgresError):
        return DatabaseError(f"{statement}: {error.args[0] if error.args else error} (SQLSTATE {error.sqlstate})")
    return DatabaseError(f"{statement}: {error}")


async def select(connection: Any, statement: Statement, parameters: Mapping[str, Any]) -> list[Row]:
    """All rows of one statement, decoded."""
    compiled = statement.compiled("postgresql")
    values = compiled.bind(parameters)
    try:
        records = await connection.fetch(compiled.sql, *values)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        raise translate(error, statement.name) from error
    return compiled.decode([tuple(record) for record in records])


async def perform(connection: Any, step: Step) -> list[Row]:
    """Run one step of a unit."""
    if isinstance(step.parameters, Mapping):
        return await select(connection, step.statement, step.parameters)
    compiled = step.statement.compiled("postgresql")
    values = [compiled.bind(parameters) for parameters in step.parameters]
    try:
        await connection.executemany(compiled.sql, values)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        raise translate(error, step.statement.name) from error
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


async def commit(transaction: Any, announce: Callable[[], None]) -> None:
    """Commit and announce, also if the caller is cancelled meanwhile: a COMMIT that was sent cannot be called back."""
    committing = asyncio.ensure_future(transaction.commit())
    cancelled: asyncio.CancelledError | None = None
    while not committing.done():
        try:
            await asyncio.shield(committing)
        except asyncio.CancelledError as error:
            if committing.cancelled():
                raise
            cancelled = error
        except Exception:  # noqa: BLE001 - result() below raises it once more, for every way of getting here
            break
    committing.result()
    announce()
    if cancelled is not None:
        raise cancelled
