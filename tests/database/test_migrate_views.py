"""The report views around a migration: out of the way of every change to a table, and made anew after it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Integer, text

from storage.database import Statement, migrate
from storage.database.migrate import HEAD, SchemaState
from storage.errors import DatabaseError
from storage.files.backends.memory import MemoryFileStore
from storage.files.catalog import FileCatalog
from storage.reporting.views import VIEWS
from storage.reporting.views.install import differing
from tests.database.migrating import alembic, opened, run_sql, set_revision

REBUILD = """
from alembic import op
from sqlalchemy import String, Text

revision, down_revision, branch_labels, depends_on = "9000", "HEAD", None, None


def upgrade():
    # A copy under another name on SQLite, and a new type in place on PostgreSQL, which refuses it under a view.
    with op.batch_alter_table("file") as batch:
        batch.alter_column("media_type", existing_type=Text(), type_=String(100))
"""


@pytest.fixture
def next_release(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One migration more than there is: it rebuilds a table that views read. The database is as it was before."""
    folder = shutil.copytree(migrate.migrations_folder(), tmp_path / "migrations")
    (folder / "versions" / "9000_rebuild.py").write_text(REBUILD.replace("HEAD", HEAD), encoding="utf-8")
    monkeypatch.setattr(migrate, "migrations_folder", lambda: folder)
    monkeypatch.setattr(migrate, "HEAD", "9000")


@pytest.mark.usefixtures("next_release")
async def test_a_table_is_rebuilt_under_the_views(database_url: str) -> None:
    database = await opened(database_url)
    await FileCatalog(database, MemoryFileStore(), "ada").write("a.txt", b"12345")
    await migrate.ensure(database, database.url)
    assert await migrate.stored_revision(database) == "9000"
    assert await differing(database, database.dialect) == []
    sizes = Statement(
        "test.sizes", text("SELECT size_bytes FROM report_file").columns(size_bytes=Integer), register=False
    )
    assert await database.read(sizes, {}) == [(5,)]
    await database.close()


@pytest.mark.usefixtures("next_release")
async def test_a_view_of_somebody_elses_that_hinders_a_migration_is_named(database_url: str) -> None:
    database = await opened(database_url)
    await run_sql(database, "CREATE VIEW large_files AS SELECT path FROM report_file WHERE size_bytes > 1000")
    with pytest.raises(DatabaseError, match=r"view of your own.*nothing was changed.*large_files.*Drop it, migrate"):
        await migrate.ensure(database, database.url)
    assert await migrate.stored_revision(database) == HEAD
    assert await differing(database, database.dialect) == []
    await run_sql(database, "DROP VIEW large_files")
    await migrate.ensure(database, database.url)
    assert await migrate.stored_revision(database) == "9000"
    await database.close()


async def test_a_table_of_somebody_elses_with_the_name_of_a_view_is_left_alone(empty_database_url: str) -> None:
    database = await opened(empty_database_url)
    await run_sql(database, "CREATE TABLE report_user (x INT)")
    with pytest.raises(DatabaseError, match=r"nothing was changed.*report_user"):
        await migrate.ensure(database, database.url)
    assert (await migrate.check(database)).state is SchemaState.EMPTY
    await run_sql(database, "DROP TABLE report_user")
    await migrate.ensure(database, database.url)
    await database.close()


async def test_a_developers_questions_leave_the_views_alone(database_url: str) -> None:
    database = await opened(database_url)
    await run_sql(database, "DROP VIEW report_user")
    assert HEAD in await alembic(database_url, "current")
    await alembic(database_url, "upgrade", "head")
    assert await differing(database, database.dialect) == ["report_user"]
    await alembic(database_url, "stamp", "0004")
    assert await differing(database, database.dialect) == [view.name for view in VIEWS]
    await alembic(database_url, "stamp", "head")
    assert await differing(database, database.dialect) == []
    await database.close()


async def test_views_that_others_have_changed_are_made_anew(database_url: str) -> None:
    database = await opened(database_url)
    await run_sql(database, "DROP VIEW report_user")
    await run_sql(database, "CREATE VIEW report_user AS SELECT 1 AS mine")
    await set_revision(database, "0004")
    await migrate.ensure(database, database.url)
    assert await differing(database, database.dialect) == []
    await database.close()


async def test_a_view_of_somebody_elses_is_kept_on_sqlite_and_stops_any_migration_on_postgresql(
    database_url: str,
) -> None:
    """SQLite binds a view to names when it is read, PostgreSQL to what had them when it was made."""
    database = await opened(database_url)
    await run_sql(database, "CREATE VIEW of_an_analyst AS SELECT user_id FROM report_user")
    await set_revision(database, "0004")
    if database.dialect == "postgresql":
        with pytest.raises(DatabaseError, match="of_an_analyst"):
            await migrate.ensure(database, database.url)
        assert await migrate.stored_revision(database) == "0004"
    else:
        await migrate.ensure(database, database.url)
        assert await migrate.stored_revision(database) == HEAD
    async with database.session(read_only=True) as session:
        assert list(await (await session.connection()).exec_driver_sql("SELECT * FROM of_an_analyst")) == []
    await database.close()


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_the_printed_sql_makes_the_views_last(dialect: Any) -> None:
    printed = migrate.sql(dialect)
    assert printed.rindex("CREATE TABLE") < printed.index("CREATE VIEW report_interface")
    assert ("GRANT SELECT ON report_interface" in printed) == (dialect == "postgresql")
