"""Published test vectors, led through the code that seals people's secrets, and how their files are read.

That code derives keys and nonces itself and takes neither from a caller. So a vector's key, nonce and associated data
are put in where the derived ones would be; everything else is what runs in production.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import cryptography_vectors

from storage.encryption import envelope
from storage.encryption.envelope import KEY_ID_BYTES, DataKey, SealContext, open_sealed
from storage.encryption.providers.local_keys import MasterKey

CONTEXT = SealContext("vector/1", "alice", "1")
KEY_ID = bytes(KEY_ID_BYTES)
MATERIAL = bytes(range(32))
SALT = bytes(32)
COMMITMENT = bytes(range(64, 96))
HEADER_AND_COMMITMENT = b"\xe1\x01" + KEY_ID + SALT + COMMITMENT
WRAPPED_KEY_BYTES = 32
"""Length of the one plaintext that is ever wrapped under a master key."""


@dataclass(frozen=True)
class Vector:
    """One AES-GCM case; `plaintext` is None where decryption must fail."""

    name: str
    key: bytes
    nonce: bytes
    associated_data: bytes
    ciphertext: bytes
    tag: bytes
    plaintext: bytes | None


class _Given:
    """Stands in for HKDFExpand, with its result known."""

    def __init__(self, derived: bytes) -> None:
        self.derived = derived

    def derive(self, key_material: bytes) -> bytes:
        assert key_material == MATERIAL
        return self.derived


def sealed_as(vector: Vector, plaintext: bytes) -> bytes:
    """Ciphertext and tag that the envelope makes of `plaintext` under the vector's key, nonce and associated data."""
    with _fed(vector):
        value = envelope._seal_with_salt(DataKey(KEY_ID, MATERIAL), CONTEXT, plaintext, SALT)
    assert value.startswith(HEADER_AND_COMMITMENT)
    return value.removeprefix(HEADER_AND_COMMITMENT)


def opened_as(vector: Vector) -> bytes:
    """What the envelope opens of the vector's ciphertext and tag; raises Tampered."""
    with _fed(vector):
        return open_sealed(DataKey(KEY_ID, MATERIAL), CONTEXT, HEADER_AND_COMMITMENT + vector.ciphertext + vector.tag)


def _fed(vector: Vector) -> Any:
    _, aead, invalid = envelope._primitives()
    derived = vector.key + COMMITMENT + vector.nonce
    return patch.multiple(
        envelope,
        _primitives=lambda: (lambda _info: _Given(derived), aead, invalid),
        _associated_data=lambda _header, _context: vector.associated_data,
    )


def wrapped_as(vector: Vector, plaintext: bytes) -> bytes:
    """Ciphertext and tag that a master key makes of a data key's 32 bytes."""
    with patch("os.urandom", lambda _size: vector.nonce):
        wrapped = MasterKey(vector.key).wrap(plaintext, vector.associated_data)
    assert wrapped.startswith(b"\x01" + vector.nonce)
    return wrapped[1 + len(vector.nonce) :]


def unwrapped_as(vector: Vector) -> bytes:
    """What a master key unwraps of the vector; raises Tampered."""
    wrapped = b"\x01" + vector.nonce + vector.ciphertext + vector.tag
    return MasterKey(vector.key).unwrap(wrapped, vector.associated_data)


def expanded(key: bytes, info: bytes) -> bytes:
    """The 76 bytes that the envelope's HKDF-Expand makes of a pseudorandom key."""
    expand, _, _ = envelope._primitives()
    derived: bytes = expand(info).derive(key)
    return derived


# ---- NIST's and the RFC's files


def cases(path: str) -> Iterator[dict[str, str]]:
    """The cases of one of `cryptography_vectors`' files: `name = value` lines after `COUNT = n`, and a bare FAIL.

    A line in brackets, `[Taglen = 128]`, holds for all cases up to the next one of that name.
    """
    with cryptography_vectors.open_vector_file(path, "r") as file:
        lines: list[str] = file.read().splitlines()
    section: dict[str, str] = {}
    case: dict[str, str] = {}
    for line in lines:
        name, _, value = (part.strip() for part in line.strip("[]").partition("="))
        if not name or name.startswith("#"):
            continue
        if line.startswith("["):
            section[name.lower()] = value
            continue
        if name.lower() == "count":
            if case:
                yield case
            case = dict(section)
        case[name.lower()] = value
    if case:
        yield case


def nist(path: str, *, nonce_bits: int) -> list[tuple[int, Vector]]:
    """(bits of the tag, vector) of the AES-GCM cases with this length of nonce in a file of NIST's."""
    return [(int(case["taglen"]), _vector(case)) for case in cases(path) if int(case["ivlen"]) == nonce_bits]


def _vector(case: Mapping[str, str]) -> Vector:
    lengths = f"PT {case['ptlen']}, AAD {case['aadlen']}, tag {case['taglen']}, count {case['count']}"
    parts = {name: bytes.fromhex(case[name]) for name in ("key", "iv", "aad", "ct", "tag")}
    plaintext = None if "fail" in case else bytes.fromhex(case["pt"])
    return Vector(lengths, parts["key"], parts["iv"], parts["aad"], parts["ct"], parts["tag"], plaintext)
