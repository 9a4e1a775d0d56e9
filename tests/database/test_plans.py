"""Every statement of every repository is asked of both databases: an index serves it, and no rows are sorted for it.

Plans are of empty tables, with the planner's other ways made unattractive: what is tested is that an index *can* serve
the statement. Statements named `report.*` read whole tables on purpose.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import sqlite3
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

import storage
from storage.conversations.pages import search_shapes
from storage.database import Statement, parse_url
from storage.database.statement import STATEMENTS
from storage.files.search import search_shapes as file_search_shapes
from storage.tables import metadata

for module in pkgutil.walk_packages(storage.__path__, "storage."):
    if not module.name.startswith(("storage.testing", "storage.__main__", "storage.openhands", "storage.cli")):
        importlib.import_module(module.name)

# Tables of a handful of rows in any installation, read whole: master keys, and the one row of the schema's revision.
SMALL_TABLES = {"key_encryption_key", "storage_version"}


# Asks for any one row: the first of the index is as good as another.
ANY_ROW = {"data_key.any"}


def repository_statements() -> Iterator[tuple[Statement, bool]]:
    """Each statement, and whether it may sort the few rows that an index found."""
    for name, statement in sorted(STATEMENTS.items()):
        if not name.startswith(("report.", "test.")) and name not in ANY_ROW:
            yield statement, False
    for shape in search_shapes():
        yield shape.statement, shape.sorts
    for statement in file_search_shapes():
        yield statement, False


STATEMENT_LIST = list(repository_statements())


def test_there_are_statements_of_every_feature() -> None:
    nouns = {statement.name.split(".")[0] for statement, _ in STATEMENT_LIST}
    stores = {"conversation", "settings", "custom_secret", "provider_token", "file", "file_content"}
    assert {*stores, "event", "data_key"} <= nouns


@pytest.fixture(scope="module")
def sqlite(sqlite_template: Any) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(sqlite_template)
    yield connection
    connection.close()


def sqlite_faults(plan: list[str]) -> list[str]:
    """The lines of a plan that read a whole table or index of ours, or sort."""
    tables = "|".join(sorted(set(metadata.tables) - SMALL_TABLES))
    return [line for line in plan if re.match(rf"SCAN ({tables})\b", line) or "USE TEMP B-TREE" in line]


def test_sqlite_serves_each_by_an_index_and_without_a_sort(sqlite: sqlite3.Connection) -> None:
    faults: dict[str, list[str]] = {}
    for statement, sorts in STATEMENT_LIST:
        sql = statement.compiled("sqlite").sql
        rows = sqlite.execute(f"EXPLAIN QUERY PLAN {sql}", [None] * sql.count("?"))
        found = sqlite_faults([detail for (*_, detail) in rows])
        if sorts:
            found = [fault for fault in found if "ORDER BY" not in fault]
        if found:
            faults[f"{statement.name}: {sql}"] = found
    assert faults == {}


def test_the_sqlite_check_finds_a_scan_and_a_sort(sqlite: sqlite3.Connection) -> None:
    sql = "EXPLAIN QUERY PLAN SELECT * FROM conversation ORDER BY sandbox_id"
    assert len(sqlite_faults([detail for (*_, detail) in sqlite.execute(sql)])) == 2


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def postgresql_faults(plan: dict[str, Any]) -> list[str]:
    faults = []
    for node in nodes(plan):
        kind, relation = node["Node Type"], node.get("Relation Name")
        if kind in ("Sort", "Incremental Sort"):
            faults.append(f"{kind} by {node.get('Sort Key')}")
        elif relation in SMALL_TABLES:
            continue
        elif kind == "Seq Scan" or (kind in ("Index Scan", "Index Only Scan") and "Index Cond" not in node):
            faults.append(f"{kind} of {relation}")
    return faults


async def postgresql_plan(connection: Any, sql: str) -> dict[str, Any]:
    """The generic plan, which holds for any parameters."""
    numbers = [int(number) for number in re.findall(r"\$(\d+)", sql)]
    arguments = f"({', '.join(['NULL'] * max(numbers))})" if numbers else ""
    await connection.execute(f"PREPARE asked AS {sql}")
    try:
        ((plan,),) = await connection.fetch(f"EXPLAIN (FORMAT JSON) EXECUTE asked{arguments}")
    finally:
        await connection.execute("DEALLOCATE asked")
    found: dict[str, Any] = json.loads(plan)[0]["Plan"]
    return found


async def test_postgresql_serves_each_by_an_index_and_without_a_sort(postgres_url: str) -> None:
    connection = await asyncpg.connect(parse_url(postgres_url).location)
    for setting in ("enable_seqscan", "enable_sort", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin"):
        await connection.execute(f"SET {setting} = off")
    await connection.execute("SET plan_cache_mode = force_generic_plan")
    faults: dict[str, list[str]] = {}
    for statement, sorts in STATEMENT_LIST:
        sql = statement.compiled("postgresql").sql
        found = postgresql_faults(await postgresql_plan(connection, sql))
        if sorts:
            found = [fault for fault in found if "Sort" not in fault]
        if found:
            faults[f"{statement.name}: {sql}"] = found
    control = postgresql_faults(await postgresql_plan(connection, "SELECT * FROM conversation ORDER BY sandbox_id"))
    await connection.close()
    assert faults == {}
    assert len(control) == 2, "the check itself must find a scan and a sort"
