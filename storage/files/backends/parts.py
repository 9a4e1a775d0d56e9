"""A streamed content in parts of one size, as the upload calls of object stores want it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable

from storage.files.store import checked_chunk


async def in_parts(chunks: AsyncIterable[bytes], size: int) -> AsyncGenerator[bytearray, None]:
    """The content in parts of `size` bytes, the last one smaller; nothing for an empty one."""
    part = bytearray()
    async for chunk in chunks:
        view = memoryview(checked_chunk(chunk))
        while view:
            taken = view[: size - len(part)]
            part += taken
            view = view[len(taken) :]
            if len(part) == size:
                yield part
                part = bytearray()
    if part:
        yield part
