"""The form of cursors: where a page ended, as opaque text that a caller hands back for the next page.

Each search says what is in its cursors and what it makes of a wrong one; the packing and its bounds are the same.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

_MOST_CHARACTERS: Final = 1024 * 1024
"""Longer than any cursor of a title that a person would write; text from outside is not decoded without a bound."""


def pack(parts: Sequence[Any]) -> str:
    """JSON values as text that URLs take as it is. The first part is the format's number."""
    text = json.dumps(list(parts), ensure_ascii=False, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def unpack(cursor: object, cursor_format: int, refuse: Callable[[str], NoReturn]) -> list[Any]:
    """What `pack` was given, the format included; the values may be anything, so the caller checks each.

    Args:
        cursor: from outside.
        cursor_format: the first part that it must have.
        refuse: raises, given the reason: no cursor at all, or one of another format.
    """
    if not isinstance(cursor, str) or len(cursor) > _MOST_CHARACTERS:
        refuse("it is not a cursor")
    try:
        packed = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        parts = json.loads(packed)
    except (binascii.Error, ValueError, RecursionError):
        refuse("it is not a cursor")
    if not isinstance(parts, list) or not parts or parts[0] != cursor_format:
        refuse("it is not a cursor of this release")
    return parts
