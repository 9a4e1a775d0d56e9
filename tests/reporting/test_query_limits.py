"""Questions that ask for too much: time, rows, bytes, or a statement that grows when it is put together."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from itertools import pairwise

import pytest

from storage import Storage
from storage.errors import QueryError, QueryInvalid, QueryTimeout, QueryTooLarge
from storage.reporting.query import asking, expansion
from storage.reporting.query.bounds import MAX_SQL
from storage.reporting.query.parameters import names_in
from tests.reporting.questions import ask

# ---- time

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


async def test_a_question_that_takes_too_long_is_given_up(storage: Storage) -> None:
    with pytest.raises(QueryTimeout, match=r"longer than 0\.2 s"):
        await asking.ask(storage.database.url, ENDLESS, timeout=0.2)


@pytest.mark.parametrize("turns", [1, 2, 20_000])
async def test_a_question_that_is_cancelled_stops_in_the_database(storage: Storage, turns: int) -> None:
    """Whatever it is at: in its beginnings nothing runs that could be interrupted."""
    task = asyncio.create_task(asking.ask(storage.database.url, ENDLESS, timeout=3600))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 30)


async def test_writers_go_on_meanwhile(storage: Storage) -> None:
    task = asyncio.create_task(asking.ask(storage.database.url, ENDLESS, timeout=2))
    await asyncio.sleep(0.1)
    await storage.user("ada").files.write("meanwhile.txt", b"x")
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("last", ["explain", "/**/ explain", "AS explain"])
async def test_a_name_that_looks_like_explain_makes_no_question_endless(storage: Storage, last: str) -> None:
    with pytest.raises((QueryTimeout, QueryInvalid)):
        await asking.ask(storage.database.url, f"/**/ {ENDLESS} {last}", timeout=0.2)


async def test_many_large_rows_are_given_up_in_time(storage: Storage) -> None:
    large = {"sqlite": "hex(zeroblob(500000))", "postgresql": "repeat('x', 1000000)"}[storage.database.dialect]
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)"
    with pytest.raises(QueryTooLarge, match="larger than 64 MiB"):
        await ask(storage, f"{numbers} SELECT {large} FROM n")
    assert len((await ask(storage, f"{numbers} SELECT {large} FROM n LIMIT 5")).rows) == 5


# ---- size


async def test_a_long_statement_is_refused(storage: Storage) -> None:
    with pytest.raises(QueryTooLarge, match="at most 1,000,000 characters"):
        await ask(storage, "SELECT '" + "x" * MAX_SQL + "'")
    ids = ", ".join(f"'{number:032x}'" for number in range(20_000))
    assert (await ask(storage, f"SELECT count(*) FROM report_user WHERE user_id IN ({ids})")).rows == [(0,)]


async def test_a_value_or_a_pattern_of_any_size_ends_in_an_error(storage: Storage) -> None:
    dialect = storage.database.dialect
    huge = {"sqlite": "length(zeroblob(2000000000))", "postgresql": "length(repeat('x', 2000000000))"}[dialect]
    with pytest.raises(QueryError):
        await ask(storage, f"SELECT {huge}")
    if dialect == "sqlite":
        with pytest.raises(QueryError, match="too complex"):
            await ask(storage, f"SELECT 'a' LIKE '{'%a' * 1000}'")


def chain(
    length: int,
    name: str = "{}",
    *,
    form: str = "{} AS",
    mention: str = "FROM {}",
    first: str = "SELECT 1",
    result: str = "*",
) -> str:
    """Parts that each name the one before twice."""
    names = [name.format(f"c{number}") for number in range(length + 1)]
    parts = [f"{form.format(names[0])} ({first})"]
    for before, this in pairwise(names):
        twice = mention.format(before)
        parts.append(f"{form.format(this)} (SELECT {result} {twice} UNION ALL SELECT {result} {twice})")
    return f"WITH {', '.join(parts)} SELECT count(*) FROM {names[-1]}"


def nested(depth: int, names: str) -> str:
    """The same from one part in another, whose names repeat."""
    text = "SELECT 1 AS x"
    for number in range(depth):
        name = names[number % len(names)]
        text = f"SELECT * FROM (WITH {name} AS ({text}) SELECT * FROM {name} UNION ALL SELECT * FROM {name})"
    return text


GROWING: dict[str, Callable[[int], str]] = {
    "plain": chain,
    "quoted": lambda length: chain(length, '"{}"'),
    "in single quotes": lambda length: chain(length, "'{}'"),
    "in brackets": lambda length: chain(length, "[{}]"),
    "in backticks": lambda length: chain(length, "`{}`"),
    "with columns": lambda length: chain(length, form="{} (x) AS NOT MATERIALIZED"),
    "materialized": lambda length: chain(length, form="{}(x) AS MATERIALIZED"),
    "not ASCII": lambda length: chain(length, "\N{GRINNING FACE}{}"),
    "upper case and comments": lambda length: chain(length, mention="from/**/{}").replace("/c", "/C"),
    "an alias": lambda length: chain(length, mention="FROM {} AS a"),
    "joined": lambda length: chain(length, mention="FROM (SELECT 1) a JOIN {} ON 1", result="1"),
    "after a comma": lambda length: chain(
        length, mention="FROM (SELECT 1) a JOIN (SELECT 2) b ON max(1, 2), {}", result="1"
    ),
    "in parentheses": lambda length: chain(length, mention="FROM ({})"),
    "in": lambda length: chain(length, mention="WHERE 1 IN {}", result="1"),
    "a parenthesis as a name": lambda length: chain(length, first='SELECT 1 AS "("'),
    "nested": lambda length: nested(length, "a"),
    "nested in turns": lambda length: nested(length, "ab"),
    # Each part seems to name the next one, and they are asked for in the order in which that would cut them off.
    "compared": lambda length: chain(length, first="SELECT 1 IS DISTINCT FROM c1 FROM (SELECT 2 AS c1)").replace(
        f"count(*) FROM c{length}", "count(*) FROM " + ", ".join(f"c{number}" for number in range(length + 1))
    ),
}


@pytest.mark.parametrize("name", GROWING)
def test_a_statement_that_doubles_with_each_part_is_refused(name: str) -> None:
    with pytest.raises(QueryTooLarge, match="parts of its WITH"):
        expansion.check(GROWING[name](25))
    short = GROWING[name](3)
    expansion.check(short)
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(short).fetchall()


ORDINARY = {
    "short chain": chain(8),
    "long chain": "WITH c0 AS (SELECT 1 AS x)"
    + "".join(f", c{number + 1} AS (SELECT x FROM c{number})" for number in range(100))
    + " SELECT * FROM c100",
    "columns named like parts": "WITH cost AS (SELECT 1 AS total, 2 AS cost), total AS (SELECT sum(total) AS total"
    " FROM cost) SELECT cost.total, total.total FROM cost, total",
    "recursive": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3) SELECT * FROM n, n m",
    "one name in two places": "SELECT * FROM (WITH a AS (SELECT 1) SELECT * FROM a) x JOIN"
    " (WITH b AS (SELECT 2), a AS (SELECT * FROM b) SELECT * FROM a) y ON 1 = 1",
    "a view's own name": "WITH report_user AS (SELECT 1 AS x) SELECT * FROM report_user",
    "many views": "SELECT 1 FROM " + ", ".join(f"report_user u{number}" for number in range(30)) + " WHERE 1 = 0",
    "window": "SELECT sum(1) OVER w FROM report_user WINDOW w AS (PARTITION BY user_id)",
}


@pytest.mark.parametrize("name", ORDINARY)
async def test_ordinary_statements_are_not(storage: Storage, name: str) -> None:
    await ask(storage, ORDINARY[name])


@pytest.mark.parametrize(
    "piece",
    ["(", "/*", "[", "'", '"', "$a$ $b$ ", "--\n", "/**/", ":a", "a ", "from a,", "e'", "AS (", "x) AS (", "", ")"],
)
def test_text_of_any_kind_is_looked_at_to_its_end(piece: str) -> None:
    for text in (piece * 20_000, piece, "WITH a AS (" + piece):
        names_in(text)
        with suppress(QueryError):
            expansion.check(text)
