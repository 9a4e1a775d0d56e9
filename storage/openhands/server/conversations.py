"""Conversations' metadata as OpenHands' server asks for it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import fields
from typing import Any, Final, cast

from openhands.storage.conversation.conversation_store import ConversationStore
from openhands.storage.data_models.conversation_metadata import ConversationMetadata
from openhands.storage.data_models.conversation_metadata_result_set import ConversationMetadataResultSet
from pydantic import TypeAdapter, ValidationError

from storage.conversations.model import ConversationMetadata as Row
from storage.conversations.model import invalid
from storage.errors import VersionConflict
from storage.openhands.process_storage import ProcessStorage, process_storage
from storage.openhands.snapshots import changes

_METADATA: Final[TypeAdapter[Any]] = TypeAdapter(ConversationMetadata)
_FIELDS: Final = frozenset(field.name for field in fields(ConversationMetadata))
"""Of the installed release: each has more of them than the one before."""

_LOADED: Final = "_storage_loaded"
"""Attribute of a metadata object, and no field of it: what the row said when it was read."""

_ATTEMPTS: Final = 5


class SQLConversationStore(ConversationStore):  # type: ignore[misc]
    """One user's conversations in the storage of this process.

    The server reads a conversation, changes a field and saves it, from the agent's thread and from requests at once.
    Saving therefore writes only what has changed since that object was read. What the row holds beyond the fields of
    the installed release stays as it is.
    """

    def __init__(self, place: ProcessStorage, user_id: str | None) -> None:
        self._place = place
        self._user = place.storage.user(user_id)

    async def save_metadata(self, metadata: ConversationMetadata) -> None:
        """Store a new conversation, or what was changed of one that this object was read from.

        Raises:
            ConversationNotFound: (a FileNotFoundError) it was read, and deleted since: it does not come back.
            InvalidInput: (a ValueError) a value does not fit.
            IdentifierTaken: the id cannot be used by this user.
        """
        await self._place.portal.await_(self._save, metadata)

    async def get_metadata(self, conversation_id: str) -> ConversationMetadata:
        """One conversation.

        Raises:
            ConversationNotFound: (a FileNotFoundError) there is none of this id.
        """
        return to_openhands(await self._place.portal.await_(self._user.conversations.get_metadata, conversation_id))

    async def delete_metadata(self, conversation_id: str) -> None:
        """Remove the conversation and its files, in one transaction. One that is not there is no error."""
        await self._place.portal.await_(self._user.conversations.delete_metadata, conversation_id)

    async def exists(self, conversation_id: str) -> bool:
        """Whether the user has a conversation of this id."""
        return await self._place.portal.await_(self._user.conversations.exists, conversation_id)

    async def search(self, page_id: str | None = None, limit: int = 20) -> ConversationMetadataResultSet:
        """One page, the newest first; `next_page_id` is None on the last one.

        Raises:
            InvalidInput: (a ValueError) a page id of another store, or a limit that is none.
        """
        page = await self._place.portal.await_(self._user.conversations.search, page_id, limit)
        return ConversationMetadataResultSet([to_openhands(row) for row in page.results], page.next_page_id)

    async def get_all_metadata(self, conversation_ids: Iterable[str]) -> list[ConversationMetadata]:
        """Those that there are, in the order of the ids, by one statement."""
        rows = await self._place.portal.await_(self._user.conversations.get_all_metadata, list(conversation_ids))
        return [to_openhands(row) for row in rows if row is not None]

    @classmethod
    async def get_instance(cls, config: Any, user_id: str | None) -> SQLConversationStore:  # noqa: ARG003 - the interface has it
        """The store of one user.

        Args:
            config: OpenHands' own; where the storage is was said to this library (see storage.openhands.server.config).
            user_id: None is the local user.
        """
        return cls(process_storage(), user_id)

    async def _save(self, metadata: ConversationMetadata) -> None:
        wanted = _values(metadata)
        loaded = getattr(metadata, _LOADED, None)
        if loaded is None:
            await self._user.conversations.save_metadata(_row(wanted))
        elif changed := changes(loaded, wanted):
            if changed.keys() <= Row.model_fields.keys():
                await self._user.conversations.update_metadata(wanted["conversation_id"], **changed)
            else:
                await self._change(wanted["conversation_id"], changed)
        setattr(metadata, _LOADED, wanted)

    async def _change(self, conversation_id: str, changed: dict[str, Any]) -> None:
        """Write fields of which some have no column; what others change meanwhile stays."""
        for _ in range(_ATTEMPTS):
            with suppress(VersionConflict):
                async with self._user.transaction() as tx:
                    row = await tx.conversations.get_metadata(conversation_id)
                    await tx.conversations.save_metadata(_changed(row, changed))
                    # Saving has locked the row: if somebody came in between, this one is not the next.
                    if (await tx.conversations.get_metadata(conversation_id)).version != row.version + 1:
                        raise VersionConflict("the conversation has changed since")
                return
        raise VersionConflict(f"the conversation {conversation_id!r} kept changing while it was stored; try again")


def to_openhands(row: Row) -> ConversationMetadata:
    """A row as the installed release holds it: without what it has no field for, or no such value of.

    A trigger or a git provider that it does not know becomes its default; so a row of a newer release hides nothing.
    """
    values = {name: value for name, value in _dumped(row).items() if name in _FIELDS}
    while True:
        try:
            metadata = _METADATA.validate_python(values)
        except ValidationError as error:
            problems = error.errors(include_input=False, include_url=False, include_context=False)
            names = {str(problem["loc"][0]) for problem in problems if problem["loc"]} & values.keys()
            if not names or "conversation_id" in names:
                raise
            for name in names:
                del values[name]
        else:
            # What is unknown here is not changed by saving this object.
            setattr(metadata, _LOADED, _values(metadata))
            return metadata


def _values(metadata: ConversationMetadata) -> dict[str, Any]:
    # Dataclasses take any value; the row says what does not fit.
    return cast("dict[str, Any]", _METADATA.dump_python(metadata, mode="json", warnings=False))


def _dumped(row: Row) -> dict[str, Any]:
    return row.model_dump(mode="json", context={"expose_secrets": True})


def _row(values: dict[str, Any]) -> Row:
    # The store knows whose it is; a release that writes another user's id into it is refused by the store.
    try:
        return Row(**values)
    except ValidationError as error:
        problem = invalid(error, f"conversation {values.get('conversation_id')!r} cannot be stored")
    raise problem


def _changed(row: Row, changed: dict[str, Any]) -> Row:
    try:
        return row.model_copy(update=changed)
    except ValidationError as error:
        problem = invalid(error, f"conversation {row.conversation_id!r} cannot be changed")
    raise problem
