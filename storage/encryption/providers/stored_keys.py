"""Master keys that this program may store: what a key file and an OS keyring have in common.

A store is only ever added to and reordered. Nothing here takes a key away, because a key that was lost takes the
secrets under it along; people remove keys by hand, after `retire` has found that nothing references them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from storage.encryption.providers.local_keys import LocalKeys, MasterKey
from storage.encryption.providers.provider import RegisteredKey
from storage.errors import ConfigurationError, KeyMissing, KeyUnavailable


class StoredKeys(LocalKeys):
    """Base of the providers that keep the keys in a place of their own and can write there.

    A subclass says where in `where`, reads in `health` (and calls `use`), and writes in `create`, `append` and
    `put_first`. Those three are safe against other processes that write the same place: none undoes another.
    """

    can_generate = True
    can_add = True

    @abstractmethod
    async def create(self, keys: Sequence[MasterKey]) -> bool:
        """Store these keys durably where there is nothing; False, and no effect, if anything is there.

        Raises:
            KeyUnavailable: the place cannot be written.
        """

    @abstractmethod
    async def append(self, keys: Sequence[MasterKey]) -> None:
        """Store these keys durably behind those that are there; one that is there already stays where it is.

        Raises:
            KeyMissing: there is nothing to append to.
            KeyUnavailable, ConfigurationError: the place cannot be written, or holds something else.
        """

    @abstractmethod
    async def put_first(self, key: MasterKey) -> None:
        """Store, durably, the order in which this key comes first and the others follow as they were.

        Raises:
            KeyMissing: the key is not there (any more).
            KeyUnavailable, ConfigurationError: the place cannot be written, or holds something else.
        """

    async def generate(self) -> None:
        await self.create((MasterKey.generate(),))
        health = await self.health()
        if not health.has_key:
            raise KeyMissing(f"{self.where} was removed right after it was made; what else cleans that place?")

    async def add(self) -> RegisteredKey:
        key = MasterKey.generate()
        await self.import_((key,))
        return self._named(key)

    async def promote(self, kek_id: bytes) -> None:
        await self.health()
        key = self._key(kek_id)
        if key in self._retired:
            raise ConfigurationError(f"the master key {kek_id.hex()} was retired, so nothing may be wrapped under it")
        await self.put_first(key)
        await self.health()

    async def import_(self, keys: Sequence[MasterKey]) -> tuple[MasterKey, ...]:
        """Store keys of another machine, in their order, behind those that are here; none is replaced.

        Returns:
            those that were not here before.

        Raises:
            KeyUnavailable, ConfigurationError: the place cannot be written, or holds something else.
        """
        await self.health()
        new = tuple(key for key in dict.fromkeys(keys) if key not in self._keys)
        if new and not await self.create(new):
            await self.append(new)
        await self.health()
        if any(key not in self._keys for key in new):
            raise KeyUnavailable(f"a key was written to {self.where} and is not there; what else writes to it?")
        return new
