"""Try to open every data key and every sealed value, and name by their rows those that do not open.

Streams user by user, so that its memory does not grow with the database; and looks twice at whatever seems wrong,
because users and rotations go on writing meanwhile. Never shows a value.
"""

from __future__ import annotations

import asyncio
import heapq
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from storage.database.database import Database
from storage.encryption import statements as sql
from storage.encryption.keyring import EVERYONE, KeyRing
from storage.encryption.keyset import KeySet
from storage.encryption.registry import SealedColumn
from storage.encryption.rotation.key_batches import behind, key_sets
from storage.encryption.rotation.reencrypt import unreadable_value
from storage.encryption.rotation.rewrap import unreadable_key
from storage.encryption.sealed_rows import SealedValue, rows_of, sealed_values
from storage.encryption.status import Diagnosis, MasterKeyInfo, Progress, Unreadable
from storage.errors import EncryptionError

MOST_USERS: Final = 100
"""Users looked at together."""

_NAMED_USERS: Final = 5
"""Users that a problem names; more would be a list and not a sentence."""


@dataclass(slots=True)
class _Findings:
    """What was found of some users."""

    sealed: Counter[str] = field(default_factory=Counter)
    data_keys: int = 0
    unreadable: list[Unreadable] = field(default_factory=list)
    nowhere: int = 0
    """Values that name a data key which does not exist."""
    inactive: list[str] = field(default_factory=list)
    """Users who have data keys, and none to seal with."""

    def add(self, other: _Findings) -> None:
        self.sealed += other.sealed
        self.data_keys += other.data_keys
        self.unreadable += other.unreadable
        self.nowhere += other.nowhere
        self.inactive += other.inactive

    @property
    def is_clean(self) -> bool:
        return not (self.unreadable or self.inactive)


async def examine(
    database: Database,
    keyring: KeyRing,
    columns: Sequence[SealedColumn],
    master_keys: Sequence[MasterKeyInfo],
    progress: Progress | None = None,
) -> Diagnosis:
    """See KeyRotation.doctor; `master_keys` as KeyRotation.status has them."""
    found = _Findings()
    ((users,),) = await database.read(sql.COUNT_USERS, {}, scan=True)
    done = 0
    async for user_ids in _owners(database, columns):
        of_users = await _look(database, keyring, columns, user_ids)
        if not of_users.is_clean:
            # Perhaps something was written between the reading of values and of keys; so one by one, once more.
            of_users = _Findings()
            for user_id in user_ids:
                of_users.add(await _look(database, keyring, columns, [user_id]))
        found.add(of_users)
        done += len(user_ids)
        if progress is not None:
            progress(done, max(users, done))
    return Diagnosis(
        master_keys=tuple(master_keys),
        data_keys=found.data_keys,
        sealed={place: found.sealed[place] for place in sorted(map(_named, columns))},
        unreadable=tuple(found.unreadable),
        problems=tuple(await _problems(database, keyring, master_keys, found)),
    )


async def _owners(database: Database, columns: Sequence[SealedColumn]) -> AsyncIterator[list[str]]:
    """Everyone who has a data key or a sealed value, in order, some at a time."""
    sources = [sql.NEXT_OWNERS, *(rows_of(column).owners for column in columns)]
    start = EVERYONE
    # Rows of nobody are not among those that have an owner.
    first = [EVERYONE]
    while True:
        pages = [
            [user_id for (user_id,) in await database.read(source, {"start": start, "limit": MOST_USERS}, scan=True)]
            for source in sources
        ]
        user_ids = list(dict.fromkeys([*first, *heapq.merge(*pages)]))[:MOST_USERS]
        if not user_ids:
            return
        yield user_ids
        start, first = behind(user_ids[-1]), []


async def _look(
    database: Database, keyring: KeyRing, columns: Sequence[SealedColumn], user_ids: Sequence[str]
) -> _Findings:
    values = [value for column in columns for value in await sealed_values(database, column, user_ids)]
    # Read after the values, so that no value is younger than its key.
    keys = await key_sets(database, keyring.master_keys, user_ids)
    found = await asyncio.to_thread(_opened, keys, values)
    for user_id, held in keys.items():
        found.data_keys += len(held.ids) + len(held.failures)
        if held.active_id is None and (held.ids or held.failures):
            found.inactive.append(user_id)
        found.unreadable += [
            unreadable_key(user_id, uuid.UUID(bytes=key_id), error) for key_id, error in held.failures.items()
        ]
    return found


def _opened(keys: Mapping[str, KeySet], values: Sequence[SealedValue]) -> _Findings:
    found = _Findings()
    for value in values:
        found.sealed[_named(value.column)] += 1
        held = keys[value.context.user_id]
        try:
            held.open(value.context, value.sealed)
        except EncryptionError as error:
            found.unreadable.append(unreadable_value(value, error))
            found.nowhere += held.lacks_key_of(value.sealed)
    return found


async def _problems(
    database: Database, keyring: KeyRing, master_keys: Sequence[MasterKeyInfo], found: _Findings
) -> list[str]:
    masters = keyring.master_keys
    problems = [] if masters.locked is None else [f"secrets are locked: {masters.locked}"]
    for key in master_keys:
        if key.state == "missing" and key.data_keys:
            problems.append(
                f"{key.data_keys} data keys are wrapped under the master key {key.kek_id}, which is not in "
                f"{masters.provider.where}; add it there"
            )
        elif key.state == "retired" and key.data_keys:
            if bytes.fromhex(key.kek_id) in masters.held:
                mend = "it is at hand, so run: storage keys rewrap"
            else:
                mend = "it was given up; set the secrets again that cannot be read"
            problems.append(
                f"{key.data_keys} data keys are wrapped under the master key {key.kek_id}, which is retired; {mend}"
            )
    if found.nowhere:
        problems.append(
            f"{found.nowhere} values name a data key that does not exist; restore table data_key from a backup, or "
            "set those secrets again"
        )
    if found.inactive:
        named = ", ".join(repr(user_id) for user_id in found.inactive[:_NAMED_USERS])
        more = f" and {len(found.inactive) - _NAMED_USERS} more" if len(found.inactive) > _NAMED_USERS else ""
        problems.append(f"no active data key have the users {named}{more}; the next secret that is set makes one")
    if unfinished := await count_unfinished(database, keyring):
        problems.append(f"{unfinished} data keys are still to be replaced; run: storage keys reencrypt")
    return problems


async def count_unfinished(database: Database, keyring: KeyRing) -> int:
    """Retired data keys, but for those whose master key was given up."""
    rows = await database.read(sql.DATA_KEYS_BY_MASTER_KEY, {}, scan=True)
    return sum(
        number for kek_id, state, number in rows if state == sql.RETIRED and kek_id not in keyring.master_keys.given_up
    )


def _named(column: SealedColumn) -> str:
    return f"{column.table}.{column.column}"
