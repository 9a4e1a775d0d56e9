"""SQLConversationStore: what OpenHands' server does with conversations, and what two of its threads do at once."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from storage.conversations.model import ConversationMetadata as Row
from storage.errors import ConversationNotFound, InvalidInput
from storage.openhands.process_storage import ProcessStorage

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
async def store(place: ProcessStorage, openhands: Any) -> Any:
    return await openhands.SQLConversationStore.get_instance(None, None)


def metadata(openhands: Any, conversation_id: str = "c1", **fields: Any) -> Any:
    return openhands.ConversationMetadata(
        conversation_id=conversation_id, **{"selected_repository": None, "created_at": NOON, **fields}
    )


async def row(place: ProcessStorage, conversation_id: str = "c1") -> Row:
    return await place.portal.await_(place.storage.user(None).conversations.get_metadata, conversation_id)


async def test_what_is_saved_comes_back_equal(store: Any, openhands: Any) -> None:
    saved = metadata(
        openhands,
        selected_repository="team/project",
        git_provider=openhands.ProviderType.GITHUB,
        title="A title",
        trigger=openhands.ConversationTrigger.SLACK,
        pr_number=[3, 5],
        llm_model="openai/gpt-4o",
        accumulated_cost=1.25,
        prompt_tokens=10,
        last_updated_at=NOON + timedelta(minutes=1),
    )
    await store.save_metadata(saved)
    found = await store.get_metadata("c1")
    assert found == saved
    assert type(found) is openhands.ConversationMetadata
    assert await store.exists("c1")


async def test_a_missing_one_is_a_file_that_is_not_found(store: Any) -> None:
    with pytest.raises(FileNotFoundError):
        await store.get_metadata("nowhere")
    assert not await store.exists("nowhere")
    await store.delete_metadata("nowhere")


async def test_pages_go_on_to_the_last_one(store: Any, openhands: Any) -> None:
    for number in range(25):
        await store.save_metadata(metadata(openhands, f"c{number:02}", created_at=NOON + timedelta(seconds=number)))
    first = await store.search(limit=20)
    second = await store.search(first.next_page_id, limit=20)
    assert [each.conversation_id for each in first.results + second.results] == [f"c{n:02}" for n in range(24, -1, -1)]
    assert second.next_page_id is None
    with pytest.raises(InvalidInput):
        await store.search("bm9uc2Vuc2U=")


async def test_the_agent_s_cost_and_the_user_s_title_are_both_kept(store: Any, openhands: Any) -> None:
    await store.save_metadata(metadata(openhands, title="By default"))
    by_agent, by_user = await store.get_metadata("c1"), await store.get_metadata("c1")
    by_agent.accumulated_cost = 2.5
    by_user.title = "By the user"
    await store.save_metadata(by_user)
    await store.save_metadata(by_agent)
    found = await store.get_metadata("c1")
    assert (found.title, found.accumulated_cost) == ("By the user", 2.5)
    by_agent.prompt_tokens = 7  # saved once more, the object that the agent keeps
    await store.save_metadata(by_agent)
    assert (await store.get_metadata("c1")).title == "By the user"


async def test_saving_what_has_not_changed_writes_nothing(store: Any, openhands: Any, place: ProcessStorage) -> None:
    await store.save_metadata(metadata(openhands))
    before = (await row(place)).version
    await store.save_metadata(await store.get_metadata("c1"))
    assert (await row(place)).version == before


async def test_one_that_is_deleted_does_not_come_back_with_the_agent_s_next_save(store: Any, openhands: Any) -> None:
    await store.save_metadata(metadata(openhands))
    kept = await store.get_metadata("c1")
    await store.delete_metadata("c1")
    kept.accumulated_cost = 9.0
    with pytest.raises(ConversationNotFound):
        await store.save_metadata(kept)
    assert not await store.exists("c1")


async def test_what_the_release_does_not_know_hides_nothing_and_is_kept(
    store: Any, openhands: Any, place: ProcessStorage
) -> None:
    conversations = place.storage.user(None).conversations
    newer = Row(conversation_id="c1", trigger="by_pigeon", git_provider="sourcehut", tags=["a"], a_new_field=[1])
    await place.portal.await_(conversations.save_metadata, newer)
    found = await store.get_metadata("c1")
    assert (found.trigger, found.git_provider) == (None, None)
    assert len((await store.search()).results) == 1
    found.title = "Changed"
    await store.save_metadata(found)
    after = await row(place)
    assert (after.title, after.trigger, after.git_provider, after.tags) == ("Changed", "by_pigeon", "sourcehut", ["a"])
    assert (after.model_extra or {})["a_new_field"] == [1]


async def test_a_field_of_a_newer_release_is_stored_and_changed(place: ProcessStorage, openhands: Any) -> None:
    store = await openhands.SQLConversationStore.get_instance(None, None)

    @dataclasses.dataclass
    class Newer(openhands.ConversationMetadata):  # type: ignore[misc]
        mood: str = "good"

    module: Any = sys.modules[type(store).__module__]
    adapter, fields = module._METADATA, module._FIELDS
    module._METADATA, module._FIELDS = module.TypeAdapter(Newer), fields | {"mood"}
    try:
        await store.save_metadata(Newer(conversation_id="c1", selected_repository=None, mood="bad"))
        found = await store.get_metadata("c1")
        assert found.mood == "bad"
        found.mood = "better"
        await store.save_metadata(found)
        assert (await store.get_metadata("c1")).mood == "better"
        many = [await store.get_metadata("c1") for _ in range(6)]
        for number, each in enumerate(many):
            each.mood = str(number)
        many[0].title = "By the user"
        many[1].accumulated_cost = 2.5
        await asyncio.gather(*map(store.save_metadata, many[:3]))
        found = await store.get_metadata("c1")
        assert (found.title, found.accumulated_cost) == ("By the user", 2.5)
        assert found.mood in "012"
    finally:
        module._METADATA, module._FIELDS = adapter, fields


async def test_users_see_their_own(place: ProcessStorage, openhands: Any) -> None:
    alice = await openhands.SQLConversationStore.get_instance(None, "alice")
    bob = await openhands.SQLConversationStore.get_instance(None, "bob")
    await alice.save_metadata(metadata(openhands, user_id="alice"))
    assert (await alice.get_metadata("c1")).user_id == "alice"
    with pytest.raises(FileNotFoundError):
        await bob.get_metadata("c1")
    assert [each.conversation_id for each in await alice.get_all_metadata(["c1", "c2"])] == ["c1"]


async def test_the_agent_s_threads_and_the_server_s_loop_save_and_write_at_once(
    store: Any, openhands: Any, place: ProcessStorage
) -> None:
    from storage.openhands.sync_files import SyncFileStore

    await store.save_metadata(metadata(openhands))
    files = SyncFileStore(place)
    failed: list[Exception] = []

    def agent(number: int) -> None:
        async def save() -> None:
            for step in range(5):
                found = await store.get_metadata("c1")
                setattr(found, ("prompt_tokens", "completion_tokens", "total_tokens")[number], step + 1)
                await store.save_metadata(found)

        try:
            for event in range(10):
                files.write(f"sessions/c1/events/{number * 10 + event}.json", f'{{"id": {number * 10 + event}}}')
            asyncio.run(save())
        except Exception as error:  # noqa: BLE001 - raised in the test
            failed.append(error)

    def threads() -> Iterator[threading.Thread]:
        for number in range(3):
            thread = threading.Thread(target=agent, args=[number])
            thread.start()
            yield thread

    running = list(threads())
    for step in range(5):
        found = await store.get_metadata("c1")
        found.title = f"title {step}"
        await store.save_metadata(found)
    for thread in running:
        await asyncio.to_thread(thread.join)
    assert not failed, failed
    found = await store.get_metadata("c1")
    assert (found.prompt_tokens, found.completion_tokens, found.total_tokens, found.title) == (5, 5, 5, "title 4")
    assert len(await asyncio.to_thread(files.list, "sessions/c1/events/")) == 30
