"""A question to PostgreSQL, run by a function that belongs to a role with no right but to the report views.

See storage.reporting.roles for why. The transaction is read-only and always rolled back, and the connection, which the
statement might have changed, is the question's own.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final

import asyncpg

from storage.errors import (
    DatabaseUnavailable,
    QueryRefused,
    QuerySetupMissing,
    QueryTimeout,
    QueryTooLarge,
    StorageError,
)
from storage.reporting.query.bounds import TOO_MUCH
from storage.reporting.query.complaint import complaint
from storage.reporting.query.parameters import with_literals
from storage.reporting.query.result import QueryResult, Question
from storage.reporting.roles import EVERYBODY, FUNCTIONS, ONE_USER, OWNER_OF
from storage.reporting.views import VIEWS

_CONNECT_SECONDS: Final = 30.0
_GRACE_SECONDS: Final = 5.0
"""After the server's own time limit, for a server that does not answer any more."""


async def ask(dsn: str, question: Question) -> QueryResult:
    """The rows that a question gives.

    Args:
        dsn: of the database.
        question: what is asked.

    Raises:
        QueryRefused, QueryInvalid, QueryTimeout, QuerySetupMissing: see storage.reporting.query.asking.ask.
        DatabaseUnavailable: the server cannot be reached.
    """
    sql = with_literals(question.sql, question.parameters)
    try:
        async with _reading(dsn, question) as connection:
            # Preparing takes exactly one statement, runs nothing, and tells the types of the columns.
            prepared = await connection.prepare(sql, timeout=question.timeout + _GRACE_SECONDS)
            attributes = prepared.get_attributes()
            if not attributes:
                raise QueryRefused("this statement is refused: a question is one SELECT, WITH, VALUES or EXPLAIN")
            began = time.monotonic()
            rows = await connection.fetch(
                f"SELECT {FUNCTIONS[_role(question)]}($1, $2)",
                sql,
                question.max_rows + 1,
                timeout=question.timeout + _GRACE_SECONDS,
            )
            seconds = time.monotonic() - began
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, TimeoutError) as error:
        raise _translated(error, question) from None
    decoders = [_DECODERS.get(attribute.type.name) for attribute in attributes]
    decoded = [_decoded(text, decoders) for (text,) in rows[: question.max_rows]]
    names = tuple(attribute.name for attribute in attributes)
    return QueryResult(names, decoded, len(rows) > question.max_rows, seconds)


def _role(question: Question) -> str:
    return EVERYBODY if question.user_id is None else ONE_USER


@asynccontextmanager
async def _reading(dsn: str, question: Question) -> AsyncIterator[Any]:
    """A connection in a transaction that reads only, and in which the views are the ones for this question."""
    try:
        connection = await asyncpg.connect(dsn, statement_cache_size=0, timeout=_CONNECT_SECONDS)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
        raise DatabaseUnavailable(f"cannot connect to PostgreSQL: {str(error) or type(error).__name__}") from error
    try:
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        role = _role(question)
        owner = await connection.fetchval(OWNER_OF.format(function=FUNCTIONS[role], role=role))
        if owner is None:
            raise _not_set_up()
        if question.user_id is not None:
            for view in VIEWS:
                body = view.sql("postgresql", question.user_id)
                # The barrier keeps a condition of the statement from being tried on rows that are not this user's.
                await connection.execute(f"CREATE TEMP VIEW {view.name} WITH (security_barrier) AS {body}")
            names = ", ".join(f"pg_temp.{view.name}" for view in VIEWS)
            await connection.execute(f"GRANT SELECT ON {names} TO {owner}")
            await connection.execute(
                "SELECT set_config('search_path', 'pg_temp, ' || quote_ident(current_schema()), true)"
            )
        await connection.execute(
            f"SET TRANSACTION READ ONLY; SET LOCAL TimeZone = 'UTC'; SET LOCAL IntervalStyle = 'iso_8601';"
            f" SET LOCAL statement_timeout = {max(1, int(question.timeout * 1000))}"
        )
        yield connection
    finally:
        # Closing rolls back. A question that was given up may still run, and is ended with its connection.
        connection.terminate() if connection.is_closed() else await _closed(connection)


async def _closed(connection: Any) -> None:
    try:
        await connection.close(timeout=_GRACE_SECONDS)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError, OSError):
        connection.terminate()


def _decoded(text: str, decoders: list[Callable[[Any], Any] | None]) -> tuple[Any, ...]:
    # Pairs and not a dict: two columns may have one name.
    values = [value for _, value in json.loads(text, object_pairs_hook=tuple)]
    return tuple(
        value if value is None or decode is None else decode(value)
        for value, decode in zip(values, decoders, strict=True)
    )


def _pairs_to_json(value: Any) -> Any:
    """A JSON column's value, whose objects were read as pairs along with the row."""
    if isinstance(value, tuple):
        return {key: _pairs_to_json(item) for key, item in value}
    return [_pairs_to_json(item) for item in value] if isinstance(value, list) else value


_DECODERS: Final[dict[str, Callable[[Any], Any]]] = {
    "timestamptz": datetime.fromisoformat,
    "float8": float,  # NaN and infinity are texts in JSON
    "float4": float,
    "json": _pairs_to_json,
    "jsonb": _pairs_to_json,
}


def _translated(error: Exception, question: Question) -> StorageError:
    match error:
        case asyncpg.QueryCanceledError() | TimeoutError():
            return QueryTimeout(
                f"the question took longer than {question.timeout:g} s; narrow it down, or allow it more time"
            )
        case asyncpg.InsufficientPrivilegeError() if str(error).endswith(f" function {FUNCTIONS[_role(question)]}"):
            return _not_set_up()
        case asyncpg.RaiseError() if str(error) == TOO_MUCH:
            return QueryTooLarge(TOO_MUCH)
        case asyncpg.InsufficientPrivilegeError() | asyncpg.ReadOnlySQLTransactionError():
            return QueryRefused(f"{error}: a question reads the report views, and nothing else")
        case asyncpg.InvalidCursorDefinitionError() | asyncpg.FeatureNotSupportedError():
            return QueryRefused(f"{error}: a question is one SELECT, WITH, VALUES or EXPLAIN")
        case asyncpg.PostgresConnectionError() | asyncpg.InterfaceError():
            return DatabaseUnavailable(f"PostgreSQL: {error}")
        case _:
            several = "multiple commands" in str(error)
            return QueryRefused("only one statement at a time") if several else complaint(str(error))


def _not_set_up() -> QuerySetupMissing:
    return QuerySetupMissing(
        "this database has no roles for questions, because its user may not make any: `storage sql --setup` prints what"
        " an administrator runs, once"
    )
