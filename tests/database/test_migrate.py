"""The schema: made whole by the migrations, current at open with one SELECT, never guessed at when it is newer."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, bindparam, create_engine, insert, select
from sqlalchemy.ext.asyncio import create_async_engine

from storage.database import Database, Statement, execute, migrate, parse_url
from storage.database.migrate import HEAD, VERSION_TABLE, SchemaState
from storage.database.types import Sealed
from storage.encryption.keyring import KeyRing
from storage.encryption.providers.environment import EnvironmentKeys
from storage.errors import DatabaseError, SchemaOutdated, SchemaTooNew
from storage.files.backends.memory import MemoryFileStore
from storage.files.catalog import FileCatalog
from storage.identity import new_id
from storage.reporting.views import VIEWS
from storage.reporting.views.install import differing
from storage.settings.model import Settings
from storage.settings.sql import SQLSettingsStore
from storage.tables import metadata
from tests.database.migrating import alembic, opened, run_sql, set_revision
from tests.databases import MASTER_KEY

PLAIN = {column.name for column in metadata.tables["settings"].c if not isinstance(column.type, Sealed)}


def test_the_revision_this_release_needs_is_the_newest_migration() -> None:
    script = ScriptDirectory.from_config(migrate._config())
    assert script.get_heads() == [HEAD]
    assert script.get_bases() == ["0001"]


async def test_an_empty_database_is_brought_up_to_date_once(empty_database_url: str) -> None:
    database = await opened(empty_database_url)
    assert (await migrate.check(database)).state is SchemaState.EMPTY
    await migrate.ensure(database, database.url)
    status = await migrate.check(database)
    assert (status.stored, status.needed, status.state) == (HEAD, HEAD, SchemaState.CURRENT)
    await migrate.ensure(database, database.url)
    await database.close()


def _differences(connection: Connection) -> list[Any]:
    context = MigrationContext.configure(
        connection, opts={"version_table": VERSION_TABLE, "compare_type": True, "compare_server_default": True}
    )
    return list(compare_metadata(context, metadata))


@pytest.mark.filterwarnings("ignore:autogenerate skipping:UserWarning", "ignore:Skipped unsupported reflection")
async def test_the_migrations_make_exactly_the_tables_of_the_code(database_url: str) -> None:
    database = await opened(database_url)
    await migrate.ensure(database, database.url)
    if database.dialect == "sqlite":
        engine = create_engine(f"sqlite:///{database.url.location}")
        with engine.connect() as connection:
            differences = _differences(connection)
        engine.dispose()
    else:
        import asyncpg

        async_engine = create_async_engine(
            "postgresql+asyncpg://", async_creator=lambda *_a, **_k: asyncpg.connect(database.url.location)
        )
        async with async_engine.connect() as async_connection:
            differences = await async_connection.run_sync(_differences)
        await async_engine.dispose()
    await database.close()
    assert differences == []


def test_a_migrated_sqlite_schema_is_the_one_the_code_declares_to_the_letter(sqlite_url: str) -> None:
    """Also what autogenerate cannot compare on SQLite: expression indexes, checks, AUTOINCREMENT."""

    async def migrated() -> None:
        database = await opened(sqlite_url)
        await migrate.ensure(database, database.url)
        await database.close()

    asyncio.run(migrated())

    def schema(connection: Any) -> set[str]:
        rows = connection.execute(
            "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND type <> 'view' AND name NOT LIKE 'sqlite_%'"
        )
        lines = {" ".join(sql.split()) for (sql,) in rows}
        return {_canonical(line) for line in lines if VERSION_TABLE not in line}

    connection = sqlite3.connect(parse_url(sqlite_url).location)
    engine = create_engine("sqlite://")
    metadata.create_all(engine)
    raw = engine.raw_connection()
    try:
        assert schema(connection) == schema(raw.driver_connection)
    finally:
        connection.close()
        raw.close()
        engine.dispose()


def _canonical(line: str) -> str:
    """Table constraints in the order of their text: alembic and create_all order them differently."""
    if not line.startswith("CREATE TABLE"):
        return line
    head, _, body = line.partition(" (")
    parts = [part.strip() for part in body.rsplit(")", 1)[0].split(", CONSTRAINT")]
    return f"{head} ({parts[0]} {sorted(parts[1:])}"


async def test_a_newer_schema_is_refused_and_left_alone(database_url: str) -> None:
    database = await opened(database_url)
    await migrate.ensure(database, database.url)
    await set_revision(database, "9999")
    assert (await migrate.check(database)).state is SchemaState.TOO_NEW
    for allowed in (True, False):
        with pytest.raises(SchemaTooNew, match=r"9999.*Upgrade this installation"):
            await migrate.ensure(database, database.url, upgrade_allowed=allowed)
    assert await migrate.stored_revision(database) == "9999"
    await database.close()


async def test_an_older_schema_is_refused_when_upgrading_is_not_allowed(empty_database_url: str) -> None:
    database = await opened(empty_database_url)
    with pytest.raises(SchemaOutdated, match="storage migrate"):
        await migrate.ensure(database, database.url, upgrade_allowed=False)
    assert (await migrate.check(database)).state is SchemaState.EMPTY
    await database.close()


async def test_a_migration_that_fails_changes_nothing(empty_database_url: str) -> None:
    database = await opened(empty_database_url)
    # In the way of the last table but one: everything before it has been made by then.
    await run_sql(database, "CREATE TABLE delivery (x INT)")
    with pytest.raises(DatabaseError, match="nothing was changed"):
        await migrate.ensure(database, database.url)
    assert (await migrate.check(database)).state is SchemaState.EMPTY
    await run_sql(database, "DROP TABLE delivery")
    await migrate.ensure(database, database.url)
    assert (await migrate.check(database)).state is SchemaState.CURRENT
    await database.close()


async def test_a_database_of_the_first_release_is_brought_up_to_date_with_all_that_is_in_it(
    empty_database_url: str,
) -> None:
    await alembic(empty_database_url, "upgrade", "0001")
    database = await opened(empty_database_url)
    assert await migrate.stored_revision(database) == "0001"
    at = datetime(2026, 1, 2, tzinfo=UTC)
    times = {"version": 3, "created_at": at, "updated_at": at}
    written = {"path": "a.txt", "size": 5, "sha256": "00" * 32, "media_type": "text/plain"}
    await insert_row(
        database, "settings", **Settings(language="de").model_dump(include=PLAIN), user_id="ada", extra={}, **times
    )
    await insert_row(
        database,
        "file",
        user_id="ada",
        path="a.txt",
        blob_key="blobs/00/x",
        size=5,
        sha256=bytes(32),
        media_type="text/plain",
        conversation_id=None,
        version=1,
        created_at=at,
        updated_at=at,
    )
    for type_, payload in (("file.written", {**written, "blob_key": "blobs/00/x"}), ("file.deleted", {"path": "b"})):
        await insert_row(
            database,
            "event",
            id=new_id(),
            user_id="ada",
            type=type_,
            key=str(payload["path"]),
            version=1,
            payload=payload,
            created_at=at,
        )
    kept = {
        "id": new_id(),
        "user_id": "ada",
        "url": "https://receiver.example.com/",
        "event_types": ["*"],
        "mode": "standard",
        "format": "standard",
        "state": "active",
    }
    await insert_row(database, "webhook_endpoint", **kept, created_at=at, updated_at=at)
    await migrate.ensure(database, database.url)
    assert (await migrate.check(database)).state is SchemaState.CURRENT
    settings = await SQLSettingsStore(database, "ada", KeyRing(database, EnvironmentKeys(MASTER_KEY))).load()
    assert settings is not None
    assert settings.language == "de"
    assert (await FileCatalog(database, MemoryFileStore(), "ada").stat("a.txt")).size == 5
    event = metadata.tables["event"].c
    found = Statement("test.events", select(event.payload, event.blob_key).order_by(event.seq), register=False)
    assert await database.read(found, {}) == [(written, "blobs/00/x"), ({"path": "b"}, None)]
    endpoint = metadata.tables["webhook_endpoint"].c
    columns = [endpoint[name] for name in (*kept, "include", "on_dead", "from_seq")]
    there = await database.read(Statement("test.endpoints", select(*columns), register=False), {})
    assert there == [(*kept.values(), "nothing", "skip", 2)]
    waiting = select(event.seq).where(event.to_fan_out.is_not(None))
    assert await database.read(Statement("test.waiting", waiting, register=False), {}) == [], "it hears of what comes"
    await database.close()


async def test_a_database_goes_back_to_the_first_release_and_returns_with_what_both_can_hold(database_url: str) -> None:
    database = await opened(database_url)
    await migrate.ensure(database, database.url)
    at = datetime(2026, 1, 2, tzinfo=UTC)
    event_id = new_id()
    event = {"user_id": "ada", "type": "file.written", "key": "a", "version": 1, "payload": {"path": "a"}}
    await insert_row(database, "event", id=event_id, **event, created_at=at, blob_key="blobs/00/x", to_fan_out=True)
    await database.close()
    await alembic(database_url, "downgrade", "0001")
    database = await opened(database_url)
    assert await differing(database, database.dialect) == [view.name for view in VIEWS]
    await database.close()
    await alembic(database_url, "upgrade", "head")
    database = await opened(database_url)
    assert (await migrate.check(database)).state is SchemaState.CURRENT
    assert await differing(database, database.dialect) == []
    columns = metadata.tables["event"].c
    found = Statement(
        "test.returned", select(columns.id, columns.payload, columns.blob_key, columns.to_fan_out), register=False
    )
    assert await database.read(found, {}) == [(event_id, {"path": "a"}, "blobs/00/x", None)]
    await database.close()


async def insert_row(database: Database, table: str, **values: Any) -> None:
    """A row with just these columns, as an older release wrote it."""
    row = insert(metadata.tables[table]).values({name: bindparam(name) for name in values}).inline()
    await database.run(lambda: execute(Statement("test.insert", row, register=False), **values))


async def test_concurrent_first_starts_migrate_once(empty_database_url: str) -> None:
    databases = [await opened(empty_database_url) for _ in range(4)]
    await asyncio.gather(*[migrate.ensure(database, database.url) for database in databases])
    for database in databases:
        assert (await migrate.check(database)).state is SchemaState.CURRENT
        await database.close()


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_the_schema_can_be_had_as_sql(dialect: Any) -> None:
    sql = migrate.sql(dialect)
    for table in metadata.tables:
        assert f"CREATE TABLE {table} (" in sql
    for view in VIEWS:
        assert f"CREATE VIEW {view.name} AS" in sql
    assert f"INSERT INTO {VERSION_TABLE}" in sql


async def test_sql_text_makes_a_database_that_is_current(empty_database_url: str) -> None:
    url = parse_url(empty_database_url)
    if url.dialect == "sqlite":
        connection = sqlite3.connect(url.location)
        connection.executescript(migrate.sql("sqlite"))
        connection.close()
    else:
        import asyncpg

        administrator = await asyncpg.connect(url.location)
        await administrator.execute(migrate.sql("postgresql"))
        await administrator.close()
    database = await opened(empty_database_url)
    assert (await migrate.check(database)).state is SchemaState.CURRENT
    assert await differing(database, database.dialect) == []
    await database.close()


def test_opening_a_current_sqlite_database_imports_neither_alembic_nor_asyncpg(sqlite_url: str) -> None:
    code = """
import asyncio, sys
from storage import Storage
async def main(url):
    async with Storage.open(url, file_store="memory") as storage:
        await storage.user("a").conversations.count()
asyncio.run(main(sys.argv[1]))
heavy = {"alembic", "asyncpg", "aiosqlite", "cyclopts", "rich", "cryptography", "httpcore2", "h11", "obstore"}
print(sorted(heavy & set(sys.modules)))
"""
    outputs = [
        subprocess.run([sys.executable, "-c", code, sqlite_url], check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    ]
    assert outputs[1].strip() == "[]"


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, storage; print(sorted({'sqlalchemy', 'pydantic', 'sqlmodel', 'alembic'} & set(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.strip() == "[]"
