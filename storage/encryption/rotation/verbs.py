"""Looking after the keys while everything runs: new master keys, moving to them, new data keys, and a check of all.

Every verb can be interrupted at any moment, by kill -9 too: all secrets open before, meanwhile and afterwards, and
running it again goes on. None of them shows a key or a value.
"""

from __future__ import annotations

from collections.abc import Sequence

from storage.clock import now
from storage.database.database import Database
from storage.database.unit import Unit, execute
from storage.encryption import statements as sql
from storage.encryption.keyring import KeyRing
from storage.encryption.master_keys import MOST_ATTEMPTS
from storage.encryption.providers.provider import RegisteredKey
from storage.encryption.registry import SealedColumn
from storage.encryption.rotation.doctor import count_unfinished, examine
from storage.encryption.rotation.reencrypt import reencrypt
from storage.encryption.rotation.rewrap import rewrap
from storage.encryption.status import (
    Diagnosis,
    KeysStatus,
    MasterKeyInfo,
    MasterKeyState,
    Progress,
    Reencrypted,
    Rewrapped,
    Unreadable,
)
from storage.errors import InvalidInput, KeyInUse, KeyMissing, KeyUnavailable

__all__ = [
    "Diagnosis",
    "KeyRotation",
    "KeysStatus",
    "MasterKeyInfo",
    "MasterKeyState",
    "Progress",
    "Reencrypted",
    "Rewrapped",
    "Unreadable",
]


