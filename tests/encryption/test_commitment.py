"""A ciphertext that opens under two keys is made, and the envelope opens it under one.

AES-GCM's tag is a polynomial of the ciphertext, so whoever knows two keys can solve for a block that makes one tag
right under both (Dodis, Grubbs, Ristenpart and Woodage, "Fast Message Franking", 2018; Len, Grubbs and Ristenpart,
"Partitioning Oracle Attacks", 2021). Such a value is one secret to one reader and another to the next, and lets many
keys be tried at once. The commitment, a hash of the key that cannot be solved for, ends that, and nothing else does.
"""

from __future__ import annotations

import os

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from storage.encryption import envelope
from storage.encryption.envelope import DataKey, SealContext, open_sealed
from storage.errors import Tampered

CONTEXT = SealContext("custom_secret.value/1", "alice", "018f2a9c-0000-7000-8000-000000000001", "TOKEN")
BLOCK = 16
REDUCTION = 0xE1 << 120
"""x^128 = x^7 + x^2 + x + 1, in the order of bits that GCM uses: the highest is the coefficient of x^0."""


def multiply(one: int, other: int) -> int:
    """The product of two blocks in GF(2^128); NIST SP 800-38D, algorithm 1."""
    product = 0
    for position in range(127, -1, -1):
        if one >> position & 1:
            product ^= other
        other = other >> 1 ^ (REDUCTION if other & 1 else 0)
    return product


def power(base: int, exponent: int) -> int:
    result = 1 << 127
    while exponent:
        if exponent & 1:
            result = multiply(result, base)
        base = multiply(base, base)
        exponent >>= 1
    return result


def inverse(block: int) -> int:
    return power(block, 2**128 - 2)


def blocks(data: bytes) -> list[int]:
    """The data in blocks, the last one filled up with zeros."""
    return [int.from_bytes(data[at : at + BLOCK].ljust(BLOCK, b"\0")) for at in range(0, len(data), BLOCK)]


def hashed(associated_data: bytes, ciphertext: bytes) -> list[int]:
    """The blocks that the tag is computed from."""
    lengths = (len(associated_data) * 8 << 64) | len(ciphertext) * 8
    return [*blocks(associated_data), *blocks(ciphertext), lengths]


class Opened:
    """AES-GCM under one key and nonce, taken apart: tag = mask + sum of block[i] * H^(number of blocks - i)."""

    def __init__(self, key: bytes, nonce: bytes) -> None:
        self._aes = Cipher(AES(key), ECB()).encryptor()
        self._nonce = nonce
        self.hash_key = self._encrypted(bytes(BLOCK))
        self.mask = self._encrypted(nonce + (1).to_bytes(4))

    def _encrypted(self, block: bytes) -> int:
        return int.from_bytes(self._aes.update(block))

    def keystream(self, index: int) -> int:
        return self._encrypted(self._nonce + (index + 2).to_bytes(4))

    def tag(self, associated_data: bytes, ciphertext: bytes) -> bytes:
        total = 0
        for block in hashed(associated_data, ciphertext):
            total = multiply(total ^ block, self.hash_key)
        return (total ^ self.mask).to_bytes(BLOCK)


def collision(one: Opened, other: Opened, associated_data: bytes, for_one: bytes, for_other: bytes) -> bytes:
    """Ciphertext and tag that are right under both: the first block reads `for_one`, the second `for_other`.

    The third is solved for. With the tags t1(C) = mask1 + sum of block[i] * H1^w[i], and t2 likewise, t1 = t2 says

        block[free] * (H1^w + H2^w) = mask1 + mask2 + sum over all others of block[i] * (H1^w[i] + H2^w[i]).
    """
    first = int.from_bytes(for_one) ^ one.keystream(0)
    second = int.from_bytes(for_other) ^ other.keystream(1)
    begun = first.to_bytes(BLOCK) + second.to_bytes(BLOCK)
    parts = hashed(associated_data, begun + bytes(BLOCK))
    weights = [power(one.hash_key, w) ^ power(other.hash_key, w) for w in range(len(parts), 0, -1)]
    free = len(parts) - 2  # the last block but the lengths
    right = one.mask ^ other.mask
    for block, weight in zip(parts, weights, strict=True):
        right ^= multiply(block, weight)  # the free block is still zero
    ciphertext = begun + multiply(right, inverse(weights[free])).to_bytes(BLOCK)
    return ciphertext + one.tag(associated_data, ciphertext)


