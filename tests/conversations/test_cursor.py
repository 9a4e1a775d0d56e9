"""Cursors: what goes in comes out, and nothing else is taken for one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.conversations.cursor import ConversationSort, checked_sort, decode_cursor, encode_cursor
from storage.errors import InvalidInput

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
values: dict[str, st.SearchStrategy[Any]] = {
    "created_at": st.datetimes(timezones=st.just(UTC)),
    "last_updated_at": st.datetimes(timezones=st.just(UTC)),
    "title": texts,
    "accumulated_cost": st.floats(allow_nan=False, allow_infinity=False),
}


@given(st.data(), st.sampled_from(ConversationSort), texts)
def test_a_cursor_gives_back_its_place_exactly(
    data: st.DataObject, sort: ConversationSort, conversation_id: str
) -> None:
    value = data.draw(values[sort.field])
    cursor = encode_cursor(sort, value, conversation_id)
    assert cursor.isascii()
    assert decode_cursor(cursor, sort) == (value, conversation_id)
    for other in ConversationSort:
        if other is not sort:
            with pytest.raises(InvalidInput, match="another order"):
                decode_cursor(cursor, other)


@given(st.text() | st.binary().map(lambda data: data.decode("latin-1")), st.sampled_from(ConversationSort))
def test_any_other_text_is_refused(text: str, sort: ConversationSort) -> None:
    with pytest.raises(InvalidInput, match="page_id"):
        decode_cursor(text, sort)


@pytest.mark.parametrize("cursor", [None, 5, b"abc", ["x"]])
def test_what_is_no_text_is_refused(cursor: Any) -> None:
    with pytest.raises(InvalidInput, match="page_id"):
        decode_cursor(cursor, ConversationSort.CREATED_DESCENDING)


def test_a_sort_is_known_by_its_value() -> None:
    assert checked_sort("title.asc") is ConversationSort.TITLE_ASCENDING
    assert checked_sort(ConversationSort.COST_DESCENDING).descending
    assert checked_sort("last_updated_at.asc").field == "last_updated_at"
    for unknown in ("title", "", "TITLE.ASC", None):
        with pytest.raises(InvalidInput, match=r"created_at\.desc"):
            checked_sort(unknown)  # type: ignore[arg-type]


def test_a_cursor_survives_the_year_9999() -> None:
    last = datetime.max.replace(tzinfo=UTC)
    cursor = encode_cursor(ConversationSort.CREATED_ASCENDING, last, "c1")
    assert decode_cursor(cursor, ConversationSort.CREATED_ASCENDING) == (last, "c1")
