"""One level of a listing in byte order, whatever order the server has.

S3 itself lists by the bytes of the keys. Servers that keep a tree (SeaweedFS) list by the
names of files and folders, and so a folder `a/` before a file `a-`, although `-` sorts before `/`.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from storage.files.store import FileStat, guess_media_type

FOREVER_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Listed:
    """An object of a listing, or a common prefix (then only the key, which ends in `/`)."""

    key: str
    size: int = 0
    etag: str = ""
    updated_at: datetime = FOREVER_AGO

    def described(self) -> FileStat:
        """An object, whose key is its path, as callers know it."""
        return FileStat(
            path=self.key,
            size=self.size,
            updated_at=self.updated_at,
            media_type=guess_media_type(self.key),
            etag=self.etag,
        )


@dataclass(frozen=True, slots=True)
class Page:
    """Some of a listing, and the token of the next page (None: there is none)."""

    entries: list[Listed]
    token: str | None


async def in_byte_order(pages: AsyncIterable[Page]) -> AsyncGenerator[Listed, None]:
    """The entries of all pages by their keys, as soon as nothing before them can come any more.

    In both orders each entry's key, without the `/` behind a folder, is at least any earlier entry's: what is smaller
    than the greatest one seen can go out. So only some folders' names wait, and memory holds about a page.
    """
    waiting: list[tuple[str, int, Listed]] = []
    number = 0
    async for page in pages:
        bound = ""
        for entry in page.entries:
            heapq.heappush(waiting, (entry.key, number, entry))
            number += 1
            bound = max(bound, entry.key.removesuffix("/"))
        while waiting and waiting[0][0] < bound:
            yield heapq.heappop(waiting)[2]
    while waiting:
        yield heapq.heappop(waiting)[2]
