"""Move every data key under the active master key: the rotation that touches no secret.

Ten thousand users are ten thousand small rows, however many secrets they have. Each move is compare-and-set, in
batches that are committed one by one, so a run that was killed has lost at most a batch, and the next one goes on.
"""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, field
from typing import Final

from storage.database.database import Database
from storage.database.statement import Row
from storage.database.unit import Unit, execute, execute_many
from storage.encryption import statements as sql
from storage.encryption.master_keys import MOST_ATTEMPTS, MasterKeys
from storage.encryption.providers.provider import RegisteredKey
from storage.encryption.rotation.key_batches import CONCURRENCY, each
from storage.encryption.status import Progress, Rewrapped, Unreadable
from storage.errors import EncryptionError, KeyUnavailable

BATCH: Final = 500
"""Data keys in one transaction: a few milliseconds of SQLite's only writer, some seconds of a slow key service."""

_BEFORE_ALL: Final = uuid.UUID(int=0)

_PAUSE_SECONDS: Final = 0.05
"""Before looking again at rows that somebody else held."""


@dataclass(slots=True)
class _Batch:
    """What became of a page of data keys.

    Attributes:
        wrapped: (id, old, new) of those that could be wrapped anew.
        failed: those that could not be unwrapped.
        refusals: how often in a row the provider was unavailable.
    """

    wrapped: list[tuple[uuid.UUID, bytes, bytes]] = field(default_factory=list)
    failed: list[Unreadable] = field(default_factory=list)
    refusals: int = 0


async def active_registered(database: Database, masters: MasterKeys) -> RegisteredKey:
    """The active master key, registered by now, whether or not anything is wrapped under it yet.

    Raises:
        KeyMissing, KeyMismatch, KeyUnavailable: there is none to wrap with.
        DatabaseError: it could not be registered.
    """
    lock_first = database.dialect == "postgresql"
    for _ in range(MOST_ATTEMPTS):
        key, known = await masters.active(database)
        if await database.run(lambda: masters.register(key, known, lock_first=lock_first)):  # noqa: B023 - awaited here
            masters.registered(key)
            return key
        await masters.check(database)
        masters.require_unlocked()
    raise KeyUnavailable(f"other processes registered master keys {MOST_ATTEMPTS} times meanwhile; try again")


async def rewrap(database: Database, masters: MasterKeys, progress: Progress | None = None) -> Rewrapped:
    """See KeyRotation.rewrap."""
    await masters.check(database)
    masters.require_unlocked()
    key = await active_registered(database, masters)
    counts = await database.read(sql.DATA_KEYS_BY_MASTER_KEY, {}, scan=True)
    already = sum(number for kek_id, _, number in counts if kek_id == key.kek_id)
    total = sum(number for kek_id, _, number in counts if kek_id != key.kek_id and kek_id not in masters.given_up)
    moved = told = 0
    failed: list[Unreadable] = []
    for attempt in range(MOST_ATTEMPTS):
        failed, after, left = [], _BEFORE_ALL, 0
        while True:
            page = {"after": after, "kek_id": key.kek_id, "limit": BATCH}
            rows = await database.read(sql.DATA_KEYS_ELSEWHERE, page, scan=True)
            if not rows:
                break
            batch = await _wrapped(masters, key.kek_id, rows)
            done = await database.run(lambda: _stored(masters, key, after, rows[-1][0], batch.wrapped))  # noqa: B023 - as above
            after = rows[-1][0]
            moved += done
            left += len(batch.wrapped) - done
            failed += batch.failed
            if batch.refusals and not batch.wrapped:
                # One key that is disabled stops nothing, a provider that is down does.
                await masters.check(database)
                masters.require_unlocked()
            if progress is not None:
                # Another pass counts those that failed from the start again.
                told = max(told, min(moved + len(failed), total))
                progress(told, total)
        if not left:
            break
        # Held by somebody else, moved by somebody else, or deleted: the next pass tells.
        await asyncio.sleep(_PAUSE_SECONDS * 2**attempt)
    return Rewrapped(key.kek_id.hex(), moved, already, tuple(failed))


async def _wrapped(masters: MasterKeys, target: bytes, rows: list[Row]) -> _Batch:
    """Unwrap a page of data keys and wrap them under the target, without touching the database."""
    batch = _Batch()

    async def one(row: Row) -> None:
        row_id, user_id, kek_id, wrapped = row
        if kek_id in masters.given_up:
            return
        try:
            if batch.refusals >= CONCURRENCY:
                raise KeyUnavailable("not asked")  # a service that is down must not be waited for five hundred times
            data_key = await masters.unwrap(kek_id, user_id, row_id, wrapped)
        except EncryptionError as error:
            if isinstance(error, KeyUnavailable):
                batch.refusals += 1
            batch.failed.append(unreadable_key(user_id, row_id, error))
            return
        batch.wrapped.append((row_id, wrapped, await masters.wrap(target, user_id, data_key)))
        batch.refusals = 0

    await each(one, rows)
    return batch


def _stored(
    masters: MasterKeys,
    key: RegisteredKey,
    after: uuid.UUID,
    last: uuid.UUID,
    wrapped: list[tuple[uuid.UUID, bytes, bytes]],
) -> Unit[int]:
    """Store what was wrapped where nothing has changed since; returns how many that were."""
    if not wrapped:
        return 0
    # Registered before, so this only refuses a retired key and keeps it from being retired now.
    yield from masters.register(key, masters.known, lock_first=False)
    rows = yield from execute(sql.HOLD_ELSEWHERE, after=after, last=last, kek_id=key.kek_id)
    now_there = {row[0]: row[1] for row in rows}
    moves = [
        {"which": row_id, "old": old, "new": new, "kek_id": key.kek_id}
        for row_id, old, new in wrapped
        if now_there.get(row_id) == old
    ]
    yield from execute_many(sql.REWRAP, moves)
    return len(moves)


def unreadable_key(user_id: str, row_id: uuid.UUID, error: EncryptionError) -> Unreadable:
    """A data key that could not be unwrapped, by its place."""
    return Unreadable("data_key", "wrapped", user_id, str(row_id), "", type(error).__name__)
