"""Questions in SQL: what they may read they get, and whatever else they try is refused by the database itself."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from storage import Storage
from storage.errors import (
    InvalidInput,
    QueryError,
    QueryInvalid,
    QueryRefused,
)
from storage.reporting.query import asking
from storage.reporting.roles import roles_there
from storage.reporting.views import VIEWS
from tests.reporting.questions import CANARY, TITLE, ask


async def state_of(storage: Storage) -> list[tuple[Any, ...]]:
    """Everything, to be compared: the rows of all tables and what there is besides."""
    schema = {
        "sqlite": "SELECT type, name, sql FROM sqlite_schema ORDER BY 1, 2",
        "postgresql": "SELECT relname, relkind::text, relacl::text FROM pg_class"
        " WHERE relnamespace = current_schema()::regnamespace ORDER BY 1",
    }
    found: list[tuple[Any, ...]] = []
    async with storage.session(read_only=True) as session:
        connection = await session.connection()
        found += [tuple(row) for row in await connection.exec_driver_sql(schema[storage.database.dialect])]
        for table in ("conversation", "settings", "custom_secret", "file", "event", "data_key"):
            rows = [tuple(map(str, row)) for row in await connection.exec_driver_sql(f"SELECT * FROM {table}")]
            found += sorted(rows)
    return found


# ---- what they get


async def test_a_question_gets_its_columns_and_rows_in_order(storage: Storage) -> None:
    result = await ask(storage, "SELECT user_id, cost_usd, title FROM report_conversation ORDER BY user_id")
    assert result.columns == ("user_id", "cost_usd", "title")
    assert result.rows == [("ada", 1.5, "A title"), ("bob", 1.5, TITLE)]
    assert not result.truncated
    assert result.seconds >= 0


@pytest.mark.parametrize("view", [view.name for view in VIEWS])
@pytest.mark.parametrize("user", [None, "ada"])
async def test_every_view_can_be_read_whole_and_by_its_count(storage: Storage, view: str, user: str | None) -> None:
    result = await ask(storage, f"SELECT * FROM {view}", user)
    assert result.columns == tuple(column.name for each in VIEWS if each.name == view for column in each.columns)
    assert (await ask(storage, f"SELECT count(*) FROM {view}", user)).rows == [(len(result.rows),)]
    assert CANARY not in repr(result.rows)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("WITH a AS (SELECT cost_usd FROM report_conversation) SELECT sum(cost_usd) FROM a", 3.0),
        ("SELECT count(*) FROM report_user u JOIN report_conversation c ON c.user_id = u.user_id", 2),
        ("SELECT sum(cost_usd) OVER () FROM report_conversation LIMIT 1", 3.0),
        ("SELECT count(*) FROM (SELECT 1 FROM report_user UNION ALL SELECT 2 FROM report_model) x", 3),
        ("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5) SELECT sum(i) FROM n", 15),
        ("SELECT count(*) FROM report_conversation WHERE EXISTS (SELECT 1 FROM report_file)", 2),
        ("VALUES (7)", 7),
    ],
)
async def test_sql_is_all_there(storage: Storage, sql: str, expected: object) -> None:
    assert (await ask(storage, sql)).rows[0][0] == expected


async def test_values_come_in_their_types(storage: Storage) -> None:
    [row] = (
        await ask(
            storage,
            "SELECT total_tokens, cost_usd, is_public, created_at, tags, budget_usd FROM report_conversation"
            " WHERE user_id = 'ada'",
        )
    ).rows
    tokens, cost, public, created, tags, budget = row
    assert (tokens, cost, public, budget) == (0, 1.5, None, None)
    if storage.database.dialect == "postgresql":
        assert isinstance(created, datetime)
        assert created.utcoffset() is not None
        assert tags == ["a", "b"]
    else:
        assert datetime.fromisoformat(created).tzinfo == UTC
        assert tags == '["a","b"]'


async def test_two_columns_may_have_one_name_and_json_may_be_empty(storage: Storage) -> None:
    assert (await ask(storage, "SELECT 1 AS a, 2 AS a")).columns == ("a", "a")
    assert (await ask(storage, "SELECT 1 AS a, 2 AS a")).rows == [(1, 2)]
    if storage.database.dialect == "postgresql":
        assert (await ask(storage, """SELECT '{}'::jsonb AS a, '[{"b": {}}]'::json AS b""")).rows == [({}, [{"b": {}}])]


async def test_more_rows_than_asked_for_are_cut_and_it_says_so(storage: Storage) -> None:
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) SELECT i FROM n"
    cut = await asking.ask(storage.database.url, numbers, max_rows=10)
    assert (len(cut.rows), cut.truncated) == (10, True)
    whole = await asking.ask(storage.database.url, numbers, max_rows=1000)
    assert (len(whole.rows), whole.truncated) == (1000, False)


# ---- parameters


@pytest.mark.parametrize(
    ("condition", "parameters", "number"),
    [
        ("user_id = :who", {"who": "ada"}, 1),
        ("user_id = :who", {"who": "ada' OR '1'='1"}, 0),
        ("user_id = :who", {"who": "\\' OR 1=1; --"}, 0),
        ("cost_usd > :cost", {"cost": 1}, 2),
        ("cost_usd > :cost AND cost_usd < :cost + 1", {"cost": 1.25}, 2),
        ("cost_usd = -:cost", {"cost": -1.5}, 2),
        ("created_day >= :day", {"day": date(2000, 1, 1)}, 2),
        ("created_at > :moment", {"moment": datetime(2000, 1, 1, tzinfo=UTC)}, 2),
        ("title = ':who' OR user_id = :who -- :who and 'more\n", {"who": "bob"}, 1),
        ("coalesce(title, :nothing) IS NOT NULL", {"nothing": None}, 2),
    ],
)
async def test_a_parameter_is_a_value_wherever_it_stands(
    storage: Storage, condition: str, parameters: dict[str, Any], number: int
) -> None:
    assert (await ask(storage, f"SELECT count(*) FROM report_conversation WHERE {condition}", **parameters)).rows == [
        (number,)
    ]


async def test_parameters_that_do_not_fit_are_refused(storage: Storage) -> None:
    with pytest.raises(InvalidInput, match="parameter :model and no value"):
        await ask(storage, "SELECT :model")
    with pytest.raises(InvalidInput, match=r"no parameter :modle; did you mean :model\?"):
        await ask(storage, "SELECT :model", model=1, modle=1)


@pytest.mark.parametrize("sql", ["", "  ", ";"])
async def test_nothing_is_no_question(storage: Storage, sql: str) -> None:
    with pytest.raises(InvalidInput, match="there is no SQL"):
        await ask(storage, sql)


# ---- whose


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM report_conversation",
        "SELECT sum(cost_usd) FROM report_model",
        "SELECT path FROM report_file",
        "SELECT * FROM report_user",
    ],
)
async def test_one_user_sees_their_own_rows_and_sums(storage: Storage, sql: str) -> None:
    result = await ask(storage, sql, "ada")
    assert len(result.rows) == 1
    assert TITLE not in repr(result.rows)
    assert "bob" not in repr(result.rows)
    assert "3.0" not in repr(result.rows)


ESCAPES = {
    "sqlite": [
        "SELECT * FROM main.report_conversation",
        "SELECT count(*) FROM main.report_conversation",
        "WITH report_user AS (SELECT * FROM main.report_user) SELECT * FROM report_user",
        "WITH x AS (SELECT * FROM main.conversation) SELECT * FROM x",
        "SELECT * FROM report_conversation WHERE json_extract(title, '$') = 1",
    ],
    "postgresql": [
        "SELECT * FROM public.report_conversation",
        "SELECT count(*) FROM public.report_conversation",
        (
            "SELECT set_config('search_path', 'public', true), (SELECT count(*) FROM report_user)"
            " FROM public.report_conversation"
        ),
        (
            "SELECT set_config('role', '{role}', true),"
            " query_to_xml('SELECT * FROM public.report_conversation', true, true, '')"
        ),
        "SELECT query_to_xml('SELECT * FROM public.report_conversation', true, true, '')",
        "SELECT * FROM public.storage_report_query('SELECT * FROM public.report_conversation', 9)",
        "SELECT * FROM report_conversation WHERE title::int = 1",
    ],
}


async def with_role(statements: list[str], storage: Storage) -> list[str]:
    """Naming the role that may read the views of everybody."""
    role = (await roles_there(storage.database))[0].strip('"') if storage.database.dialect == "postgresql" else ""
    return [sql.replace("{role}", role) for sql in statements]


async def test_one_user_cannot_get_at_the_rows_of_others(storage: Storage) -> None:
    for sql in await with_role(ESCAPES[storage.database.dialect], storage):
        with pytest.raises(QueryError) as refused:
            await ask(storage, sql, "ada")
        assert TITLE not in str(refused.value), sql


@pytest.mark.parametrize("user", ["bob'; DROP TABLE file; --", "nobody", "$$", "'||(SELECT 1)||'"])
async def test_a_user_of_any_name_is_a_value(storage: Storage, user: str) -> None:
    before = await state_of(storage)
    assert (await ask(storage, "SELECT count(*) FROM report_conversation", user)).rows == [(0,)]
    assert await state_of(storage) == before


# ---- what they may not

EITHER = [
    "INSERT INTO conversation (user_id) VALUES ('x')",
    "UPDATE settings SET version = 9",
    "DELETE FROM report_conversation",
    "DELETE FROM conversation",
    "DROP TABLE file",
    "DROP VIEW report_user",
    "CREATE TABLE mine (a integer)",
    "CREATE TEMP TABLE mine (a integer)",
    "CREATE TEMP VIEW mine AS SELECT 1",
    "ALTER TABLE file RENAME TO mine",
    "BEGIN",
    "COMMIT",
    "SELECT 1; DELETE FROM conversation",
    "SELECT 1; SELECT 2",
    "SELECT llm_api_key FROM settings",
    "SELECT count(*) FROM settings",
    "SELECT value FROM custom_secret",
    "SELECT wrapped FROM data_key",
    "SELECT title FROM conversation",
    "SELECT * FROM storage_version",
    "WITH report_user AS (SELECT llm_api_key FROM settings) SELECT * FROM report_user",
    "WITH report_conversation AS (SELECT * FROM conversation) SELECT * FROM report_conversation",
    "SELECT (SELECT value FROM custom_secret LIMIT 1) FROM report_user",
    "SELECT * FROM report_user WHERE EXISTS (SELECT 1 FROM settings WHERE user_id = report_user.user_id)",
    "SELECT 1 UNION ALL SELECT count(*) FROM data_key",
    "EXPLAIN SELECT llm_api_key FROM settings",
]
ONLY = {
    "sqlite": [
        "ATTACH DATABASE ':memory:' AS other",
        "ATTACH DATABASE '/tmp/other.db' AS other",
        "DETACH DATABASE main",
        "PRAGMA writable_schema = ON",
        "PRAGMA query_only = OFF",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA table_info(settings)",
        "VACUUM INTO '/tmp/copy-of-it.db'",
        "REINDEX",
        "SAVEPOINT a",
        "WITH x AS (SELECT 1) DELETE FROM conversation WHERE 1 IN x",
        "WITH x AS (SELECT 1) INSERT INTO conversation SELECT * FROM conversation",
        "SELECT load_extension('/tmp/evil.so')",
        "SELECT fts3_tokenizer('simple')",
        "SELECT sql FROM sqlite_schema",
        "SELECT * FROM sqlite_temp_schema",
        "SELECT * FROM sqlite_master",
        "SELECT * FROM pragma_table_info('settings')",
        "SELECT * FROM pragma_database_list",
        "SELECT * FROM main.settings",
        'SELECT * FROM temp."_00000000000000000000000000000000_report_user"',
        "CREATE TRIGGER t AFTER INSERT ON file BEGIN SELECT 1; END",
        "CREATE VIRTUAL TABLE temp.x USING fts5(a)",
        "EXPLAIN DELETE FROM conversation",
    ],
    "postgresql": [
        "WITH gone AS (DELETE FROM conversation RETURNING *) SELECT * FROM gone",
        "WITH gone AS (DELETE FROM report_file RETURNING *) SELECT * FROM gone",
        "COPY conversation TO PROGRAM 'cat > /tmp/stolen'",
        "COPY (SELECT * FROM settings) TO '/tmp/stolen'",
        "COPY conversation FROM PROGRAM 'id'",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT pg_ls_dir('/')",
        "SELECT lo_import('/etc/passwd')",
        "SELECT lo_from_bytea(0, 'x')",
        "SELECT * FROM pg_authid",
        "SELECT * FROM pg_shadow",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()",
        "SELECT set_config('role', 'none', false), query_to_xml('SELECT * FROM settings', true, true, '')",
        "SELECT set_config('role', session_user, true), query_to_xml('SELECT * FROM settings', true, true, '')",
        "SELECT set_config('session_authorization', session_user, true)",
        "SELECT set_config('transaction_read_only', 'off', true)",
        "SELECT query_to_xml('SELECT * FROM settings', true, true, '')",
        "SELECT table_to_xml('settings', true, true, '')",
        "SELECT database_to_xml(true, true, '')",
        "SELECT query_to_xml('DELETE FROM file', true, true, '')",
        "SELECT * FROM storage_report_query('SELECT * FROM settings', 9)",
        "SELECT nextval(pg_get_serial_sequence('event', 'seq'))",
        "SELECT * FROM report_conversation FOR UPDATE",
        "SELECT 1 INTO mine",
        "SET ROLE none",
        "RESET ROLE",
        "SET SESSION AUTHORIZATION DEFAULT",
        "DO $$ BEGIN DELETE FROM file; END $$",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE ROLE mine SUPERUSER",
        "ALTER ROLE {role} SUPERUSER",
        "SET ROLE {role}",
        "GRANT ALL ON settings TO PUBLIC",
        "LISTEN a",
        "LOCK TABLE file",
        "TRUNCATE file",
        "CALL f()",
        "EXPLAIN ANALYZE DELETE FROM conversation",
        (
            "SELECT most_common_vals FROM pg_stats WHERE tablename = 'settings'"
            " LIMIT (SELECT 1/count(*) FROM pg_stats WHERE tablename = 'settings')"
        ),
    ],
}


@pytest.mark.parametrize("user", [None, "ada"])
async def test_whatever_else_is_tried_is_refused_and_changes_nothing(storage: Storage, user: str | None) -> None:
    before = await state_of(storage)
    for sql in await with_role([*EITHER, *ONLY[storage.database.dialect]], storage):
        with pytest.raises(QueryError) as refused:
            print(sql, (await ask(storage, sql, user)).rows)  # noqa: T201 - what came out, if this test fails
        message = f"{refused.value!r} {refused.value.__cause__!r} {refused.value.__context__!r}"
        assert CANARY not in message, sql
    assert await state_of(storage) == before
    assert not Path("/tmp/copy-of-it.db").exists()
    assert not Path("/tmp/stolen").exists()


async def test_a_refusal_says_what_was_refused(storage: Storage) -> None:
    with pytest.raises(QueryRefused, match=r"settings.*report views"):
        await ask(storage, "SELECT llm_api_key FROM settings")


async def test_what_a_question_sets_is_gone_with_it(storage: Storage) -> None:
    if storage.database.dialect == "sqlite":
        pytest.skip("SQLite has nothing that a SELECT could set")
    await ask(storage, "SELECT set_config('statement_timeout', '1', false), pg_advisory_lock(1)")
    await ask(storage, "SELECT pg_advisory_lock(1)")


async def test_a_name_that_is_not_there_comes_with_one_that_is(storage: Storage) -> None:
    with pytest.raises(QueryInvalid, match=r"did you mean report_conversation\?"):
        await ask(storage, "SELECT * FROM report_conversations")
    with pytest.raises(QueryInvalid, match=r"did you mean cost_usd\?"):
        await ask(storage, "SELECT costs_usd FROM report_conversation")
    with pytest.raises(QueryInvalid, match="syntax error"):
        await ask(storage, "SELEC 1")


async def test_explaining_tells_the_plan_and_not_the_inner_names(storage: Storage) -> None:
    word = "EXPLAIN QUERY PLAN" if storage.database.dialect == "sqlite" else "EXPLAIN"
    plan = repr((await ask(storage, f"{word} SELECT count(*) FROM report_user", "ada")).rows)
    assert "conversation" in plan
    assert "_report_user" not in plan.replace("storage_report_user", "")
