"""Who a row belongs to and how rows of our own are named.

Every table's key starts with the user, so the rule for user ids lives below all features.
"""

from __future__ import annotations

import sys
import uuid

from storage.errors import InvalidInput

LOCAL_USER = "local"
"""How the one user of a desktop install is stored: callers may pass None for it."""

MAX_ID_BYTES = 255
"""Longest user or conversation id, in bytes of UTF-8: fits a B-tree key on both databases and a file name."""


def user_key(user_id: str | None) -> str:
    """The stored form of a user id; None is the local user.

    Raises:
        InvalidInput: empty, longer than 255 bytes, or with control characters.
    """
    if user_id is None:
        return LOCAL_USER
    return checked_id("user_id", user_id)


def checked_id(field: str, value: str) -> str:
    """`value` itself if it can serve as an identifier.

    Raises:
        InvalidInput: not a str, empty, longer than 255 bytes of UTF-8, with control characters, or not encodable.
    """
    if not value or not isinstance(value, str):
        raise InvalidInput(f"{field} must be a non-empty string, not {value!r}")
    try:
        size = len(value.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{field} contains a character that UTF-8 cannot encode (a lone surrogate)") from error
    if size > MAX_ID_BYTES:
        raise InvalidInput(f"{field} is {size} bytes long; at most {MAX_ID_BYTES} are allowed")
    if not value.isprintable():
        raise InvalidInput(f"{field} {value!r} contains a control or other unprintable character")
    return value


if sys.version_info >= (3, 14):

    def new_id() -> uuid.UUID:
        """A new UUIDv7 (RFC 9562): ordered by time, so that rows of one time sit together in an index."""
        return uuid.uuid7()

else:
    # The compat module returns the stdlib's UUID class, which is what the drivers and SQLAlchemy accept.
    from uuid_utils.compat import uuid7 as _uuid7

    def new_id() -> uuid.UUID:
        """A new UUIDv7 (RFC 9562): ordered by time, so that rows of one time sit together in an index."""
        return _uuid7()
