"""Whether the schema is what this release needs, by its revision and by its tables, columns and indexes."""

from __future__ import annotations

import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from storage.database.migrate import HEAD, VERSION_TABLE, SchemaState, check
from storage.doctor.finding import Finding, some
from storage.reporting.views.install import differing, make_anew
from storage.tables import metadata

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from storage.database.database import Database
    from storage.doctor.parts import OpenParts

_REMEDY: Final = "compare with `storage migrate --sql`, which prints the schema as it should be, and restore it"


async def revision(database: Database) -> list[Finding]:
    """Whether the stored revision is the one that this release works with."""
    found = await check(database)
    match found.state:
        case SchemaState.CURRENT:
            return []
        case SchemaState.TOO_NEW:
            message = f"the schema is at revision {found.stored}, of a newer release than this one ({HEAD})"
            return [Finding("error", message, "upgrade this installation")]
        case _:
            message = f"the schema is {found.state}: at revision {found.stored or 'none'}, and {HEAD} is needed"
            return [Finding("error", message, "`storage migrate`")]


async def drift(database: Database, _: OpenParts) -> list[Finding]:
    """Whether tables, columns and indexes are those that the revision has; what others have added is left alone."""
    async with database.session(read_only=True) as session:
        connection = await session.connection()
        differences = await connection.run_sync(_differences)
    missing = sorted({text for text in map(_missing, differences) if text is not None})
    return [Finding("error", f"the schema is not what its revision says: {some(missing)}", _REMEDY)] if missing else []


async def views(database: Database, _: OpenParts) -> list[Finding]:
    """Whether the report views are there, and are this release's."""
    names = await differing(database, database.dialect)
    if not names:
        return []
    message = f"report views are missing or are not this release's: {some(names)}"
    return [Finding("warning", message, "`storage doctor --fix` makes them anew", partial(make_anew, database, names))]


def _differences(connection: Connection) -> list[Any]:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE, "compare_type": True})
    with warnings.catch_warnings():
        # SQLite's expression indexes cannot be compared, and each is warned of.
        warnings.simplefilter("ignore")
        found: list[Any] = list(compare_metadata(context, metadata))
    if connection.dialect.name == "sqlite":
        # Nor are those that are missing: by their names, then.
        names = {name for (name,) in connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'index'")}
        indexes = [index for table in metadata.tables.values() for index in table.indexes]
        found += [("add_index", index) for index in indexes if index.name not in names]
    return found


def _missing(difference: Any) -> str | None:
    """What lacks or is otherwise, for people; None for what somebody has added, such as an index or a table.

    compare_metadata says what would have to be done: `add_…` for what is not there.
    """
    if isinstance(difference, list):  # changes of one column
        _, _, table, column, *_ = difference[0]
        return f"column {table}.{column} has another type" if table in metadata.tables else None
    verb, subject, *more = difference
    match verb:
        case "add_table":
            return f"table {subject.name} is missing"
        case "add_column":
            return f"column {more[0]}.{more[1].name} is missing"
        case "add_index" | "add_constraint" | "add_fk":
            return f"{verb.removeprefix('add_').replace('fk', 'foreign key')} {subject.name} is missing"
        case _:
            return None
