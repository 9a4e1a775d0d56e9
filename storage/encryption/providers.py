"""What the key ring asks of whoever holds the master keys: an environment variable, a file, a keyring, a KMS.

Master keys never leave a provider. Small and asynchronous, so that a service on the network fits as well as
32 bytes in memory. A provider may hold several keys at once, because rotation adds the new key everywhere
before using it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RegisteredKey:
    """What the database knows of a master key; nothing in it is secret.

    Attributes:
        kek_id: 16 random bytes, chosen when the database first used the key.
        check_value: what `KeyProvider.enrol` gave; by it a provider recognises its own key.
        retired: whether nothing may be wrapped under it any more.
    """

    kek_id: bytes
    check_value: bytes
    retired: bool = False


@dataclass(frozen=True, slots=True)
class ProviderHealth:
    """Attributes: `has_key`, whether the provider holds a key to wrap with; `detail`, one line for people."""

    has_key: bool
    detail: str


class KeyProvider(ABC):
    """Wraps and unwraps data keys under master keys (KEKs) that only the provider sees.

    The ring calls, in this order: `health`, then `identify` with all keys that the database knows, then
    `unwrap` for the ids that were identified. `enrol` and `wrap` come when a data key is made. Every method
    may be called again at any time and by several tasks at once. What blocks belongs on a thread.
    """

    name: str
    """For people and logs: `environment`, `key-file`."""

    can_generate: bool = False
    """Whether `generate` can make a key where there is none."""

    @property
    @abstractmethod
    def where(self) -> str:
        """Where the key is looked for, as a phrase for messages: `the key file /home/a/.config/…`."""

    @property
    @abstractmethod
    def active_id(self) -> bytes | None:
        """The id of the key to wrap with; None until `identify` recognised it or `enrol` named it."""

    @abstractmethod
    async def health(self) -> ProviderHealth:
        """Read or reach the keys, and say whether there is one to wrap with.

        Raises:
            KeyUnavailable: there may be a key, but it cannot be reached or may not be used (permissions,
            network).
            ConfigurationError: what is configured is not a usable key.
        """

    @abstractmethod
    async def identify(self, registered: Sequence[RegisteredKey]) -> frozenset[bytes]:
        """Which of the registered keys this provider holds, by id; what matched once stays known.

        Raises:
            KeyUnavailable: the keys cannot be reached.
        """

    @abstractmethod
    async def enrol(self) -> RegisteredKey:
        """The active key as the database is to register it: under its id, or a new random one.

        Raises:
            KeyMissing: there is no active key.
            KeyUnavailable: it cannot be reached.
        """

    @abstractmethod
    async def wrap(self, kek_id: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
        """`plaintext` (32 bytes) encrypted under the key `kek_id`, bound to `associated_data`.

        Raises:
            KeyMissing: no key of this id is held.
            KeyUnavailable: it cannot be reached.
        """

    @abstractmethod
    async def unwrap(self, kek_id: bytes, wrapped: bytes, associated_data: bytes) -> bytes:
        """What `wrap` was given.

        Raises:
            KeyMissing: no key of this id is held.
            KeyUnavailable: it cannot be reached.
            Tampered: altered, or wrapped for other associated data or under another key.
        """

    async def generate(self) -> None:
        """Make a key where there is none, never replacing one; if another process was faster, take its key.

        The ring asks for it only for a database that has neither data keys nor registered master keys.

        Raises:
            KeyUnavailable: the key cannot be stored; or this provider makes none.
        """
        from storage.errors import KeyUnavailable

        raise KeyUnavailable(f"{self.where} cannot be created by this program; put a key there first")
