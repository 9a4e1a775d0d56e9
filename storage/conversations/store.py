"""The interface of conversation stores: extend it to keep conversations elsewhere.

The method names are those of the seed system, so that its users find them. `storage.testing.conversations` holds the
tests that every implementation should pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Sequence
from enum import StrEnum
from typing import Any, Final, Unpack

from storage.conversations.cursor import ConversationSort
from storage.conversations.filters import ConversationFilters
from storage.conversations.model import ConversationMetadata, ConversationMetadataResultSet
from storage.errors import IdentifierTaken, NotFound
from storage.identity import user_key

DEFAULT_SORT: Final = ConversationSort.CREATED_DESCENDING

ITERATION_PAGE: Final = 200
"""Conversations fetched at once by `iterate`: few round trips, and little held in memory."""


class SaveOutcome(StrEnum):
    """What `save_many` did with one conversation."""

    CREATED = "created"
    """It was not there and is now."""
    UNCHANGED = "unchanged"
    """It was there already, with just this content."""
    KEPT = "kept"
    """It was there with other content (or with secrets, which are not compared); what was there was kept."""
    TAKEN = "taken"
    """The identifier cannot be used by this user."""


class ConversationStore(ABC):
    """The conversations of one user.

    Whoever belongs to someone else does not exist here: it is not found, not listed, and its id cannot be taken.
    """

    @classmethod
    @abstractmethod
    async def get_instance(cls, config: Any, user_id: str | None) -> ConversationStore:
        """The store of a user.

        Args:
            config: the application's configuration; for a class named in `conversation_store_class`, the StorageConfig.
            user_id: None for the local user.
        """

    # ---- writing

    @abstractmethod
    async def save_metadata(self, metadata: ConversationMetadata) -> None:
        """Store a conversation as a whole, new or in place of what was stored under its id.

        Raises:
            InvalidInput: a value does not fit, or `metadata.user_id` names another user.
            IdentifierTaken: the id cannot be used by this user.
        """

    @abstractmethod
    async def update_metadata(self, conversation_id: str, **changes: Any) -> None:
        """Change only the named fields of a conversation, checked as the model checks them.

        `last_updated_at` too changes only if it is named.

        Raises:
            InvalidInput: an unknown field (the message suggests the nearest), a value that does not fit, or one of
                `conversation_id`, `user_id` and `version`, which stay.
            ConversationNotFound: there is none of this id.
        """

    @abstractmethod
    async def add_usage(
        self,
        conversation_id: str,
        *,
        cost: float = 0.0,
        prompt_tokens: int = 0,
        completion_tokens: int = 0,
        total_tokens: int | None = None,
        cache_read_tokens: int = 0,
        cache_write_tokens: int = 0,
        reasoning_tokens: int = 0,
        context_window: int | None = None,
        per_turn_token: int | None = None,
    ) -> None:
        """Add to a conversation's sums, so that nothing is lost when several add at once; sets `last_updated_at`.

        Args:
            conversation_id: which one.
            cost: US dollars to add to `accumulated_cost`.
            prompt_tokens: tokens to add; so are the following.
            completion_tokens: see prompt_tokens.
            total_tokens: see prompt_tokens; prompt and completion tokens together if None.
            cache_read_tokens: see prompt_tokens.
            cache_write_tokens: see prompt_tokens.
            reasoning_tokens: see prompt_tokens.
            context_window: replaces the stored number, unless None.
            per_turn_token: replaces the stored number, unless None.

        Raises:
            InvalidInput: a negative or infinite number, or a sum that would not fit any more.
            ConversationNotFound: there is none of this id.
        """

    @abstractmethod
    async def delete_metadata(self, conversation_id: str) -> bool:
        """Delete a conversation, all its sub-conversations, and their files; False if there was none of this id."""

    async def save_many(self, conversations: Sequence[ConversationMetadata]) -> list[SaveOutcome]:
        """Store those that are not there yet, and change none that are: one outcome each, in the same order.

        Of two with one id the first counts. The SQL store does it all or nothing.

        Raises:
            InvalidInput: as save_metadata.
        """
        outcomes = []
        for metadata in conversations:
            try:
                before = await self.get_metadata(metadata.conversation_id)
            except NotFound:
                try:
                    await self.save_metadata(metadata)
                    outcomes.append(SaveOutcome.CREATED)
                except IdentifierTaken:
                    outcomes.append(SaveOutcome.TAKEN)
            else:
                owned = metadata.model_copy(update={"user_id": before.user_id})
                same = before.model_dump() == owned.model_dump()
                outcomes.append(SaveOutcome.UNCHANGED if same else SaveOutcome.KEPT)
        return outcomes

    # ---- reading

    @abstractmethod
    async def get_metadata(self, conversation_id: str) -> ConversationMetadata:
        """One conversation.

        Raises:
            ConversationNotFound (a FileNotFoundError): there is none of this id.
        """

    @abstractmethod
    async def exists(self, conversation_id: str) -> bool:
        """Whether there is a conversation of this id."""

    async def validate_metadata(self, conversation_id: str, user_id: str | None) -> bool:
        """Whether the conversation is in this store and belongs to `user_id`; of others' ids nothing is told."""
        try:
            metadata = await self.get_metadata(conversation_id)
        except NotFound:
            return False
        return user_key(metadata.user_id) == user_key(user_id)

    async def get_all_metadata(self, conversation_ids: Iterable[str]) -> list[ConversationMetadata | None]:
        """The conversations of these ids, in their order, None in place of each that is not there."""
        found: list[ConversationMetadata | None] = []
        for conversation_id in conversation_ids:
            try:
                found.append(await self.get_metadata(conversation_id))
            except NotFound:
                found.append(None)
        return found

    async def get_sub_conversations(self, conversation_id: str) -> list[ConversationMetadata]:
        """The conversations whose parent is this one, oldest first; not their sub-conversations in turn."""
        subs = self.iterate(parent_conversation_id=conversation_id, sort=ConversationSort.CREATED_ASCENDING)
        return [metadata async for metadata in subs]

    @abstractmethod
    async def search(
        self,
        page_id: str | None = None,
        limit: int = 20,
        *,
        sort: ConversationSort | str = DEFAULT_SORT,
        **filters: Unpack[ConversationFilters],
    ) -> ConversationMetadataResultSet:
        """One page of the conversations that pass all filters.

        Paging from the first to the last page meets every conversation once that is there all the while and keeps its
        place in the order.

        Args:
            page_id: `next_page_id` of the page before, with the same sort; None for the first page.
            limit: conversations on the page, 1 to 1,000.
            sort: the order, newest first unless told otherwise.
            filters: see ConversationFilters.

        Raises:
            InvalidInput: a limit, cursor, sort or filter value that cannot be used.
            TypeError: a filter that does not exist.
        """

    async def count(self, **filters: Unpack[ConversationFilters]) -> int:
        """How many conversations `search` finds with these filters.

        Raises:
            InvalidInput, TypeError: as search.
        """
        number = 0
        async for _ in self.iterate(**filters):
            number += 1
        return number

    async def iterate(
        self, *, sort: ConversationSort | str = DEFAULT_SORT, **filters: Unpack[ConversationFilters]
    ) -> AsyncIterator[ConversationMetadata]:
        """All conversations that pass the filters, page by page, with no transaction held open meanwhile.

        Raises:
            InvalidInput, TypeError: as search.
        """
        page_id = None
        while True:
            page = await self.search(page_id, ITERATION_PAGE, sort=sort, **filters)
            for metadata in page.results:
                yield metadata
            page_id = page.next_page_id
            if page_id is None:
                return
