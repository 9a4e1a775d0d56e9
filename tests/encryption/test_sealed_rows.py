"""Every statement on sealed columns is served by an index of their table, on both databases."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from storage.database import Statement, parse_url
from storage.encryption.registry import sealed_columns
from storage.encryption.sealed_rows import rows_of


def statements() -> Iterator[tuple[str, Statement]]:
    for column in sealed_columns():
        rows = rows_of(column)
        found = [rows.of_users, rows.owners, rows.fronts_of_users, rows.hold, rows.replace]
        if rows.may_be_nobodys:
            found += [rows.of_nobody, rows.fronts_of_nobody, rows.hold_nobodys]
        for statement in found:
            yield column.table, statement


def test_sqlite_searches_and_never_scans_or_sorts(sqlite_template: Path) -> None:
    connection = sqlite3.connect(sqlite_template)
    faults = {}
    for table, statement in statements():
        sql = statement.compiled("sqlite").sql
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", [None] * sql.count("?"))]
        if any(re.match(rf"SCAN {table}\b", line) or "USE TEMP B-TREE" in line for line in plan):
            faults[statement.name] = plan
    connection.close()
    assert faults == {}


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


async def test_postgresql_searches_and_never_scans_or_sorts(postgres_url: str) -> None:
    connection = await asyncpg.connect(parse_url(postgres_url).location)
    # Plans are of empty tables: what counts is that an index can serve the statement.
    for setting in ("enable_seqscan", "enable_sort", "enable_hashagg", "enable_bitmapscan"):
        await connection.execute(f"SET {setting} = off")
    await connection.execute("SET plan_cache_mode = force_generic_plan")
    faults = {}
    for _, statement in statements():
        sql = statement.compiled("postgresql").sql
        number = max([int(found) for found in re.findall(r"\$(\d+)", sql)], default=0)
        await connection.execute(f"PREPARE asked AS {sql}")
        arguments = f"({', '.join(['NULL'] * number)})" if number else ""
        ((plan,),) = await connection.fetch(f"EXPLAIN (FORMAT JSON) EXECUTE asked{arguments}")
        await connection.execute("DEALLOCATE asked")
        for node in nodes(json.loads(plan)[0]["Plan"]):
            kind = node["Node Type"]
            if kind in ("Seq Scan", "Sort") or (kind.startswith("Index") and "Index Cond" not in node):
                faults[statement.name] = node
    await connection.close()
    assert faults == {}


@pytest.mark.parametrize("column", sealed_columns(), ids=lambda column: f"{column.table}.{column.column}")
def test_a_replacement_sets_the_sealed_column_and_nothing_else(column: Any) -> None:
    sql = rows_of(column).replace.compiled("sqlite").sql
    assert re.match(rf"UPDATE {column.table} SET {column.column}=\? WHERE [^,]+$", sql)
    assert sql.count(f"{column.column} = ?") == 1, "compare and set"
