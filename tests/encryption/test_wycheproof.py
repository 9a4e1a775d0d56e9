"""Project Wycheproof's AES-GCM and HKDF-SHA256 vectors, through the code that seals secrets.

They cover what went wrong in real implementations: counters that wrap, tags that are nearly right, odd nonces.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag

from storage.encryption import envelope
from storage.encryption.envelope import KEY_BYTES, NONCE_BYTES
from storage.errors import Tampered
from tests.encryption.vectors import (
    Vector,
    expanded,
    opened_as,
    sealed_as,
)

FOLDER = Path(__file__).parents[2].parent / "shared" / "vectors"
AES_GCM = FOLDER / "wycheproof_aes_gcm_test.json"
HKDF = FOLDER / "wycheproof_hkdf_sha256_test.json"

needs_aes_gcm = pytest.mark.skipif(not AES_GCM.exists(), reason=f"Wycheproof's AES-GCM vectors are not at {AES_GCM}")
needs_hkdf = pytest.mark.skipif(not HKDF.exists(), reason=f"Wycheproof's HKDF vectors are not at {HKDF}")

LONGEST_OUTPUT = 255 * hashlib.sha256().digest_size
"""RFC 5869, section 2.3."""


def cases(path: Path) -> list[dict[str, Any]]:
    groups = json.loads(path.read_text())["testGroups"]
    return [test for group in groups for test in group["tests"]]


def vector(test: dict[str, Any]) -> Vector:
    key, nonce, associated, ciphertext, tag, message = (
        bytes.fromhex(test[name]) for name in ("key", "iv", "aad", "ct", "tag", "msg")
    )
    return Vector(str(test["tcId"]), key, nonce, associated, ciphertext, tag, message if is_valid(test) else None)


def is_valid(test: dict[str, Any]) -> bool:
    assert test["result"] in {"valid", "invalid"}
    return bool(test["result"] == "valid")


def fits(found: Vector) -> bool:
    """Whether it is AES-256 with a 96-bit nonce, as everything that is sealed or wrapped here."""
    return (len(found.key), len(found.nonce)) == (KEY_BYTES, NONCE_BYTES)


@needs_aes_gcm
def test_all_of_the_316_cases_are_decided_as_wycheproof_says_but_27_that_are_valid_and_refused() -> None:
    _, aead, invalid = envelope._primitives()
    assert invalid is InvalidTag
    outcomes: Counter[tuple[bool, str]] = Counter()
    refused: list[dict[str, Any]] = []
    for test in cases(AES_GCM):
        case, message = vector(test), bytes.fromhex(test["msg"])
        whole = case.ciphertext + case.tag
        try:
            sealed = aead(case.key).encrypt(case.nonce, message, case.associated_data)
        except ValueError:
            with pytest.raises(ValueError, match=r"(?i)nonce"):
                aead(case.key).decrypt(case.nonce, whole, case.associated_data)
            outcomes[is_valid(test), "nonce refused"] += 1
            refused.append(test)
            continue
        if is_valid(test):
            assert sealed == whole, test["tcId"]
            assert aead(case.key).decrypt(case.nonce, whole, case.associated_data) == message, test["tcId"]
            outcomes[True, "opened"] += 1
        else:
            with pytest.raises(InvalidTag):
                aead(case.key).decrypt(case.nonce, whole, case.associated_data)
            outcomes[False, "tag refused"] += 1
    assert outcomes == {
        (True, "opened"): 202,
        (True, "nonce refused"): 27,
        (False, "tag refused"): 81,
        (False, "nonce refused"): 6,
    }
    reasons = Counter((flag, is_valid(test)) for test in refused for flag in test["flags"])
    assert reasons == {("SmallIv", True): 24, ("LongIv", True): 3, ("ZeroLengthIv", False): 6}
    assert {len(vector(test).nonce) for test in refused} == {0, 1, 2, 4, 6, 257}


@needs_aes_gcm
def test_the_envelope_seals_and_opens_as_wycheproof_says() -> None:
    outcomes: Counter[bool] = Counter()
    for test in cases(AES_GCM):
        case = vector(test)
        if not fits(case):
            continue
        if case.plaintext is None:
            with pytest.raises(Tampered):
                opened_as(case)
        else:
            assert sealed_as(case, case.plaintext) == case.ciphertext + case.tag, test["tcId"]
            assert opened_as(case) == case.plaintext, test["tcId"]
        outcomes[is_valid(test)] += 1
    assert outcomes == {True: 39, False: 27}


@needs_hkdf
def test_keys_are_derived_as_wycheproof_says() -> None:
    outcomes: Counter[str] = Counter()
    for test in cases(HKDF):
        if not is_valid(test):
            # More than HKDF can give. The envelope asks for 76 bytes, whatever it seals.
            assert test["size"] > LONGEST_OUTPUT
            outcomes["too long"] += 1
            continue
        secret, salt, info, okm = (bytes.fromhex(test[name]) for name in ("ikm", "salt", "info", "okm"))
        assert len(okm) == test["size"]
        key = hmac.digest(salt or bytes(32), secret, hashlib.sha256)
        # A shorter output is the beginning of a longer one.
        assert expanded(key, info)[: test["size"]] == okm[:76], test["tcId"]
        outcomes["derived"] += 1
    assert outcomes == {"derived": 83, "too long": 3}
