"""Which files are written without the user's secrets in them, and how: before a byte is stored or announced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, Protocol

from storage.files.incoming import chained
from storage.files.store import checked_chunk
from storage.masking.masker import Secrets
from storage.masking.scanner import IN_THREAD_BYTES

WHOLE_BYTES: Final = 256 * 1024
"""From here on a stream is not collected any further, so that it is masked as plain text."""


class AskSecrets(Protocol):
    """Asks for the secrets of one user."""

    def __call__(self, *, every: bool) -> Awaitable[Secrets]:
        """The secrets; `every` as in Maskers.secrets."""


@dataclass(frozen=True, slots=True)
class FileMasking:
    """The policy for one user's files.

    Attributes:
        secrets: gives the user's secrets as they are now.
        patterns: paths that end like one of them are masked: matched from the right, segment by segment, as
            `PurePosixPath.match` does. One that begins with `/` stands for the whole path.
    """

    secrets: AskSecrets
    patterns: tuple[str, ...] = ()

    def covers(self, path: str) -> bool:
        """Whether a file at this path, in normal form, is masked unless its writer says otherwise."""
        ending, whole = PurePosixPath(path), PurePosixPath("/", path)
        return any((whole if pattern.startswith("/") else ending).match(pattern) for pattern in self.patterns)

    async def for_write(self, paths: Iterable[str], *, wanted: bool | None) -> Secrets | None:
        """What to mask at a write of these paths with `mask_secrets=wanted`; None if nothing. Only then it reads.

        Raises:
            KeyMissing, KeyMismatch, KeyUnavailable, Tampered: masking was asked for, and some cannot be opened. The
                policy masks the others: what nobody can open was not given to anybody.
        """
        if wanted is False or (wanted is None and not any(map(self.covers, paths))):
            return None
        secrets = await self.secrets(every=wanted is True)
        return secrets if secrets.scanner else None


async def masked(secrets: Secrets | None, content: bytes | AsyncIterable[bytes]) -> bytes | AsyncIterable[bytes]:
    """The content without these secrets. A stream stays one, in bounded memory; a long one is taken for plain text."""
    if secrets is None:
        return content
    if not isinstance(content, bytes):
        return _masked_stream(secrets, content)
    return await _whole(secrets, content)


async def _whole(secrets: Secrets, content: bytes) -> bytes:
    if len(content) < IN_THREAD_BYTES:
        return secrets.masked(content)
    return await asyncio.to_thread(secrets.masked, content)


async def _masked_stream(secrets: Secrets, content: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    held, size = [], 0
    pieces = _checked(content)
    async for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= WHOLE_BYTES:
            break
    else:
        yield await _whole(secrets, b"".join(held))
        return
    async with aclosing(secrets.scanner.stream(chained(held, pieces))) as chunks:
        async for chunk in chunks:
            yield chunk


async def _checked(content: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    async for chunk in content:
        yield checked_chunk(chunk)
