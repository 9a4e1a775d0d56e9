"""`storage init` and `storage migrate`: making a storage, and bringing its schema up to date."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from storage.cli.connection import DEFAULT, AsJSON, Connection, database_only, file_place, flag, opened
from storage.cli.output import line, pairs, show_json


async def init(*, connection: Connection = DEFAULT, json: AsJSON = False) -> None:
    """Make the storage if there is none, bring its schema up to date, and say where everything is.

    Running it again changes nothing. No key is made before the first secret is stored.

    JSON: `{database, schema, file_store: {kind, place}, key}`; place is the folder of a local file store, or null.
    """
    async with opened(connection, create=True) as storage:
        status = await storage.status()
        kind, place = file_place(storage)
    if json:
        show_json(
            {
                "database": status.database,
                "schema": status.schema.stored,
                "file_store": {"kind": kind, "place": place},
                "key": status.keys.where,
            }
        )
        return
    pairs(
        [
            ("database", status.database),
            ("schema", f"revision {status.schema.stored}"),
            ("files", place or kind),
            ("master key", status.keys.message if status.keys.state == "new" else status.keys.where),
        ]
    )


async def migrate(
    *,
    check: Annotated[bool, flag("Change nothing; exit with 1 unless the schema is current.")] = False,
    sql: Annotated[
        bool,
        flag("Change nothing; print the statements that make the schema from nothing."),
    ] = False,
    dialect: Annotated[
        Literal["sqlite", "postgresql"] | None, Parameter(help="With --sql: for which database; the configured one's.")
    ] = None,
    connection: Connection = DEFAULT,
) -> int:
    """Bring the database's schema to what this release needs.

    Everything happens in one transaction: it is migrated, or it is as it was.
    """
    from storage.database import migrate as migration
    from storage.database.url import parse_url
    from storage.errors import InvalidInput

    if check and sql:
        raise InvalidInput("--check and --sql are two different questions; give one of them")
    if dialect is not None and not sql:
        raise InvalidInput("--dialect is for --sql; a database's own dialect is known from its URL")
    config = connection.settings()
    url = parse_url(config.database_url or config.sqlite_default())
    if sql:
        line(migration.sql(dialect or url.dialect).rstrip())
        return 0
    if check and url.file is not None and not url.file.exists():
        line(f"there is no database at {url.file}; `storage init` makes it")
        return 1
    async with database_only(config) as database:
        before = await migration.check(database)
        if check:
            current = before.state is migration.SchemaState.CURRENT
            line(f"the schema of {url.display} is {before.state}: {_revisions(before)}")
            return 0 if current else 1
        await migration.ensure(database, url)
        after = await migration.check(database)
    if before.stored == after.stored:
        line(f"{url.display} is at revision {after.stored} already")
    else:
        line(f"{url.display} was migrated from revision {before.stored or 'none'} to {after.stored}")
    return 0


def _revisions(schema: object) -> str:
    stored, needed = getattr(schema, "stored", None), getattr(schema, "needed", None)
    return f"revision {stored or 'none'}, needed {needed}"
