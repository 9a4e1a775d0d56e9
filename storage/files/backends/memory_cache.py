"""Contents that a CachedFileStore keeps in the memory of this process."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

ENTRY_BYTES: Final = 256
"""What an entry costs besides its content (key, label, dict slots), so that a million empty files are not free."""


class MemoryCache:
    """Contents by path, of at most `limit_bytes` together; the least recently used go first."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self._kept: OrderedDict[str, tuple[str, bytes]] = OrderedDict()

    @property
    def held_files(self) -> int:
        """Number of contents."""
        return len(self._kept)

    def get(self, path: str, label: str) -> bytes | None:
        """The content kept for a path, if it was kept under this label; under another one it is of no use any more."""
        found = self._kept.get(path)
        if found is None:
            return None
        if found[0] != label:
            self.drop(path)
            return None
        self._kept.move_to_end(path)
        return found[1]

    def put(self, path: str, label: str, content: bytes) -> None:
        """Keep a content, and make room for it."""
        self.drop(path)
        size = len(content) + ENTRY_BYTES
        if size > self.limit_bytes:
            return
        while self.held_bytes + size > self.limit_bytes:
            _, (_, evicted) = self._kept.popitem(last=False)
            self.held_bytes -= len(evicted) + ENTRY_BYTES
        self._kept[path] = (label, content)
        self.held_bytes += size

    def drop(self, path: str) -> None:
        """Forget what is kept for a path."""
        found = self._kept.pop(path, None)
        if found is not None:
            self.held_bytes -= len(found[1]) + ENTRY_BYTES
