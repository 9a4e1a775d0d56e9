"""Envelope format 1: how one secret becomes bytes that open only with the right key and in the right place.

A ciphertext that is merely authentic can still be moved to another row, user or host, or be crafted to open
under two keys. The associated data closes the first door, the key commitment the second.

Layout of a sealed value (all offsets in bytes)::

     0   1  format, 0xE1                  }
     1   1  suite, 0x01                   }  the header, 50 bytes
     2  16  data_key_id                   }
    18  32  salt, random for each value   }
    50  32  commitment
    82   n  ciphertext, as long as the plaintext
  82+n  16  AES-256-GCM tag

Suite 1 is HKDF-Expand-SHA256 (RFC 5869, section 2.3) and AES-256-GCM (NIST SP 800-38D)::

    okm        = HKDF-Expand(PRK = data key, info = b"agent-storage/envelope/1" || header, L = 76)
    key        = okm[0:32]     commitment = okm[32:64]     nonce = okm[64:76]
    aad        = header || field(label) || field(user_id) || field(row_id) || field(name)
                 || field(destination)
    field(s)   = length of s in UTF-8, 4 bytes big-endian || s in UTF-8
    ciphertext || tag = AES-256-GCM(key, nonce, plaintext, aad)

Key and nonce follow from a fresh 256-bit salt, so no counter is kept and no caller can repeat a nonce. The
commitment is compared in constant time before anything is decrypted. Changing any of this means a new format
or suite byte, because values sealed by earlier releases are in people's databases.
"""

from __future__ import annotations

import os
from functools import cache
from hmac import compare_digest
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from storage.errors import InvalidInput, Tampered
from storage.identity import new_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

FORMAT: Final = 0xE1
"""First byte of every sealed value. Not valid as the first byte of ASCII, JSON, base64 or a Fernet token."""
SUITE: Final = 0x01

KEY_BYTES: Final = 32
"""Length of data keys and master keys: AES-256."""
KEY_ID_BYTES: Final = 16
SALT_BYTES: Final = 32
COMMITMENT_BYTES: Final = 32
"""256 bits, so that finding two keys with one commitment costs about 2**128 tries."""
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16

_INFO: Final = b"agent-storage/envelope/1"
_PREFIX: Final = bytes((FORMAT, SUITE))
_HEADER_BYTES: Final = len(_PREFIX) + KEY_ID_BYTES + SALT_BYTES
_BODY: Final = _HEADER_BYTES + COMMITMENT_BYTES
_DERIVED_BYTES: Final = KEY_BYTES + COMMITMENT_BYTES + NONCE_BYTES

KEPT_DERIVATIONS: Final = 32
"""Values whose derivation a data key in memory keeps, about 300 bytes each: a user's secrets are read at every request,
and deriving is half of what opening one costs."""

OVERHEAD_BYTES: Final = _BODY + TAG_BYTES
"""How much longer a sealed value is than its plaintext: 98 bytes."""


class SealContext(NamedTuple):
    """Where a secret belongs. A sealed value opens only in the context it was sealed in.

    Attributes:
        label: what kind of value it is, with a version: `custom_secret.value/1`. Not a table name, so that
            tables can be renamed.
        user_id: the owner, in its stored form.
        row_id: the id of the row that holds the value.
        name: what the user calls it, empty if it has no name.
        destination: the host or base URL that the secret is for, empty if it is for none.
    """

    label: str
    user_id: str
    row_id: str
    name: str = ""
    destination: str = ""


class DataKey:
    """A user's data key: its id, and 32 random bytes that show up in no `repr`, pickle or copy.

    What was derived from it for values that opened is kept with it, and goes when it goes.

    Raises:
        ValueError: an id that is not 16 bytes, or key material that is not 32.
    """

    __slots__ = ("_kept", "_material", "id")

    def __init__(self, key_id: bytes, material: bytes) -> None:
        if len(key_id) != KEY_ID_BYTES or len(material) != KEY_BYTES:
            raise ValueError(f"a data key has an id of {KEY_ID_BYTES} bytes and {KEY_BYTES} bytes of material")
        self.id = bytes(key_id)
        self._material = bytes(material)
        self._kept: dict[bytes, bytes] = {}

    @classmethod
    def generate(cls) -> DataKey:
        """A new key from the operating system's random generator, under a new UUIDv7."""
        return cls(new_id().bytes, os.urandom(KEY_BYTES))

    def reveal(self) -> bytes:
        """The key material, for wrapping it under a master key and for deriving from it; never to be kept."""
        return self._material

    def derive(self, header: bytes) -> bytes:
        """Key, commitment and nonce for the value with this header, one after the other: 76 bytes."""
        return self._kept.get(header) or _expanded(self._material, header)

    def keep(self, header: bytes, derived: bytes) -> None:
        """Remember what was derived for a value that has proved to be sealed under this key."""
        if header not in self._kept:
            if len(self._kept) >= KEPT_DERIVATIONS:
                self._kept.clear()  # atomic, unlike finding the oldest: values are opened on several threads
            self._kept[header] = derived

    def __repr__(self) -> str:
        return f"DataKey(id={self.id.hex()})"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a DataKey is never pickled or copied: hand the process a key provider instead")


