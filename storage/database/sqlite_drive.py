"""Running a unit of work, or one SELECT, on a SQLite connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

from storage.database.change import Change
from storage.database.sqlite_connection import translate
from storage.database.statement import Row, Statement, does_not_fit
from storage.database.unit import Step, T, Unit, refuse
from storage.errors import StorageError


def select(connection: sqlite3.Connection, statement: Statement, parameters: Mapping[str, Any]) -> list[Row]:
    """All rows of a SELECT at once: a cursor left open would pin its snapshot and hold back the WAL."""
    compiled = statement.compiled("sqlite")
    values = compiled.bind(parameters)
    try:
        rows = connection.execute(compiled.sql, values).fetchall()
    except sqlite3.Error as error:
        raise translate(error, statement.name) from error
    except OverflowError as error:
        raise does_not_fit(statement) from error
    return compiled.decode(rows)


def perform(connection: sqlite3.Connection, step: Step) -> list[Row]:
    """Run one step of a unit."""
    if isinstance(step.parameters, Mapping):
        return select(connection, step.statement, step.parameters)
    compiled = step.statement.compiled("sqlite")
    values = [compiled.bind(parameters) for parameters in step.parameters]
    try:
        if compiled.returns_rows:
            # executemany leaves the first row unread, and Python 3.13 then binds the next parameters to a statement
            # that is still running: SQLITE_MISUSE.
            for each in values:
                connection.execute(compiled.sql, each).fetchall()
        else:
            connection.executemany(compiled.sql, values)
    except sqlite3.Error as error:
        raise translate(error, step.statement.name) from error
    except OverflowError as error:
        raise does_not_fit(step.statement) from error
    return []


def drive(connection: sqlite3.Connection, unit: Unit[T], changes: list[Change]) -> T:
    """Run a unit to its end on an open transaction, collecting its changes.

    A statement's error is raised inside the unit, which may turn it into another one but not go on: on PostgreSQL the
    transaction is lost by then, and a unit must mean the same on both.
    """
    try:
        step = next(unit)
        while True:
            try:
                rows = perform(connection, step)
            except StorageError as error:
                refuse(unit, error)
            changes.extend(step.changes)
            step = unit.send(rows)
    except StopIteration as stop:
        result: T = stop.value
        return result
