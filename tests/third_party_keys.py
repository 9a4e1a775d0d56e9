"""A key provider as somebody else would write it: only the public interface, and nothing of our own providers."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

from storage.config import StorageConfig
from storage.encryption.providers.provider import KeyProvider, ProviderHealth, RegisteredKey
from storage.errors import KeyMismatch, KeyMissing, Tampered


class FolderKeys(KeyProvider):
    """Each file of a folder is a key of 32 bytes; the first in the order of names is active."""

    name = "folder"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._keys: list[bytes] = []
        self._ids: dict[bytes, bytes] = {}
        self._retired: set[bytes] = set()

    @classmethod
    async def get_instance(cls, config: StorageConfig) -> Self:
        return cls(config.master_key_file.with_suffix(".d"))

    @property
    def where(self) -> str:
        return f"the folder {self._folder}"

    @property
    def active_id(self) -> bytes | None:
        return next((kek_id for kek_id, key in self._ids.items() if key == self._active()), None)

    async def health(self) -> ProviderHealth:
        await asyncio.to_thread(self._read)
        return ProviderHealth(bool(self._keys), f"{len(self._keys)} files")

    async def identify(self, registered: Sequence[RegisteredKey]) -> frozenset[bytes]:
        found = {
            row: key for row in registered for key in self._keys if self._check(key, row.kek_id) == row.check_value
        }
        self._ids = {row.kek_id: key for row, key in found.items()} | {
            kek_id: key for kek_id, key in self._ids.items() if key in self._keys
        }
        # What the database knows goes before what was only enrolled.
        self._ids = {row.kek_id: key for row, key in found.items() if not row.retired} | self._ids
        live = {key for row, key in found.items() if not row.retired}
        self._retired = set(found.values()) - live
        return frozenset(row.kek_id for row in found)

    async def enrol(self) -> RegisteredKey:
        active = self._active()
        if active is None:
            raise (KeyMismatch if self._keys else KeyMissing)(f"no key to wrap with in {self.where}")
        kek_id = self.active_id or os.urandom(16)
        self._ids[kek_id] = active
        return RegisteredKey(kek_id, self._check(active, kek_id))

    async def wrap(self, kek_id: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
        nonce = os.urandom(12)
        return nonce + AESGCMSIV(self._key(kek_id)).encrypt(nonce, plaintext, associated_data)

    async def unwrap(self, kek_id: bytes, wrapped: bytes, associated_data: bytes) -> bytes:
        key = self._key(kek_id)
        try:
            return AESGCMSIV(key).decrypt(wrapped[:12], wrapped[12:], associated_data)
        except (InvalidTag, ValueError):
            raise Tampered("altered, or of another place or key") from None

    def _read(self) -> None:
        self._keys = [path.read_bytes() for path in sorted(self._folder.iterdir())]

    def _active(self) -> bytes | None:
        return next((key for key in self._keys if key not in self._retired), None)

    def _key(self, kek_id: bytes) -> bytes:
        if kek_id not in self._ids:
            raise KeyMissing(f"{kek_id.hex()} is not in {self.where}")
        return self._ids[kek_id]

    def _check(self, key: bytes, kek_id: bytes) -> bytes:
        return hashlib.blake2b(kek_id, key=key, digest_size=32).digest()
