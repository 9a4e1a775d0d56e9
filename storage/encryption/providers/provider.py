"""What the key ring asks of whoever holds the master keys: an environment variable, a file, a keyring, a KMS.

Master keys never leave a provider. Small and asynchronous, so that a service on the network fits as well as
32 bytes in memory. A provider may hold several keys at once, because rotation adds the new key everywhere
before using it.

A provider of your own is a subclass of `KeyProvider`, named in the configuration by its dotted path::

    [storage]
    key_provider = "package.module.Class"

It is made by `get_instance` when the storage opens. Whether it keeps what is promised here,
`storage.testing.key_providers.KeyProviderContract` tells.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Self

from storage.errors import ConfigurationError, KeyUnavailable

if TYPE_CHECKING:
    from storage.config import StorageConfig


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

    The order of the master keys is the provider's: the first one that is not retired is the active one and
    wraps; all unwrap. Which are retired is known to the database, and told to `identify`.

    The ring calls, in this order: `health`, then `identify` with all keys that the database knows, then
    `unwrap` for the ids that were identified. `enrol` and `wrap` come when a data key is made. Every method
    may be called again at any time and by several tasks at once. What blocks belongs on a thread: the ring
    waits up to 15 s for an answer, but the event loop waits for nothing.

    Nothing secret may show in `where`, `detail`, a message or a `repr`. An `OSError` that a method lets
    through counts as KeyUnavailable.
    """

    name: str
    """For people and logs: `environment`, `key-file`."""

    can_generate: bool = False
    """Whether `generate` can make a key where there is none."""

    can_add: bool = False
    """Whether `add` and `promote` work. If not, people change the order of the keys where they configured them."""

    @classmethod
    async def get_instance(cls, config: StorageConfig) -> Self:  # noqa: ARG003 - overriding methods use it
        """The provider that a configuration asks for; `cls()` unless overridden. Runs inside the event loop.

        Need not reach the keys yet: `health` follows, whose errors lock the secrets and nothing else.

        Raises:
            ConfigurationError: what is configured can never work; the storage does not open.
        """
        return cls()

    async def close(self) -> None:  # noqa: B027 - most providers have nothing to let go of
        """Let go of connections and threads. Nothing is asked after it, and a second call does nothing."""

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
            KeyMissing: a key that the configuration names does not exist.
            ConfigurationError: what is configured is not a usable key.
        """

    @abstractmethod
    async def identify(self, registered: Sequence[RegisteredKey]) -> frozenset[bytes]:
        """Which of the registered keys this provider holds, by id; what matched once stays known.

        Retired ones count as held, because they still unwrap, but are not active afterwards.

        Args:
            registered: all keys that the database knows, of this provider or of others.

        Raises:
            KeyUnavailable: the keys cannot be reached.
        """

    @abstractmethod
    async def enrol(self) -> RegisteredKey:
        """The active key as the database is to register it: under its id, or a new random one of 16 bytes.

        The same answer every time, until another key is active.

        Raises:
            KeyMissing: there is no key.
            KeyMismatch: there is none that is not retired.
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
        raise KeyUnavailable(f"{self.where} cannot be created by this program; put a key there first")

    async def add(self) -> RegisteredKey:
        """Make a further key, stored durably before this returns, behind those that are there.

        The active key stays the active one; where there was no key, the new one is it.

        Returns:
            the key under a new random id, for the database to register.

        Raises:
            ConfigurationError: this provider makes no keys; the message says what people have to do instead.
            KeyUnavailable: the key cannot be stored.
        """
        raise ConfigurationError(
            f"{self.where} takes no further key from this program; make one yourself and put it behind the present ones"
        )

    async def promote(self, kek_id: bytes) -> None:
        """Put a key first, durably, so that it is the active one from now on; the others keep their order.

        Raises:
            ConfigurationError: this provider's order is configured, or the key is retired.
            KeyMissing: no key of this id is held (as far as `identify` was told).
            KeyUnavailable: the order cannot be stored.
        """
        raise ConfigurationError(
            f"the order of the keys in {self.where} is not this program's to change; put the key {kek_id.hex()} first "
            "yourself"
        )

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} is never pickled or copied: configure it where it is needed")
