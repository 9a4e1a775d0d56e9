"""The schema's revision: read with one SELECT at open, brought up to date when it is not what this release needs.

alembic is imported only then. Concurrent first starts are serialised by the database itself, in the transaction that
migrates: BEGIN IMMEDIATE on SQLite, an advisory lock on PostgreSQL. Both end with the transaction, so a crash leaves
no lock behind and no half-migrated schema.
"""

from __future__ import annotations

import asyncio
import enum
import io
import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Column, String, select, table

from storage.database.carried_through import carried_through
from storage.database.sqlite_connection import connect, prepare_file
from storage.database.statement import DIALECTS, DialectName, Statement
from storage.database.unit import Executor
from storage.database.url import DatabaseURL
from storage.errors import DatabaseBusy, DatabaseError, SchemaOutdated, SchemaTooNew, StorageError

if TYPE_CHECKING:
    from alembic.config import Config

HEAD: Final = "0005"
"""The revision this release works with; a test holds it against the newest file in migrations/versions."""

VERSION_TABLE: Final = "storage_version"
"""Not alembic's default name: an application that shares the database may have an alembic chain of its own."""

LOCK_ID: Final = 0x6167656E7473746F
"""PostgreSQL's advisory lock for migrating, a 64-bit number that nobody else is likely to use ("agentsto")."""

LOCK_SECONDS: Final = 120.0
"""How long a second process waits while the first one migrates a SQLite file."""

_ONE_AT_A_TIME: Final = threading.Lock()
"""alembic keeps what it is migrating in globals: of two databases that one process migrates at once, the migrations of
the one would run on the other. Never waited for while blocking: its holder may be another task of the same loop."""

_POLL_SECONDS: Final = 0.02

_REVISION = Statement("schema.revision", select(Column("version_num", String)).select_from(table(VERSION_TABLE)))


class SchemaState(enum.StrEnum):
    """How a database's schema relates to what this release needs."""

    CURRENT = "current"
    EMPTY = "empty"
    OUTDATED = "outdated"
    TOO_NEW = "too new"


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """What `check` found: the stored revision (None if there is none), the one needed, and how they relate."""

    stored: str | None
    needed: str
    state: SchemaState


async def stored_revision(database: Executor) -> str | None:
    """The revision in the database; None if it was never migrated."""
    try:
        rows = await database.read(_REVISION, {})
    except DatabaseError as error:
        if _table_is_missing(error.__cause__):
            return None
        raise
    return str(rows[0][0]) if rows else None


def _table_is_missing(cause: BaseException | None) -> bool:
    if isinstance(cause, sqlite3.OperationalError):
        return f"no such table: {VERSION_TABLE}" in str(cause)
    return getattr(cause, "sqlstate", None) == "42P01"  # undefined_table


async def check(database: Executor) -> SchemaStatus:
    """Compare the stored revision with the one needed; changes nothing."""
    stored = await stored_revision(database)
    if stored == HEAD:
        state = SchemaState.CURRENT
    elif stored is None:
        state = SchemaState.EMPTY
    else:
        state = SchemaState.OUTDATED if stored in await asyncio.to_thread(_known_revisions) else SchemaState.TOO_NEW
    return SchemaStatus(stored, HEAD, state)


async def ensure(database: Executor, url: DatabaseURL, *, upgrade_allowed: bool = True) -> None:
    """Bring the schema to what this release needs. One SELECT when it is there already.

    Raises:
        SchemaTooNew: a newer release has migrated it.
        SchemaOutdated: it needs migrating and `upgrade_allowed` is False.
        DatabaseBusy: another process has been migrating for longer than LOCK_SECONDS.
    """
    stored = await stored_revision(database)
    if stored == HEAD:
        return
    if not upgrade_allowed:
        if (await check(database)).state is SchemaState.TOO_NEW:
            raise _too_new(stored)
        raise SchemaOutdated(
            f"the database is at schema revision {stored or 'none'} and {HEAD} is needed; run `storage migrate`,"
            " or open it with migrate_on_open=True"
        )
    await upgrade(url)


