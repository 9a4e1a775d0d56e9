"""The key ring: tells whether the master key is the right one, and hands repositories each user's data keys.

Three accidents lose secrets for good, and none can happen here: a wrong key taken for the right one, a new
key made over existing ciphertext, and a value sealed under a key that is gone when the row is written.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Collection, Iterable
from typing import Final, TypeVar

from storage.clock import now
from storage.database.statement import Row
from storage.database.unit import Executor, Unit, execute
from storage.encryption import statements as sql
from storage.encryption.envelope import DataKey, data_key_id_of, is_sealed
from storage.encryption.key_cache import CACHE_SECONDS, CACHED_USERS, KeyCache
from storage.encryption.keyset import Keys, KeySet
from storage.encryption.master_keys import MOST_ATTEMPTS, PROVIDER_SECONDS, RETRY_SECONDS, MasterKeys
from storage.encryption.providers.provider import KeyProvider
from storage.encryption.status import KeyRingStatus, KeyState
from storage.errors import EncryptionError, KeyMissing, KeyUnavailable, Tampered

T = TypeVar("T")

EVERYONE: Final = ""
"""The owner of what belongs to no user, such as the operator's web hook endpoints; has keys like a user."""


class KeyRing:
    """Data keys by user, unwrapped when first needed and kept for a while.

    Args:
        database: where keys are looked up when no transaction is at hand.
        provider: holds the master keys.
        cached_users: most key sets kept at once.
        cache_seconds: how long one is kept.
        retry_seconds: how often a locked ring asks its provider again.
        provider_seconds: longest wait for one answer of the provider.
        may_generate: whether the provider may make the first master key; False is the policy require_master_key.

    Attributes:
        master_keys: what the database knows of them and the provider holds.
    """

    def __init__(
        self,
        database: Executor,
        provider: KeyProvider,
        *,
        cached_users: int = CACHED_USERS,
        cache_seconds: float = CACHE_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
        provider_seconds: float = PROVIDER_SECONDS,
        may_generate: bool = True,
    ) -> None:
        self._database = database
        self.master_keys = MasterKeys(
            provider, retry_seconds=retry_seconds, provider_seconds=provider_seconds, may_generate=may_generate
        )
        self._cache = KeyCache(cached_users, cache_seconds)
        self._loading: dict[str, asyncio.Lock] = {}

    # ---- state

    async def start(self, executor: Executor | None = None) -> None:
        """Compare the provider's keys with what the database knows. Writes nothing.

        A wrong, missing or unreachable key raises nothing, but locks the ring. It asks again by itself when a
        secret is wanted and `retry_seconds` have passed.

        Raises:
            DatabaseError: the database cannot be read.
        """
        await self.master_keys.check(executor or self._database)
        if self.master_keys.locked is not None and not isinstance(self.master_keys.locked, KeyUnavailable):
            self.forget()  # a provider that is down takes back nothing; a wrong key does

    @property
    def state(self) -> KeyState:
        """Whether secrets can be used now."""
        return self.master_keys.state

    def require_unlocked(self) -> None:
        """Pass if secrets can be used.

        Raises:
            KeyMissing, KeyMismatch, KeyUnavailable: they cannot; the message says what to do.
        """
        self.master_keys.require_unlocked()

    async def status(self) -> KeyRingStatus:
        """The state as of the last check, for people. Counts the data keys, which reads all of that table."""
        rows = await self._database.read(sql.COUNT_DATA_KEYS, {}, scan=True)
        return self.master_keys.status(rows[0][0])

    def forget(self, user_id: str | None = None) -> None:
        """Drop the cached keys of a user, or of all: after deleting a user, or when keys changed."""
        self._cache.forget(user_id)

    # ---- the keys of a user

    async def run(self, executor: Executor, user_id: str, unit: Callable[[KeySet], Unit[T]]) -> T:
        """Run a unit that seals, with the user's keys in hand; makes the first data key if there is none.

        The active key is checked and held inside the same transaction, so that nothing is sealed under a key
        which another process has just replaced or deleted. `unit` may be called again, with other keys.

        Raises:
            KeyMissing, KeyMismatch, KeyUnavailable: locked; nothing was written.
            Exception: whatever the unit raises; it is rolled back.
        """
        keys = await self._keys(executor, user_id, create=True)
        for _ in range(MOST_ATTEMPTS):
            failure: KeyMissing | None = None
            try:
                outcome = await executor.run(_holding(keys, unit))
            except KeyMissing as error:
                # Perhaps the unit met a value that was sealed under a key younger than our copy of the set.
                failure, outcome = error, None
            if outcome is not None:
                return outcome[0]
            before = keys.ids
            self.forget(user_id)
            keys = await self._keys(executor, user_id, create=True)
            if failure is not None and keys.ids == before:
                raise failure
        raise KeyUnavailable(f"the data keys of {user_id!r} keep changing; try again")

    async def run_with_what_is_held(self, executor: Executor, user_id: str, unit: Callable[[Keys], Unit[T]]) -> T:
        """Run a unit that seals nothing new, with the user's keys in hand, or with the error why they are not.

        It keeps sealed values as they are, and decides for itself what it needs keys for; so it may work while
        locked. If it lacks a key that another process has made since the set was cached, it runs again with that.

        Raises:
            Exception: whatever the unit raises; it is rolled back.
        """
        keys = await self._keys_or_why_not(executor, user_id)
        try:
            return await executor.run(lambda: unit(keys))
        except KeyMissing:
            if not isinstance(keys, KeySet):
                raise
            self.forget(user_id)
            newer = await self._keys_or_why_not(executor, user_id)
            if isinstance(newer, KeySet) and newer.ids <= keys.ids:
                raise
            return await executor.run(lambda: unit(newer))

    async def run_with_keys_read_now(self, executor: Executor, user_id: str, unit: Callable[[KeySet], Unit[T]]) -> T:
        """Run a unit that gives up what it cannot open, with the user's keys as they are when it ends.

        A rotation may change them while the unit waits for its rows, and what was sealed again since is not lost: then
        the unit is rolled back, and run again with the keys that are there by now. An active data key that was altered
        is retired, so that the next secret makes another one.

        Raises:
            KeyMissing, KeyMismatch, KeyUnavailable: locked; nothing was written.
            Exception: whatever the unit raises; it is rolled back.
        """
        for _ in range(MOST_ATTEMPTS):
            rows = await executor.read(sql.DATA_KEYS_OF_USER, {"user_id": user_id})
            # Compared after they were read, so that no row is younger than what is known of its master key.
            await self.start(executor)
            self.require_unlocked()
            self.forget(user_id)
            keys = await self.master_keys.key_set(user_id, rows)
            try:
                return await executor.run(_unless_changed(keys, rows, unit))
            except _KeysChangedError:
                continue
        raise KeyUnavailable(f"the data keys of {user_id!r} keep changing; try again")

    async def _keys_or_why_not(self, executor: Executor, user_id: str) -> Keys:
        try:
            return await self.keys_for(executor, user_id)
        except EncryptionError as error:
            return error

    async def active_key(self, executor: Executor, user_id: str) -> DataKey:
        """The key to seal a user's values with, made if there is none.

        Prefer `run`, which also makes sure that the key is still there when the row is written.

        Raises:
            KeyMissing, KeyMismatch, KeyUnavailable: locked.
        """
        return (await self._keys(executor, user_id, create=True)).active

    async def keys_for(self, executor: Executor, user_id: str, sealed: Iterable[bytes | None] = ()) -> KeySet:
        """All keys of a user, to open values with; an empty set if the user has none.

        Args:
            executor: where the values were read.
            user_id: their owner.
            sealed: the values. A cached set that lacks one of their keys is read again.

        Raises:
            KeyMissing, KeyMismatch, KeyUnavailable: locked.
        """
        wanted = {data_key_id_of(value) for value in sealed if value is not None and is_sealed(value)}
        keys = await self._keys(executor, user_id, wanted=wanted)
        strange = [key_id for key_id in wanted if key_id not in keys and key_id not in keys.failures]
        moved: dict[bytes, EncryptionError] = {}
        for key_id in strange:
            if await executor.read(sql.DATA_KEY_OF_ANOTHER, {"id": uuid.UUID(bytes=key_id), "user_id": user_id}):
                moved[key_id] = Tampered(
                    f"a sealed value of {user_id!r} names the data key {key_id.hex()}, which is another user's: it was "
                    "moved here. Restore the row from a backup, or set the secret again"
                )
        return keys.knowing(moved) if moved else keys

    async def _keys(
        self, executor: Executor, user_id: str, *, wanted: Collection[bytes] = (), create: bool = False
    ) -> KeySet:
        cached = self._cache.get(user_id)
        if cached is not None and _suffices(cached, wanted, create=create):
            return cached
        if self.master_keys.wants_another_look:
            await self.start(executor)
        self.require_unlocked()
        if executor.in_transaction:
            # Not cached, for it may be rolled back; and not queued behind others, who may be waiting for this
            # very transaction to end.
            return await self._load(executor, user_id, create=create)
        lock = self._loading.setdefault(user_id, asyncio.Lock())
        try:
            async with lock:
                newer = self._cache.get(user_id)
                if newer is not None and newer is not cached and _suffices(newer, wanted, create=create):
                    return newer
                keys = await self._load(executor, user_id, create=create)
                self._cache.put(keys)
                return keys
        finally:
            if not lock.locked():
                self._loading.pop(user_id, None)

    async def _load(self, executor: Executor, user_id: str, *, create: bool) -> KeySet:
        for _ in range(MOST_ATTEMPTS):
            rows = await executor.read(sql.DATA_KEYS_OF_USER, {"user_id": user_id})
            if create and all(state != sql.ACTIVE for _, _, _, state in rows):
                await self._create(executor, user_id)
                continue
            if any(kek_id not in self.master_keys.held for _, kek_id, _, _ in rows):
                await self.start(executor)  # perhaps another process registered that master key since our check
                self.require_unlocked()
            return await self.master_keys.key_set(user_id, rows)
        raise KeyUnavailable(f"no data key for {user_id!r} after {MOST_ATTEMPTS} tries; try again")

    # ---- making keys

    async def _create(self, executor: Executor, user_id: str) -> None:
        """Make the user's data key, and register the master key if it is new to the database.

        Returns also when another process was faster: what counts is what is read afterwards.
        """
        masters = self.master_keys
        master, known = await masters.active(executor)
        key = DataKey.generate()
        wrapped = await masters.wrap(master.kek_id, user_id, key)
        lock_first = executor.dialect == "postgresql"

        def create() -> Unit[bool]:
            if not (yield from masters.register(master, known, lock_first=lock_first)):
                return False
            yield from execute(
                sql.ADD_DATA_KEY,
                id=uuid.UUID(bytes=key.id),
                user_id=user_id,
                kek_id=master.kek_id,
                wrapped=wrapped,
                created_at=now(),
            )
            return True

        if not await executor.run(create):
            await self.start(executor)
            self.require_unlocked()
        elif not executor.in_transaction:
            masters.registered(master)

    def __repr__(self) -> str:
        return f"KeyRing({self.state}, {self.master_keys.provider!r})"


