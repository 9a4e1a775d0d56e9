"""SQL expressions that the two databases spell differently, so that statements are written once."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Boolean, Integer, LargeBinary, Select, Text, func, literal_column
from sqlalchemy.dialects.postgresql import ARRAY, TEXT
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.elements import BindParameter, ColumnElement
from sqlalchemy.types import NullType, TypeDecorator

from storage.database.types import checked_text, dump_json, stored_bytes


class TextList(TypeDecorator[list[str]]):
    """A list of texts as one parameter: an array on PostgreSQL, a JSON array on SQLite."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Any) -> Any:
        """`TEXT[]` on PostgreSQL, `TEXT` elsewhere."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(ARRAY(TEXT()))
        return dialect.type_descriptor(Text())

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        """Raises InvalidInput for a text that one of the databases cannot hold."""
        if value is None:
            return None
        texts = [checked_text(text) for text in value]
        return texts if dialect.name == "postgresql" else dump_json(texts)


class NumberList(TypeDecorator[list[int]]):
    """A list of whole numbers as one parameter: an array on PostgreSQL, a JSON array on SQLite."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Any) -> Any:
        """`BIGINT[]` on PostgreSQL, `TEXT` elsewhere."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(ARRAY(BigInteger()))
        return dialect.type_descriptor(Text())

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        """The list as the database takes it."""
        if value is None:
            return None
        return list(value) if dialect.name == "postgresql" else dump_json(list(value))


class _Pair(ColumnElement[bool]):
    """An expression of a column and a parameter, whose type the expression decides."""

    inherit_cache = True
    type = Boolean()
    # Without it SQLite is given `… = 1`, which no index serves.
    _is_implicitly_boolean = True

    def __init__(self, column: ColumnElement[Any], parameter: BindParameter[Any]) -> None:
        self.column = column
        self.parameter = parameter


class any_of(_Pair):  # noqa: N801 - reads as SQL, like SQLAlchemy's own and_ and not_
    """The column equals one of the values in the list parameter. One parameter however long the list: one plan."""

    inherit_cache = True

    def __init__(
        self, column: ColumnElement[Any], parameter: BindParameter[Any], type_: type[TypeDecorator[Any]] = TextList
    ) -> None:
        super().__init__(column, BindParameter(parameter.key, required=True, type_=type_()))


@compiles(any_of, "postgresql")
def _any_of_postgresql(element: any_of, compiler: Any, **options: Any) -> str:
    return f"{compiler.process(element.column, **options)} = ANY ({compiler.process(element.parameter, **options)})"


@compiles(any_of, "sqlite")
def _any_of_sqlite(element: any_of, compiler: Any, **options: Any) -> str:
    column = compiler.process(element.column, **options)
    wanted = compiler.process(element.parameter, **options)
    return f"{column} IN (SELECT value FROM json_each({wanted}))"  # noqa: S608 - compiled SQL, no input


class json_array_has_all(_Pair):  # noqa: N801 - as above
    """The JSON array in the column holds every text of the list parameter."""

    inherit_cache = True

    def __init__(self, column: ColumnElement[Any], parameter: BindParameter[Any]) -> None:
        super().__init__(column, BindParameter(parameter.key, required=True, type_=TextList()))


@compiles(json_array_has_all, "postgresql")
def _json_array_has_all_postgresql(element: json_array_has_all, compiler: Any, **options: Any) -> str:
    # jsonb_exists_all is the function behind the operator ?&, whose question mark some drivers take for a parameter.
    column = compiler.process(element.column, **options)
    return f"jsonb_exists_all({column}, {compiler.process(element.parameter, **options)})"


@compiles(json_array_has_all, "sqlite")
def _json_array_has_all_sqlite(element: json_array_has_all, compiler: Any, **options: Any) -> str:
    column = compiler.process(element.column, **options)
    wanted = compiler.process(element.parameter, **options)
    present = f"SELECT value FROM json_each({column})"  # noqa: S608 - as above
    return f"NOT EXISTS (SELECT 1 FROM json_each({wanted}) AS wanted WHERE wanted.value NOT IN ({present}))"  # noqa: S608


def is_any(rows: Select[Any]) -> ColumnElement[bool]:
    """Whether there is a row, asked for each row of the query around it.

    PostgreSQL may turn EXISTS into a join with all there is, if it thinks that to be little; this it leaves as it is.
    """
    return rows.limit(literal_column("1", Integer)).scalar_subquery().is_not(None)


class contains_text(_Pair):  # noqa: N801 - as above
    """The column contains the text parameter, whatever the case of ASCII letters; no character of it is special.

    A position and not LIKE: nothing to escape, and lower() folds just ASCII on SQLite and under `COLLATE "C"` alike.
    """

    inherit_cache = True


@compiles(contains_text, "postgresql")
def _contains_text_postgresql(element: contains_text, compiler: Any, **options: Any) -> str:
    column = compiler.process(func.lower(element.column), **options)
    return f"strpos({column}, {compiler.process(func.lower(element.parameter), **options)}) > 0"


@compiles(contains_text, "sqlite")
def _contains_text_sqlite(element: contains_text, compiler: Any, **options: Any) -> str:
    column = compiler.process(func.lower(element.column), **options)
    return f"instr({column}, {compiler.process(func.lower(element.parameter), **options)}) > 0"


def front_of(column: ColumnElement[bytes], length: int) -> ColumnElement[bytes]:
    """The first `length` bytes of a sealed column: enough to tell which key it names, however long the value is."""
    whole = stored_bytes(column)
    # SQLite's substr makes NULL of an empty blob, which would pass for a secret that was never set.
    return func.coalesce(func.substr(whole, 1, length), whole, type_=LargeBinary())


class unindexed(ColumnElement[Any]):  # noqa: N801 - as above
    """The same value, but no reason to use another index than the one in the order of the page.

    SQLite, without statistics, takes two equalities for better than any order, then reads and sorts all it finds.
    PostgreSQL has statistics and is left to its own judgement.
    """

    inherit_cache = True

    def __init__(self, expression: ColumnElement[Any]) -> None:
        self.value = expression
        self.type = expression.type


@compiles(unindexed)
def _unindexed(element: unindexed, compiler: Any, **options: Any) -> str:
    text: str = compiler.process(element.value, **options)
    return text


@compiles(unindexed, "sqlite")
def _unindexed_sqlite(element: unindexed, compiler: Any, **options: Any) -> str:
    return f"+{compiler.process(element.value, **options)}"


class locked_until_commit(ColumnElement[Any]):  # noqa: N801 - as above
    """Waits for other transactions that have locked the same text, and keeps it until this one ends.

    For what there is no row to lock of. It has no value. SQLite has one writer at a time, and nothing to wait for.

    Args:
        purpose: tells the locks of one feature from those of another; 64 bits.
        text: what is locked. Two texts of one hash wait for each other, which harms nobody.
    """

    inherit_cache = True
    type = NullType()

    def __init__(self, purpose: int, text: BindParameter[Any]) -> None:
        self.purpose = purpose
        self.text = text


@compiles(locked_until_commit, "postgresql")
def _locked_until_commit_postgresql(element: locked_until_commit, compiler: Any, **options: Any) -> str:
    text = compiler.process(element.text, **options)
    return f"pg_advisory_xact_lock(hashtextextended({text}, {element.purpose}))"


@compiles(locked_until_commit, "sqlite")
def _locked_until_commit_sqlite(element: locked_until_commit, compiler: Any, **options: Any) -> str:
    return f"{compiler.process(element.text, **options)} IS NULL"


class try_lock_until_commit(ColumnElement[bool]):  # noqa: N801 - as above
    """Takes a lock until this transaction ends, and is true; or is false at once where another one has it.

    SQLite has one writer at a time, so there it is always true.

    Args:
        purpose: what is locked; 64 bits.
    """

    inherit_cache = True
    type = Boolean()

    def __init__(self, purpose: int) -> None:
        self.purpose = purpose


@compiles(try_lock_until_commit, "postgresql")
def _try_lock_until_commit_postgresql(element: try_lock_until_commit, compiler: Any, **options: Any) -> str:
    return f"pg_try_advisory_xact_lock({element.purpose})"


@compiles(try_lock_until_commit, "sqlite")
def _try_lock_until_commit_sqlite(element: try_lock_until_commit, compiler: Any, **options: Any) -> str:
    return "1"
