"""Master keys that are 32 bytes in this process's memory, wherever they came from.

The environment, a key file and an OS keyring differ only in where the text comes from; reading it strictly,
refusing keys that are none, recognising a key and wrapping with it is the same for all.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final, NoReturn

from storage.encryption.envelope import KEY_BYTES, KEY_ID_BYTES, NONCE_BYTES, TAG_BYTES
from storage.encryption.providers.provider import KeyProvider, RegisteredKey
from storage.errors import ConfigurationError, KeyMismatch, KeyMissing, Tampered

HOW_TO_MAKE_ONE: Final = (
    'make one with: python3 -c "import base64, secrets; print(base64.b64encode(secrets.token_bytes(32)).decode())"'
)

_CHECK_INFO: Final = b"agent-storage/kek-check/1"

_WRAP_FORMAT: Final = b"\x01"
_WRAPPED_BYTES: Final = len(_WRAP_FORMAT) + NONCE_BYTES + KEY_BYTES + TAG_BYTES
"""61. The nonce is random: one data key a user is far from the 2**32 messages that 96 random bits allow."""

_FEWEST_DISTINCT_BYTES: Final = 12
"""32 random bytes have about 30 distinct values, and fewer than 12 once in 10**14; patterns have few. So it is with the
31 steps from one byte to the next."""

_AROUND_TEXT: Final = "\0\t\r\n"
"""What a phrase ends in that went through `echo` or was padded to the length of a key."""

_PUBLISHED: Final = frozenset(
    bytes.fromhex(key)
    for key in (
        "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",  # NIST SP 800-38A, AES-256
        "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",  # the GCM specification
        "8d969eef6ecad3c29a3a629280e686cf0c3f5d5a86aff3ca12020c923adc6c92",  # SHA-256 of 123456
        "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8",  # SHA-256 of password
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",  # SHA-256 of nothing
    )
)


class MasterKey:
    """32 bytes that wrap data keys; they show up in no `repr`, pickle or copy."""

    __slots__ = ("_material",)

    def __init__(self, material: bytes) -> None:
        if len(material) != KEY_BYTES:
            raise ValueError(f"a master key has {KEY_BYTES} bytes")
        self._material = bytes(material)

    @classmethod
    def generate(cls) -> MasterKey:
        """A new key from the operating system's random generator; never one that `parse_master_keys` would refuse."""
        while _is_guessable(material := os.urandom(KEY_BYTES)):
            pass
        return cls(material)

    def encoded(self) -> str:
        """The key as text, base64, as a key file or the environment holds it."""
        return base64.b64encode(self._material).decode()

    def check_value(self, kek_id: bytes) -> bytes:
        """32 bytes by which the key is recognised later, and from which it cannot be computed.

        HMAC-SHA256(key, b"agent-storage/kek-check/1" || kek_id).
        """
        return hmac.digest(self._material, _CHECK_INFO + kek_id, hashlib.sha256)

    def is_registered_as(self, registered: RegisteredKey) -> bool:
        """Whether `registered` is this key."""
        return hmac.compare_digest(self.check_value(registered.kek_id), registered.check_value)

    def wrap(self, plaintext: bytes, associated_data: bytes) -> bytes:
        """`0x01 | nonce[12] | ciphertext | tag[16]`, AES-256-GCM."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = os.urandom(NONCE_BYTES)
        return _WRAP_FORMAT + nonce + AESGCM(self._material).encrypt(nonce, plaintext, associated_data)

    def unwrap(self, wrapped: bytes, associated_data: bytes) -> bytes:
        """What `wrap` was given.

        Raises:
            Tampered: altered, or wrapped for other associated data or under another key.
        """
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        message = (
            "a wrapped data key cannot be opened: it was altered, or belongs to another user or master key. "
            "Restore its row (table data_key) from a backup"
        )
        if len(wrapped) != _WRAPPED_BYTES or not wrapped.startswith(_WRAP_FORMAT):
            raise Tampered(message)
        start = len(_WRAP_FORMAT)
        nonce, ciphertext = wrapped[start : start + NONCE_BYTES], wrapped[start + NONCE_BYTES :]
        try:
            return AESGCM(self._material).decrypt(nonce, ciphertext, associated_data)
        except InvalidTag:
            raise Tampered(message) from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MasterKey) and hmac.compare_digest(self._material, other._material)

    def __hash__(self) -> int:
        return hash(self._material)

    def __repr__(self) -> str:
        return "MasterKey(**********)"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a MasterKey is never pickled or copied: configure the key where it is needed")


def parse_master_keys(text: str, where: str) -> tuple[MasterKey, ...]:
    """The keys in `text`: base64 of 32 bytes each, separated by space or commas; the first is active.

    Both alphabets are read, padded or not. Lines that begin with `#` are comments. More than one key is for
    rotation: the others still open what they wrapped.

    Args:
        text: what was configured.
        where: names the place in messages: `STORAGE_MASTER_KEY`.

    Raises:
        ConfigurationError: no key, or one that is not base64, not 32 bytes, or publicly known. The value is
            not shown.
    """
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    words = "\n".join(lines).replace(",", " ").split()
    if not words:
        raise ConfigurationError(f"{where} holds no master key; {HOW_TO_MAKE_ONE}")
    return tuple(dict.fromkeys(_parse(word, where) for word in words))


def _parse(word: str, where: str) -> MasterKey:
    standard = word.replace("-", "+").replace("_", "/").rstrip("=")
    try:
        material = base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ConfigurationError(
            f"{where} is not base64; a master key is {KEY_BYTES} random bytes in base64; {HOW_TO_MAKE_ONE}"
        ) from None
    if len(material) != KEY_BYTES:
        raise ConfigurationError(
            f"{where} decodes to {len(material)} bytes; a master key is the base64 of exactly {KEY_BYTES} "
            f"random bytes; {HOW_TO_MAKE_ONE}"
        )
    if _is_guessable(material):
        raise ConfigurationError(
            f"{where} is not random (a phrase, a pattern, or a key printed somewhere), so it protects "
            f"nothing; {HOW_TO_MAKE_ONE}"
        )
    return MasterKey(material)


def _is_guessable(material: bytes) -> bool:
    steps = {(after - before) % 256 for before, after in pairwise(material)}
    return (
        len(set(material)) < _FEWEST_DISTINCT_BYTES
        or len(steps) < _FEWEST_DISTINCT_BYTES
        or any(material[period:] == material[:-period] for period in range(1, KEY_BYTES // 2 + 1))
        or _is_text(material)
        or material in _PUBLISHED
    )


def _is_text(material: bytes) -> bool:
    """Whether it is a phrase in UTF-8, as random bytes are once in 10**10."""
    try:
        text = material.decode()
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character in _AROUND_TEXT for character in text)


class LocalKeys(KeyProvider):
    """Base of the providers that have the keys themselves. They say where the keys come from in `health`."""

    def __init__(self) -> None:
        self._keys: tuple[MasterKey, ...] = ()
        self._retired: frozenset[MasterKey] = frozenset()
        self._by_id: dict[bytes, MasterKey] = {}
        self._id_of: dict[MasterKey, bytes] = {}

    @property
    def active_id(self) -> bytes | None:
        active = self._active()
        return None if active is None else self._id_of.get(active)

    def use(self, keys: tuple[MasterKey, ...]) -> None:
        """Hold these keys in this order, and forget the ids of others."""
        if keys != self._keys:
            self._keys = keys
            self._by_id = {kek_id: key for kek_id, key in self._by_id.items() if key in keys}
            self._id_of = {key: kek_id for key, kek_id in self._id_of.items() if key in keys}

    async def export(self) -> tuple[MasterKey, ...]:
        """All keys, as they are now, the active one first unless it is retired: for a sealed bundle.

        Raises:
            KeyMissing: there is none.
            KeyUnavailable, ConfigurationError: as `health`.
        """
        await self.health()
        if not self._keys:
            raise KeyMissing(f"there is no master key in {self.where}")
        return self._keys

    async def identify(self, registered: Sequence[RegisteredKey]) -> frozenset[bytes]:
        held: set[bytes] = set()
        retired: set[MasterKey] = set()
        for key in self._keys:
            rows = [row for row in registered if key.is_registered_as(row)]
            held.update(row.kek_id for row in rows)
            self._by_id.update((row.kek_id, key) for row in rows)
            if live := [row for row in rows if not row.retired]:
                self._id_of[key] = live[0].kek_id
            elif rows:
                retired.add(key)
        self._retired = frozenset(retired)
        return frozenset(held)

    async def enrol(self) -> RegisteredKey:
        active = self._active()
        if active is None:
            if not self._keys:
                raise KeyMissing(f"there is no master key in {self.where}")
            raise KeyMismatch(f"every master key in {self.where} was retired; add a further one")
        return self._named(active)

    async def wrap(self, kek_id: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
        return self._key(kek_id).wrap(plaintext, associated_data)

    async def unwrap(self, kek_id: bytes, wrapped: bytes, associated_data: bytes) -> bytes:
        return self._key(kek_id).unwrap(wrapped, associated_data)

    def _active(self) -> MasterKey | None:
        return next((key for key in self._keys if key not in self._retired), None)

    def _named(self, key: MasterKey) -> RegisteredKey:
        """The key under its id, or under a new random one that it keeps."""
        kek_id = self._id_of.setdefault(key, os.urandom(KEY_ID_BYTES))
        self._by_id[kek_id] = key
        return RegisteredKey(kek_id, key.check_value(kek_id))

    def _key(self, kek_id: bytes) -> MasterKey:
        key = self._by_id.get(kek_id)
        if key is None:
            raise KeyMissing(f"the master key {kek_id.hex()} is not in {self.where}")
        return key

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.where}, {len(self._keys)} keys)"