def hold_key_of(user_id: str, sealed: bytes) -> Unit[bool]:
    """Whether the data key that a sealed value names exists; if so, it stays until the transaction ends.

    For whoever stores a value as it is that was not read in the same transaction: a rotation may have sealed it again
    meanwhile, and deleted the key.
    """
    if not is_sealed(sealed):
        return False
    return bool((yield from execute(sql.HOLD_KEY, id=uuid.UUID(bytes=data_key_id_of(sealed)), user_id=user_id)))


def _holding(keys: KeySet, unit: Callable[[KeySet], Unit[T]]) -> Callable[[], Unit[tuple[T] | None]]:
    """`unit` behind a check that the active key still is; None and no effect if it is not."""
    key_id = uuid.UUID(bytes=keys.active.id)

    def guarded() -> Unit[tuple[T] | None]:
        if not (yield from execute(sql.HOLD_ACTIVE, id=key_id)):
            return None
        return ((yield from unit(keys)),)

    return guarded


class _KeysChangedError(Exception):
    """The user's data keys are not those that the unit was given; what it did is rolled back."""


def _unless_changed(keys: KeySet, rows: list[Row], unit: Callable[[KeySet], Unit[T]]) -> Callable[[], Unit[T]]:
    """`unit` before a check that the user's data keys are still `rows`. After it: the unit's locks are held by then."""

    def guarded() -> Unit[T]:
        outcome = yield from unit(keys)
        by_now = yield from execute(sql.DATA_KEYS_OF_USER, user_id=keys.user_id)
        if {row[0]: row for row in by_now} != {row[0]: row for row in rows}:
            raise _KeysChangedError
        if isinstance(keys.failures.get(keys.active_id or b""), Tampered):
            # Kept, for its row may be restored; but nothing can ever be sealed under it as it is.
            yield from execute(sql.RETIRE_DATA_KEY, which=uuid.UUID(bytes=keys.active_id))
        return outcome

    return guarded


def _suffices(keys: KeySet, wanted: Collection[bytes], *, create: bool) -> bool:
    return all(key_id in keys for key_id in wanted) and (keys.has_active or not create)
