"""What conversations can be searched by: the names, their checks, and their meaning in plain Python.

The SQL of the repository must mean the same as `matches` and `sort_key`; stores without SQL can simply use these.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, TypedDict

from storage.conversations.cursor import ConversationSort
from storage.conversations.model import ConversationMetadata
from storage.database.types import checked_text, to_microseconds
from storage.errors import InvalidInput

MOST_RESULTS: Final = 1000
"""Largest page: a bounded read on the event loop's own thread."""


class ConversationFilters(TypedDict, total=False):
    """Filters of search, count and iterate; all that are given must hold, None is not given.

    Periods take in their beginning and leave out their end, so that one after the other covers each moment once.
    """

    title: str | None
    """Contained in the title, whatever the case of ASCII letters; no character is special."""
    repository: str | None
    """`selected_repository` equals it. Also the following: whole and exact."""
    branch: str | None
    trigger: str | None
    git_provider: str | None
    model: str | None
    """`llm_model`."""
    tags: Iterable[str] | None
    """Every one of them is among the conversation's tags."""
    created_after: datetime | None
    """Created then or later."""
    created_before: datetime | None
    """Created earlier than that."""
    updated_after: datetime | None
    """Last updated then or later; one that never was counts from its creation."""
    updated_before: datetime | None
    sandbox_id: str | None
    parent_conversation_id: str | None
    """Sub-conversations of this one."""
    include_sub_conversations: bool
    """False, the default, leaves out conversations with a parent, unless `parent_conversation_id` asks for them."""


TITLE_CHARACTERS: Final = 200
"""How much of a title sorts: whole ones would not fit an index entry (2,704 bytes on PostgreSQL)."""

EQUAL_FILTERS: Final = {
    "repository": "selected_repository",
    "branch": "selected_branch",
    "trigger": "trigger",
    "git_provider": "git_provider",
    "model": "llm_model",
    "sandbox_id": "sandbox_id",
    "parent_conversation_id": "parent_conversation_id",
}
"""Filters that compare one field for equality, and the field."""

TOP_LEVEL: Final = "top_level"
"""The filter that applies when nothing else speaks of sub-conversations; it has no parameter."""


def checked_filters(filters: Mapping[str, Any]) -> dict[str, Any]:
    """The filters in force, by name: texts, aware times, `tags` a list; `top_level: True` unless subs are wanted.

    Raises:
        TypeError: a name that is no filter.
        InvalidInput: a value that does not fit.
    """
    checked: dict[str, Any] = {}
    include_subs = False
    for name, value in filters.items():
        if name == "include_sub_conversations":
            include_subs = bool(value)
            continue
        check = _CHECKS.get(name)
        if check is None:
            hint = suggestion(name, ConversationFilters.__annotations__)
            raise TypeError(f"{name!r} is no filter of conversations{hint}")
        found = None if value is None else check(name, value)
        if found is None or found == [] or (name == "title" and found == ""):
            continue  # nothing is asked for
        checked[name] = found
    if not include_subs and "parent_conversation_id" not in checked:
        checked[TOP_LEVEL] = True
    return checked


def checked_limit(limit: object) -> int:
    """`limit` itself.

    Raises:
        InvalidInput: not a whole number from 1 to 1,000.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MOST_RESULTS:
        raise InvalidInput(f"limit must be a whole number from 1 to {MOST_RESULTS}, not {limit!r}")
    return limit


def suggestion(name: str, known: Iterable[str]) -> str:
    """`; did you mean …?`, or what there is, for a name that is not known."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(names)}"


def matches(metadata: ConversationMetadata, filters: Mapping[str, Any]) -> bool:
    """Whether a conversation passes filters that `checked_filters` has returned."""
    return all(_matches(metadata, name, value) for name, value in filters.items())


def sort_key(metadata: ConversationMetadata, sort: ConversationSort) -> tuple[Any, bytes]:
    """What a conversation sorts by in this order, ascending; reverse it for a descending one."""
    value = {
        "created_at": metadata.created_at,
        "last_updated_at": metadata.last_updated_at or metadata.created_at,
        "title": (metadata.title or "")[:TITLE_CHARACTERS].encode(),
        "accumulated_cost": metadata.accumulated_cost,
    }[sort.field]
    return value, metadata.conversation_id.encode()


def _matches(metadata: ConversationMetadata, name: str, value: Any) -> bool:
    updated = metadata.last_updated_at or metadata.created_at
    match name:
        case "title":
            return metadata.title is not None and ascii_lower(value) in ascii_lower(metadata.title)
        case "tags":
            return set(value) <= set(metadata.tags)
        case "created_after":
            return bool(metadata.created_at >= value)
        case "created_before":
            return bool(metadata.created_at < value)
        case "updated_after":
            return bool(updated >= value)
        case "updated_before":
            return bool(updated < value)
        case "top_level":
            return metadata.parent_conversation_id is None
        case _:
            return bool(getattr(metadata, EQUAL_FILTERS[name]) == value)


def ascii_lower(text: str) -> str:
    """`text` with the letters A to Z in lower case, as both databases fold it; others stay."""
    return text.translate(_FOLD)


_FOLD: Final = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


def _checked_text(name: str, value: Any) -> str:
    if isinstance(value, Enum):
        value = value.value
    if not isinstance(value, str):
        raise InvalidInput(f"{name} must be text, not {type(value).__name__}")
    return checked_text(value)


def _checked_time(name: str, value: Any) -> datetime:
    if not isinstance(value, datetime):
        raise InvalidInput(f"{name} must be a datetime with a timezone, not {type(value).__name__}")
    to_microseconds(value)  # refuses a naive one, with the reason
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise InvalidInput(f"{name} must lie within the years 1 to 9999 in UTC") from None


def _checked_tags(name: str, value: Any) -> list[str]:
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise InvalidInput(f"{name} must be a list of texts, such as ['urgent'], not {type(value).__name__}")
    return [_checked_text(name, item) for item in value]


_CHECKS: Final[dict[str, Callable[[str, Any], Any]]] = {
    "title": _checked_text,
    **dict.fromkeys(EQUAL_FILTERS, _checked_text),
    "tags": _checked_tags,
    **dict.fromkeys(("created_after", "created_before", "updated_after", "updated_before"), _checked_time),
}
