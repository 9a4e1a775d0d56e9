"""The data keys of one user, unwrapped, as the repositories hold them while they seal and open.

Sealing and opening happen inside units of work, which cannot wait for a provider; so the keys come first, as
a set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NoReturn, TypeAlias

from storage.encryption.envelope import DataKey, SealContext, data_key_id_of, is_sealed, open_sealed, seal
from storage.errors import EncryptionError, InvalidInput, KeyMissing

SecretState: TypeAlias = Literal["set", "unset", "unreadable"]
"""`unreadable`: something is stored, and no key that is at hand opens it."""


class KeySet:
    """All data keys of one user: the active one seals, every one opens what it sealed.

    A key that could not be unwrapped is remembered with its error, and breaks only what needs it.
    """

    __slots__ = ("_active", "_failures", "_keys", "user_id")

    def __init__(
        self,
        user_id: str,
        keys: Mapping[bytes, DataKey],
        active: bytes | None,
        failures: Mapping[bytes, EncryptionError] | None = None,
    ) -> None:
        self.user_id = user_id
        self._keys = dict(keys)
        self._active = active
        self._failures = dict(failures or {})

    @property
    def has_active(self) -> bool:
        """Whether a key to seal with is here."""
        return self._active in self._keys

    @property
    def ids(self) -> frozenset[bytes]:
        """The ids of the keys that are here."""
        return frozenset(self._keys)

    @property
    def active_id(self) -> bytes | None:
        """The id of the active key, also if it could not be unwrapped; None if the user has none."""
        return self._active

    @property
    def is_whole(self) -> bool:
        """Whether every key could be unwrapped."""
        return not self._failures

    @property
    def failures(self) -> Mapping[bytes, EncryptionError]:
        """Why keys could not be unwrapped, by their ids."""
        return self._failures

    @property
    def active(self) -> DataKey:
        """The key to seal with.

        Raises:
            KeyMissing: the user has none yet; `KeyRing.run` and `KeyRing.active_key` make it.
            EncryptionError: it could not be unwrapped.
        """
        if self._active is None:
            raise KeyMissing(f"the user {self.user_id!r} has no data key yet; KeyRing.active_key makes one")
        return self.get(self._active)

    def get(self, key_id: bytes) -> DataKey:
        """The key of this id (16 bytes).

        Raises:
            KeyMissing: the user has no such key.
            EncryptionError: it could not be unwrapped.
        """
        key = self._keys.get(key_id)
        if key is not None:
            return key
        failure = self._failures.get(key_id)
        if failure is not None:
            raise type(failure)(*failure.args) from failure
        raise KeyMissing(
            f"the data key {key_id.hex()} of the user {self.user_id!r} does not exist: it was deleted, or "
            "the sealed value was altered. Restore table data_key from a backup, or set the secret again"
        )

    def seal(self, context: SealContext, plaintext: bytes) -> bytes:
        """`plaintext` sealed under the active key.

        Raises:
            InvalidInput: the context is of another user.
            EncryptionError: there is no active key.
        """
        self._check(context)
        return seal(self.active, context, plaintext)

    def open(self, context: SealContext, sealed: bytes) -> bytes:
        """The plaintext of `sealed`.

        Raises:
            Tampered: altered, or sealed for another context.
            KeyMissing: its key does not exist.
            InvalidInput: the context is of another user.
        """
        self._check(context)
        return open_sealed(self.get(data_key_id_of(sealed)), context, sealed)

    def knowing(self, failures: Mapping[bytes, EncryptionError]) -> KeySet:
        """The same keys, with further ids that nothing can be opened with, and why."""
        return KeySet(self.user_id, self._keys, self._active, {**self._failures, **failures})

    def lacks_key_of(self, sealed: bytes) -> bool:
        """Whether `sealed` names a data key that the user does not have; not one that could not be unwrapped."""
        if not is_sealed(sealed):
            return False
        key_id = data_key_id_of(sealed)
        return key_id not in self._keys and key_id not in self._failures

    def _check(self, context: SealContext) -> None:
        if context.user_id != self.user_id:
            raise InvalidInput(f"the keys of {self.user_id!r} neither seal nor open a value of {context.user_id!r}")

    def __contains__(self, key_id: object) -> bool:
        return key_id in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"KeySet(user_id={self.user_id!r}, keys={[key.hex() for key in self._keys]})"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a KeySet is never pickled or copied: configure a key provider where it is needed")


Keys: TypeAlias = KeySet | EncryptionError
"""A user's keys, or why they are not at hand."""


def state_of(keys: Keys, sealed: bytes | None) -> SecretState:
    """What a listing says of a sealed value (its first OVERHEAD_BYTES will do): by the key it names, never opened."""
    if sealed is None:
        return "unset"
    if isinstance(keys, EncryptionError) or not is_sealed(sealed) or data_key_id_of(sealed) not in keys:
        return "unreadable"
    return "set"
