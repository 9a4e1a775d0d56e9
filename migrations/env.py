"""Runs the migrations: on the connection that storage.database.migrate hands over, as SQL text, or for developers."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from alembic import context
from sqlalchemy import Connection

from storage.database.migrate import HEAD, VERSION_TABLE
from storage.reporting.views.install import create_statements, drop_statements
from storage.tables import metadata

OPTIONS: dict[str, Any] = {
    "target_metadata": metadata,
    "version_table": VERSION_TABLE,
    # SQLite's DDL is transactional; alembic takes it for not so because of how the driver used to commit.
    "transactional_ddl": True,
    # SQLite cannot alter most of a table in place: alembic then copies it.
    "render_as_batch": True,
    "compare_type": True,
}


def run_on(connection: Connection) -> None:
    dialect: Any = connection.dialect.name
    context.configure(connection=connection, **OPTIONS)
    with context.begin_transaction():
        moving = moves()
        if moving:
            for statement in drop_statements():
                connection.exec_driver_sql(statement)
        context.run_migrations()
        # The views read the columns that the newest revision has.
        if moving and context.get_context().get_current_revision() == HEAD:
            for statement in create_statements(dialect):
                connection.exec_driver_sql(statement)


def moves() -> bool:
    """Whether tables are to change. `alembic current` and `alembic check` only ask, and name no destination."""
    try:
        return context.get_revision_argument() != context.get_context().get_current_revision()
    except KeyError:
        return False


def print_sql(dialect: Any) -> None:
    context.configure(dialect_name=dialect, literal_binds=True, **OPTIONS)
    with context.begin_transaction():
        printed = context.get_context().impl.static_output
        for statement in drop_statements():
            printed(f"{statement};\n")
        context.run_migrations()
        if context.get_revision_argument() == HEAD:
            for statement in create_statements(dialect):
                printed(f"{statement};\n")


def developer_url() -> str:
    chosen = context.get_x_argument(as_dictionary=True).get("url") or os.environ.get("STORAGE_DATABASE_URL")
    return chosen or context.config.get_main_option("sqlalchemy.url") or "sqlite:///:memory:"


def run_for_developer() -> None:
    """`alembic …` from a checkout, on the database of STORAGE_DATABASE_URL, `-x url=` or alembic.ini."""
    from sqlalchemy import create_engine, make_url
    from sqlalchemy.ext.asyncio import create_async_engine

    url = make_url(developer_url())
    if url.get_backend_name() == "sqlite":
        with create_engine(url.set(drivername="sqlite")).begin() as connection:
            run_on(connection)
        return

    async def run() -> None:
        engine = create_async_engine(url.set(drivername="postgresql+asyncpg"))
        async with engine.begin() as connection:
            await connection.run_sync(run_on)
        await engine.dispose()

    asyncio.run(run())


attributes = context.config.attributes
if context.is_offline_mode():
    print_sql(attributes.get("dialect", "postgresql"))
elif "connection" in attributes:
    run_on(attributes["connection"])
else:
    run_for_developer()
