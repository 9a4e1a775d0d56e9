"""The key ring: tells whether the master key is the right one, and hands repositories each user's data keys.

Three accidents lose secrets for good, and none can happen here: a wrong key taken for the right one, a new
key made over existing ciphertext, and a value sealed under a key that is gone when the row is written.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Collection, Iterable
from time import monotonic
from typing import Final, TypeVar

from storage.clock import now
from storage.database.statement import Row
from storage.database.unit import Executor, Unit, execute
from storage.encryption import statements as sql
from storage.encryption.envelope import DataKey, data_key_id_of, is_sealed
from storage.encryption.key_cache import CACHE_SECONDS, CACHED_USERS, KeyCache
from storage.encryption.keyset import KeySet
from storage.encryption.providers import KeyProvider, RegisteredKey
from storage.encryption.status import KeyRingStatus, KeyState
from storage.errors import ConfigurationError, EncryptionError, KeyMismatch, KeyMissing, KeyUnavailable

log = logging.getLogger("storage.encryption")

T = TypeVar("T")

EVERYONE: Final = ""
"""The owner of what belongs to no user, such as the operator's web hook endpoints; has keys like a user."""

RETRY_SECONDS: Final = 5.0
"""How often a locked ring asks its provider again, so that restoring the key needs no restart."""

PROVIDER_SECONDS: Final = 15.0
"""Longest wait for an answer of a provider: a key service that hangs must not hang the application."""

_MOST_ATTEMPTS: Final = 8
"""Tries to settle with other processes on a key. Each failed try means that another process got further."""

_WRAP_LABEL: Final = b"agent-storage/data-key/1"


