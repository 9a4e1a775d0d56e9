"""Unwrapped key sets, kept for a while: a KMS is asked once in minutes, not once a request."""

from __future__ import annotations

from time import monotonic
from typing import Final

from storage.encryption.keyset import KeySet

CACHED_USERS: Final = 4096
"""Key sets kept at once, about half a kilobyte each; the oldest goes first."""

CACHE_SECONDS: Final = 300.0
"""Long enough to spare a KMS a call a request, short enough that a revoked key stops working in minutes."""


class KeyCache:
    """Key sets by user, bounded in number and age."""

    def __init__(self, most: int = CACHED_USERS, seconds: float = CACHE_SECONDS) -> None:
        self._most = most
        self._seconds = seconds
        self._entries: dict[str, tuple[float, KeySet]] = {}

    def get(self, user_id: str) -> KeySet | None:
        """The user's key set, unless there is none or it is too old."""
        entry = self._entries.get(user_id)
        if entry is None:
            return None
        if entry[0] <= monotonic():
            del self._entries[user_id]
            return None
        return entry[1]

    def put(self, keys: KeySet) -> None:
        """Keep a set in place of the user's older one. A set that is empty or lacks a key is not kept."""
        self._entries.pop(keys.user_id, None)
        if not keys.ids or not keys.is_whole:
            return
        while len(self._entries) >= self._most:
            del self._entries[next(iter(self._entries))]
        self._entries[keys.user_id] = (monotonic() + self._seconds, keys)

    def forget(self, user_id: str | None) -> None:
        """Drop the set of a user; of all users for None."""
        if user_id is None:
            self._entries.clear()
        else:
            self._entries.pop(user_id, None)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"KeyCache({len(self._entries)} users)"
