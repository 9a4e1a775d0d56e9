"""Seal every value again under a new data key, while users go on reading and writing.

First a new generation of data keys (see generation): whoever writes from then on seals under the new ones. Then the
old values, some users at a time. A retired key is deleted once nothing names it any more, so
retired keys are what a run that was killed has left to do.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from storage.database.database import Database
from storage.database.statement import Row, Statement
from storage.database.unit import Unit, execute, execute_many
from storage.encryption import statements as sql
from storage.encryption.envelope import SealContext, data_key_id_of, is_sealed
from storage.encryption.keyring import EVERYONE, KeyRing
from storage.encryption.keyset import KeySet
from storage.encryption.registry import SealedColumn
from storage.encryption.rotation.generation import begin_generation
from storage.encryption.rotation.key_batches import behind, key_sets
from storage.encryption.rotation.rewrap import unreadable_key
from storage.encryption.sealed_rows import SealedValue, rows_of, sealed_values
from storage.encryption.status import Progress, Reencrypted, Unreadable
from storage.errors import EncryptionError, KeyUnavailable

MOST_USERS: Final = 100
"""Users in one batch: enough to share its round trips, few enough that a writer waits for some milliseconds."""

FIRST_USERS: Final = 10
BATCH_BYTES: Final = 4 * 1024 * 1024
"""Of a batch. More, and the next one is smaller: a secret may have a megabyte, and a user a thousand of them."""

_PASSES: Final = 8
"""Looks at users of whom something was held by others. What is left then is left to the next run."""

_PAUSE_SECONDS: Final = 0.1

_Change: TypeAlias = tuple[SealedValue, bytes]
"""A value as it was read, and the same sealed again."""


async def reencrypt(
    database: Database, keyring: KeyRing, columns: Sequence[SealedColumn], progress: Progress | None = None
) -> Reencrypted:
    """See KeyRotation.reencrypt."""
    await keyring.start(database)
    keyring.require_unlocked()
    run = _Run(database, keyring, columns, progress)
    await run.reseal_all()
    resumed = bool(run.resealed or run.deleted)
    if not resumed:
        failures = await begin_generation(database, keyring.master_keys)
        keyring.forget()
        run = _Run(database, keyring, columns, progress, told=run.users)
        await run.reseal_all()
        run.unreadable.update(dict.fromkeys(failures))
    return Reencrypted(run.users, run.resealed, resumed, tuple(run.unreadable))


@dataclass(slots=True)
class _Run:
    """One walk through all users that have retired data keys, and what it has done so far."""

    database: Database
    keyring: KeyRing
    columns: Sequence[SealedColumn]
    progress: Progress | None
    told: int = 0
    """Users that an earlier walk has told of: what is done never gets less."""
    users: int = 0
    resealed: int = 0
    deleted: int = 0
    unreadable: dict[Unreadable, None] = field(default_factory=dict)
    without_key: set[tuple[SealContext, bytes]] = field(default_factory=set)
    """Values whose key was not there when they were looked at."""

    async def reseal_all(self) -> None:
        """Seal again whatever names a retired data key, and delete the retired keys that nothing names."""
        ((total,),) = await self.database.read(sql.COUNT_USERS_WITH_RETIRED, {}, scan=True)
        start, size = EVERYONE, FIRST_USERS
        waiting: list[str] = []
        while rows := await self._next_users(start, size):
            user_ids = [user_id for (user_id,) in rows]
            volume, left = await self._reseal(user_ids, sql.HOLD_RETIRED)
            waiting += left
            self.users += len(user_ids)
            if self.progress is not None:
                self.progress(self.told + min(self.users, total), self.told + total)
            start = behind(user_ids[-1])
            size = max(1, size // 2) if volume > BATCH_BYTES else min(MOST_USERS, size * 2)
        # The others are waited for one at a time, with nothing else in hand.
        for attempt in range(_PASSES):
            if not waiting:
                break
            await asyncio.sleep(_PAUSE_SECONDS * attempt)
            users, waiting = waiting, []
            for user_id in users:
                _, left = await self._reseal([user_id], sql.AWAIT_RETIRED)
                waiting += left

    async def _next_users(self, start: str, limit: int) -> list[Row]:
        return await self.database.read(sql.USERS_WITH_RETIRED, {"start": start, "limit": limit}, scan=True)

    async def _reseal(self, user_ids: Sequence[str], hold_retired: Statement) -> tuple[int, list[str]]:
        """One batch; returns the bytes of its values, and the users of whom something is still to be done."""
        values = [value for column in self.columns for value in await sealed_values(self.database, column, user_ids)]
        keys = await self._keys(user_ids)
        stuck = {user_id: held for user_id, held in keys.items() if not held.has_active}
        changes, failures = await asyncio.to_thread(_sealed_again, keys, values)
        missed: set[str] = set()
        if changes:
            done = await self.database.run(lambda: _store(changes))
            self.resealed += len(done)
            missed = {value.context.user_id for value, _ in changes if value not in done}
        remaining, deleted = await self.database.run(lambda: _delete_unused(self.columns, user_ids, hold_retired))
        self.deleted += deleted
        if deleted:
            for user_id in user_ids:
                self.keyring.forget(user_id)
        # Where the key is gone, perhaps the value is too: someone else was faster. That takes a second look, at which
        # the very same value is there or another one.
        without_key = {
            (value.context, value.sealed)
            for value, _ in failures
            if keys[value.context.user_id].lacks_key_of(value.sealed)
        }
        gone = {context.user_id for context, _ in without_key - self.without_key}
        self.without_key |= without_key
        for value, why in failures:
            if value.context.user_id not in gone:
                self.unreadable[unreadable_value(value, why)] = None
        for user_id, of_user in stuck.items():
            if of_user.active_id is not None:
                error = of_user.failures[of_user.active_id]
                self.unreadable[unreadable_key(user_id, uuid.UUID(bytes=of_user.active_id), error)] = None
        # A retired key stays for what cannot be opened. Any other that is still there was held by someone.
        needed = {data_key_id_of(value.sealed) for value, _ in failures if is_sealed(value.sealed)}
        held = {user_id for user_id, ids in remaining.items() if user_id not in stuck and not ids <= needed}
        return sum(len(value.sealed) for value in values), sorted(missed | held | gone)

    async def _keys(self, user_ids: Sequence[str]) -> dict[str, KeySet]:
        """The users' keys, read after their values, so that no value is younger than its key."""
        masters = self.keyring.master_keys
        keys = await key_sets(self.database, masters, user_ids)
        without = [user_id for user_id, held in keys.items() if held.ids and held.active_id is None]
        for user_id in without:
            # Their master key was given up, and found again.
            await self.keyring.active_key(self.database, user_id)
        if without:
            keys |= await key_sets(self.database, masters, without)
        if any(isinstance(error, KeyUnavailable) for held in keys.values() for error in held.failures.values()):
            # One master key that is disabled stops nothing, a provider that is down does.
            await self.keyring.start(self.database)
            self.keyring.require_unlocked()
        return keys


