"""What the enterprise edition encrypted is told apart from plain text by its form; only the right secret opens it."""

from __future__ import annotations

import base64
import hashlib
import json
import pickle
from typing import Any

import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from storage.openhands.legacy_values import LegacyValues, secrets_in_key_file
from tests.openhands.conftest import UNHURRIED

# Made once, on another machine than these tests run on, by cryptography's Fernet and by joserfc, as OpenHands calls
# them: the token's time is 2023-11-14, the JWE's header names the key "k1".
GOLDEN_SECRET = SecretStr("example-jwt-secret-not-real")
GOLDEN_VALUE = "golden-value-not-real"
GOLDEN_TWICE = (
    "Z0FBQUFBQmxVX0VBTnJxSlJWZU4wLXR6QUhpbW02TFlfMllvWFhLOFVEZkloUWhaRXNDZGpwbDlLcWRHZWJKTE55eFl6Y0tpbEI5UkV3OU1BOEZJ"
    "RG5fTmxhbTg5NVlzQ18wbzNIQlBacVU1bmg2R25SakJoclE9"
)
GOLDEN_ONCE = (
    "gAAAAABlU_EANrqJRVeN0-tzAHimm6LY_2YoXXK8UDfIhQhZEsCdjpl9KqdGebJLNyxYzcKilB9REw9MA8FIDn_Nlam895YsC_0o3HBPZqU5nh6GnRjB"
    "hrQ="
)
GOLDEN_JWE = (
    "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIiwia2lkIjoiazEifQ..pVhph1nIOu8lIRpS.yGV5tuoGieG1uzLi3q5GwL6O3eDPBzinbZO-e8qDBe_"
    "Y_Ysv2bvzT-PYMLVkTbX3yA.9RNYi_xzVnyIJaJH43u95A"
)
GOLDEN_MARKED = f"gAAAA.jwt.{GOLDEN_JWE}"  # as the latest release has it inside of agent settings
GOLDEN = pytest.mark.parametrize(
    "token", [GOLDEN_TWICE, GOLDEN_ONCE, GOLDEN_JWE, GOLDEN_MARKED], ids=["twice", "once", "jwe", "marked"]
)


def digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def once(value: bytes | str, secret: str) -> str:
    data = value.encode() if isinstance(value, str) else value
    return Fernet(base64.urlsafe_b64encode(digest(secret))).encrypt(data).decode()


def twice(value: bytes | str, secret: str) -> str:
    return base64.b64encode(once(value, secret).encode()).decode()


def part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def jwe(claims: Any, secret: str, **header: str) -> str:
    protected = part(json.dumps({"alg": "dir", "enc": "A256GCM", "kid": "k", **header}).encode())
    nonce = bytes(range(12))
    sealed = AESGCM(digest(secret)).encrypt(nonce, json.dumps(claims).encode(), protected.encode())
    return f"{protected}..{part(nonce)}.{part(sealed[:-16])}.{part(sealed[-16:])}"


@GOLDEN
def test_a_token_of_openhands_is_opened_whenever_it_was_made(token: str) -> None:
    assert LegacyValues([GOLDEN_SECRET]).open(token) == GOLDEN_VALUE
    assert LegacyValues([GOLDEN_SECRET], plain_tokens=True).open(f"{token}\n") == GOLDEN_VALUE


@GOLDEN
def test_a_token_without_its_secret_is_not_taken_for_the_value(token: str) -> None:
    assert LegacyValues().open(token) is None
    assert LegacyValues([SecretStr("another")]).open(token) is None


@GOLDEN
def test_an_altered_token_is_not_opened(token: str) -> None:
    place = len(token) * 2 // 3
    altered = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
    assert LegacyValues([GOLDEN_SECRET]).open(altered) != GOLDEN_VALUE


def test_where_values_are_plain_a_token_of_another_system_is_one_but_not_one_in_base64_twice() -> None:
    values = LegacyValues([SecretStr("another")], plain_tokens=True)
    assert values.open(GOLDEN_ONCE) == GOLDEN_ONCE
    assert values.open(GOLDEN_JWE) == GOLDEN_JWE
    assert values.open(GOLDEN_TWICE) is None


def test_each_secret_is_tried_and_a_last_newline_matters_to_none() -> None:
    values = LegacyValues([SecretStr("new\n"), SecretStr("old")])
    assert [values.open(twice("x", secret)) for secret in ("new\n", "new", "old")] == ["x", "x", "x"]
    assert values.has_secret
    assert not LegacyValues([SecretStr("")]).has_secret


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "sk-not-real",
        "gAAAAABnot-a-token",
        "gAAAA",
        "gAAAAA==",
        base64.b64encode(b"gAAAAAbut too short").decode(),
        base64.b64encode(bytes(100)).decode(),
        GOLDEN_ONCE[:-4],  # cut off: no whole block
        "Bearer " + GOLDEN_ONCE,
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
        "a..b.c.d",
        GOLDEN_JWE.replace("..", ".x."),
        jwe({"v": "x"}, "s", alg="A256KW"),
        "é\N{GREEK SMALL LETTER ALPHA}",
        "\ud800",
    ],
)
def test_anything_else_is_a_plain_value_and_comes_back_as_it_is(value: str) -> None:
    assert LegacyValues([GOLDEN_SECRET]).open(value) == value
    assert LegacyValues().open(value) == value


def test_what_holds_no_text_is_not_opened() -> None:
    values = LegacyValues([SecretStr("s")])
    assert values.open(twice(b"\xff\xfe", "s")) is None
    assert values.open(jwe(["v"], "s")) is None
    assert values.open(jwe({"v": 1}, "s")) is None
    assert values.open(jwe({"w": "x"}, "s")) is None


@UNHURRIED
@given(st.text(), st.text(min_size=1))
def test_every_text_is_opened_whole(value: str, secret: str) -> None:
    value, secret = (text.encode("utf-8", "replace").decode() for text in (value, secret))
    values = LegacyValues([SecretStr(secret)])
    for token in (twice(value, secret), once(value, secret), jwe({"v": value, "iat": 1}, secret)):
        assert values.open(token) == value


@UNHURRIED
@given(st.text())
def test_no_text_makes_it_fail(value: str) -> None:
    assert LegacyValues().open(value) in (value, None)


def test_it_shows_no_secret_and_is_not_pickled() -> None:
    values = LegacyValues([GOLDEN_SECRET])
    assert repr(values) == "LegacyValues(1 keys)"
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(values)


def test_the_secrets_of_key_files_are_found() -> None:
    def found(name: str, data: bytes) -> list[str]:
        return [secret.get_secret_value() for secret in secrets_in_key_file(name, data)]

    assert found(".jwt_secret", b"abc\n") == ["abc\n"]
    assert found(".keys", b'[{"id": "1", "key": "a"}, {"id": "2", "key": "b", "active": false}, {"key": 3}, 4]') == [
        "a",
        "b",
    ]
    assert found(".keys", b"not JSON") == found(".keys", b"{}") == found(".keys", b"\xff") == []
