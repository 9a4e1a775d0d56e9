"""Conversations in SQL: each verb is one statement, or one unit of work together with the event that tells of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias, Unpack

from storage.clock import now
from storage.conversations import statements as sql
from storage.conversations.changes import FIXED_FIELDS, assign, check_changeable, checked_usage
from storage.conversations.cursor import ConversationSort, checked_sort, decode_cursor, encode_cursor
from storage.conversations.filters import ConversationFilters, checked_filters, checked_limit
from storage.conversations.model import ConversationMetadata, ConversationMetadataResultSet
from storage.conversations.pages import count_statement, page_statement, reads_many, search_shapes
from storage.conversations.row import (
    CONVERSATION_ID,
    SEALED,
    BoundRow,
    ModelCodec,
    codec_of,
    same_content,
)
from storage.conversations.store import DEFAULT_SORT, ConversationStore, SaveOutcome
from storage.database.change import Change
from storage.database.statement import Row
from storage.database.types import checked_text
from storage.database.unit import Executor, T, Unit, execute, execute_many
from storage.encryption.keyring import KeyRing, hold_key_of
from storage.encryption.keyset import KeySet
from storage.errors import (
    ConversationNotFound,
    EncryptionError,
    IdentifierTaken,
    InvalidInput,
    KeyMissing,
)
from storage.extension import open_storage_parts
from storage.identity import user_key
from storage.webhooks import outbox

__all__ = ["OnDelete", "SQLConversationStore", "search_shapes"]

OnDelete: TypeAlias = Callable[[str, str], Unit[Any]]
"""What else goes with a conversation, given the stored user id and the conversation's, in the same transaction."""

INLINE_ROWS: Final = 100
"""More ids than this in one `get_all_metadata` are read on a reader's thread."""

_COLUMNS: Final = frozenset(ConversationMetadata.model_fields) - FIXED_FIELDS


