"""SQLConversationStore: the contract on every database, and what only SQL promises (events, transactions, sealing)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from storage.conversations.model import ConversationMetadata
from storage.conversations.row import COLUMNS
from storage.conversations.sql import SQLConversationStore
from storage.conversations.store import SaveOutcome
from storage.database import Change, Database, Unit
from storage.database.statement import Statement
from storage.encryption.keyring import KeyRing
from storage.encryption.providers.environment import EnvironmentKeys
from storage.errors import ConfigurationError, ConversationNotFound, IdentifierTaken, InvalidInput
from storage.identity import LOCAL_USER
from storage.tables import EventTable
from storage.testing.conversations import FULL, ConversationStoreContract
from tests.databases import MASTER_KEY

_event = EventTable.__table__.c  # type: ignore[attr-defined]
EVENTS = Statement(
    "test.events",
    select(_event.type, _event.key, _event.version, _event.payload).order_by(_event.seq),
    register=False,
)


async def events(database: Database) -> list[tuple[Any, ...]]:
    return await database.read(EVENTS, {})


def one(conversation_id: str = "c1", **values: Any) -> ConversationMetadata:
    return ConversationMetadata(conversation_id=conversation_id, **values)


class TestSQLConversationStore(ConversationStoreContract):
    @pytest.fixture
    async def store(self, database: Database, user_id: str) -> SQLConversationStore:
        return SQLConversationStore(database, user_id)

    @pytest.fixture
    async def other_store(self, database: Database, store: SQLConversationStore) -> SQLConversationStore:
        return SQLConversationStore(database, "another")


# ---- versions and events


async def test_every_change_counts_the_version_up_and_tells_of_itself(
    store: SQLConversationStore, database: Database
) -> None:
    assert one().version == 0
    await store.save_metadata(one())
    await store.save_metadata(one(title="again"))
    await store.update_metadata("c1", title="third", tags=["x"])
    await store.add_usage("c1", cost=1)
    assert (await store.get_metadata("c1")).version == 4
    await store.delete_metadata("c1")
    assert await events(database) == [
        ("conversation.saved", "c1", 1, {"created": True}),
        ("conversation.saved", "c1", 2, {"created": False}),
        ("conversation.saved", "c1", 3, {"created": False, "changed": ["tags", "title"]}),
        ("conversation.saved", "c1", 4, {"created": False, "changed": ["usage"]}),
        ("conversation.deleted", "c1", None, {}),
    ]


async def test_what_changes_nothing_tells_of_nothing(
    store: SQLConversationStore, other_store: SQLConversationStore, database: Database
) -> None:
    await store.save_metadata(one())
    with pytest.raises(IdentifierTaken):
        await other_store.save_metadata(one())
    with pytest.raises(InvalidInput):
        await store.update_metadata("c1", prompt_tokens=-1)
    with pytest.raises(ConversationNotFound):
        await store.add_usage("missing")
    await store.update_metadata("c1")
    await store.delete_metadata("missing")
    await store.save_many([one()])
    assert len(await events(database)) == 1
    assert (await store.get_metadata("c1")).version == 1


async def test_saving_many_tells_of_each_that_is_new(store: SQLConversationStore, database: Database) -> None:
    await store.save_metadata(one("c1"))
    await store.save_many([one("c0"), one("c1"), one("c2")])
    assert [(kind, key) for kind, key, *_ in await events(database)] == [
        ("conversation.saved", key) for key in ("c1", "c0", "c2")
    ]


async def test_hooks_hear_of_a_change_after_its_commit(store: SQLConversationStore, database: Database) -> None:
    heard: list[Change] = []
    database.on_commit(heard.extend)
    await store.save_metadata(one())
    assert [(change.type, change.key, change.version) for change in heard] == [("conversation.saved", "c1", 1)]


# ---- deletion and what goes with it


async def test_deleting_calls_for_what_belongs_to_each_conversation(database: Database, user_id: str) -> None:
    gone: list[tuple[str, str]] = []

    def on_delete(user_id: str, conversation_id: str) -> Unit[None]:
        gone.append((user_id, conversation_id))
        yield from ()

    store = SQLConversationStore(database, user_id, on_delete=on_delete)
    await store.save_many(
        [one("top"), one("b", parent_conversation_id="top"), one("a", parent_conversation_id="b"), one("other")]
    )
    await store.delete_metadata("top")
    assert gone == [(user_id, "top"), (user_id, "a"), (user_id, "b")]
    assert [key for kind, key, *_ in await events(database) if kind == "conversation.deleted"] == ["top", "a", "b"]


async def test_a_deletion_that_fails_half_way_deletes_nothing(database: Database, user_id: str) -> None:
    def on_delete(user_id: str, conversation_id: str) -> Unit[None]:
        yield from ()
        raise RuntimeError("the files resist")

    store = SQLConversationStore(database, user_id, on_delete=on_delete)
    await store.save_metadata(one())
    with pytest.raises(RuntimeError, match="resist"):
        await store.delete_metadata("c1")
    assert await store.exists("c1")


async def test_deleting_spares_what_others_hung_below(
    store: SQLConversationStore, other_store: SQLConversationStore
) -> None:
    await store.save_metadata(one("c1"))
    await other_store.save_metadata(one("theirs", parent_conversation_id="c1"))
    await store.delete_metadata("c1")
    assert await other_store.exists("theirs")


# ---- at once


@pytest.mark.slow
async def test_two_tasks_that_add_a_thousand_times_each_end_at_two_thousand(store: SQLConversationStore) -> None:
    await store.save_metadata(one())

    async def work() -> None:
        for _ in range(1000):
            await store.add_usage("c1", cost=0.25, prompt_tokens=1)

    await asyncio.gather(work(), work())
    found = await store.get_metadata("c1")
    assert (found.prompt_tokens, found.total_tokens, found.accumulated_cost) == (2000, 2000, 500.0)
    assert found.version == 2001


async def test_saves_of_one_new_id_at_once_all_succeed(store: SQLConversationStore) -> None:
    for number in range(20):
        await asyncio.gather(*(store.save_metadata(one(f"c{number}", title=str(task))) for task in range(8)))
        assert (await store.get_metadata(f"c{number}")).version == 8


async def test_of_two_users_who_save_one_new_id_at_once_one_is_refused(
    store: SQLConversationStore, other_store: SQLConversationStore
) -> None:
    for number in range(20):
        outcomes = await asyncio.gather(
            store.save_metadata(one(f"c{number}")),
            other_store.save_metadata(one(f"c{number}")),
            return_exceptions=True,
        )
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["IdentifierTaken", "NoneType"]


async def test_batches_with_one_id_at_once_create_it_once(
    store: SQLConversationStore, other_store: SQLConversationStore
) -> None:
    for number in range(10):
        batch = [one(f"c{number}-{item}") for item in range(5)]
        outcomes = await asyncio.gather(*(each.save_many(batch) for each in (store, store, other_store)))
        for of_one in zip(*outcomes, strict=True):
            assert list(of_one).count(SaveOutcome.CREATED) == 1


# ---- in a transaction


async def test_a_transaction_reads_its_own_writes_and_others_do_not(database: Database, user_id: str) -> None:
    outside = SQLConversationStore(database, user_id)
    if database.url.file is None and database.dialect == "sqlite":
        pytest.skip("a database in memory has no snapshots: reads wait for the transaction")
    async with database.transaction() as executor:
        inside = SQLConversationStore(executor, user_id)
        await inside.save_metadata(one())
        await inside.add_usage("c1", cost=2)
        assert (await inside.get_metadata("c1")).accumulated_cost == 2
        assert await inside.count() == 1
        assert not await outside.exists("c1")
    assert await outside.exists("c1")


async def test_a_transaction_that_fails_leaves_nothing(database: Database, user_id: str) -> None:
    store = SQLConversationStore(database, user_id)
    with pytest.raises(RuntimeError):
        async with database.transaction() as executor:
            await SQLConversationStore(executor, user_id).save_metadata(one())
            raise RuntimeError("changed my mind")
    assert not await store.exists("c1")
    assert await events(database) == []


async def test_a_refused_save_in_a_transaction_does_not_end_it(
    database: Database, user_id: str, other_store: SQLConversationStore
) -> None:
    await other_store.save_metadata(one("theirs"))
    async with database.transaction() as executor:
        store = SQLConversationStore(executor, user_id)
        with pytest.raises(IdentifierTaken):
            await store.save_metadata(one("theirs"))
        await store.save_metadata(one("mine"))
    assert await SQLConversationStore(database, user_id).exists("mine")


# ---- users and instances


async def test_the_local_user_is_none_to_callers(database: Database) -> None:
    store = SQLConversationStore(database, LOCAL_USER)
    await store.save_metadata(one("c1"))
    await store.save_metadata(one("c2", user_id="local"))
    assert (await store.get_metadata("c1")).user_id is None
    assert (await store.get_metadata("c2")).user_id is None
    assert await store.validate_metadata("c1", None)


async def test_an_instance_is_made_from_an_open_storage(database: Database) -> None:
    class Opened:
        def __init__(self) -> None:
            self.database = database
            self.keyring = KeyRing(database, EnvironmentKeys(MASTER_KEY))

    store = await SQLConversationStore.get_instance(Opened(), None)
    await store.save_metadata(one())
    assert await store.validate_metadata("c1", None)
    with pytest.raises(ConfigurationError, match=r"Storage\.open"):
        await SQLConversationStore.get_instance({"database": "no"}, "alice")


async def test_a_title_of_any_length_is_stored_sorted_and_paged(store: SQLConversationStore) -> None:
    # Random enough that no compression makes it fit a B-tree page (2,704 bytes on PostgreSQL).
    long = "".join(chr(0x4E00 + (number * 7919) % 20000) for number in range(20_000))
    await store.save_many([one("c1", title=f"{long}b"), one("c2", title=f"{long}a"), one("c3", title="z")])
    assert (await store.get_metadata("c1")).title == f"{long}b"
    found: list[str] = []
    page_id = None
    while page_id is not None or not found:
        page = await store.search(page_id, 1, sort="title.asc")
        found += [metadata.conversation_id for metadata in page.results]
        page_id = page.next_page_id
    assert sorted(found) == ["c1", "c2", "c3"]
    assert found[0] == "c3"
    assert await store.count(title=long[-100:]) == 2


@pytest.mark.parametrize(
    ("stored", "added"),
    [
        ({"prompt_tokens": 2**63 - 1}, {"prompt_tokens": 1, "total_tokens": 0}),
        ({"reasoning_tokens": 2**62}, {"reasoning_tokens": 2**62}),
        ({"accumulated_cost": 1e308}, {"cost": 1e308}),
    ],
    ids=str,
)
async def test_a_sum_that_would_not_fit_is_refused_and_changes_nothing(
    store: SQLConversationStore, stored: dict[str, Any], added: dict[str, Any]
) -> None:
    await store.save_metadata(one(**stored))
    before = await store.get_metadata("c1")
    with pytest.raises(InvalidInput, match="too large"):
        await store.add_usage("c1", **added)
    assert await store.get_metadata("c1") == before
    await store.add_usage("c1", completion_tokens=2**62)
    with pytest.raises(ConversationNotFound):
        await store.add_usage("c2", **added)


async def test_times_at_the_ends_of_the_calendar_come_back_page_and_filter(store: SQLConversationStore) -> None:
    microsecond = timedelta(microseconds=1)
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    times = {"a": first + microsecond, "b": datetime(2026, 1, 1, tzinfo=UTC), "c": last - microsecond}
    for conversation_id, moment in times.items():
        await store.save_metadata(one(conversation_id, created_at=moment))
        assert (await store.get_metadata(conversation_id)).created_at == moment
    page = await store.search(limit=1)
    found = page.results
    while page.next_page_id is not None:
        page = await store.search(page.next_page_id, 1)
        found += page.results
    assert [metadata.conversation_id for metadata in found] == ["c", "b", "a"]
    assert await store.count(created_after=first, created_before=last) == 3


@pytest.mark.parametrize(
    "moment",
    [
        datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-14))),
    ],
    ids=str,
)
async def test_a_time_that_utc_does_not_have_is_refused_alike(store: SQLConversationStore, moment: datetime) -> None:
    with pytest.raises(InvalidInput, match="created_before must lie within the years 1 to 9999"):
        await store.count(created_before=moment)


@pytest.mark.parametrize("conversation_id", ["a\0b", "\ud800"], ids=ascii)
async def test_text_that_no_database_holds_is_refused_alike(store: SQLConversationStore, conversation_id: str) -> None:
    for call in (store.get_metadata, store.exists, store.delete_metadata, store.get_sub_conversations):
        with pytest.raises(InvalidInput, match=r"NUL|surrogate"):
            await call(conversation_id)
    with pytest.raises(InvalidInput, match=r"NUL|surrogate"):
        await store.get_all_metadata(["c1", conversation_id])


async def test_an_undeclared_secret_named_like_a_method_is_refused(store: SQLConversationStore) -> None:
    with pytest.raises(InvalidInput, match="'copy' holds a secret"):
        await store.save_metadata(one(copy=SecretStr("s")))


async def test_only_conversations_are_stored(store: SQLConversationStore) -> None:
    with pytest.raises(InvalidInput, match="dict"):
        await store.save_metadata({"conversation_id": "c1"})  # type: ignore[arg-type]


def test_every_column_is_bound_and_read() -> None:
    columns = {column.name for column in COLUMNS}
    assert columns | {"user_id"} == set(COLUMNS[0].table.c.keys())
    assert set(FULL) - {"unknown"} == columns - {"extra", "sealed_extra", "version"}
