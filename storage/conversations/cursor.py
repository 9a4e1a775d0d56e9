"""Where a page of a search ended, as opaque text that a caller hands back for the next page.

Versioned and bound to its sort order: a cursor of another order would silently skip or repeat conversations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NoReturn

from storage.database.cursor import pack, unpack
from storage.database.types import checked_text, from_microseconds, to_microseconds
from storage.errors import InvalidInput

_FORMAT: Final = 1
_PARTS: Final = 4
"""Format, order, sort value, conversation id."""


class ConversationSort(StrEnum):
    """An order of search results; ties are broken by conversation id, in the same direction.

    Titles sort bytewise, so that both databases agree, and by their first 200 characters, because an index entry must
    fit a page; a conversation without one counts as "". One that was never updated counts from its creation.
    """

    CREATED_DESCENDING = "created_at.desc"
    CREATED_ASCENDING = "created_at.asc"
    UPDATED_DESCENDING = "last_updated_at.desc"
    UPDATED_ASCENDING = "last_updated_at.asc"
    TITLE_DESCENDING = "title.desc"
    TITLE_ASCENDING = "title.asc"
    COST_DESCENDING = "accumulated_cost.desc"
    COST_ASCENDING = "accumulated_cost.asc"

    @property
    def field(self) -> str:
        """The field that decides."""
        return self.value.partition(".")[0]

    @property
    def descending(self) -> bool:
        """Whether the largest comes first."""
        return self.value.endswith(".desc")


def checked_sort(sort: ConversationSort | str) -> ConversationSort:
    """The sort order of that name.

    Raises:
        InvalidInput: there is none; the message lists them.
    """
    try:
        return ConversationSort(sort)
    except ValueError:
        raise InvalidInput(f"sort {sort!r} is not known; use one of {', '.join(ConversationSort)}") from None


def encode_cursor(sort: ConversationSort, value: Any, conversation_id: str) -> str:
    """The cursor after a conversation whose sort value is `value` (a datetime, text or number)."""
    if isinstance(value, datetime):
        value = to_microseconds(value)
    return pack([_FORMAT, sort.value, value, conversation_id])


def decode_cursor(page_id: object, sort: ConversationSort) -> tuple[Any, str]:
    """Sort value and conversation id of a cursor.

    Raises:
        InvalidInput: not a cursor of ours, of another format or of another sort order.
    """
    decoded = unpack(page_id, _FORMAT, _refuse)
    if len(decoded) != _PARTS or decoded[1] != sort.value:
        _refuse(f"it belongs to another order than {sort.value!r}")
    try:
        return _READERS[sort.field](decoded[2]), _text(decoded[3])
    except (TypeError, ValueError, OverflowError):
        _refuse("it is damaged")


def _refuse(reason: str) -> NoReturn:
    raise InvalidInput(f"page_id cannot be used: {reason}. Pass next_page_id of the page before, or None to start over")


def _time(value: Any) -> datetime:
    if type(value) is not int:
        raise TypeError("expected microseconds")
    return from_microseconds(value)


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError("expected text")
    return checked_text(value)


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise TypeError("expected a number")
    return float(value)


_READERS: Final[dict[str, Callable[[Any], Any]]] = {
    "created_at": _time,
    "last_updated_at": _time,
    "title": _text,
    "accumulated_cost": _number,
}
