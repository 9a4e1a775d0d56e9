"""Search, count and iterate against their plain Python meaning, on conversations that Hypothesis makes up."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.conversations.cursor import ConversationSort
from storage.conversations.model import ConversationMetadata
from storage.conversations.pages import SHAPES_KEPT, count_statement, page_statement, search_shapes
from storage.conversations.sql import SQLConversationStore
from storage.database import Database
from storage.testing.conversations import expected, pages

START = datetime(2026, 1, 1, tzinfo=UTC)

# Few values, so that ties are the rule; and every character that LIKE, JSON or a collation might treat as special.
titles = st.none() | st.text(alphabet="aAbB%_\\'\"*?[]é\u00c9ß\u0130\ue000\U0001f600 ", max_size=4)
times = st.integers(0, 3).map(lambda step: START + timedelta(microseconds=step))
costs = st.sampled_from([0.0, 0.1, 0.1 + 0.2, 0.3, 1e300, 5e-324])
tags = st.lists(st.sampled_from(["x", "y", "x y", '"', "é"]), max_size=3)
triggers = st.none() | st.sampled_from(["gui", "slack", "new-one"])
conversations = st.lists(
    st.fixed_dictionaries(
        {
            "conversation_id": st.text(alphabet="abAB-é\U0001f600", min_size=1, max_size=3),
            "title": titles,
            "created_at": times,
            "last_updated_at": st.none() | times,
            "accumulated_cost": costs,
            "tags": tags,
            "trigger": triggers,
            "parent_conversation_id": st.none() | st.sampled_from(["a", "b"]),
        }
    ),
    max_size=12,
    unique_by=lambda values: str(values["conversation_id"]),
)
filters = st.fixed_dictionaries(
    {},
    optional={
        "title": titles,
        "tags": tags,
        "trigger": triggers,
        "created_after": times,
        "created_before": times,
        "updated_after": times,
        "updated_before": times,
        "parent_conversation_id": st.none() | st.sampled_from(["a", "b"]),
        "include_sub_conversations": st.booleans(),
    },
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(conversations, filters, st.sampled_from(ConversationSort), st.integers(1, 4))
async def test_paging_meets_each_match_once_in_order_and_count_agrees(
    database: Database, values: list[dict[str, Any]], chosen: dict[str, Any], sort: ConversationSort, limit: int
) -> None:
    example = uuid.uuid4().hex
    store = SQLConversationStore(database, example)
    # An id is unique in the whole database, so each example has its own; the prefix changes no order.
    made = [
        ConversationMetadata(**{**each, "conversation_id": f"{example}{each['conversation_id']}"}) for each in values
    ]
    await store.save_many(made)
    wanted = expected(made, sort, chosen)
    found = await pages(store, limit, sort=sort, **chosen)
    assert [conversation_id for page in found for conversation_id in page] == wanted
    assert all(len(page) == limit for page in found[:-1])
    assert await store.count(**chosen) == len(wanted)
    assert [metadata.conversation_id async for metadata in store.iterate(sort=sort, **chosen)] == wanted


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet="aA%_\\'\"*?é", min_size=1, max_size=3), st.text(alphabet="aA%_\\'\"*?é", max_size=6))
async def test_no_character_of_a_title_filter_is_special(database: Database, part: str, title: str) -> None:
    example = uuid.uuid4().hex
    store = SQLConversationStore(database, example)
    await store.save_metadata(ConversationMetadata(conversation_id=example, title=title))
    fold = str.maketrans("A", "a")
    assert await store.count(title=part) == int(part.translate(fold) in title.translate(fold))


async def test_more_shapes_than_are_kept_are_built_and_work(database: Database) -> None:
    store = SQLConversationStore(database, "alice")
    await store.save_metadata(ConversationMetadata(conversation_id="c1", title="x"))
    for number, shape in enumerate(search_shapes(most_filters=2)):
        if number % 7 == 0:
            rows = await database.read(shape.statement, shape.parameters)
            assert len(rows) <= 21
    for cached in (page_statement, count_statement):
        assert cached.cache_info().currsize <= SHAPES_KEPT
    assert await store.count(title="x") == 1


def test_the_shapes_cover_every_order_and_filter() -> None:
    texts = {shape.statement.compiled("sqlite").sql for shape in search_shapes(most_filters=1)}
    for column in ("title", "tags", "sandbox_id", "parent_conversation_id", "llm_model", "created_at"):
        assert any(column in text.partition("WHERE")[2] for text in texts)
    assert len(texts) > 200


@pytest.mark.parametrize("sort", ConversationSort)
def test_only_children_of_one_parent_are_sorted_in_memory(sort: ConversationSort) -> None:
    for shape in search_shapes(most_filters=1):
        assert shape.sorts == (
            "parent_conversation_id" in shape.parameters and shape.statement.name == "conversation.search"
        )
