"""Master keys sealed under a passphrase, for moving to another machine: a text that may go by mail or on a stick.

Whoever has the text can try passphrases on it, as often as they like. So each try is made to cost 64 MiB and a good
part of a second, and a short passphrase is refused.

A bundle is JSON (version 1)::

    {"agent-storage": "master-key-bundle", "version": 1, "created_at": "2026-01-02T03:04:05Z",
     "kek_ids": ["…", …],                        hex, in the order of the keys; "" for one that no database knows
     "kdf": {"name": "argon2id", "memory_kib": 65536, "iterations": 3, "lanes": 4, "salt": base64 of 32 bytes},
     "commitment": base64 of 32 bytes, "sealed": base64}

    okm     = Argon2id(passphrase in NFC and UTF-8, salt, …, L = 76)          RFC 9106
    key     = okm[0:32]     commitment = okm[32:64]     nonce = okm[64:76]
    header  = all of the above but commitment and sealed, as JSON with sorted keys and no white space, UTF-8
    sealed  = AES-256-GCM(key, nonce, the keys one after the other, aad = header)

Key and nonce follow from a fresh salt, so they occur once. The commitment tells a wrong passphrase from an altered
text, and keeps a text from opening under two passphrases.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from hmac import compare_digest
from typing import Any, Final

from storage.encryption.envelope import COMMITMENT_BYTES, KEY_BYTES, KEY_ID_BYTES, NONCE_BYTES
from storage.encryption.providers.local_keys import LocalKeys, MasterKey
from storage.encryption.providers.provider import KeyProvider, RegisteredKey
from storage.encryption.providers.stored_keys import StoredKeys
from storage.errors import ConfigurationError, InvalidInput, KeyMismatch, Tampered

KIND: Final = "master-key-bundle"
VERSION: Final = 1

FEWEST_CHARACTERS: Final = 12
"""Of a passphrase, after normalisation. Four words of a word list are more."""

SALT_BYTES: Final = 32

_MOST_BYTES: Final = 64 * 1024
_MOST_KEYS: Final = 256

UNREGISTERED: Final = "unregistered"
"""Stands for the id of a key that no database knew when it was exported."""


@dataclass(frozen=True, slots=True)
class KeyDerivation:
    """Parameters of Argon2id; by default the second recommended option of RFC 9106, section 4.

    The first one takes 2 GiB, which not every machine has that a key is moved to.
    """

    salt: bytes
    memory_kib: int = 64 * 1024
    iterations: int = 3
    lanes: int = 4

    def __post_init__(self) -> None:
        # Bounds, because the numbers come from a file: none that is too weak, and none that fills the machine.
        for name, value, least, most in (
            ("memory_kib", self.memory_kib, 64 * 1024, 1024 * 1024),
            ("iterations", self.iterations, 3, 16),
            ("lanes", self.lanes, 1, 16),
            ("salt", len(self.salt), SALT_BYTES, SALT_BYTES),
        ):
            if type(value) is not int or not least <= value <= most:
                raise Tampered(f"the key bundle asks for Argon2id with {name} out of bounds; get an intact copy of it")

    def derive(self, passphrase: str) -> bytes:
        """76 bytes; takes `memory_kib` of memory and a good part of a second.

        Raises:
            InvalidInput: the passphrase is not text that UTF-8 can encode.
            ConfigurationError: the OpenSSL of this installation has no Argon2id, or there is not enough memory.
        """
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

        try:
            kdf = Argon2id(
                salt=self.salt,
                length=KEY_BYTES + COMMITMENT_BYTES + NONCE_BYTES,
                iterations=self.iterations,
                lanes=self.lanes,
                memory_cost=self.memory_kib,
            )
        except UnsupportedAlgorithm:
            raise ConfigurationError(
                "the OpenSSL of this installation has no Argon2id (3.2 is the first with it); install cryptography "
                "from its wheel"
            ) from None
        try:
            return kdf.derive(_normalised(passphrase).encode())
        except MemoryError:
            raise ConfigurationError(
                f"the key bundle needs {self.memory_kib // 1024} MiB of memory, which this process does not get; use a "
                "machine with more"
            ) from None


@dataclass(frozen=True, slots=True)
class BundledKey:
    """A master key, and the id by which databases know it; None if none did."""

    kek_id: bytes | None
    key: MasterKey = field(repr=False)


def seal_bundle(keys: Sequence[BundledKey], passphrase: str) -> bytes:
    """The keys as a text that opens with the passphrase. Blocks for a good part of a second.

    Raises:
        InvalidInput: no key or more than 256, or a passphrase of fewer than 12 characters.
    """
    if not 0 < len(keys) <= _MOST_KEYS:
        raise InvalidInput(f"a key bundle has 1 to {_MOST_KEYS} keys, not {len(keys)}")
    if len(_normalised(passphrase)) < FEWEST_CHARACTERS:
        raise InvalidInput(
            f"the passphrase has fewer than {FEWEST_CHARACTERS} characters; whoever finds the bundle can try as often "
            "as they like, so take several random words"
        )
    derivation = KeyDerivation(os.urandom(SALT_BYTES))
    header = {
        "agent-storage": KIND,
        "version": VERSION,
        "created_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "kek_ids": [(bundled.kek_id or b"").hex() for bundled in keys],
        "kdf": {"name": "argon2id", **asdict(derivation), "salt": _encode(derivation.salt)},
    }
    cipher, commitment, nonce = _split(derivation.derive(passphrase))
    plaintext = b"".join(base64.b64decode(bundled.key.encoded()) for bundled in keys)
    sealed = cipher.encrypt(nonce, plaintext, _canonical(header))
    return (
        json.dumps({**header, "commitment": _encode(commitment), "sealed": _encode(sealed)}, indent=2) + "\n"
    ).encode()


def open_bundle(data: bytes, passphrase: str) -> tuple[BundledKey, ...]:
    """The keys of a bundle, in their order. Blocks for a good part of a second.

    Raises:
        InvalidInput: not a key bundle, or one of a newer release.
        Tampered: a bundle that was altered or truncated.
        KeyMismatch: the passphrase is wrong, or the bundle's salt or parameters were altered; these two cannot be
            told apart.
    """
    header, commitment, sealed = _parse(data)
    try:
        kdf = {**header["kdf"], "salt": _decode(header["kdf"]["salt"])}
        if kdf.pop("name") != "argon2id":
            raise _damaged()
        derivation = KeyDerivation(**kdf)
        kek_ids = [bytes.fromhex(kek_id) for kek_id in header["kek_ids"]]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise _damaged() from None
    if not 0 < len(kek_ids) <= _MOST_KEYS or any(len(kek_id) not in (0, KEY_ID_BYTES) for kek_id in kek_ids):
        raise _damaged()
    cipher, expected, nonce = _split(derivation.derive(passphrase))
    if not compare_digest(expected, commitment):
        raise KeyMismatch("the passphrase is wrong, or the key bundle was altered; nothing was imported")
    from cryptography.exceptions import InvalidTag

    try:
        plaintext = cipher.decrypt(nonce, sealed, _canonical(header))
    except InvalidTag:
        raise _damaged() from None
    if len(plaintext) != KEY_BYTES * len(kek_ids):
        raise _damaged()
    materials = (plaintext[start : start + KEY_BYTES] for start in range(0, len(plaintext), KEY_BYTES))
    return tuple(
        BundledKey(kek_id or None, MasterKey(material)) for kek_id, material in zip(kek_ids, materials, strict=True)
    )


async def export_bundle(provider: KeyProvider, registered: Sequence[RegisteredKey], passphrase: str) -> bytes:
    """All master keys of a provider, sealed; the event loop runs on meanwhile.

    Args:
        provider: whose keys.
        registered: what the database knows of master keys; gives them their ids.
        passphrase: at least 12 characters.

    Raises:
        ConfigurationError: the provider does not have its keys itself (AWS KMS), so there is nothing to export.
        KeyMissing, KeyUnavailable: it has none, or cannot reach them.
        InvalidInput: the passphrase is too short.
    """
    if not isinstance(provider, LocalKeys):
        raise ConfigurationError(
            f"the master keys of {provider.where} never leave it, so they cannot be exported; configure the same keys "
            "on the other machine"
        )
    keys = [
        BundledKey(next((row.kek_id for row in registered if key.is_registered_as(row)), None), key)
        for key in await provider.export()
    ]
    return await asyncio.to_thread(seal_bundle, keys, passphrase)


async def import_bundle(provider: KeyProvider, data: bytes, passphrase: str) -> tuple[str, ...]:
    """Store the keys of a bundle with a provider, behind its own; none is replaced.

    Returns:
        the ids (hex) of the keys that were not there before; `unregistered` for one without an id. Empty if all were
        there.

    Raises:
        ConfigurationError: the provider stores no keys.
        InvalidInput, Tampered, KeyMismatch: as `open_bundle`. Nothing was stored.
        KeyUnavailable: they cannot be stored.
    """
    if not isinstance(provider, StoredKeys):
        raise ConfigurationError(
            f"keys cannot be stored in {provider.where}; import them with key_provider = 'key-file' or 'keyring'"
        )
    bundled = await asyncio.to_thread(open_bundle, data, passphrase)
    new = await provider.import_([each.key for each in bundled])
    return tuple(each.kek_id.hex() if each.kek_id else UNREGISTERED for each in bundled if each.key in new)


# ---- below: the text


def _parse(data: bytes) -> tuple[dict[str, Any], bytes, bytes]:
    """Header, commitment and ciphertext of a bundle that this release reads."""
    if len(data) > _MOST_BYTES or KIND.encode() not in data:
        raise InvalidInput("this is not a key bundle of agent-storage (`storage keys export` writes one)")
    try:
        bundle = json.loads(data.decode("utf-8-sig"))
        version = bundle["version"]
        if bundle["agent-storage"] == KIND and type(version) is int and version > VERSION:
            raise InvalidInput(f"the key bundle has version {version}, this release reads {VERSION}; upgrade it first")
        commitment, sealed = _decode(bundle.pop("commitment")), _decode(bundle.pop("sealed"))
    except InvalidInput:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        raise _damaged() from None
    if (bundle["agent-storage"], version) != (KIND, VERSION):
        raise _damaged()
    return bundle, commitment, sealed


def _split(derived: bytes) -> tuple[Any, bytes, bytes]:
    """AES-GCM under the derived key, the commitment, the nonce."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(derived[:KEY_BYTES]), derived[KEY_BYTES:-NONCE_BYTES], derived[-NONCE_BYTES:]


def _canonical(header: dict[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()


def _normalised(passphrase: str) -> str:
    """NFC, so that é is the same from every keyboard and system."""
    normalised = unicodedata.normalize("NFC", passphrase)
    try:
        normalised.encode()
    except UnicodeEncodeError:
        raise InvalidInput("the passphrase has a lone surrogate, which no keyboard types; enter it again") from None
    return normalised


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(text: str) -> bytes:
    try:
        decoded = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise _damaged() from None
    if _encode(decoded) != text:  # several texts decode to the same bytes, and only one of them was written
        raise _damaged()
    return decoded


def _damaged() -> Tampered:
    return Tampered("the key bundle was altered or truncated; get an intact copy of it. Nothing was imported")