class SQLConversationStore(ConversationStore):
    """The conversations of one user on a database, or inside a transaction.

    Args:
        executor: the database or the transaction.
        user_id: the stored owner, as `storage.identity.user_key` gives it.
        keyring: seals the secret fields of a subclass; without it those are refused.
        model: what reads return: ConversationMetadata, or a subclass with more fields.
        on_delete: what else goes when a conversation is deleted.
    """

    def __init__(
        self,
        executor: Executor,
        user_id: str,
        keyring: KeyRing | None = None,
        model: type[ConversationMetadata] = ConversationMetadata,
        on_delete: OnDelete | None = None,
    ) -> None:
        self._executor = executor
        self._user_id = user_id
        self._keyring = keyring
        self._codec: ModelCodec[ConversationMetadata] = codec_of(model)
        self._on_delete = on_delete

    @classmethod
    async def get_instance(cls, config: Any, user_id: str | None) -> SQLConversationStore:
        """The store of a user on an open storage (whatever has `database` and `keyring`)."""
        database, keyring = open_storage_parts(cls, config)
        return cls(database, user_key(user_id), keyring)

    # ---- writing

    async def save_metadata(self, metadata: ConversationMetadata) -> None:
        bound = self._bind(metadata)

        def save(keys: KeySet | None) -> Unit[None]:
            # Sealed fields that this model does not know were read some time ago. Those in the row are as good or
            # newer: a rotation may have sealed them again, and deleted the key of those that were read.
            held = bound.sealed is None or (yield from hold_key_of(self._user_id, bound.sealed))
            statement = sql.SAVE if bound.sealed is None else sql.SAVE_BUT_SEALED
            there: list[Row] = []
            if bound.unread:
                this = {"user_id": self._user_id, "conversation_id": metadata.conversation_id}
                there = yield from execute(sql.GET_FOR_UPDATE, **this)
            rows = yield from execute(statement, **bound.sealed_with(keys, there[0][SEALED] if there else None))
            if rows and rows[0][0] == 1 and not held:
                raise _outlived(metadata.conversation_id)
            if not rows:
                raise IdentifierTaken(
                    f"the conversation id {metadata.conversation_id!r} cannot be used; choose another one"
                )
            version = rows[0][0]
            yield from outbox.record_all([self._saved(metadata.conversation_id, version)])

        await self._run(save, seals=bound.secrets is not None)

    async def save_many(self, conversations: Sequence[ConversationMetadata]) -> list[SaveOutcome]:
        rows = [self._bind(metadata) for metadata in conversations]
        ids = [metadata.conversation_id for metadata in conversations]

        def save(keys: KeySet | None) -> Unit[list[SaveOutcome]]:
            known = yield from execute(sql.GET_MANY, user_id=self._user_id, conversation_ids=ids)
            taken = yield from execute(sql.TAKEN, user_id=self._user_id, conversation_ids=ids)
            outcomes = _outcomes(rows, {row[CONVERSATION_ID]: row for row in known}, {row[0] for row in taken})
            created = [row for row, outcome in zip(rows, outcomes, strict=True) if outcome is SaveOutcome.CREATED]
            for row in created:
                if row.sealed is not None and not (yield from hold_key_of(self._user_id, row.sealed)):
                    raise _outlived(row.parameters["conversation_id"])
            yield from execute_many(sql.INSERT, [row.sealed_with(keys) for row in created])
            yield from outbox.record_all([self._saved(row.parameters["conversation_id"], 1) for row in created])
            return outcomes

        return await self._run(save, seals=any(row.secrets is not None for row in rows)) if rows else []

    async def update_metadata(self, conversation_id: str, **changes: Any) -> None:
        names = frozenset(changes)
        check_changeable(self._codec.model, names)
        columns = sorted(names & _COLUMNS)
        sealed = not names.isdisjoint(self._codec.secret_names)

        def change(keys: KeySet | None) -> Unit[None]:
            rows = yield from execute(sql.GET_FOR_UPDATE, user_id=self._user_id, conversation_id=conversation_id)
            if not rows:
                raise _not_found(conversation_id)
            metadata = self._codec.decode(rows[0], self._user_id, keys)
            assign(metadata, changes)
            after = self._codec.bind(metadata, self._user_id).sealed_with(keys, rows[0][SEALED])
            written = list(columns)
            if names - _COLUMNS - self._codec.secret_names:
                written.append("extra")
            if sealed:
                written.append("sealed_extra")
            versions = yield from execute(
                sql.update_of(tuple(written)),
                user_id=self._user_id,
                conversation_id=conversation_id,
                **{f"new_{name}": after[name] for name in written},
            )
            yield from outbox.record_all([self._saved(conversation_id, versions[0][0], sorted(names))])

        if changes:
            await self._run(change, seals=sealed)
        elif not await self.exists(conversation_id):
            raise _not_found(conversation_id)

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
        usage = checked_usage(
            cost=cost,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=total_tokens,
            cache_read_tokens=cache_read_tokens,
            cache_write_tokens=cache_write_tokens,
            reasoning_tokens=reasoning_tokens,
            context_window=context_window,
            per_turn_token=per_turn_token,
        )
        parameters = {
            **{f"add_{name}": amount for name, amount in usage.added.items()},
            **{f"most_{name}": amount for name, amount in usage.most.items()},
            **{f"new_{name}": amount for name, amount in usage.replaced.items()},
        }

        def add() -> Unit[None]:
            rows = yield from execute(
                sql.ADD_USAGE,
                user_id=self._user_id,
                conversation_id=conversation_id,
                now=now(),
                **parameters,
            )
            if not rows:
                if (yield from execute(sql.EXISTS, user_id=self._user_id, conversation_id=conversation_id)):
                    raise InvalidInput(f"the sums of conversation {conversation_id!r} are too large to add that much")
                raise _not_found(conversation_id)
            yield from outbox.record_all([self._saved(conversation_id, rows[0][0], ["usage"])])

        await self._executor.run(add)

    async def delete_metadata(self, conversation_id: str) -> bool:
        def remove() -> Unit[bool]:
            rows = yield from execute(sql.DELETE, user_id=self._user_id, conversation_id=conversation_id)
            # The one that was asked for first, then its sub-conversations in an order that is always the same.
            gone = sorted((row[0] for row in rows), key=lambda found: (found != conversation_id, found))
            if self._on_delete is not None:
                # Also without a row: files may have been written before the metadata was, or after it was deleted.
                for found in gone or [conversation_id]:
                    yield from self._on_delete(self._user_id, found)
            yield from outbox.record_all(
                [outbox.change(self._user_id, "conversation.deleted", key=found) for found in gone]
            )
            return bool(gone)

        return await self._executor.run(remove)

    # ---- reading

    async def get_metadata(self, conversation_id: str) -> ConversationMetadata:
        rows = await self._executor.read(sql.GET, {"user_id": self._user_id, "conversation_id": conversation_id})
        if not rows:
            raise _not_found(conversation_id)
        return (await self._decode(rows))[0]

    async def exists(self, conversation_id: str) -> bool:
        parameters = {"user_id": self._user_id, "conversation_id": conversation_id}
        return bool(await self._executor.read(sql.EXISTS, parameters))

    async def validate_metadata(self, conversation_id: str, user_id: str | None) -> bool:
        return user_key(user_id) == self._user_id and await self.exists(conversation_id)

    async def get_all_metadata(self, conversation_ids: Iterable[str]) -> list[ConversationMetadata | None]:
        ids = [checked_text(conversation_id) for conversation_id in conversation_ids]
        if not ids:
            return []
        rows = await self._executor.read(
            sql.GET_MANY,
            {"user_id": self._user_id, "conversation_ids": ids},
            scan=len(ids) > INLINE_ROWS,
        )
        found = {metadata.conversation_id: metadata for metadata in await self._decode(rows)}
        return [found.get(conversation_id) for conversation_id in ids]

    async def get_sub_conversations(self, conversation_id: str) -> list[ConversationMetadata]:
        rows = await self._executor.read(
            sql.SUBS, {"user_id": self._user_id, "conversation_id": conversation_id}, scan=True
        )
        subs = await self._decode(rows)
        return sorted(subs, key=lambda metadata: (metadata.created_at, metadata.conversation_id))

    async def search(
        self,
        page_id: str | None = None,
        limit: int = 20,
        *,
        sort: ConversationSort | str = DEFAULT_SORT,
        **filters: Unpack[ConversationFilters],
    ) -> ConversationMetadataResultSet:
        order = checked_sort(sort)
        parameters: dict[str, Any] = checked_filters(filters)
        statement = page_statement(frozenset(parameters), order, first=page_id is None)
        scan = reads_many(parameters, order)
        parameters["user_id"] = self._user_id
        # One more than asked for tells whether there is another page.
        parameters["limit"] = checked_limit(limit) + 1
        if page_id is not None:
            parameters["after_value"], parameters["after_id"] = decode_cursor(page_id, order)
        rows = await self._executor.read(statement, parameters, scan=scan)
        next_page_id = None
        if len(rows) > limit:
            del rows[limit:]
            next_page_id = encode_cursor(order, rows[-1][-1], rows[-1][CONVERSATION_ID])
        return ConversationMetadataResultSet(await self._decode(rows), next_page_id)

    async def count(self, **filters: Unpack[ConversationFilters]) -> int:
        parameters: dict[str, Any] = checked_filters(filters)
        statement = count_statement(frozenset(parameters))
        rows = await self._executor.read(statement, {**parameters, "user_id": self._user_id}, scan=True)
        return int(rows[0][0])

    # ---- below

    def _bind(self, metadata: ConversationMetadata) -> BoundRow:
        if not isinstance(metadata, ConversationMetadata):
            raise InvalidInput(f"a ConversationMetadata is stored here, not a {type(metadata).__name__}")
        return codec_of(type(metadata)).bind(metadata, self._user_id)

    async def _run(self, unit: Callable[[KeySet | None], Unit[T]], *, seals: bool) -> T:
        """Run a unit, with the user's keys if it seals."""
        if not seals:
            return await self._executor.run(lambda: unit(None))
        return await self._key_ring().run(self._executor, self._user_id, unit)

    def _key_ring(self) -> KeyRing:
        if self._keyring is None:
            raise KeyMissing(
                "a conversation with secret fields needs a key ring; open the store through Storage.open()"
            )
        return self._keyring

    async def _decode(self, rows: list[Row]) -> list[ConversationMetadata]:
        decode, user_id = self._codec.decode, self._user_id
        keys: KeySet | EncryptionError | None = None
        if self._codec.secret_names:
            sealed = [row[SEALED] for row in rows if row[SEALED] is not None]
            if sealed:
                keys = await self._keys(sealed)
        return [decode(row, user_id, keys) for row in rows]

    async def _keys(self, sealed: list[bytes]) -> KeySet | EncryptionError:
        """The keys, or why there are none: what is not secret can be read without."""
        try:
            return await self._key_ring().keys_for(self._executor, self._user_id, sealed)
        except EncryptionError as error:
            return error

    def _saved(self, conversation_id: str, version: int, changed: list[str] | None = None) -> Change:
        payload: dict[str, Any] = {"created": version == 1}
        if changed is not None:
            payload["changed"] = changed
        return outbox.change(self._user_id, "conversation.saved", key=conversation_id, version=version, payload=payload)


