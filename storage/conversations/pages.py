"""The statements of search and count: one for each shape (which filters, which order, first page or a later one).

A page is a range of an index that is sorted as the page is, begun right after the last row of the page before: the
hundredth page costs what the first one does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import combinations
from typing import Any, Final

from sqlalchemy import ColumnClause, Integer, bindparam, func, select, tuple_
from sqlalchemy.sql.elements import ColumnElement

from storage.conversations.cursor import ConversationSort
from storage.conversations.filters import EQUAL_FILTERS, TOP_LEVEL
from storage.conversations.row import COLUMNS
from storage.conversations.statements import OWN, table
from storage.conversations.table import TITLE, UPDATED
from storage.database.expressions import contains_text, json_array_has_all, unindexed
from storage.database.statement import Statement

SHAPES_KEPT: Final = 256
"""Compiled shapes kept at once; an application uses a few, and someone who tries all must not fill the memory."""

_SORT_EXPRESSIONS: Final[Mapping[str, ColumnElement[Any]]] = {
    "created_at": table.c.created_at,
    "last_updated_at": UPDATED,
    "title": TITLE,
    "accumulated_cost": table.c.accumulated_cost,
}

_PERIODS: Final = {
    "created_after": ("created_at", table.c.created_at),
    "created_before": ("created_at", table.c.created_at),
    "updated_after": ("last_updated_at", UPDATED),
    "updated_before": ("last_updated_at", UPDATED),
}
"""Filters of a period: the sort order that reads just that period, and what is compared."""


def _condition(name: str, order: str | None) -> Any:
    """A filter, for a page in the order of a field ("" for none), or for a count (None): any index will do."""
    if name == TOP_LEVEL:
        parent = table.c.parent_conversation_id
        return (unindexed(parent) if order is not None else parent).is_(None)
    if name in EQUAL_FILTERS:
        column = table.c[EQUAL_FILTERS[name]]
        return column == bindparam(name, type_=column.type)
    if name in _PERIODS:
        field, expression = _PERIODS[name]
        compared = expression if order in (None, field) else unindexed(expression)
        moment = bindparam(name, type_=table.c.created_at.type)
        return compared >= moment if name.endswith("_after") else compared < moment
    if name == "tags":
        return json_array_has_all(table.c.tags, bindparam(name))
    if name == "title":
        return contains_text(table.c.title, bindparam(name, type_=table.c.title.type))
    raise KeyError(name)


@lru_cache(maxsize=SHAPES_KEPT)
def page_statement(filters: frozenset[str], sort: ConversationSort, *, first: bool) -> Statement:
    """A page: COLUMNS, then the sort value.

    Parameters: user_id, limit, each filter, and unless it is the first one after_value and after_id.
    """
    key = _SORT_EXPRESSIONS[sort.field]
    conversation_id = table.c.conversation_id
    # The children of one parent are few: found by their own index and then sorted.
    sorts = "parent_conversation_id" in filters
    order: Any = unindexed(key) if sorts else key
    statement = select(*COLUMNS, key.label("sort_value")).where(OWN)
    for name in sorted(filters):
        statement = statement.where(_condition(name, "" if sorts else sort.field))
    if not first:
        value = bindparam("after_value", type_=key.type)
        place = tuple_(order, conversation_id)
        after = tuple_(value, bindparam("after_id", type_=conversation_id.type))
        statement = statement.where(place < after if sort.descending else place > after)
        if not isinstance(key, ColumnClause):
            # Follows from the line above, but SQLite does not see it for an index on an expression.
            statement = statement.where(order <= value if sort.descending else order >= value)
    statement = statement.order_by(
        *((order.desc(), conversation_id.desc()) if sort.descending else (order.asc(), conversation_id.asc()))
    ).limit(bindparam("limit", type_=Integer()))
    return Statement("conversation.search", statement, register=False)


@lru_cache(maxsize=SHAPES_KEPT)
def count_statement(filters: frozenset[str]) -> Statement:
    """The number of conversations that pass the filters. Parameters: user_id and each filter."""
    statement = select(func.count()).select_from(table).where(OWN)
    for name in sorted(filters):
        statement = statement.where(_condition(name, None))
    return Statement("conversation.count", statement, register=False)


def reads_many(filters: Iterable[str], sort: ConversationSort) -> bool:
    """Whether a page may have to pass over many rows to fill itself, so that it belongs on a reader's thread."""
    bounded = {TOP_LEVEL} | {name for name, (field, _) in _PERIODS.items() if field == sort.field}
    return not bounded.issuperset(filters)


@dataclass(frozen=True, slots=True)
class SearchShape:
    """A shape for tests that ask the databases how they would run it.

    Attributes:
        statement: of a page or a count.
        parameters: an example.
        sorts: whether it sorts what it found. Only children of one parent are: few rows, found by an index, against
            reading all conversations of the user in order.
    """

    statement: Statement
    parameters: Mapping[str, Any]
    sorts: bool


_EXAMPLES: Final[Mapping[str, Any]] = {
    **dict.fromkeys(EQUAL_FILTERS, "gui"),
    **dict.fromkeys(_PERIODS, datetime(2026, 1, 1, tzinfo=UTC)),
    "title": "build",
    "tags": ["urgent"],
}


def search_shapes(most_filters: int = 2) -> Iterator[SearchShape]:
    """Every order, first and later pages, and the count, with each combination of up to `most_filters` filters."""
    for number in range(most_filters + 1):
        for names in combinations(_EXAMPLES, number):
            choices = [frozenset(names)]
            if "parent_conversation_id" not in names:
                choices.append(frozenset((*names, TOP_LEVEL)))
            for filters in choices:
                parameters = {"user_id": "local", **{name: _EXAMPLES[name] for name in names}}
                yield SearchShape(count_statement(filters), parameters, sorts=False)
                for sort in ConversationSort:
                    yield from _pages(filters, sort, parameters)


def _pages(filters: frozenset[str], sort: ConversationSort, parameters: Mapping[str, Any]) -> Iterator[SearchShape]:
    value = {"title": "Fix", "accumulated_cost": 1.5}.get(sort.field, _EXAMPLES["created_after"])
    sorts = "parent_conversation_id" in filters
    page = {**parameters, "limit": 21}
    yield SearchShape(page_statement(filters, sort, first=True), page, sorts)
    later = {**page, "after_value": value, "after_id": "c1"}
    yield SearchShape(page_statement(filters, sort, first=False), later, sorts)
