"""Signatures of Standard Webhooks 1.0: what says that a request is from here, is whole, and is not an old one again.

They are over the exact bytes that are sent: whoever verifies must do so before parsing them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import math
import re
import secrets as random_source
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from storage.clock import now as clock_now
from storage.errors import InvalidInput, SignatureInvalid

PREFIX: Final = "whsec_"
"""Of a symmetric secret in text form (Standard Webhooks 1.0, "Signature scheme")."""

NEW_SECRET_BYTES: Final = 32
"""As long as the output of SHA-256: HMAC gains nothing from more (RFC 2104 section 3)."""

SECRET_BYTES: Final = range(24, 64 + 1)
"""Standard Webhooks 1.0: a secret has between 24 and 64 bytes."""

TOLERANCE_SECONDS: Final = 300.0
"""How far a request's time may be from the receiver's: clocks differ, and what is older may be a recording."""

ID: Final = "webhook-id"
TIMESTAMP: Final = "webhook-timestamp"
SIGNATURE: Final = "webhook-signature"

_VERSION: Final = "v1,"
"""HMAC-SHA256. Other versions (`v1a`: ed25519) may stand beside it and are passed over."""

_SECONDS: Final = re.compile(r"[0-9]{1,12}", re.ASCII)
"""What a time of day can be, in seconds since 1970; more digits are no time that a datetime could hold."""


def new_secret() -> str:
    """A new secret: `whsec_` and 32 random bytes in base64."""
    return PREFIX + base64.b64encode(random_source.token_bytes(NEW_SECRET_BYTES)).decode()


def checked_secret(text: str) -> str:
    """The secret, as it was given.

    Raises:
        InvalidInput: it is not `whsec_` and 24 to 64 bytes in base64. The message does not repeat it.
    """
    _key(text)
    return text


def signature_headers(secrets: Sequence[str], message_id: str, timestamp: datetime, body: bytes) -> dict[str, str]:
    """The three headers of one attempt; without secrets the two that identify it.

    Args:
        secrets: `whsec_…`; each signs, so that a receiver may verify with any of them while one replaces another.
        message_id: the same on every attempt. It is signed with a `.` after it, so it must hold none.
        timestamp: of the attempt; aware, in any zone; sent in whole seconds, rounded down.
        body: exactly what is sent.

    Raises:
        InvalidInput: a secret that `checked_secret` refuses, a naive timestamp, or such an id.
    """
    if timestamp.tzinfo is None:
        raise InvalidInput("the timestamp of a signature must be aware, for example datetime.now(UTC)")
    if not message_id or "." in message_id:
        raise InvalidInput(f"{message_id!r} cannot be the id of a message: it must not be empty and must hold no '.'")
    seconds = str(math.floor(timestamp.timestamp()))
    headers = {ID: message_id, TIMESTAMP: seconds}
    if secrets:
        headers[SIGNATURE] = " ".join(_signature(_key(secret), message_id, seconds, body) for secret in secrets)
    return headers


def verify(
    secrets: Sequence[str],
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: datetime | None = None,
    tolerance_seconds: float = TOLERANCE_SECONDS,
) -> str:
    """The id of the message, once one of the secrets is shown to have signed it a short time ago.

    Deliveries are repeated where their answer was lost: a receiver that remembers the ids it has handled handles
    nothing twice. The comparison takes as long whether and wherever the signatures differ.

    Args:
        secrets: `whsec_…`; one of them must have signed.
        headers: of the request; names in any case.
        body: its bytes, as they came.
        now: the receiver's time, aware; the clock's if None.
        tolerance_seconds: how far `webhook-timestamp` may be from it, to either side.

    Raises:
        SignatureInvalid: a header is missing or malformed, the time is too far off, or no secret signed these bytes.
        InvalidInput: no secrets at all, a secret that `checked_secret` refuses, or a naive `now`.
    """
    if not secrets:
        raise InvalidInput("there is no secret to verify a signature with; give the endpoint's whsec_… secret")
    if now is not None and now.tzinfo is None:
        raise InvalidInput("now must be aware, for example datetime.now(UTC)")
    keys = [_key(secret) for secret in secrets]
    found = {name.lower(): value for name, value in headers.items()}
    missing = [name for name in (ID, TIMESTAMP, SIGNATURE) if not found.get(name)]
    if missing:
        raise SignatureInvalid(f"the request is not signed: it has no {' and no '.join(missing)} header")
    id_, seconds = found[ID], found[TIMESTAMP]
    if "." in id_:
        # What is signed is id.time.body: with a dot in the id the same bytes could be told apart in two ways.
        raise SignatureInvalid(f"{ID} holds a '.'")
    if not _SECONDS.fullmatch(seconds):
        raise SignatureInvalid(f"{TIMESTAMP} is not a number of seconds since 1970")
    off = (now or clock_now()).timestamp() - int(seconds)
    if not abs(off) <= tolerance_seconds:
        side = "ago" if off > 0 else "ahead"
        raise SignatureInvalid(
            f"{TIMESTAMP} is {abs(off):.0f} seconds {side}, and at most {tolerance_seconds:g} are accepted; compare the"
            " clocks of both ends"
        )
    given = [_bytes(item) for item in found[SIGNATURE].split(" ") if item.startswith(_VERSION)]
    matches = 0
    for key in keys:
        expected = _signature(key, id_, seconds, body).encode()
        for item in given:
            matches |= hmac.compare_digest(expected, item)
    if not matches:
        raise SignatureInvalid(
            "no signature of the request is by a secret of this receiver over exactly this body; compare the secrets,"
            " and verify the bytes as they came, not parsed and written again"
        )
    return id_


def _key(secret: str) -> bytes:
    if not secret.startswith(PREFIX):
        raise InvalidInput(f"a secret of web hooks begins with {PREFIX}; leave it out to have one made")
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(
            f"what follows {PREFIX} in a secret of web hooks must be base64, with its padding"
        ) from error
    if len(key) not in SECRET_BYTES:
        raise InvalidInput(
            f"a secret of web hooks is {SECRET_BYTES.start} to {SECRET_BYTES.stop - 1} bytes in base64, not {len(key)}"
        )
    return key


def _signature(key: bytes, message_id: str, seconds: str, body: bytes) -> str:
    signer = hmac.new(key, _bytes(f"{message_id}.{seconds}."), hashlib.sha256)
    signer.update(body)
    return _VERSION + base64.b64encode(signer.digest()).decode()


def _bytes(text: str) -> bytes:
    """Of a header, which servers decode by rules of their own; whatever they made of it can be compared."""
    return text.encode(errors="surrogatepass")
