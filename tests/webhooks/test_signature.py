"""Signatures against the independent package, which verifies, and against a receiver's mistakes and enemies."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from storage.clock import now
from storage.errors import InvalidInput, SignatureInvalid
from storage.webhooks.sending.signature import checked_secret, new_secret, signature_headers, verify

SECRET: Final = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER: Final = "whsec_" + base64.b64encode(bytes(range(64))).decode()
MESSAGE_ID: Final = "0198f0a4-3c70-7000-8000-000000000001"
BODY: Final = '{"type":"file.written","data":{"path":"a/é😀.txt"}}'.encode()
NOON: Final = datetime(2026, 5, 1, 12, 0, 0, 999_999, tzinfo=UTC)


def of(size: int) -> str:
    return "whsec_" + base64.b64encode(bytes(size)).decode()


def signed(*secrets: str, at: datetime = NOON, body: bytes = BODY) -> dict[str, str]:
    return signature_headers(secrets or (SECRET,), MESSAGE_ID, at, body)


def test_the_headers_are_those_of_the_specification() -> None:
    seconds = int(NOON.timestamp())
    digest = hmac.new(bytes(range(32)), f"{MESSAGE_ID}.{seconds}.".encode() + BODY, hashlib.sha256).digest()
    assert signed() == {
        "webhook-id": MESSAGE_ID,
        "webhook-timestamp": str(seconds),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


@pytest.mark.parametrize(
    "zone", [UTC, timezone(timedelta(hours=5, minutes=45)), timezone(timedelta(hours=-8))], ids=["utc", "east", "west"]
)
def test_the_independent_package_accepts_what_is_signed_in_any_zone(zone: timezone) -> None:
    headers = signed(SECRET, at=now().astimezone(zone))
    assert Webhook(SECRET).verify(BODY, headers)["type"] == "file.written"


def test_while_a_secret_is_replaced_both_verify() -> None:
    headers = signed(SECRET, OTHER, at=now())
    assert len(headers["webhook-signature"].split(" ")) == 2
    for secret in (SECRET, OTHER):
        Webhook(secret).verify(BODY, headers)
        assert verify([secret], headers, BODY) == MESSAGE_ID
    with pytest.raises(WebhookVerificationError):
        Webhook(of(32)).verify(BODY, headers)


@given(body=st.text().map(str.encode))
def test_the_independent_package_accepts_any_text(body: bytes) -> None:
    secret = new_secret()
    Webhook(secret).verify(body, signed(secret, at=now(), body=body), json_parse=False)


@given(body=st.binary(), offset=st.integers(-300, 300))
def test_what_is_signed_is_verified_whatever_the_bytes(body: bytes, offset: int) -> None:
    headers = signed(SECRET, at=NOON, body=body)
    at = NOON.replace(microsecond=0) + timedelta(seconds=offset)
    assert verify([OTHER, SECRET], headers, body, now=at) == MESSAGE_ID


@given(body=st.binary(min_size=1), data=st.data())
def test_one_changed_bit_is_noticed(body: bytes, data: st.DataObject) -> None:
    headers = signed(SECRET, body=body)
    place = data.draw(st.integers(0, len(body) * 8 - 1))
    changed = bytearray(body)
    changed[place // 8] ^= 1 << place % 8
    with pytest.raises(SignatureInvalid):
        verify([SECRET], headers, bytes(changed), now=NOON)


def test_names_of_headers_are_read_in_any_case() -> None:
    headers = {name.title(): value for name, value in signed().items()}
    assert verify([SECRET], headers, BODY, now=NOON) == MESSAGE_ID


def test_signatures_of_other_versions_are_passed_over() -> None:
    headers = signed()
    headers["webhook-signature"] = f"v1a,AAAA {headers['webhook-signature']} v2,é v1"
    assert verify([SECRET], headers, BODY, now=NOON) == MESSAGE_ID


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_missing_or_empty_header_is_named(name: str) -> None:
    headers = signed()
    with pytest.raises(SignatureInvalid, match=name):
        verify([SECRET], {**headers, name: ""}, BODY, now=NOON)
    del headers[name]
    with pytest.raises(SignatureInvalid, match=name):
        verify([SECRET], headers, BODY, now=NOON)


@pytest.mark.parametrize("seconds", ["-1", "1e9", "1777636800.5", " 1777636800", "nan", "²", "9" * 13, "9" * 5000])
def test_a_time_that_is_no_number_of_seconds_is_refused(seconds: str) -> None:
    with pytest.raises(SignatureInvalid, match="webhook-timestamp"):
        verify([SECRET], {**signed(), "webhook-timestamp": seconds}, BODY, now=NOON)


@pytest.mark.parametrize(("seconds", "side"), [(301, "ago"), (-301, "ahead")], ids=["old", "future"])
def test_what_was_signed_at_another_time_is_refused(seconds: int, side: str) -> None:
    at = NOON.replace(microsecond=0) + timedelta(seconds=seconds)
    with pytest.raises(SignatureInvalid, match=f"301 seconds {side}"):
        verify([SECRET], signed(), BODY, now=at)
    assert verify([SECRET], signed(), BODY, now=at, tolerance_seconds=301) == MESSAGE_ID


@pytest.mark.parametrize("signature", ["v1,", "v1", "v1,!", "v1,AAAA", "v2,x", " ", "v1,ÿ\udcff", "v1a,x v1,"])
def test_a_malformed_signature_is_no_signature(signature: str) -> None:
    with pytest.raises(SignatureInvalid):
        verify([SECRET], {**signed(), "webhook-signature": signature}, BODY, now=NOON)


def test_time_and_id_are_signed_too() -> None:
    for change in ({"webhook-id": "another"}, {"webhook-timestamp": str(int(NOON.timestamp()) + 1)}):
        with pytest.raises(SignatureInvalid):
            verify([SECRET], {**signed(), **change}, BODY, now=NOON)


def test_a_body_cannot_pass_for_a_part_of_the_id() -> None:
    seconds = str(int(NOON.timestamp()))
    body = f"{seconds}.rest".encode()
    headers = signed(body=body)
    shifted = {**headers, "webhook-id": f"{MESSAGE_ID}.{seconds}", "webhook-timestamp": seconds}
    with pytest.raises(SignatureInvalid, match=r"holds a '\.'"):
        verify([SECRET], shifted, b"rest", now=NOON)
    for bad in ("a.b", ""):
        with pytest.raises(InvalidInput, match="id of a message"):
            signature_headers([SECRET], bad, NOON, b"")


def test_without_a_secret_nothing_is_signed_and_nothing_verified() -> None:
    headers = signature_headers([], MESSAGE_ID, NOON, BODY)
    assert set(headers) == {"webhook-id", "webhook-timestamp"}
    with pytest.raises(SignatureInvalid, match="not signed"):
        verify([SECRET], headers, BODY, now=NOON)
    with pytest.raises(InvalidInput, match="no secret"):
        verify([], signed(), BODY, now=NOON)


def test_a_time_without_a_zone_is_refused() -> None:
    naive = datetime(2026, 5, 1)  # noqa: DTZ001 - what is refused
    with pytest.raises(InvalidInput, match="aware"):
        signed(at=naive)
    with pytest.raises(InvalidInput, match="aware"):
        verify([SECRET], signed(), BODY, now=naive)


def test_a_new_secret_has_32_bytes_and_is_never_the_same() -> None:
    one, another = new_secret(), new_secret()
    assert one != another
    assert checked_secret(one) == one
    assert len(base64.b64decode(one.removeprefix("whsec_"), validate=True)) == 32


@pytest.mark.parametrize("size", [24, 32, 64])
def test_secrets_of_24_to_64_bytes_are_taken(size: int) -> None:
    assert checked_secret(of(size)) == of(size)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "whsec_",
        of(23),
        of(65),
        of(32).removeprefix("whsec_"),
        f" {of(32)}",
        f"{of(32)}\n",
        of(32).rstrip("="),
        "whsec_" + "-_" * 20,
        "whsec_" + "é" * 32,
        "whsk_" + "A" * 32,
    ],
    ids=["empty", "prefix", "short", "long", "bare", "space", "line", "unpadded", "urlsafe", "unicode", "private"],
)
def test_another_secret_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        checked_secret(text)
    told = text.removeprefix("whsec_").strip()
    assert not told or told not in str(caught.value)
