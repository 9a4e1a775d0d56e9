"""`storage sql`: questions in SQL over the report views."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from storage.cli.connection import DEFAULT, Connection, EveryUser, flag, opened
from storage.cli.output import Column, line, note, table
from storage.cli.result_formats import Format, format_for, write_result
from storage.reporting.query.bounds import MAX_ROWS, TIMEOUT_SECONDS

if TYPE_CHECKING:
    from storage.reporting.query.result import Parameter as Value
    from storage.storage import Storage


async def sql(
    text: Annotated[
        str | None,
        Parameter(name="SQL", allow_leading_hyphen=True, help="One statement; `-` reads it from standard input."),
    ] = None,
    /,
    *,
    file: Annotated[Path | None, Parameter(name=["--file", "-f"], help="Read the statement from this file.")] = None,
    parameter: Annotated[
        tuple[str, ...],
        Parameter(
            name=["--parameter", "-p"],
            negative="",
            show_default=False,
            help="A value for :NAME in the SQL, as NAME=VALUE; may be given several times. A value that is a number is"
            " one, unless it stands in single quotes.",
        ),
    ] = (),
    format: Annotated[  # noqa: A002 - its name on the command line
        Format | None,
        Parameter(help="How to print the rows; by the name of the output file if not given, else as a table."),
    ] = None,
    output: Annotated[
        Path | None, Parameter(name=["--output", "-o"], help="Write to this file, in its place once it is whole.")
    ] = None,
    max_rows: Annotated[int, Parameter(help="The most rows to print; says so if there are more.")] = MAX_ROWS,
    timeout: Annotated[float, Parameter(help="Seconds that the database may take.")] = TIMEOUT_SECONDS,
    explain: Annotated[bool, flag("Show how the database would go about it, and do not run it.")] = False,
    views: Annotated[bool, flag("List the views and their columns.")] = False,
    setup: Annotated[
        bool, flag("On PostgreSQL, make the roles that questions need, or print what makes them.")
    ] = False,
    user: EveryUser = None,
    connection: Connection = DEFAULT,
) -> int:
    """Ask a question in SQL. It reads the report views and nothing else; the database itself refuses the rest.

    With --user, it sees the rows, sums and counts of this user alone. Without any SQL it reads statements from a
    terminal, one after the other, with completion if `agent-storage[reporting]` is installed.

    Exits with 1 if the statement is refused or fails. CSV has a null as nothing, and texts as they are: a program that
    takes one that begins with `=` for a formula is to be told that the column is text.
    """
    from storage.errors import InvalidInput

    if views:
        _show_views()
        return 0
    if setup:
        return await _set_up(connection)
    if text is not None and file is not None:
        raise InvalidInput("give the SQL or --file, not both")
    values = _values(parameter)
    chosen = format_for(format, output)
    question = _question(text, file)
    if question is None:
        from storage.cli.sql_shell import shell

        async with opened(connection, locked=True) as storage:
            return await shell(storage, user=user, max_rows=max_rows, timeout=timeout)
    async with opened(connection, locked=True) as storage:
        if explain:
            question = f"{_explain(storage)} {question}"
        result = await storage.query(question, values, user=user, max_rows=max_rows, timeout=timeout)
    write_result(result, chosen, output)
    if result.truncated:
        note(f"only the first {max_rows:,} rows; --max-rows gives more")
    return 0


def _question(text: str | None, file: Path | None) -> str | None:
    """The statement; None if it is to be typed."""
    from storage.errors import InvalidInput

    if file is not None:
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"cannot read {file}: {error}") from error
    if text == "-" or (text is None and not sys.stdin.isatty()):
        return sys.stdin.read()
    return text


def _explain(storage: Storage) -> str:
    return "EXPLAIN QUERY PLAN" if storage.database.dialect == "sqlite" else "EXPLAIN"


def _values(pairs: tuple[str, ...]) -> dict[str, Value]:
    from storage.errors import InvalidInput

    values: dict[str, Value] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise InvalidInput(f"a parameter is NAME=VALUE, not {pair!r}")
        values[name] = _value(value)
    return values


def _value(text: str) -> str | int | float:
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1]
    for number in (int, float):
        try:
            if text.isascii() and "_" not in text and text == text.strip() and text.lstrip("+-")[:1] in "0123456789.":
                return number(text)
        except ValueError:
            continue
    return text


def _show_views() -> None:
    from storage.reporting.views import VIEWS

    for number, view in enumerate(VIEWS):
        if number:
            line()
        line(f"{view.name}: {view.about}")
        columns = [Column("Column"), Column("Holds"), Column("Meaning", wrap=True)]
        table(columns, [(column.name, column.kind, column.about) for column in view.columns])


async def _set_up(connection: Connection) -> int:
    from storage.reporting.roles import roles_there, set_up, setup_script

    async with opened(connection, locked=True) as storage:
        if storage.database.dialect == "sqlite":
            note("SQLite needs no setting up")
            return 0
        await set_up(storage.database)
        roles = await roles_there(storage.database)
        script = "" if roles else await setup_script(storage.database)
    if roles:
        note(f"questions can be asked; whoever is granted the role {roles[0]} can read the report views")
        return 0
    line(script)
    note("the database's user may not make the roles: an administrator runs the above, and then you this again")
    return 1