def _outcomes(rows: list[BoundRow], known: dict[str, Row], taken: set[str]) -> list[SaveOutcome]:
    """What becomes of each row; of two with one id the first counts."""
    outcomes = []
    earlier: dict[str, BoundRow] = {}
    for row in rows:
        conversation_id = row.parameters["conversation_id"]
        if conversation_id in taken:
            outcome = SaveOutcome.TAKEN
        elif (stored := known.get(conversation_id)) is not None:
            open_ = row.secrets is None and row.sealed is None and stored[SEALED] is None
            outcome = SaveOutcome.UNCHANGED if open_ and same_content(row.parameters, stored) else SaveOutcome.KEPT
        elif (first := earlier.get(conversation_id)) is not None:
            outcome = SaveOutcome.UNCHANGED if first == row else SaveOutcome.KEPT
        else:
            earlier[conversation_id] = row
            outcome = SaveOutcome.CREATED
        outcomes.append(outcome)
    return outcomes


def _outlived(conversation_id: str) -> KeyMissing:
    return KeyMissing(
        f"the secret fields of the conversation {conversation_id!r} were sealed under a data key that was replaced"
        " since, and the conversation was deleted; nothing was stored. Make a new ConversationMetadata, and set them"
        " again"
    )


def _not_found(conversation_id: str) -> ConversationNotFound:
    return ConversationNotFound(f"there is no conversation {conversation_id!r}")