FOR_ONE, FOR_OTHER = b"token of alice's", b"token of mallory"


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 48, 200])
def test_aes_gcm_taken_apart_gives_the_tags_of_the_real_one(length: int) -> None:
    key, nonce, associated, plaintext = os.urandom(32), os.urandom(12), os.urandom(length), os.urandom(length)
    sealed = AESGCM(key).encrypt(nonce, plaintext, associated)
    assert Opened(key, nonce).tag(associated, sealed[:-BLOCK]) == sealed[-BLOCK:]


def test_inverses_are_inverses() -> None:
    block = int.from_bytes(os.urandom(BLOCK)) | 1
    assert multiply(block, inverse(block)) == 1 << 127


def test_aes_gcm_alone_opens_one_ciphertext_under_two_keys() -> None:
    one, other, nonce, associated = os.urandom(32), os.urandom(32), os.urandom(12), b"the same place"
    made = collision(Opened(one, nonce), Opened(other, nonce), associated, FOR_ONE, FOR_OTHER)
    assert AESGCM(one).decrypt(nonce, made, associated)[:16] == FOR_ONE
    assert AESGCM(other).decrypt(nonce, made, associated)[16:32] == FOR_OTHER


def _taken_apart(key: DataKey, header: bytes) -> Opened:
    derived = envelope._primitives()[0](b"agent-storage/envelope/1" + header).derive(key.reveal())
    return Opened(derived[:32], derived[64:])


class TestInTheEnvelope:
    """Two data keys of one id, as after an exchange behind the owner's back, and a body that is right under both."""

    @pytest.fixture
    def one(self) -> DataKey:
        return DataKey.generate()

    @pytest.fixture
    def other(self, one: DataKey) -> DataKey:
        return DataKey(one.id, os.urandom(32))

    @pytest.fixture
    def header(self, one: DataKey) -> bytes:
        return bytes((envelope.FORMAT, envelope.SUITE)) + one.id + os.urandom(envelope.SALT_BYTES)

    @pytest.fixture
    def body(self, one: DataKey, other: DataKey, header: bytes) -> bytes:
        associated = envelope._associated_data(header, CONTEXT)
        body = collision(_taken_apart(one, header), _taken_apart(other, header), associated, FOR_ONE, FOR_OTHER)
        for key in (one, other):
            derived = key.derive(header)
            assert len(AESGCM(derived[:32]).decrypt(derived[64:], body, associated)) == 3 * BLOCK
        return body

    def test_the_commitment_decides_for_one_key(self, one: DataKey, other: DataKey, header: bytes, body: bytes) -> None:
        for mine, theirs, at, text in ((one, other, 0, FOR_ONE), (other, one, BLOCK, FOR_OTHER)):
            value = header + mine.derive(header)[32:64] + body
            assert open_sealed(mine, CONTEXT, value)[at : at + BLOCK] == text
            with pytest.raises(Tampered):
                open_sealed(theirs, CONTEXT, value)

    def test_a_commitment_that_is_partly_of_each_key_opens_under_neither(
        self, one: DataKey, other: DataKey, header: bytes, body: bytes
    ) -> None:
        first, second = one.derive(header)[32:64], other.derive(header)[32:64]
        for mixed in (first[:31] + second[31:], first[:16] + second[16:], bytes(32)):
            for key in (one, other):
                with pytest.raises(Tampered):
                    open_sealed(key, CONTEXT, header + mixed + body)

    def test_without_the_commitment_it_would_open_under_both(
        self, one: DataKey, other: DataKey, header: bytes, body: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(envelope, "compare_digest", lambda *_: True)
        value = header + bytes(32) + body
        assert open_sealed(one, CONTEXT, value)[:BLOCK] == FOR_ONE
        assert open_sealed(other, CONTEXT, value)[BLOCK : 2 * BLOCK] == FOR_OTHER