class KeyRing:
    """Data keys by user, unwrapped when first needed and kept for a while.

    Args:
        database: where keys are looked up when no transaction is at hand.
        provider: holds the master keys.
        cached_users: most key sets kept at once.
        cache_seconds: how long one is kept.
        retry_seconds: how often a locked ring asks its provider again.
        provider_seconds: longest wait for one answer of the provider.
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
    ) -> None:
        self._database = database
        self._provider = provider
        self._retry_seconds = retry_seconds
        self._provider_seconds = provider_seconds
        self._cache = KeyCache(cached_users, cache_seconds)
        self._loading: dict[str, asyncio.Lock] = {}
        # Ids of master keys: those that the database knows, and those of them that the provider holds.
        self._known: frozenset[bytes] = frozenset()
        self._held: frozenset[bytes] = frozenset()
        self._lost: frozenset[bytes] = frozenset()
        self._locked: EncryptionError | None = KeyUnavailable("the key ring was not started")
        self._checked_at = float("-inf")

    # ---- state

    async def start(self, executor: Executor | None = None) -> None:
        """Compare the provider's keys with what the database knows. Writes nothing.

        A wrong, missing or unreachable key raises nothing, but locks the ring. It asks again by itself when a
        secret is wanted and `retry_seconds` have passed.

        Raises:
            DatabaseError: the database cannot be read.
        """
        before = self._locked
        try:
            await self._check(executor or self._database)
        except (EncryptionError, ConfigurationError) as error:
            known = isinstance(error, KeyMissing | KeyMismatch | KeyUnavailable)
            self._locked = error if known else KeyUnavailable(str(error))  # type: ignore[assignment]
            self._held = frozenset()
            if not isinstance(self._locked, KeyUnavailable):
                self.forget()  # a provider that is down takes back nothing; a wrong key does
            if str(before) != str(self._locked):
                log.warning("secrets are locked: %s", self._locked)
        else:
            self._locked = None
        self._checked_at = monotonic()

    async def _check(self, executor: Executor) -> None:
        rows = await executor.read(sql.MASTER_KEYS, {})
        if not rows and await executor.read(sql.ANY_DATA_KEY, {}):
            # A master key is registered before its first data key: unless it came just now, it was lost.
            rows = await executor.read(sql.MASTER_KEYS, {})
            if not rows:
                raise KeyMismatch(
                    "the database has data keys but knows no master key (table key_encryption_key is empty), so "
                    "no key can be checked. Restore that table from a backup. Nothing was changed"
                )
        registered = [RegisteredKey(row[0], row[1], retired=row[2] is not None) for row in rows]
        self._known = _ids(rows)
        where = self._provider.where
        health = await self._ask(self._provider.health())
        if not rows:
            if not health.has_key and not self._provider.can_generate:
                raise KeyMissing(f"there is no master key in {where}: {health.detail}")
            self._held = self._lost = frozenset()
            return
        wanted = ", ".join(sorted(key.kek_id.hex() for key in registered if not key.retired)) or "all retired"
        if not health.has_key:
            raise KeyMissing(
                f"this database's secrets need its master key ({wanted}), and there is none in {where}. Put "
                "it back: restore the key file, or set STORAGE_MASTER_KEY or STORAGE_MASTER_KEY_FILE. "
                "Nothing was changed"
            )
        held = await self._ask(self._provider.identify(registered))
        if not held:
            raise KeyMismatch(
                f"the master key in {where} is not the one that this database's secrets were sealed under "
                f"({wanted}). Configure that key again. Nothing was changed"
            )
        self._held = held
        self._lost = frozenset(row[0] for row in rows if row[3]) - held

    @property
    def state(self) -> KeyState:
        """Whether secrets can be used now."""
        if self._locked is not None:
            return "locked"
        return "unlocked" if self._held else "new"

    def require_unlocked(self) -> None:
        """Pass if secrets can be used.

        Raises:
            KeyMissing, KeyMismatch, KeyUnavailable: they cannot; the message says what to do.
        """
        if self._locked is not None:
            raise type(self._locked)(*self._locked.args)

    async def status(self) -> KeyRingStatus:
        """The state as of the last check, for people. Counts the data keys, which reads all of that table."""
        rows = await self._database.read(sql.COUNT_DATA_KEYS, {}, scan=True)
        where, active = self._provider.where, self._provider.active_id
        if self._locked is not None:
            message = str(self._locked)
        elif self._lost:
            lost = ", ".join(sorted(kek_id.hex() for kek_id in self._lost))
            message = f"some data keys are wrapped under the master key {lost}; add it to {where}"
        elif self._held:
            message = f"the master key in {where} is the right one"
        else:
            message = f"no secret was stored yet; the master key will be the one in {where}"
        return KeyRingStatus(
            state=self.state,
            reason="" if self._locked is None else type(self._locked).__name__,
            message=message,
            complete=self._locked is None and not self._lost,
            kek_id=active.hex() if active is not None and active in self._known else None,
            provider=self._provider.name,
            where=where,
            data_keys=rows[0][0],
        )

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
        for _ in range(_MOST_ATTEMPTS):
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
        return await self._keys(executor, user_id, wanted=wanted)

    async def _keys(
        self, executor: Executor, user_id: str, *, wanted: Collection[bytes] = (), create: bool = False
    ) -> KeySet:
        cached = self._cache.get(user_id)
        if cached is not None and _suffices(cached, wanted, create=create):
            return cached
        if self._locked is not None and monotonic() - self._checked_at >= self._retry_seconds:
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
        for _ in range(_MOST_ATTEMPTS):
            rows = await executor.read(sql.DATA_KEYS_OF_USER, {"user_id": user_id})
            if create and all(state != sql.ACTIVE for _, _, _, state in rows):
                await self._create(executor, user_id)
                continue
            if any(kek_id not in self._held for _, kek_id, _, _ in rows):
                await self.start(executor)  # perhaps another process registered that master key since our check
                self.require_unlocked()
            return await self._unwrap(user_id, rows)
        raise KeyUnavailable(f"no data key for {user_id!r} after {_MOST_ATTEMPTS} tries; try again")

    async def _unwrap(self, user_id: str, rows: list[Row]) -> KeySet:
        keys: dict[bytes, DataKey] = {}
        failures: dict[bytes, EncryptionError] = {}
        active: bytes | None = None
        for row_id, kek_id, wrapped, state in rows:
            key_id = row_id.bytes
            if state == sql.ACTIVE:
                active = key_id
            try:
                if kek_id not in self._held:
                    raise KeyMissing(
                        f"the data key {row_id} of {user_id!r} is wrapped under the master key "
                        f"{kek_id.hex()}, which is not in {self._provider.where}; add that key there"
                    )
                bound = _wrap_context(user_id, key_id, kek_id)
                material = await self._ask(self._provider.unwrap(kek_id, wrapped, bound))
                keys[key_id] = DataKey(key_id, material)
            except EncryptionError as error:
                failures[key_id] = error
        return KeySet(user_id, keys, active, failures)

    # ---- making keys

    async def _create(self, executor: Executor, user_id: str) -> None:
        """Make the user's data key, and register the master key if it is new to the database.

        Returns also when another process was faster: what counts is what is read afterwards.
        """
        await self._prepare_master_key(executor)
        known = self._known
        master = await self._ask(self._provider.enrol())
        key = DataKey.generate()
        bound = _wrap_context(user_id, key.id, master.kek_id)
        wrapped = await self._ask(self._provider.wrap(master.kek_id, key.reveal(), bound))
        lock_first = executor.dialect == "postgresql"  # on SQLite a unit that writes is alone anyway

        def create() -> Unit[bool]:
            held = yield from execute(sql.MASTER_KEYS_HELD)
            if master.kek_id not in _ids(held):
                if lock_first:
                    yield from execute(sql.REGISTRATION_LOCK)
                    held = yield from execute(sql.MASTER_KEYS_HELD)
                if _ids(held) - known:
                    return False  # another process registered a key, perhaps this very one: look again
                yield from execute(
                    sql.ADD_MASTER_KEY,
                    kek_id=master.kek_id,
                    check_value=master.check_value,
                    created_at=now(),
                )
            elif (master.kek_id, True) in {(kek_id, retired_at is not None) for kek_id, retired_at in held}:
                raise KeyMismatch(
                    f"the master key {master.kek_id.hex()} in {self._provider.where} was retired; put its "
                    "successor before it"
                )
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
            self._held |= {master.kek_id}
            self._known |= {master.kek_id}

    async def _prepare_master_key(self, executor: Executor) -> None:
        """Make sure that the provider has the right key, or that any key is right.

        The one place where a key is generated, and only if the database, asked just before, has neither a
        data key nor a registered master key.
        """
        if self._provider.active_id in self._held:
            return
        await self.start(executor)
        self.require_unlocked()
        if not self._known and not (await self._ask(self._provider.health())).has_key:
            await self._ask(self._provider.generate())

    async def _ask(self, answer: Awaitable[T]) -> T:
        """An answer of the provider.

        Raises:
            KeyUnavailable: it took longer than `provider_seconds`, or the way to the provider failed.
        """
        try:
            async with asyncio.timeout(self._provider_seconds):
                return await answer
        except TimeoutError as error:
            raise KeyUnavailable(
                f"{self._provider.where} did not answer within {self._provider_seconds:g} s; try again"
            ) from error
        except OSError as error:
            raise KeyUnavailable(f"{self._provider.where} cannot be reached: {error}") from error

    def __repr__(self) -> str:
        return f"KeyRing({self.state}, {self._provider!r})"


def _holding(keys: KeySet, unit: Callable[[KeySet], Unit[T]]) -> Callable[[], Unit[tuple[T] | None]]:
    """`unit` behind a check that the active key still is; None and no effect if it is not."""
    key_id = uuid.UUID(bytes=keys.active.id)

    def guarded() -> Unit[tuple[T] | None]:
        if not (yield from execute(sql.HOLD_ACTIVE, id=key_id)):
            return None
        return ((yield from unit(keys)),)

    return guarded


def _suffices(keys: KeySet, wanted: Collection[bytes], *, create: bool) -> bool:
    return all(key_id in keys for key_id in wanted) and (keys.has_active or not create)


def _wrap_context(user_id: str, key_id: bytes, kek_id: bytes) -> bytes:
    """What a wrapped data key is bound to. Only the last part varies in length, so none runs into another."""
    return _WRAP_LABEL + kek_id + key_id + user_id.encode()


def _ids(rows: list[Row]) -> frozenset[bytes]:
    return frozenset(row[0] for row in rows)
