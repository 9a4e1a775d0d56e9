"""NIST's AES-256-GCM vectors and RFC 5869's, through the code that seals secrets and wraps data keys."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from storage.errors import Tampered
from tests.encryption.vectors import (
    WRAPPED_KEY_BYTES,
    Vector,
    cases,
    expanded,
    nist,
    opened_as,
    sealed_as,
    unwrapped_as,
    wrapped_as,
)

ENCRYPT = "ciphers/AES/GCM/gcmEncryptExtIV256.rsp"
DECRYPT = "ciphers/AES/GCM/gcmDecrypt256.rsp"
FULL_TAG = 128


def vectors(path: str, *, full_tag: bool = True) -> list[Vector]:
    found = nist(path, nonce_bits=96)
    assert len(found) == 2625
    return [vector for bits, vector in found if (bits == FULL_TAG) == full_tag]


def test_the_envelope_seals_as_nist_says() -> None:
    chosen = vectors(ENCRYPT)
    for vector in chosen:
        assert vector.plaintext is not None
        assert sealed_as(vector, vector.plaintext) == vector.ciphertext + vector.tag, vector.name
        assert opened_as(vector) == vector.plaintext, vector.name
    assert len(chosen) == 375


def test_the_envelope_opens_what_nist_opens_and_nothing_else() -> None:
    chosen = vectors(DECRYPT)
    for vector in chosen:
        if vector.plaintext is None:
            with pytest.raises(Tampered):
                opened_as(vector)
        else:
            assert opened_as(vector) == vector.plaintext, vector.name
    assert len(chosen) == 375
    assert sum(vector.plaintext is None for vector in chosen) == 191


def test_a_shortened_tag_opens_nothing_even_where_it_is_right() -> None:
    chosen = vectors(DECRYPT, full_tag=False)
    for vector in chosen:
        with pytest.raises(Tampered):
            opened_as(vector)
        with pytest.raises(Tampered):
            unwrapped_as(vector)
    assert len(chosen) == 2250
    assert any(vector.plaintext for vector in chosen)


def test_master_keys_wrap_and_unwrap_as_nist_says() -> None:
    chosen = [vector for vector in vectors(ENCRYPT) if vector.plaintext and len(vector.plaintext) == WRAPPED_KEY_BYTES]
    for vector in chosen:
        assert vector.plaintext is not None
        assert wrapped_as(vector, vector.plaintext) == vector.ciphertext + vector.tag, vector.name
        assert unwrapped_as(vector) == vector.plaintext, vector.name
    assert len(chosen) == 75


def test_master_keys_unwrap_nothing_that_nist_refuses_or_that_is_no_data_key() -> None:
    chosen = vectors(DECRYPT)
    keys = [vector for vector in chosen if vector.plaintext and len(vector.plaintext) == WRAPPED_KEY_BYTES]
    for vector in keys:
        assert unwrapped_as(vector) == vector.plaintext, vector.name
    for vector in chosen:
        if vector not in keys:
            with pytest.raises(Tampered):
                unwrapped_as(vector)
    assert (len(chosen), len(keys)) == (375, 34)


@pytest.mark.parametrize(("path", "number"), [("rfc-5869-HKDF-SHA256.txt", 3), ("hkdf-generated.txt", 1)])
def test_keys_are_derived_as_rfc_5869_says(path: str, number: int) -> None:
    found = list(cases(f"KDF/{path}"))
    for case in found:
        salt, secret, info, okm = (bytes.fromhex(case[name]) for name in ("salt", "ikm", "info", "okm"))
        # The extract step has no place in the envelope: a data key is random already.
        key = hmac.digest(salt or bytes(32), secret, hashlib.sha256)
        assert key.hex() == case.get("prk", key.hex())
        # A shorter output is the beginning of a longer one, and the envelope always takes 76 bytes.
        length = min(len(okm), 76)
        assert expanded(key, info)[:length] == okm[:length]
    assert len(found) == number
