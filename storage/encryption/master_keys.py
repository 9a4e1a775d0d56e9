"""The master keys, seen from the database: which it knows, which of them the provider holds, and which one wraps.

The provider has the keys and the database their ids and check values; only together do they tell whether the
right key is at hand.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable
from collections.abc import Set as AbstractSet
from time import monotonic
from typing import Any, Final, TypeVar

from storage.clock import now
from storage.database.statement import Row
from storage.database.unit import Executor, Unit, execute
from storage.encryption import statements as sql
from storage.encryption.envelope import KEY_BYTES, KEY_ID_BYTES, DataKey
from storage.encryption.existing_ciphertext import any_sealed_value
from storage.encryption.keyset import KeySet
from storage.encryption.providers.provider import KeyProvider, ProviderHealth, RegisteredKey
from storage.encryption.status import KeyRingStatus, KeyState
from storage.errors import ConfigurationError, EncryptionError, KeyMismatch, KeyMissing, KeyUnavailable, Tampered

log = logging.getLogger("storage.encryption")

T = TypeVar("T")

RETRY_SECONDS: Final = 5.0
"""How often a locked ring asks its provider again, so that restoring the key needs no restart."""

PROVIDER_SECONDS: Final = 15.0
"""Longest wait for an answer of a provider: a key service that hangs must not hang the application."""

MOST_ATTEMPTS: Final = 8
"""Tries to settle with other processes on a key. Each failed try means that another process got further."""

_WRAP_LABEL: Final = b"agent-storage/data-key/1"


class MasterKeys:
    """What the last check found, and what is wrapped and unwrapped accordingly.

    Args:
        provider: holds the keys.
        retry_seconds: how often a locked ring asks again.
        provider_seconds: longest wait for one answer.
        may_generate: whether a key may be made for a database that has none; the policy require_master_key says no.

    Attributes:
        known: ids of the master keys that the database knows.
        held: those of them that the provider holds; none while locked.
        given_up: those that are retired and not held: nothing is expected of what is wrapped under them.
    """

    def __init__(
        self,
        provider: KeyProvider,
        *,
        retry_seconds: float = RETRY_SECONDS,
        provider_seconds: float = PROVIDER_SECONDS,
        may_generate: bool = True,
    ) -> None:
        self.provider = provider
        self._retry_seconds = retry_seconds
        self._provider_seconds = provider_seconds
        self._may_generate = may_generate
        self.known: frozenset[bytes] = frozenset()
        self.held: frozenset[bytes] = frozenset()
        self.given_up: frozenset[bytes] = frozenset()
        self._lost: frozenset[bytes] = frozenset()
        self._any_live = False
        self.locked: EncryptionError | None = KeyUnavailable("the key ring was not started")
        self._checked_at = float("-inf")

    # ---- the state

    async def check(self, executor: Executor) -> None:
        """Compare the provider's keys with what the database knows. Writes nothing; what is wrong only locks.

        Raises:
            DatabaseError: the database cannot be read.
        """
        before = self.locked
        try:
            await self._compare(executor)
        except (EncryptionError, ConfigurationError) as error:
            known = isinstance(error, KeyMissing | KeyMismatch | KeyUnavailable)
            self.locked = error if known else KeyUnavailable(str(error))  # type: ignore[assignment]
            self.held = frozenset()
            if str(before) != str(self.locked):
                log.warning("secrets are locked: %s", self.locked)
        else:
            self.locked = None
        self._checked_at = monotonic()

    async def _compare(self, executor: Executor) -> None:
        rows = await executor.read(sql.MASTER_KEYS, {})
        if not rows and await executor.read(sql.ANY_DATA_KEY, {}):
            # A master key is registered before its first data key: unless it came just now, it was lost.
            rows = await executor.read(sql.MASTER_KEYS, {})
            if not rows:
                raise KeyMismatch(
                    "the database has data keys but knows no master key (table key_encryption_key is empty), so "
                    "no key can be checked. Restore that table from a backup. Nothing was changed"
                )
        registered = [_registered(row) for row in rows]
        live = frozenset(key.kek_id for key in registered if not key.retired)
        self.known, self._any_live = _ids(rows), bool(live)
        self.given_up = self.known - live  # until the provider says that it holds them
        where = self.provider.where
        health = await self._health()
        if not health.has_key:
            self._require_a_key(live, health.detail)
        held = frozenset[bytes]()
        if rows:
            recognised = self._expected(await self.ask(self.provider.identify(registered)), AbstractSet)
            held = self.known & recognised
        if live and not live & held:
            raise KeyMismatch(
                f"the master key in {where} is not the one that this database's secrets were sealed under "
                f"({_listed(live)}). Configure that key again. Nothing was changed"
            )
        self.held = held
        self.given_up = self.known - live - held
        self._lost = frozenset(row[0] for row in rows if row[3]) & live - held

    def _require_a_key(self, live: frozenset[bytes], detail: str) -> None:
        where = self.provider.where
        if live:
            raise KeyMissing(
                f"this database's secrets need its master key ({_listed(live)}), and there is none in {where}. Put "
                "it back: restore the key file, or set STORAGE_MASTER_KEY or STORAGE_MASTER_KEY_FILE. "
                "Nothing was changed"
            )
        if not self.provider.can_generate:
            raise KeyMissing(f"there is no master key in {where}: {detail}")
        if not self._may_generate:
            raise KeyMissing(
                f"there is no master key in {where}, and none is made, because the policy require_master_key is set. "
                "Put the key there, or unset the policy"
            )

    @property
    def state(self) -> KeyState:
        """Whether secrets can be used now."""
        if self.locked is not None:
            return "locked"
        return "unlocked" if self.held else "new"

    @property
    def wants_another_look(self) -> bool:
        """Whether they are locked, and it is time to ask the provider again."""
        return self.locked is not None and monotonic() - self._checked_at >= self._retry_seconds

    def require_unlocked(self) -> None:
        """Pass if secrets can be used.

        Raises:
            KeyMissing, KeyMismatch, KeyUnavailable: they cannot; the message says what to do.
        """
        if self.locked is not None:
            raise type(self.locked)(*self.locked.args)

    def status(self, data_keys: int) -> KeyRingStatus:
        """What the last check found, for people; `data_keys` is how many are stored."""
        where, active = self.provider.where, self.provider.active_id
        if self.locked is not None:
            message = str(self.locked)
        elif self._lost:
            message = f"some data keys are wrapped under the master key {_listed(self._lost)}; add it to {where}"
        elif self.held:
            message = f"the master key in {where} is the right one"
        elif self.known:
            message = f"all master keys were retired; the next one will be the one in {where}"
        else:
            message = f"no secret was stored yet; the master key will be the one in {where}"
        return KeyRingStatus(
            state=self.state,
            reason="" if self.locked is None else type(self.locked).__name__,
            message=message,
            complete=self.locked is None and not self._lost,
            kek_id=active.hex() if active is not None and active in self.known else None,
            provider=self.provider.name,
            where=where,
            data_keys=data_keys,
        )

    # ---- the active key

    async def active(self, executor: Executor) -> tuple[RegisteredKey, frozenset[bytes]]:
        """The key to wrap with, made if the database and the provider have none, and what `register` is to know.

        Looks at both again first: another process may have promoted or retired keys, and a key that is still in
        memory but no longer in its place would take what is wrapped under it along.

        The one place where a key is generated, and only if the database, asked just before, has neither a
        data key nor a registered master key, nor a sealed value.

        Raises:
            KeyMissing, KeyMismatch, KeyUnavailable: locked, or there is no key that is not retired, or none may be
                made.
        """
        await self.check(executor)
        self.require_unlocked()
        if self.provider.active_id not in self.held and not (await self._health()).has_key:
            if self.known:
                raise KeyMissing(
                    f"all master keys of this database were retired, and there is none in {self.provider.where}; "
                    "make one with: storage keys new"
                )
            self._require_a_key(frozenset(), "")
            if await any_sealed_value(executor):
                # Perhaps another process has made the first key and the first value since the look above.
                await self.check(executor)
                self.require_unlocked()
                if not self.known:
                    raise KeyMismatch(
                        "the database holds sealed values and knows no key (the tables key_encryption_key and data_key "
                        "are empty), so none is made over them. Restore those tables from a backup; or give the values "
                        "up, with: storage keys new. Nothing was changed"
                    )
            else:
                await self.ask(self.provider.generate())
        known = self.known
        key = self._expected(await self.ask(self.provider.enrol()), RegisteredKey)
        if len(key.kek_id) != KEY_ID_BYTES or not key.check_value:
            raise self._defect("named a master key without an id of 16 bytes and a check value")
        return key, known

    def register(self, key: RegisteredKey, known: frozenset[bytes], *, lock_first: bool) -> Unit[bool]:
        """Register a key unless it is, and hold all until the transaction ends: none can be retired before.

        Args:
            key: as `active` or `KeyProvider.add` gave it.
            known: ids of the master keys that were registered before that.
            lock_first: on PostgreSQL; on SQLite a unit that writes is alone anyway.

        Returns:
            False, without effect, if another process has registered a key since, perhaps this very one: check
            again.

        Raises:
            KeyMismatch: the key is retired.
        """
        rows = yield from execute(sql.MASTER_KEYS_HELD)
        if key.kek_id not in _ids(rows):
            if lock_first:
                yield from execute(sql.REGISTRATION_LOCK)
                rows = yield from execute(sql.MASTER_KEYS_HELD)
            if _ids(rows) - known:
                return False
            yield from execute(sql.ADD_MASTER_KEY, kek_id=key.kek_id, check_value=key.check_value, created_at=now())
        elif any(kek_id == key.kek_id and retired_at is not None for kek_id, retired_at in rows):
            raise KeyMismatch(
                f"the master key {key.kek_id.hex()} in {self.provider.where} was retired; put its successor before it"
            )
        return True

    def registered(self, key: RegisteredKey) -> None:
        """Take note that a transaction has registered the key, or found it registered, and was committed."""
        self.held |= {key.kek_id}
        self.known |= {key.kek_id}

    # ---- data keys

    async def wrap(self, kek_id: bytes, user_id: str, key: DataKey) -> bytes:
        """A user's data key wrapped under a master key, for table data_key; opened once, before anybody relies on it.

        What is returned may replace the only other copy of the data key.

        Raises:
            KeyMissing, KeyUnavailable: the master key is not held, out of reach, or not fit to wrap with.
        """
        bound = wrap_context(user_id, key.id, kek_id)
        wrapped = self._expected(await self._for_one(self.provider.wrap(kek_id, key.reveal(), bound)), bytes)
        try:
            opened = await self._for_one(self.provider.unwrap(kek_id, wrapped, bound))
        except Tampered:
            opened = None
        if opened != key.reveal() or key.reveal() in wrapped:
            raise self._defect("wrapped a data key in a way that does not open again, or not at all")
        return wrapped

    async def unwrap(self, kek_id: bytes, user_id: str, row_id: uuid.UUID, wrapped: bytes) -> DataKey:
        """A data key as stored in table data_key.

        Raises:
            KeyMissing, KeyUnavailable: the master key is not held, or out of reach.
            Tampered: altered, or moved from another user or row.
        """
        self.require_unlocked()
        if kek_id not in self.held:
            raise KeyMissing(
                f"the data key {row_id} of {user_id!r} is wrapped under the master key "
                f"{kek_id.hex()}, which is not in {self.provider.where}; add that key there"
            )
        bound = wrap_context(user_id, row_id.bytes, kek_id)
        material = self._expected(await self._for_one(self.provider.unwrap(kek_id, wrapped, bound)), bytes)
        if len(material) != KEY_BYTES:
            raise Tampered(
                f"the data key {row_id} of {user_id!r} has {len(material)} bytes instead of {KEY_BYTES}. Restore its "
                "row (table data_key) from a backup"
            )
        return DataKey(row_id.bytes, material)

    async def key_set(self, user_id: str, rows: list[Row]) -> KeySet:
        """The data keys of a user from rows of (id, kek_id, wrapped, state); what does not open breaks only itself."""
        keys: dict[bytes, DataKey] = {}
        failures: dict[bytes, EncryptionError] = {}
        active: bytes | None = None
        for row_id, kek_id, wrapped, state in rows:
            if state == sql.ACTIVE:
                active = row_id.bytes
            try:
                keys[row_id.bytes] = await self.unwrap(kek_id, user_id, row_id, wrapped)
            except EncryptionError as error:
                failures[row_id.bytes] = error
        return KeySet(user_id, keys, active, failures)

    async def ask(self, answer: Awaitable[T]) -> T:
        """An answer of the provider, which may be anybody's.

        Raises:
            EncryptionError, ConfigurationError: as the provider says.
            KeyUnavailable: it took longer than `provider_seconds`, or the way to the provider failed, or it raised
                what no provider should.
        """
        try:
            async with asyncio.timeout(self._provider_seconds):
                return await answer
        except TimeoutError as error:
            raise KeyUnavailable(
                f"{self.provider.where} did not answer within {self._provider_seconds:g} s; try again"
            ) from error
        except OSError as error:
            raise KeyUnavailable(f"{self.provider.where} cannot be reached: {error}") from error
        except (EncryptionError, ConfigurationError):
            raise
        except Exception as error:  # noqa: BLE001 - plug-ins of any origin
            # Only the kind of error is told: a message of somebody else's might quote what was to be wrapped.
            raise self._defect(f"raised {type(error).__name__}") from None

    async def _for_one(self, answer: Awaitable[T]) -> T:
        """The same for one data key, which must not stop the work on others by an error that is not of encryption."""
        try:
            return await self.ask(answer)
        except ConfigurationError as error:
            raise KeyUnavailable(str(error)) from None

    async def _health(self) -> ProviderHealth:
        return self._expected(await self.ask(self.provider.health()), ProviderHealth)

    def _expected(self, answer: T, kind: type[Any]) -> T:
        """`answer`, if it is of the kind that was asked for; a provider of somebody else's need not be type-checked."""
        if not isinstance(answer, kind):
            raise self._defect(f"answered with {type(answer).__name__} instead of {kind.__name__}")
        return answer

    def _defect(self, deed: str) -> KeyUnavailable:
        provider = type(self.provider).__name__
        return KeyUnavailable(
            f"{self.provider.where} cannot be used: {provider} {deed}. Nothing was changed; mend that class, and prove "
            "it with storage.testing.key_providers"
        )

    def __repr__(self) -> str:
        return f"MasterKeys({self.state}, {self.provider!r})"


def wrap_context(user_id: str, key_id: bytes, kek_id: bytes) -> bytes:
    """What a wrapped data key is bound to. Only the last part varies in length, so none runs into another."""
    return _WRAP_LABEL + kek_id + key_id + user_id.encode()


def _registered(row: Row) -> RegisteredKey:
    return RegisteredKey(row[0], row[1], retired=row[2] is not None)


def _listed(ids: frozenset[bytes]) -> str:
    return ", ".join(sorted(kek_id.hex() for kek_id in ids))


def _ids(rows: list[Row]) -> frozenset[bytes]:
    return frozenset(row[0] for row in rows)
