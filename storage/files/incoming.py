"""Contents on their way in: counted and hashed as they pass, and stopped where they are too long."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from typing import TYPE_CHECKING

from storage.errors import FileTooLarge
from storage.files.store import checked_chunk

if TYPE_CHECKING:
    from storage.files.quota import Allowance


class Measured:
    """The length and the sha256 of a content as it passes, and its end where it is too long.

    Args:
        path: for messages.
        most: longest content, in bytes; any if None.
        allowance: of the quota, which several contents may share; any if None.

    Attributes:
        size: bytes that have passed.
    """

    def __init__(self, path: str, most: int | None, allowance: Allowance | None) -> None:
        self._path = path
        self._most = most
        self._allowance = allowance
        self._hash = hashlib.sha256()
        self.size = 0

    def take(self, size: int) -> None:
        """Count so many further bytes; raises FileTooLarge or QuotaExceeded."""
        self.size += size
        if self._most is not None and self.size > self._most:
            raise FileTooLarge(
                f"the content for {self._path!r} is longer than the {self._most} bytes that a file may have; "
                "nothing was stored. Store it in parts, or raise max_file_bytes"
            )
        if self._allowance is not None:
            self._allowance.take(size)

    async def watch(self, content: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
        """The same pieces, counted and hashed."""
        async for chunk in content:
            piece = checked_chunk(chunk)
            self.take(len(piece))
            self._hash.update(piece)
            yield piece

    def digest(self) -> bytes:
        """Of what has passed."""
        return self._hash.digest()


async def chained(first: Iterable[bytes], rest: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    """The pieces that were read already, and those that were not."""
    for piece in first:
        yield piece
    async for piece in rest:
        yield piece
