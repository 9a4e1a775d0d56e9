"""A store of someone else's, in a dict: what it takes to replace ours, and that the shipped suite proves it."""

from __future__ import annotations

from typing import Any, ClassVar, Unpack

import pytest

from storage.clock import now
from storage.conversations.changes import assign, check_changeable, checked_usage
from storage.conversations.cursor import ConversationSort, checked_sort, decode_cursor, encode_cursor
from storage.conversations.filters import (
    ConversationFilters,
    checked_filters,
    checked_limit,
    matches,
    sort_key,
)
from storage.conversations.model import ConversationMetadata, ConversationMetadataResultSet
from storage.conversations.store import DEFAULT_SORT, ConversationStore
from storage.errors import ConversationNotFound, IdentifierTaken, InvalidInput
from storage.identity import user_key
from storage.testing.conversations import ConversationStoreContract

Place = dict[str, tuple[str, ConversationMetadata]]


class DictConversationStore(ConversationStore):
    """Every conversation of every user in one dict: id to owner and metadata. No await between look and leap."""

    everything: ClassVar[Place] = {}

    def __init__(self, place: Place, user_id: str | None) -> None:
        self._place = place
        self._user_id = user_key(user_id)

    @classmethod
    async def get_instance(cls, config: Any, user_id: str | None) -> DictConversationStore:  # noqa: ARG003
        return cls(cls.everything, user_id)

    async def save_metadata(self, metadata: ConversationMetadata) -> None:
        if metadata.user_id not in (None, self._user_id):
            raise InvalidInput(f"user_id is {metadata.user_id!r}, this is the store of {self._user_id!r}")
        owner, _ = self._place.get(metadata.conversation_id, (self._user_id, None))
        if owner != self._user_id:
            raise IdentifierTaken(f"{metadata.conversation_id!r} cannot be used; choose another id")
        # The model's own check once more: lists are edited in place, and copies are not validated.
        saved = metadata.model_copy(deep=True)
        assign(saved, dict(saved))
        self._place[saved.conversation_id] = (owner, saved.model_copy(update={"user_id": owner}))

    async def update_metadata(self, conversation_id: str, **changes: Any) -> None:
        metadata = await self.get_metadata(conversation_id)
        check_changeable(type(metadata), changes)
        assign(metadata, changes)
        await self.save_metadata(metadata)

    async def add_usage(self, conversation_id: str, **amounts: Any) -> None:
        usage = checked_usage(**amounts)
        metadata = await self.get_metadata(conversation_id)
        sums = {name: getattr(metadata, name) + amount for name, amount in usage.added.items()}
        kept = {name: value for name, value in usage.replaced.items() if value is not None}
        assign(metadata, {**sums, **kept, "last_updated_at": now()})
        await self.save_metadata(metadata)

    async def delete_metadata(self, conversation_id: str) -> bool:
        if not await self.exists(conversation_id):
            return False
        del self._place[conversation_id]
        for sub in await self.get_sub_conversations(conversation_id):
            await self.delete_metadata(sub.conversation_id)
        return True

    async def get_metadata(self, conversation_id: str) -> ConversationMetadata:
        owner, metadata = self._place.get(conversation_id, (None, None))
        if metadata is None or owner != self._user_id:
            raise ConversationNotFound(f"there is no conversation {conversation_id!r}")
        return metadata.model_copy(deep=True)

    async def exists(self, conversation_id: str) -> bool:
        return self._place.get(conversation_id, (None, None))[0] == self._user_id

    async def search(
        self,
        page_id: str | None = None,
        limit: int = 20,
        *,
        sort: ConversationSort | str = DEFAULT_SORT,
        **filters: Unpack[ConversationFilters],
    ) -> ConversationMetadataResultSet:
        order, wanted, limit = checked_sort(sort), checked_filters(filters), checked_limit(limit)
        own = (metadata for owner, metadata in self._place.values() if owner == self._user_id)
        found = sorted(
            (metadata for metadata in own if matches(metadata, wanted)),
            key=lambda metadata: sort_key(metadata, order),
            reverse=order.descending,
        )
        if page_id is not None:
            value, conversation_id = decode_cursor(page_id, order)
            place = (value.encode() if isinstance(value, str) else value, conversation_id.encode())
            found = [
                metadata
                for metadata in found
                if (sort_key(metadata, order) < place if order.descending else sort_key(metadata, order) > place)
            ]
        results = [metadata.model_copy(deep=True) for metadata in found[:limit]]
        if len(found) <= limit:
            return ConversationMetadataResultSet(results)
        value, _ = sort_key(results[-1], order)
        value = value.decode() if isinstance(value, bytes) else value
        return ConversationMetadataResultSet(results, encode_cursor(order, value, results[-1].conversation_id))


class TestDictConversationStore(ConversationStoreContract):
    @pytest.fixture
    async def place(self) -> Place:
        return {}

    @pytest.fixture
    async def store(self, place: Place) -> ConversationStore:
        return DictConversationStore(place, None)

    @pytest.fixture
    async def other_store(self, place: Place) -> ConversationStore:
        return DictConversationStore(place, "bob")


async def test_a_store_is_got_from_its_class() -> None:
    store = await DictConversationStore.get_instance(None, "alice")
    await store.save_metadata(ConversationMetadata(conversation_id="c1"))
    again = await DictConversationStore.get_instance(None, "alice")
    assert await again.exists("c1")
    await again.delete_metadata("c1")


def test_a_class_that_leaves_methods_open_cannot_be_instantiated() -> None:
    class Half(ConversationStore):
        pass

    with pytest.raises(TypeError, match="save_metadata"):
        Half()  # type: ignore[abstract]
