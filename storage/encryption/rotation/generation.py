"""A new generation of data keys: every user's active one is retired, and another one takes its place, all at once.

In one transaction, so that a run which is killed has either begun a generation or not. Retired keys are the only
record of what is left to do.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from storage.clock import now
from storage.database.database import Database
from storage.database.statement import Row
from storage.database.unit import Unit, execute, execute_many
from storage.encryption import statements as sql
from storage.encryption.envelope import DataKey
from storage.encryption.keyring import EVERYONE
from storage.encryption.master_keys import MasterKeys
from storage.encryption.providers.provider import RegisteredKey
from storage.encryption.rotation.key_batches import behind, each
from storage.encryption.rotation.rewrap import active_registered, unreadable_key
from storage.encryption.status import Unreadable
from storage.errors import EncryptionError, KeyUnavailable

_PAGE: Final = 1000
"""Data keys made at once, and stored by one statement."""


@dataclass(frozen=True, slots=True)
class _Successor:
    """A data key that is to follow the active one of a user."""

    user_id: str
    old: uuid.UUID
    new: uuid.UUID
    wrapped: bytes


async def begin_generation(database: Database, masters: MasterKeys) -> list[Unreadable]:
    """Replace every active data key; returns those that cannot be unwrapped, which are left as they are.

    The new ones are made and wrapped before the transaction, so that a slow key service is not inside it. Whoever
    gets a first data key meanwhile has a new one already.

    Raises:
        KeyMissing, KeyMismatch, KeyUnavailable: there is no master key to wrap with; nothing was changed.
        DatabaseError: nothing was changed.
    """
    master = await active_registered(database, masters)
    successors: list[_Successor] = []
    failures: list[Unreadable] = []
    start = EVERYONE
    while rows := await database.read(sql.USERS_WITH_ACTIVE, {"start": start, "limit": _PAGE}, scan=True):
        made = await _successors(masters, master, rows, failures)
        if not made:
            # One master key that is disabled stops nothing, a provider that is down does.
            await masters.check(database)
            masters.require_unlocked()
        successors += made
        start = behind(rows[-1][0])
    await database.run(lambda: _replace(masters, master, successors))
    return failures


async def _successors(
    masters: MasterKeys, master: RegisteredKey, rows: list[Row], failures: list[Unreadable]
) -> list[_Successor]:
    async def successor(row: Row) -> _Successor | None:
        user_id, row_id, kek_id, wrapped = row
        try:
            # A user whose key is not at hand keeps it: another one would hide that it is missing.
            await masters.unwrap(kek_id, user_id, row_id, wrapped)
        except EncryptionError as error:
            failures.append(unreadable_key(user_id, row_id, error))
            return None
        key = DataKey.generate()
        return _Successor(user_id, row_id, uuid.UUID(bytes=key.id), await masters.wrap(master.kek_id, user_id, key))

    return [made for made in await each(successor, rows) if made is not None]


def _replace(masters: MasterKeys, master: RegisteredKey, successors: Sequence[_Successor]) -> Unit[None]:
    """Writers go on meanwhile: what they hold of their key lets its state change, and not the key go away."""
    if not (yield from masters.register(master, masters.known, lock_first=False)):
        raise KeyUnavailable("the table of master keys was emptied meanwhile; nothing was changed")
    for start in range(0, len(successors), _PAGE):
        page = successors[start : start + _PAGE]
        rows = yield from execute(sql.HOLD_ACTIVE_OF_USERS, user_ids=[successor.user_id for successor in page])
        still = {row_id for (row_id,) in rows}
        # Whose active key is another one by now, or none, has been seen to by someone else.
        page = [successor for successor in page if successor.old in still]
        yield from execute_many(sql.RETIRE_DATA_KEY, [{"which": successor.old} for successor in page])
        moment = now()
        yield from execute_many(
            sql.ADD_DATA_KEY,
            [
                {
                    "id": successor.new,
                    "user_id": successor.user_id,
                    "kek_id": master.kek_id,
                    "wrapped": successor.wrapped,
                    "created_at": moment,
                }
                for successor in page
            ],
        )
