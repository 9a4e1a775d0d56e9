"""Asking a question of either database, within its bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from storage.database.types import checked_text
from storage.errors import InvalidInput, QueryTooLarge
from storage.identity import user_key
from storage.reporting.query.bounds import MAX_ROWS, MAX_SQL, TIMEOUT_SECONDS
from storage.reporting.query.parameters import check
from storage.reporting.query.result import Parameter, QueryResult, Question

if TYPE_CHECKING:
    from storage.database.url import DatabaseURL


async def ask(
    url: DatabaseURL,
    sql: str,
    parameters: Mapping[str, Parameter] | None = None,
    *,
    user: str | None = None,
    max_rows: int = MAX_ROWS,
    timeout: float = TIMEOUT_SECONDS,
) -> QueryResult:
    """The rows that one statement gives, over the report views and nothing else.

    The database holds it to that, not a look at its text: on SQLite an authorizer and a connection for reading, on
    PostgreSQL a role without any other right. See storage.reporting.query.sqlite and storage.reporting.roles.

    Args:
        url: of the database.
        sql: one statement; `:name` stands for a parameter.
        parameters: a value for each.
        user: see only this user's rows, sums and counts; None is everybody (and not the local user).
        max_rows: the most rows to give.
        timeout: seconds that the database may take.

    Raises:
        InvalidInput: parameters that do not fit the statement, no statement, or a bound that is not positive.
        QueryRefused: it wants more than to read the report views.
        QueryInvalid: the database does not understand it, or it fails on a value.
        QueryTimeout: it took longer than `timeout`.
        QueryTooLarge: the result is, or what the statement amounts to; see storage.reporting.query.bounds.
        QuerySetupMissing: PostgreSQL, and its user may not make the roles; the message says what to do.
        DatabaseUnavailable: the database cannot be reached.
    """
    statement = checked_text(sql).strip().rstrip(";").rstrip()
    if not statement:
        raise InvalidInput("there is no SQL to run; give a statement such as SELECT * FROM report_user")
    if len(statement) > MAX_SQL:
        raise QueryTooLarge(f"a statement has at most {MAX_SQL:,} characters")
    if max_rows < 1 or not timeout > 0:
        raise InvalidInput("max_rows and timeout must be positive")
    given = dict(parameters or {})
    check(statement, given)
    owner = None if user is None else user_key(user)
    question = Question(statement, given, owner, max_rows, timeout)
    if url.dialect == "sqlite":
        from storage.reporting.query import sqlite

        return await sqlite.ask(url.location, question)
    from storage.reporting.query import postgresql

    return await postgresql.ask(url.location, question)
