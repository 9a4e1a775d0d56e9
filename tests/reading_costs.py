"""What a statement reads, counted by the database itself: a test of cost that no busy machine can fail."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import asyncpg

from storage.database.statement import Statement
from storage.database.url import DatabaseURL


async def reading_cost(url: DatabaseURL, statement: Statement, parameters: Mapping[str, Any]) -> int:
    """Steps of SQLite's virtual machine, or rows that the nodes of PostgreSQL's plan return or drop."""
    if url.dialect == "sqlite":
        with closing(sqlite3.connect(url.location)) as file:
            return sqlite_steps(file, statement, parameters)
    connection = await asyncpg.connect(url.location)
    try:
        return await postgresql_rows(connection, statement, parameters)
    finally:
        await connection.close()


def sqlite_steps(file: sqlite3.Connection, statement: Statement, parameters: Mapping[str, Any]) -> int:
    """On an open SQLite database."""
    compiled = statement.compiled("sqlite")
    values = compiled.bind(parameters)
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    file.execute(compiled.sql, values).fetchall()  # the first statement also reads the schema
    file.set_progress_handler(count, 1)
    try:
        file.execute(compiled.sql, values).fetchall()
    finally:
        file.set_progress_handler(None, 1)
    return steps


async def postgresql_rows(connection: Any, statement: Statement, parameters: Mapping[str, Any]) -> int:
    """On a connection to PostgreSQL."""
    compiled = statement.compiled("postgresql")

    def rows(node: dict[str, Any]) -> int:
        each = node["Actual Rows"] + sum(node.get(f"Rows Removed by {what}", 0) for what in ("Filter", "Index Recheck"))
        return int(each * node["Actual Loops"]) + sum(map(rows, node.get("Plans", [])))

    await connection.execute("ANALYZE file")
    for way in ("seqscan", "bitmapscan", "sort"):  # cheaper while a table is small
        await connection.execute(f"SET enable_{way} = off")
    explained = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {compiled.sql}", *compiled.bind(parameters))
    return rows(json.loads(explained)[0]["Plan"])
