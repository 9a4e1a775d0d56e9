"""What git asks a credential helper, and how it is answered: lines of `key=value` (see git-credential(1)).

The lines are made from addresses that other people write, into submodules or a redirect. A value that smuggles a line
break in is how tokens were sent to strangers (CVE-2020-5260, CVE-2020-11008, CVE-2024-52006), so nothing here is
guessed: what git itself would not have sent is refused as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from pydantic import SecretStr

from storage.errors import InvalidInput

MAX_REQUEST_BYTES: Final = 1024 * 1024
"""Far above what git sends, the WWW-Authenticate headers of a server included; a helper that reads on without end would
be a way to exhaust a machine."""

_FORBIDDEN: Final = (b"\r", b"\0")
"""A newline ends a value, so it cannot be in one. What stops at NUL or takes a carriage return for the end of a line
would see another host than the one that was judged."""

_ONCE: Final = frozenset({"protocol", "host", "username", "password", "password_expiry_utc", "ephemeral"})
_URL: Final = "url"
_FALSE: Final = frozenset({"", "0", "false", "no", "off"})
"""How git's own configuration says no (git-config(1), boolean)."""


@dataclass(frozen=True)
class CredentialRequest:
    """What git wants a credential for, or has tried one on.

    Attributes:
        protocol: `https`, `http`, or another one that is none of ours (`cert`, `smtp`).
        host: as it stands in the address, with its port; empty if none is named.
        username: the one in the address, or the one that was tried.
        password: the one that was tried.
        lasting: whether the password may be kept: it does not expire, and nobody said that it is not to be stored.
    """

    protocol: str
    host: str
    username: str | None = None
    password: SecretStr | None = None
    lasting: bool = True


@dataclass(frozen=True)
class Credential:
    """What git sends to the host."""

    username: str
    password: SecretStr


def read_request(stream: BinaryIO) -> CredentialRequest:
    """The request, up to an empty line or the end of the stream.

    Keys that are not known, and those that end in `[]`, mean nothing to a store of tokens and are passed over.

    Raises:
        InvalidInput: it is not what git sends: too long, a line without `=`, NUL or a carriage return in it, a key
            twice, bytes that are no UTF-8, `url`, or no protocol. The message quotes no value.
    """
    values: dict[str, str] = {}
    for key, value in _pairs(stream):
        if key == _URL:
            raise InvalidInput("git takes `url` apart before it asks a helper; send protocol and host")
        if key not in _ONCE:
            continue
        if key in values:
            raise InvalidInput(f"the request says twice what {key} is")
        values[key] = value
    protocol = values.get("protocol")
    if not protocol:
        raise InvalidInput("the request names no protocol")
    host = values.get("host", "")
    if protocol in {"https", "http"} and not host:
        raise InvalidInput("the request names no host")
    password = values.get("password")
    return CredentialRequest(
        protocol=protocol,
        host=host,
        username=values.get("username") or None,
        password=SecretStr(password) if password else None,
        lasting=not values.get("password_expiry_utc") and values.get("ephemeral", "").lower() in _FALSE,
    )


def response(credential: Credential) -> bytes:
    """The lines that git reads. They name no host: whom the answer goes to is git's to know.

    Raises:
        InvalidInput: user name or password has a line break or NUL in it, which would be read as another line.
    """
    lines = {"username": credential.username, "password": credential.password.get_secret_value()}
    for key, value in lines.items():
        if any(sign in value for sign in "\n\r\0"):
            raise InvalidInput(
                f"the stored {key} has a line break or NUL in it and cannot be given to git; set it again"
            )
    return "".join(f"{key}={value}\n" for key, value in lines.items()).encode()


def _pairs(stream: BinaryIO) -> Iterator[tuple[str, str]]:
    left = MAX_REQUEST_BYTES
    while (line := stream.readline(left + 1)) not in (b"", b"\n"):
        left -= len(line)
        if left < 0:
            raise InvalidInput(f"the request has more than {MAX_REQUEST_BYTES} bytes")
        key, equals, value = line.removesuffix(b"\n").partition(b"=")
        if any(sign in line for sign in _FORBIDDEN):
            raise InvalidInput("the request has NUL or a carriage return in it")
        if not key or not equals:
            raise InvalidInput("the request has a line that is not key=value")
        yield _text(key), _text(value)


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        pass
    # Raised out here: the original holds the bytes.
    raise InvalidInput("the request is not UTF-8 text")