async def upgrade(url: DatabaseURL, revision: str | None = None) -> None:
    """Run the migrations that are missing, until `revision` or to the newest. See `ensure` for the errors."""
    revision = revision or HEAD
    while not _ONE_AT_A_TIME.acquire(blocking=False):  # noqa: ASYNC110 - an Event is of one loop, and there may be several
        await asyncio.sleep(_POLL_SECONDS)
    try:
        if url.dialect == "sqlite":
            await carried_through(asyncio.to_thread(_upgrade_sqlite, url.location, revision))
        else:
            await _upgrade_postgresql(url.location, revision)
    finally:
        _ONE_AT_A_TIME.release()


def sql(dialect: DialectName) -> str:
    """The statements that make the schema from nothing, for a database administrator to read and run."""
    from alembic import command

    config = _config()
    config.output_buffer = io.StringIO()
    config.attributes["dialect"] = DIALECTS[dialect].name
    command.upgrade(config, "head", sql=True)
    return config.output_buffer.getvalue()


def migrations_folder() -> Path:
    """Where the alembic chain is: inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    # ConfigParser reads a single % as the beginning of an interpolation.
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    return config


def _known_revisions() -> set[str]:
    from alembic.script import ScriptDirectory

    return {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


def _upgrade_on(connection: Any, revision: str) -> None:
    """Migrate on a SQLAlchemy connection that is in a transaction and holds the lock."""
    from alembic import command
    from alembic.migration import MigrationContext

    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    stored = context.get_current_revision()
    # Read again under the lock: another process may have migrated while this one waited.
    if stored == revision:
        return
    if stored is not None and stored not in _known_revisions():
        raise _too_new(stored)
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _upgrade_sqlite(location: str, revision: str) -> None:
    from sqlalchemy import create_engine, event
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.pool import NullPool

    prepare_file(location)
    engine = create_engine(
        "sqlite://",
        creator=lambda: connect(location, busy_timeout=LOCK_SECONDS, foreign_keys=False),
        poolclass=NullPool,
        hide_parameters=True,
    )

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    try:
        with engine.begin() as connection:
            _upgrade_on(connection, revision)
            violations = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
            if violations:
                raise DatabaseError(
                    f"the migration would break {len(violations)} foreign keys, first in table {violations[0][0]};"
                    " nothing was changed"
                )
    except DBAPIError as error:
        raise _failed(error) from error
    finally:
        engine.dispose()


async def _upgrade_postgresql(dsn: str, revision: str) -> None:
    import asyncpg
    from sqlalchemy import text
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    async def connect_asyncpg(*_arguments: Any, **_options: Any) -> Any:
        # No statement cache: also a pooler in between may be asked to pass the migration on.
        return await asyncpg.connect(dsn, statement_cache_size=0)

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect_asyncpg,
        connect_args={"prepared_statement_cache_size": 0},
        poolclass=NullPool,
        hide_parameters=True,
    )
    try:
        async with engine.begin() as connection:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": LOCK_ID})
            await connection.run_sync(_upgrade_on, revision)
    except DBAPIError as error:
        raise _failed(error) from error
    finally:
        await engine.dispose()


def _failed(error: Any) -> StorageError:
    original = error.orig
    if getattr(original, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
        return DatabaseBusy(f"another process has held the database for more than {LOCK_SECONDS:g} s; try again")
    view = _view_in_the_way(original)
    if view is not None:
        return DatabaseError(
            f"a view of your own is built on what is to change, and nothing was changed: {view}. Drop it, migrate,"
            " and make it anew"
        )
    return DatabaseError(f"the migration failed and nothing was changed: {original}")


def _view_in_the_way(original: Any) -> str | None:
    """What the database says of a view that hinders the migration; None if no view does."""
    if getattr(original, "sqlstate", None) == "2BP01":  # dependent_objects_still_exist
        return str(getattr(original.__cause__, "detail", None) or original)
    # SQLite looks through all views when a table is renamed, and has no code for what it finds.
    return str(original) if str(original).startswith("error in view ") else None


def _too_new(stored: str | None) -> SchemaTooNew:
    return SchemaTooNew(
        f"the database is at schema revision {stored}, which this release does not know (it needs {HEAD}):"
        " a newer release of agent-storage has migrated it. Upgrade this installation; nothing was changed"
    )
