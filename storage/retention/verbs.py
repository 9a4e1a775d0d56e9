"""Keeping to a policy: what it would remove, and its removal while everything else goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeAlias

from storage.clock import now
from storage.conversations.retention import Removal, Tree, next_owner, remove_some
from storage.database.pace import Pace
from storage.database.unit import Unit
from storage.errors import ConfigurationError
from storage.files import conversation_files
from storage.identity import user_key
from storage.retention.decision import Doomed, Reason, decide
from storage.retention.policy import RetentionPolicy
from storage.webhooks.queue import event_cap
from storage.webhooks.queue.retention import prune

if TYPE_CHECKING:
    from storage.config import StorageConfig
    from storage.database.database import Database

Progress: TypeAlias = Callable[[int, int | None], None]
"""Told how many conversations have been removed; the number of all is not known."""

_SHOWN: Final = 20
"""Conversations that a trial names; the counts are of all."""

_TREES_AT_ONCE: Final = 50
"""Conversations that one piece of work is given: with few files each, there is room for as many."""

_BEFORE_ALL: Final = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class DoomedConversation:
    """A conversation that a policy removes.

    Attributes:
        user_id: the owner, in stored form.
        conversation_id: its id.
        reason: `age`, `idle` or `cap`: the first rule that applies.
        updated_at: when it, or a sub-conversation, last changed.
    """

    user_id: str
    conversation_id: str
    reason: Reason
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class RetentionTrial:
    """What a policy would remove now.

    Attributes:
        users: how many users lose a conversation.
        conversations: by reason; sub-conversations are not counted here.
        sub_conversations: that go with them.
        files: of all of these.
        bytes: the sum of their sizes. What it frees is removed by the collector, a day later at the earliest.
        events_by_age: events that are too old.
        events_by_cap: events that are too many, and not too old.
        first: conversations, the first ones of all users.
    """

    users: int
    conversations: dict[Reason, int]
    sub_conversations: int
    files: int
    bytes: int
    events_by_age: int
    events_by_cap: int
    first: tuple[DoomedConversation, ...]


@dataclass(frozen=True, slots=True)
class Retained:
    """What was removed.

    Attributes:
        conversations: removed, sub-conversations among them.
        files: removed with them.
        events: removed.
        left: conversations that were used after it was decided that they go, and stay for now.
    """

    conversations: int
    files: int
    events: int
    left: int


class Retention:
    """The verbs of `storage retention`. Made by `Storage.retention`.

    Args:
        database: where.
        config: its policy, where none is given.
    """

    def __init__(self, database: Database, config: StorageConfig) -> None:
        self._database = database
        self._config = config

    @property
    def policy(self) -> RetentionPolicy:
        """The policy that the configuration has."""
        return RetentionPolicy.of(self._config)

    async def trial(self, policy: RetentionPolicy | None = None, *, user_id: str | None = None) -> RetentionTrial:
        """What the policy would remove now. Changes nothing; reads all outlines of conversations, and all events.

        Args:
            policy: the configuration's if None.
            user_id: only this user's data; everyone's if None.

        Raises:
            InvalidInput: no acceptable user id.
            ConfigurationError: conversations are in a store that replaces ours.
            DatabaseError: the database cannot be read.
        """
        policy, owner = self._checked(policy, user_id)
        moment = now()
        reasons: Counter[Reason] = Counter()
        users = subs = files = size = 0
        first: list[DoomedConversation] = []
        async for user, doomed in self._doomed(policy, owner, moment):
            users += bool(doomed)
            reasons.update(each.reason for each in doomed)
            subs += sum(len(each.tree.versions) - 1 for each in doomed)
            names = [name for each in doomed for name in each.tree.versions]
            found = (await conversation_files.sums(self._database, user, names)).values()
            files += sum(each.files for each in found)
            size += sum(each.bytes for each in found)
            first += [
                DoomedConversation(user, each.tree.root_id, each.reason, each.tree.updated_at)
                for each in doomed[: _SHOWN - len(first)]
            ]
        by_age, by_cap = await self._count_events(policy, owner, moment)
        return RetentionTrial(users, dict(sorted(reasons.items())), subs, files, size, by_age, by_cap, tuple(first))

    async def run(
        self, policy: RetentionPolicy | None = None, *, user_id: str | None = None, progress: Progress | None = None
    ) -> Retained:
        """Remove what the policy says, some rows at a time, so that writers wait for milliseconds.

        Conversations go as by `delete_metadata`: with their sub-conversations and files, and web hooks hear of each.
        One that is used meanwhile stays. It can be interrupted at any moment and run again, two at once do no harm,
        and what is done is done. Of a conversation with very many files the first may be gone before it is.

        Args:
            policy: the configuration's if None.
            user_id: only this user's data; everyone's if None.
            progress: told after each piece of work.

        Raises:
            InvalidInput: no acceptable user id.
            ConfigurationError: conversations are in a store that replaces ours.
            DatabaseError: the database cannot be written; some may have gone.
        """
        policy, owner = self._checked(policy, user_id)
        moment = now()
        pace = Pace()
        conversations = files = left = 0
        async for user, doomed in self._doomed(policy, owner, moment):
            waiting = [each.tree for each in doomed]
            while waiting:
                removal = await self._remove_some(user, waiting[:_TREES_AT_ONCE], pace, moment)
                await pace.rest()
                waiting = waiting[removal.done :]
                conversations += removal.conversations
                files += removal.files
                left += removal.left
                if progress is not None:
                    progress(conversations, None)
        events = await self._remove_events(policy, owner, moment)
        return Retained(conversations, files, events, left)

    def _checked(self, policy: RetentionPolicy | None, user_id: str | None) -> tuple[RetentionPolicy, str | None]:
        policy = self.policy if policy is None else policy
        if policy.has_conversation_rules and self._config.conversation_store_class is not None:
            raise ConfigurationError(
                f"conversations are kept by {self._config.conversation_store_class} (conversation_store_class), which "
                "no retention of ours reaches; leave out the rules for conversations"
            )
        return policy, None if user_id is None else user_key(user_id)

    async def _doomed(
        self, policy: RetentionPolicy, only: str | None, moment: datetime
    ) -> AsyncIterator[tuple[str, list[Doomed]]]:
        """The users one after the other, with what is to go of theirs."""
        if not policy.has_conversation_rules:
            return
        user = only if only is not None else await next_owner(self._database, "")
        while user is not None:
            yield user, await decide(self._database, user, policy, moment)
            user = None if only is not None else await next_owner(self._database, user)

    async def _remove_some(self, user: str, doomed: Sequence[Tree], pace: Pace, moment: datetime) -> Removal:
        def unit() -> Unit[Removal]:
            return remove_some(
                user,
                doomed,
                pace.at_once,
                moment,
                remove_files=conversation_files.remove_some,
                used_since=conversation_files.written_since,
            )

        return await self._database.run(pace.timed(unit))

    async def _count_events(self, policy: RetentionPolicy, only: str | None, moment: datetime) -> tuple[int, int]:
        by_age = by_cap = 0
        before = _BEFORE_ALL if policy.event_age is None else moment - policy.event_age
        if policy.event_age is not None and only is None:
            by_age = await event_cap.count_old(self._database, before)
        if policy.events_per_user is not None:
            for user in await event_cap.owners(self._database, only):
                by_cap += await event_cap.count_beyond(self._database, user, policy.events_per_user, before)
        return by_age, by_cap

    async def _remove_events(self, policy: RetentionPolicy, only: str | None, moment: datetime) -> int:
        removed = 0
        if policy.event_age is not None and only is None:
            removed += await prune(self._database, moment - policy.event_age)
        if policy.events_per_user is not None:
            for user in await event_cap.owners(self._database, only):
                removed += await event_cap.prune_beyond(self._database, user, policy.events_per_user)
        return removed