def seal(key: DataKey, context: SealContext, plaintext: bytes) -> bytes:
    """`plaintext` sealed under `key` for `context`: 98 bytes longer, and different at every call.

    Raises:
        InvalidInput: a context field that UTF-8 cannot encode.
    """
    return _seal_with_salt(key, context, plaintext, os.urandom(SALT_BYTES))


def open_sealed(key: DataKey, context: SealContext, sealed: bytes) -> bytes:
    """The plaintext of `sealed`.

    Raises:
        Tampered: altered, truncated, sealed under another key or for another context, or not a value of
            format 1. Which of these it was is not told.
        InvalidInput: a context field that UTF-8 cannot encode.
    """
    if not is_sealed(sealed) or sealed[len(_PREFIX) : len(_PREFIX) + KEY_ID_BYTES] != key.id:
        raise _tampered(context)
    header = sealed[:_HEADER_BYTES]
    derived = key.derive(header)
    if not compare_digest(derived[KEY_BYTES:-NONCE_BYTES], sealed[_HEADER_BYTES:_BODY]):
        raise _tampered(context)
    associated = _associated_data(header, context)
    _, aead, invalid = _primitives()
    try:
        plaintext = aead(derived[:KEY_BYTES]).decrypt(derived[-NONCE_BYTES:], sealed[_BODY:], associated)
    except invalid:
        raise _tampered(context) from None
    key.keep(header, derived)
    return plaintext


def is_sealed(value: object) -> bool:
    """Whether `value` has the shape of format 1, suite 1, which says nothing about its authenticity."""
    return isinstance(value, bytes) and len(value) >= OVERHEAD_BYTES and value.startswith(_PREFIX)


def data_key_id_of(sealed: bytes) -> bytes:
    """The id (16 bytes) of the data key that `sealed` names; a claim until the value has been opened.

    Raises:
        Tampered: not a value of format 1, suite 1.
    """
    if not is_sealed(sealed):
        raise Tampered(
            "not a sealed value of format 1: it was altered or truncated, or never sealed. "
            "Restore it from a backup, or set the secret again"
        )
    return sealed[len(_PREFIX) : len(_PREFIX) + KEY_ID_BYTES]


# ---- below: suite 1


def _seal_with_salt(key: DataKey, context: SealContext, plaintext: bytes, salt: bytes) -> bytes:
    header = _PREFIX + key.id + salt
    derived = key.derive(header)
    cipher = _primitives()[1](derived[:KEY_BYTES])
    ciphertext = cipher.encrypt(derived[-NONCE_BYTES:], plaintext, _associated_data(header, context))
    return header + derived[KEY_BYTES:-NONCE_BYTES] + ciphertext


def _expanded(material: bytes, header: bytes) -> bytes:
    derived: bytes = _primitives()[0](_INFO + header).derive(material)
    return derived


def _associated_data(header: bytes, context: SealContext) -> bytes:
    parts = [header]
    try:
        for text in context:
            encoded = text.encode()
            parts.append(len(encoded).to_bytes(4, "big"))
            parts.append(encoded)
    except UnicodeEncodeError:
        raise InvalidInput(
            f"the place of a secret ({context.label}) contains a lone surrogate, which UTF-8 cannot encode"
        ) from None
    return b"".join(parts)


@cache
def _primitives() -> tuple[Callable[[bytes], Any], type[AESGCM], type[Exception]]:
    """HKDF-Expand, AES-GCM and what it raises; imported at the first secret, not at `import storage`."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

    sha256 = SHA256()
    return lambda info: HKDFExpand(sha256, _DERIVED_BYTES, info), AESGCM, InvalidTag


def _tampered(context: SealContext) -> Tampered:
    return Tampered(
        f"the sealed value {context.label} of row {context.row_id!r} cannot be opened: it was altered, "
        "belongs to another place, or was sealed under another key. Restore the row from a backup, or set "
        "the secret again"
    )
