"""Values that OpenHands' enterprise edition encrypted under its JWT secret, told apart from plain ones and opened.

A value's form alone says whether it is encrypted, so that without the right secret a ciphertext is never taken for
the secret that it hides.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any, Final, NoReturn

from pydantic import SecretStr

# A Fernet token (github.com/fernet/spec) is version 0x80, a 64-bit time of which the first bytes are zero until the
# year 2106, a 16-byte IV, at least one block of AES-128-CBC, and a 32-byte HMAC; in URL-safe base64.
_FERNET: Final = re.compile(r"gAAAA[A-Za-z0-9_-]+={0,2}")
_FERNET_VERSION: Final = 0x80
_FERNET_FRAME: Final = 1 + 8 + 16 + 32
_AES_BLOCK: Final = 16

# A JWE in compact form (RFC 7516, section 7.1) without an encrypted key, as `alg: dir` has none.
_JWE: Final = re.compile(r"([A-Za-z0-9_-]+)\.\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)\.([A-Za-z0-9_-]+)")
_JWE_ALGORITHMS: Final = ("dir", "A256GCM")
_JWE_CLAIM: Final = "v"  # the value is put under this claim
_JWE_MARK: Final = "gAAAA.jwt."  # what the latest release puts before those inside of agent settings and profiles
_GCM_NONCE: Final = 12
_GCM_TAG: Final = 16

_KEY_LIST: Final = ".keys"  # JSON: a list of objects with a `key`
KEY_FILES: Final = frozenset({".jwt_secret", _KEY_LIST})
"""Where a state directory keeps the secret when OpenHands' configuration names none; newer releases use both."""


class LegacyValues:
    """Opens what was encrypted under any of some JWT secrets; each secret is tried, the authentication decides.

    Three forms are known: a Fernet token in base64 once more (settings and custom secrets), a Fernet token as it is
    (tokens of git providers), and a JWE with A256GCM (newer releases), inside of JSON behind a mark. The key of each is
    the secret's SHA-256. How old a token is does not matter. Shows no secret in its repr, and cannot be pickled.

    Args:
        secrets: none if no secret is at hand; what is encrypted is still recognised then.
        plain_tokens: take the latter two forms for plain values when no secret opens them. Files hold plain values,
            and a user's own secret may be a token of another system's.
    """

    __slots__ = ("_keys", "_plain_tokens")

    def __init__(self, secrets: Iterable[SecretStr] = (), *, plain_tokens: bool = False) -> None:
        texts = [secret.get_secret_value() for secret in secrets]
        # A file's last newline belongs to the secret or not, depending on the release that read the file.
        digests = (hashlib.sha256(form.encode()).digest() for text in texts for form in (text, text.strip()) if form)
        self._keys = tuple(dict.fromkeys(digests))
        self._plain_tokens = plain_tokens

    @property
    def has_secret(self) -> bool:
        """Whether there is any secret to try."""
        return bool(self._keys)

    def open(self, value: str) -> str | None:
        """The value in clear: decrypted, or as it is when it is not encrypted.

        None when it is encrypted and no secret opens it: another secret's, altered, or not of text.
        """
        text = value.strip()
        inner = _unwrapped(text)
        if inner is not None:
            return self._fernet(inner)
        if _is_fernet(text):
            opened = self._fernet(text)
        elif (parts := _jwe_parts(text.removeprefix(_JWE_MARK))) is not None:
            opened = self._jwe(*parts)
        else:
            return value
        return value if opened is None and self._plain_tokens else opened

    def _fernet(self, token: str) -> str | None:
        from cryptography.fernet import Fernet, InvalidToken

        for key in self._keys:
            try:
                return Fernet(base64.urlsafe_b64encode(key)).decrypt(token).decode()
            except (InvalidToken, UnicodeDecodeError):
                continue
        return None

    def _jwe(self, header: bytes, nonce: bytes, sealed: bytes) -> str | None:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        for key in self._keys:
            try:
                claims = json.loads(AESGCM(key).decrypt(nonce, sealed, header))
            except (InvalidTag, ValueError, RecursionError):
                continue
            value = claims.get(_JWE_CLAIM) if isinstance(claims, dict) else None
            if isinstance(value, str):
                return value
        return None

    def __repr__(self) -> str:
        return f"LegacyValues({len(self._keys)} keys)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("LegacyValues holds keys and is never pickled")


def secrets_in_key_file(name: str, data: bytes) -> list[SecretStr]:
    """The secrets in one of KEY_FILES; none if it does not hold what it should."""
    if name != _KEY_LIST:
        return [SecretStr(data.decode("utf-8", "replace"))]
    try:
        entries: Any = json.loads(data)
    except (ValueError, RecursionError):
        return []
    keys = [entry.get("key") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return [SecretStr(key) for key in keys if isinstance(key, str)]


def _unwrapped(text: str) -> str | None:
    """The Fernet token that the text is the base64 of; None if it is not."""
    try:
        inner = base64.b64decode(text, validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        return None
    return inner if _is_fernet(inner) else None


def _is_fernet(text: str) -> bool:
    if _FERNET.fullmatch(text) is None:
        return False
    try:
        token = base64.urlsafe_b64decode(text)
    except binascii.Error:
        return False
    blocks, rest = divmod(len(token) - _FERNET_FRAME, _AES_BLOCK)
    return token[0] == _FERNET_VERSION and blocks >= 1 and rest == 0


def _jwe_parts(text: str) -> tuple[bytes, bytes, bytes] | None:
    """Header as it is authenticated, nonce, and ciphertext with tag; None if it is no JWE of the kind."""
    match = _JWE.fullmatch(text)
    if match is None:
        return None
    try:
        header = json.loads(_base64url(match[1]))
        nonce, ciphertext, tag = (_base64url(part) for part in match.groups()[1:])
    except (ValueError, RecursionError):  # binascii.Error and UnicodeDecodeError are ValueErrors
        return None
    if not isinstance(header, dict) or (header.get("alg"), header.get("enc")) != _JWE_ALGORITHMS:
        return None
    if len(nonce) != _GCM_NONCE or len(tag) != _GCM_TAG:
        return None
    return match[1].encode("ascii"), nonce, ciphertext + tag


def _base64url(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