class KeyRotation:
    """The verbs of `storage keys`. Master keys are named by the hex form of their ids.

    To change the master key: `new` (or put a key behind the present one in the configuration), deploy it everywhere,
    `promote`, `rewrap`, `retire`. To change the data keys too, because one may be known: `reencrypt`.

    Args:
        database: where the keys and all sealed values are.
        keyring: its keys; other processes' rings find out by themselves what has changed.
        columns: all sealed columns: `sealed_columns()`, once `storage.tables` is imported.
    """

    def __init__(self, database: Database, keyring: KeyRing, columns: Sequence[SealedColumn]) -> None:
        self._database = database
        self._keyring = keyring
        self._masters = keyring.master_keys
        self._columns = tuple(columns)

    async def status(self) -> KeysStatus:
        """The master keys, who holds them and what depends on them. Asks the provider now; changes nothing.

        Works while locked. Reads all of table data_key.

        Raises:
            DatabaseError: the database cannot be read.
        """
        await self._keyring.start(self._database)
        return KeysStatus(
            ring=await self._keyring.status(),
            master_keys=await self._master_keys(),
            unfinished=await count_unfinished(self._database, self._keyring),
        )

    async def registered(self) -> tuple[RegisteredKey, ...]:
        """What the database knows of the master keys, for a bundle of them; nothing in it is secret.

        Raises:
            DatabaseError: the database cannot be read.
        """
        rows = await self._database.read(sql.MASTER_KEYS, {})
        return tuple(RegisteredKey(row[0], row[1], retired=row[2] is not None) for row in rows)

    async def new(self) -> str:
        """Have the provider make a master key, and register it. Where there is a key, it comes behind that.

        This is phase one of a rotation: until `promote`, nothing is wrapped under it.

        Returns:
            the hex id of the new key.

        Raises:
            KeyMissing, KeyMismatch, KeyUnavailable: locked; the right key has to be there first. If the provider has
                made the key, it stays there unused.
            ConfigurationError: this provider makes no keys; the message says what to do instead.
            DatabaseError: the key could not be registered; it stays with the provider unused.
        """
        await self._keyring.start(self._database)
        self._masters.require_unlocked()
        known = self._masters.known
        key = await self._masters.ask(self._masters.provider.add())
        lock_first = self._database.dialect == "postgresql"
        for _ in range(MOST_ATTEMPTS):
            if await self._database.run(lambda: self._masters.register(key, known, lock_first=lock_first)):  # noqa: B023
                await self._keyring.start(self._database)
                return key.kek_id.hex()
            # Another process has registered a key. If it is one that is held here, there is room for this one too.
            await self._keyring.start(self._database)
            self._masters.require_unlocked()
            known = self._masters.known
        raise KeyUnavailable(f"other processes registered master keys {MOST_ATTEMPTS} times meanwhile; try again")

    async def promote(self, kek_id: str) -> None:
        """Have the provider put a master key first: data keys are wrapped under it from now on.

        Phase two of a rotation, once every process has the key; `rewrap` moves what was wrapped before.

        Raises:
            InvalidInput: the database knows no such key.
            KeyMissing, KeyMismatch, KeyUnavailable: locked, or this key is not held.
            ConfigurationError: the order is configured, or the key is retired; the message says what to do.
        """
        await self._keyring.start(self._database)
        self._masters.require_unlocked()
        wanted = await self._known(kek_id)
        if wanted not in self._masters.held:
            raise KeyMissing(f"the master key {kek_id} is not in {self._masters.provider.where}; put it there first")
        await self._masters.ask(self._masters.provider.promote(wanted))
        await self._keyring.start(self._database)

    async def rewrap(self, progress: Progress | None = None) -> Rewrapped:
        """Wrap every data key under the active master key, registering that if need be. No secret is touched.

        Writers are not held up, and processes that have data keys in memory go on with them. Data keys of a master key
        that was given up are left out; others that cannot be unwrapped are reported and left as they are. Interrupted,
        it has moved some; run it again.

        Args:
            progress: told how many data keys are done.

        Raises:
            KeyMissing, KeyMismatch, KeyUnavailable: locked, or the provider went away; what was moved stays moved.
            DatabaseError: likewise.
        """
        return await rewrap(self._database, self._masters, progress)

    async def reencrypt(self, progress: Progress | None = None) -> Reencrypted:
        """Give every user a new data key and seal every value again under it; the old data keys are deleted.

        Users go on reading and writing: what they write meanwhile is never undone, and nothing but the sealed columns
        changes. A value that cannot be opened is reported and left, together with its data key. If an earlier run was
        interrupted, this one finishes it, and begins no other. An old key that an open transaction still seals under is
        waited for.

        Args:
            progress: told how many users are done.

        Raises:
            KeyMissing, KeyMismatch, KeyUnavailable: locked, or the provider went away; what was done stays done.
            DatabaseError: likewise.
        """
        return await reencrypt(self._database, self._keyring, self._columns, progress)

    async def retire(self, kek_id: str) -> None:
        """Have nothing wrapped under a master key any more. It is not taken from the provider: backups may need it.

        Retiring it again does nothing.

        Raises:
            InvalidInput: the database knows no such key.
            KeyInUse: it is the active one, or data keys are wrapped under it.
            KeyMissing, KeyMismatch, KeyUnavailable: locked, so nobody can tell which one is active.
        """
        await self._keyring.start(self._database)
        self._masters.require_unlocked()
        wanted = await self._known(kek_id)

        def unit() -> Unit[int]:
            # Waits for those who are wrapping under it; whoever comes later sees that it is retired.
            rows = yield from execute(sql.HOLD_MASTER_KEY, kek_id=wanted)
            if rows[0][0] is not None:
                return 0
            ((number,),) = yield from execute(sql.COUNT_UNDER, kek_id=wanted)
            if not number:
                yield from execute(sql.RETIRE_MASTER_KEY, which=wanted, retired_at=now())
            return int(number)

        if self._masters.provider.active_id == wanted:
            raise KeyInUse(
                f"the master key {kek_id} is the active one. Make another one and promote it first: storage keys new, "
                "storage keys promote, storage keys rewrap"
            )
        number = await self._database.run(unit)
        if number:
            raise KeyInUse(f"{number} data keys are wrapped under the master key {kek_id}; run: storage keys rewrap")
        await self._keyring.start(self._database)

    async def abandon(self, kek_id: str) -> int:
        """Give up a master key that is lost for good, so that its users can set their secrets again.

        Its data keys are retired and kept, and so is everything that is sealed under them: should the key be found,
        they open again, and `rewrap` and `reencrypt` bring them back into use.

        Returns:
            how many data keys are wrapped under it.

        Raises:
            InvalidInput: the database knows no such key.
            KeyInUse: the provider holds it, so it is not lost.
            KeyUnavailable: the provider cannot be asked whether it holds the key; nothing was changed.
        """
        await self._keyring.start(self._database)
        if isinstance(self._masters.locked, KeyUnavailable):
            self._masters.require_unlocked()
        wanted = await self._known(kek_id)
        if wanted in self._masters.held:
            raise KeyInUse(
                f"the master key {kek_id} is in {self._masters.provider.where}, so it is not lost. To take it out of "
                "use: storage keys rewrap, storage keys retire"
            )

        def unit() -> Unit[int]:
            yield from execute(sql.HOLD_MASTER_KEY, kek_id=wanted)
            ((number,),) = yield from execute(sql.COUNT_UNDER, kek_id=wanted)
            yield from execute(sql.GIVE_UP, under=wanted)
            yield from execute(sql.RETIRE_MASTER_KEY, which=wanted, retired_at=now())
            return int(number)

        number = await self._database.run(unit)
        self._keyring.forget()
        await self._keyring.start(self._database)
        return number

    async def doctor(self, progress: Progress | None = None) -> Diagnosis:
        """Try to open every data key and every sealed value; names those that do not open, never what they hold.

        Works while locked: then nothing opens. Changes nothing, and reads all that is sealed.

        Args:
            progress: told how many users are done; their total is at first an estimate.

        Raises:
            DatabaseError: the database cannot be read.
        """
        await self._keyring.start(self._database)
        return await examine(self._database, self._keyring, self._columns, await self._master_keys(), progress)

    # ---- below

    async def _master_keys(self) -> tuple[MasterKeyInfo, ...]:
        numbers: dict[bytes, int] = {}
        for kek_id, _, number in await self._database.read(sql.DATA_KEYS_BY_MASTER_KEY, {}, scan=True):
            numbers[kek_id] = numbers.get(kek_id, 0) + number
        found = [
            MasterKeyInfo(
                kek_id=kek_id.hex(),
                state=self._state(kek_id, retired=retired_at is not None),
                data_keys=numbers.get(kek_id, 0),
                created_at=created_at,
                retired_at=retired_at,
            )
            for kek_id, created_at, retired_at in await self._database.read(sql.MASTER_KEYS_TOLD, {})
        ]
        return tuple(sorted(found, key=lambda key: (key.created_at, key.kek_id)))

    def _state(self, kek_id: bytes, *, retired: bool) -> MasterKeyState:
        if retired:
            return "retired"
        if kek_id not in self._masters.held:
            return "missing"
        return "active" if kek_id == self._masters.provider.active_id else "available"

    async def _known(self, kek_id: str) -> bytes:
        """The id in bytes, if the database knows it."""
        known = {row[0].hex(): row[0] for row in await self._database.read(sql.MASTER_KEYS, {})}
        found: bytes | None = known.get(kek_id.lower())
        if found is None:
            raise InvalidInput(
                f"this database knows no master key {kek_id!r}; it knows {', '.join(sorted(known)) or 'none'}"
            )
        return found