def _sealed_again(
    keys: Mapping[str, KeySet], values: Sequence[SealedValue]
) -> tuple[list[_Change], list[tuple[SealedValue, EncryptionError]]]:
    """The values that are not under their owner's active key, under it; and those that cannot be opened."""
    changes: list[_Change] = []
    failures: list[tuple[SealedValue, EncryptionError]] = []
    for value in values:
        held = keys[value.context.user_id]
        try:
            if data_key_id_of(value.sealed) == held.active_id:
                continue  # what is sealed under it already need not even open
            opened = held.open(value.context, value.sealed)
        except EncryptionError as error:
            failures.append((value, error))
        else:
            if held.has_active:
                changes.append((value, held.seal(value.context, opened)))
    return changes, failures


def _store(changes: Sequence[_Change]) -> Unit[set[SealedValue]]:
    """Put each value in the place of the one that was read, if that is still there; returns those that were stored.

    Nothing but the sealed column changes. What a user has written meanwhile stays, and what somebody is just writing
    is left for later; so is what was sealed under a key that another run has replaced by now, and perhaps deleted.
    """
    stored: set[SealedValue] = set()
    by_column: dict[SealedColumn, list[_Change]] = defaultdict(list)
    owners = sorted({value.context.user_id for value, _ in changes})
    active = {row_id.bytes for (row_id,) in (yield from execute(sql.HOLD_TO_RESEAL, user_ids=owners))}
    for change in changes:
        if data_key_id_of(change[1]) in active:
            by_column[change[0].column].append(change)
    for column, of_column in by_column.items():
        rows = rows_of(column)
        user_ids = sorted({value.context.user_id for value, _ in of_column})
        held = yield from execute(rows.hold, user_ids=user_ids)
        if EVERYONE in user_ids and rows.may_be_nobodys:
            held += yield from execute(rows.hold_nobodys)
        there = {row[:-1]: row[-1] for row in held}
        unchanged = [(old, new) for old, new in of_column if there.get(tuple(old.key.values())) == old.sealed]
        yield from execute_many(
            rows.replace,
            [
                {"old": old.sealed, "new": new, **{f"key_{name}": part for name, part in old.key.items()}}
                for old, new in unchanged
            ],
        )
        stored.update(old for old, _ in unchanged)
    return stored


def _delete_unused(
    columns: Sequence[SealedColumn], user_ids: Sequence[str], hold_retired: Statement
) -> Unit[tuple[dict[str, set[bytes]], int]]:
    """Delete the users' retired keys that no value names; returns those that are left, by user, and how many went.

    Whoever sealed under a key while it was the active one holds its row until the end of their transaction, and the
    lock waits for that or passes it over. So what is read after the lock is all that will ever name the key.
    """
    held = yield from execute(hold_retired, user_ids=list(user_ids))
    named: set[bytes] = set()
    if held:
        for column in columns:
            rows = rows_of(column)
            fronts: list[Row] = yield from execute(rows.fronts_of_users, user_ids=list(user_ids))
            if EVERYONE in user_ids and rows.may_be_nobodys:
                fronts = fronts + (yield from execute(rows.fronts_of_nobody))
            named.update(data_key_id_of(front) for _, front in fronts if is_sealed(front))
    unused = [row_id for _, row_id in held if row_id.bytes not in named]
    yield from execute_many(sql.DELETE_RETIRED, [{"which": row_id} for row_id in unused])
    remaining: dict[str, set[bytes]] = defaultdict(set)
    for user_id, row_id in (yield from execute(sql.RETIRED_OF_USERS, user_ids=list(user_ids))):
        remaining[user_id].add(row_id.bytes)
    return dict(remaining), len(unused)


def unreadable_value(value: SealedValue, error: EncryptionError) -> Unreadable:
    """A sealed value that cannot be opened, by its place."""
    context, column = value.context, value.column
    return Unreadable(column.table, column.column, context.user_id, context.row_id, context.name, type(error).__name__)
