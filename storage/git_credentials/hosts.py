"""Whether the host that git speaks to is the one that a token is for: the same name and the same port, or it is not."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, Self

_STORED: Final = re.compile(
    r"""
    (?: (?P<scheme> https? ) :// )?
    (?P<name> \[ [0-9a-f:.]+ \] | [^\s\x00-\x20/\\@:?\#%\[\]]+ )
    (?P<port> : [0-9]+ )?
    (?: / .* )?
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
"""A host as people store it: `git.example.com`, `git.example.com:8443`, `https://git.example.com/api/v4`."""


@dataclass(frozen=True)
class Host:
    """The host that a token is for.

    Attributes:
        name: as git writes it, with the port if one is given; ASCII letters in lower case.
        encrypted_only: the stored host says `https://`, so the token goes over nothing else.
    """

    name: str
    encrypted_only: bool = False

    @classmethod
    def stored(cls, text: str) -> Self | None:
        """The host of a stored token; None for what cannot be compared without a guess: one with a user name in it."""
        found = _STORED.fullmatch(text.strip())
        if found is None:
            return None
        encrypted_only = (found["scheme"] or "").lower() == "https"
        return cls(_lowered(found["name"] + (found["port"] or "")), encrypted_only)

    def is_that_of(self, host: str) -> bool:
        """Whether a request's host is this one.

        The port has to be the same as well, also where it is the protocol's own. Nothing is taken off the request's
        host and nothing is translated: a trailing dot, a user name, an escape or the punycode of a name makes it
        another one.
        """
        return _lowered(host) == self.name


def is_loopback(host: str) -> bool:
    """Whether what is sent to the host stays on this machine."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def _lowered(host: str) -> str:
    # Only ASCII: str.lower() makes letters of other alphabets (the Kelvin sign) equal to Latin ones.
    return host.encode().lower().decode()
